//! Installs the Debian packages that the project needs; a host that has them is left alone.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::run::Step;

/// What is needed beyond a Debian with a Rust toolchain, and for what.
const PACKAGES: &[(&str, &str)] = &[
    ("mmdebstrap", "makes the base template"),
    ("debian-archive-keyring", "signs the base template's packages"),
    ("erofs-utils", "packs the base template for the gVisor engine"),
    ("nftables", "the sandboxes' firewall"),
    ("iproute2", "looks at network namespaces in tests"),
    ("runsc", "the gVisor engine"),
    ("python3-venv", "a place for the Python client"),
    ("ca-certificates", "the clients' downloads"),
    ("curl", "the tests over HTTPS"),
    ("openssh-client", "the tests over SSH"),
    ("chromium", "the tests over HTTPS in a browser"),
    ("libnss3-tools", "makes that browser trust the local authority"),
    ("pebble", "the ACME server that the tests get certificates from"),
];

const BACKPORTS: &str = "/etc/apt/sources.list.d/bookworm-backports.sources";
const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";

/// Installs what is missing.
pub(crate) fn setup() -> Result<()> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !is_installed(name))
        .collect();
    if missing.is_empty() {
        println!("host: every package is there");
        return Ok(());
    }
    for (name, purpose) in PACKAGES.iter().filter(|(name, _)| missing.contains(name)) {
        println!("host: `{name}` is missing ({purpose})");
    }
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "installing packages needs root: run `sudo apt-get install {}` or this as root",
            missing.join(" ")
        );
    }
    if missing.contains(&"runsc") {
        add_backports()?;
    }
    Step::new("apt-get update", "apt-get")
        .args(["update"])
        .env("LC_ALL", "C.UTF-8")
        .run()?;
    Step::new("apt-get install", "apt-get")
        .args(["install", "--yes", "--no-install-recommends"])
        .args(&missing)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C.UTF-8")
        .limit(Duration::from_secs(900))
        .run()?;
    Ok(())
}

fn is_installed(package: &str) -> bool {
    let query = Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", package])
        .output();
    query.is_ok_and(|output| output.stdout == b"installed")
}

/// Debian 12 has `runsc` in its backports only.
fn add_backports() -> Result<()> {
    let os = fs::read_to_string("/etc/os-release").context("could not read /etc/os-release")?;
    if !os.lines().any(|line| line == "VERSION_CODENAME=bookworm") {
        return Ok(());
    }
    let targets = Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"])
        .output()
        .context("could not run apt-get")?;
    let targets = String::from_utf8_lossy(&targets.stdout);
    if targets.lines().any(|line| line.ends_with("-backports")) || Path::new(BACKPORTS).exists() {
        return Ok(());
    }
    let mirror = targets
        .lines()
        .find_map(|line| line.strip_suffix(" bookworm"))
        .unwrap_or(DEFAULT_MIRROR);
    let source = format!(
        "Types: deb\nURIs: {mirror}\nSuites: bookworm-backports\nComponents: main\n\
         Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    );
    println!("host: adding the backports of Debian 12 ({BACKPORTS})");
    fs::write(BACKPORTS, source).with_context(|| format!("could not write {BACKPORTS}"))
}
