//! `dormouse setup`: makes a host ready, in steps that each say what they did. Safe to run again.

use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::base;
use crate::cli::SetupArgs;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::host::{Host, find_program};

/// A Debian package and a program of it by which its presence is known.
struct Package {
    name: &'static str,
    program: &'static str,
    /// Whether Debian 12 has it (or a version that works) only in its backports.
    backports: bool,
}

const PACKAGES: &[Package] = &[
    Package {
        name: "runsc",
        program: "runsc",
        backports: true,
    },
    Package {
        name: "mmdebstrap",
        program: "mmdebstrap",
        backports: false,
    },
    Package {
        name: "nftables",
        program: "nft",
        backports: false,
    },
    Package {
        name: "iproute2",
        program: "ip",
        backports: false,
    },
    Package {
        name: "erofs-utils",
        program: "mkfs.erofs",
        backports: true,
    },
];

const BACKPORTS_FILE: &str = "/etc/apt/sources.list.d/dormouse-backports.sources";
const BACKPORTS: &str = "\
# Made by `dormouse setup`: runsc comes from here.
Types: deb
URIs: http://deb.debian.org/debian
Suites: bookworm-backports
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
";

pub(crate) async fn setup(arguments: SetupArgs) -> anyhow::Result<ExitCode> {
    crate::output::init_log();
    let config = Config::load(arguments.settings)?;
    if !nix::unistd::geteuid().is_root() {
        bail!("Setting up a host needs root: run the same command with sudo");
    }
    packages(arguments.no_packages).await?;
    let data = DataDir::open(&config.data_dir)?;
    let _lock = data.lock()?;
    let tree = base::ensure_tree(&config, &data).await?;
    let host = Host::open(&config, &data).await?;
    let build = base::ensure_build(&config, &host, &tree).await?;
    host.close().await;
    println!("Ready: template base, build {}, in {}", build.id, config.data_dir.display());
    println!("Next: dormouse serve");
    Ok(ExitCode::SUCCESS)
}

async fn packages(only_say: bool) -> anyhow::Result<()> {
    let missing: Vec<&Package> = PACKAGES
        .iter()
        .filter(|package| find_program(package.program).is_none())
        .collect();
    if missing.is_empty() {
        println!("Packages: all there");
        return Ok(());
    }
    let names = missing.iter().map(|package| package.name).collect::<Vec<_>>().join(" ");
    if only_say {
        bail!("Packages are missing: {names}");
    }
    if find_program("apt-get").is_none() {
        bail!("Packages are missing and this is no Debian: install {names} by hand");
    }
    println!("Packages: installing {names}");
    let old_debian = is_debian_12()?;
    if old_debian && missing.iter().any(|package| package.backports) && !has_backports() {
        std::fs::write(BACKPORTS_FILE, BACKPORTS).with_context(|| format!("Cannot write {BACKPORTS_FILE}"))?;
    }
    apt(&["update"]).await?;
    for backports in [false, true] {
        let chosen: Vec<&str> = missing
            .iter()
            .filter(|package| (package.backports && old_debian) == backports)
            .map(|package| package.name)
            .collect();
        if chosen.is_empty() {
            continue;
        }
        let release: &[&str] = if backports {
            &["--target-release", "bookworm-backports"]
        } else {
            &[]
        };
        apt(&[&["install", "--yes", "--no-install-recommends"], release, &chosen].concat()).await?;
    }
    Ok(())
}

fn is_debian_12() -> anyhow::Result<bool> {
    let release = std::fs::read_to_string("/etc/os-release").context("Cannot read /etc/os-release")?;
    Ok(release.lines().any(|line| line == "VERSION_CODENAME=bookworm"))
}

fn has_backports() -> bool {
    let Ok(sources) = std::fs::read_dir("/etc/apt/sources.list.d") else {
        return false;
    };
    let files = sources
        .filter_map(|entry| Some(entry.ok()?.path()))
        .chain(["/etc/apt/sources.list".into()]);
    files
        .into_iter()
        .any(|file| std::fs::read_to_string(file).is_ok_and(|text| text.contains("bookworm-backports")))
}

/// Runs apt-get and shows what it says, so that a long download is not a silence.
async fn apt(arguments: &[&str]) -> anyhow::Result<()> {
    let mut child = Command::new("apt-get")
        .arg("--quiet")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("Cannot run apt-get")?;
    if let Some(output) = child.stdout.take() {
        let mut lines = BufReader::new(output).lines();
        while let Some(line) = lines.next_line().await? {
            println!("  {line}");
        }
    }
    let status = child.wait().await?;
    if !status.success() {
        bail!("apt-get {} failed ({status})", arguments.join(" "));
    }
    Ok(())
}
