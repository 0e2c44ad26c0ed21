//! Turns a plain Debian tree into the machine that a sandbox's user expects: user `user` with sudo, a writable
//! `/usr/local`, name resolution, package sources.
//!
//! Everything is written from outside, except where Debian's own tool knows the format (`useradd`). The tree is not
//! shared with anything yet, so writing in place is fine here and nowhere later.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::base::mirror::{self, Mirror};
use crate::base::recipe::{DPKG_OPTIONS, SUITE};
use crate::base::{DEFAULT_USER, NAMESERVER};
use crate::error::{Error, Result};
use crate::exec::{self, Event};
use crate::tree;

/// The name until the agent gives the sandbox its own.
const HOSTNAME: &str = "sandbox";

/// Writes all settings into `root`.
pub(super) fn apply(root: &Path, mirror: &Mirror) -> Result<()> {
    users(root)?;
    names(root)?;
    packages(root, mirror)?;
    write(root, "etc/default/locale", "LANG=C.UTF-8\n", 0o644)?;
    // Empty: each sandbox gets its own identity at its first boot.
    write(root, "etc/machine-id", "", 0o444)?;
    writable_for_all(&root.join("usr/local"))?;
    let code = root.join("code");
    fs::create_dir_all(&code).map_err(Error::io("create", &code))?;
    mode(&code, 0o777)
}

fn users(root: &Path) -> Result<()> {
    chroot(
        root,
        &[
            "useradd",
            "--create-home",
            "--uid",
            "1000",
            "--user-group",
            "--groups",
            "sudo",
            "--shell",
            "/bin/bash",
            DEFAULT_USER,
        ],
    )?;
    write(
        root,
        "etc/sudoers.d/dormouse",
        &format!("{DEFAULT_USER} ALL=(ALL:ALL) NOPASSWD: ALL\n"),
        0o440,
    )
}

fn names(root: &Path) -> Result<()> {
    write(root, "etc/hostname", &format!("{HOSTNAME}\n"), 0o644)?;
    let hosts = format!("127.0.0.1 localhost {HOSTNAME}\n::1 localhost ip6-localhost ip6-loopback\n");
    write(root, "etc/hosts", &hosts, 0o644)?;
    write(root, "etc/resolv.conf", &format!("nameserver {NAMESERVER}\n"), 0o644)
}

/// What `apt`, `dpkg`, `pip` and `npm` do inside.
fn packages(root: &Path, mirror: &Mirror) -> Result<()> {
    // How the tree was made; replaced by what a sandbox needs.
    for made_by in [
        "etc/apt/sources.list",
        "etc/apt/apt.conf.d/99mmdebstrap",
        "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    ] {
        let path = root.join(made_by);
        if path.exists() {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
    }
    write(
        root,
        "etc/apt/sources.list.d/debian.sources",
        &mirror::sandbox_sources(SUITE),
        0o644,
    )?;
    let apt = format!(
        "APT::Install-Recommends \"false\";\nAcquire::Languages \"none\";\nDPkg::Use-Pty \"0\";\n{}",
        mirror.sandbox_settings()
    );
    write(root, "etc/apt/apt.conf.d/90dormouse", &apt, 0o644)?;
    write(
        root,
        "etc/dpkg/dpkg.cfg.d/dormouse",
        &format!("{}\n", DPKG_OPTIONS.join("\n")),
        0o644,
    )?;
    // The sandbox is the user's own: pip installs where it is told to, and says nothing about it.
    let pip = "[global]\nbreak-system-packages = true\ndisable-pip-version-check = true\nroot-user-action = ignore\n";
    write(root, "etc/pip.conf", pip, 0o644)
}

/// So that `pip install` and `npm install --global` work without sudo, and what they install is on PATH.
fn writable_for_all(directory: &Path) -> Result<()> {
    mode(directory, 0o777)?;
    for entry in fs::read_dir(directory).map_err(Error::io("list", directory))? {
        let entry = entry.map_err(Error::io("list", directory))?;
        let kind = entry.file_type().map_err(Error::io("read", entry.path()))?;
        if kind.is_dir() {
            writable_for_all(&entry.path())?;
        }
    }
    Ok(())
}

/// Runs a program of the tree inside it.
pub(super) fn chroot(root: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("chroot");
    command
        .arg(root)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .env("DEBIAN_FRONTEND", "noninteractive");
    exec::run(command, |event| {
        if let Event::Line(line) = event {
            tracing::debug!(program = arguments[0], line);
        }
    })
}

/// Writes a file of the tree as a new file, never through a link.
pub(super) fn write(root: &Path, name: &str, content: &str, bits: u32) -> Result<()> {
    let path = root.join(name);
    tree::replace_file(&path, content.as_bytes(), bits)
}

fn mode(path: &Path, bits: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(bits)).map_err(Error::io("change mode of", path))
}
