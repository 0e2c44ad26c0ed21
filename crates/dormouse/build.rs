//! Builds the agent as a static binary and leaves it where `src/agent.rs` embeds it.
//!
//! The agent is another program for another place: linked statically, whatever the host's libraries. Cargo cannot build one package
//! with two sets of flags in one run, so this runs a second cargo with a target directory of its own. `DORMOUSE_AGENT=<file>` embeds
//! that file instead, for packagers who build it themselves.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=DORMOUSE_AGENT");
    let agent = match env::var_os("DORMOUSE_AGENT") {
        Some(file) => PathBuf::from(file),
        None => build()?,
    };
    println!("cargo::rerun-if-changed={}", agent.display());
    let embedded = Path::new(&env::var("OUT_DIR")?).join("agent");
    std::fs::copy(agent, embedded)?;
    Ok(())
}

fn build() -> Result<PathBuf, Box<dyn Error>> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    for source in ["crates/agent", "crates/agent-proto", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.join("target"), PathBuf::from)
        .join("agent");
    let status = Command::new(env::var_os("CARGO").ok_or("CARGO is not set")?)
        .current_dir(&workspace)
        .args([
            "build",
            "--release",
            "--package",
            "dormouse-agent",
            "--target",
            TARGET,
            "--target-dir",
        ])
        .arg(&target)
        // Of the outer build's settings only these would reach the inner one.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTFLAGS")
        .env(
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            "-C target-feature=+crt-static -C strip=symbols",
        )
        .status()?;
    if !status.success() {
        return Err("the agent could not be built".into());
    }
    Ok(target.join(TARGET).join("release/dormouse-agent"))
}
