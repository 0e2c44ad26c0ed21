//! What is in the template `base`: the suite, the packages, and what is left out of them.

/// The Debian release inside the sandboxes.
pub(super) const SUITE: &str = "trixie";

/// The architecture inside the sandboxes.
pub(super) const ARCHITECTURE: &str = "amd64";

/// To be raised when [`super::debian`] or [`super::settings`] changes what ends up in the Debian tree.
const VERSION: u32 = 1;

/// Besides the essential ones.
pub(super) const PACKAGES: &[&str] = &[
    // The shell's daily tools
    "bash",
    "coreutils",
    "file",
    "jq",
    "less",
    "nano",
    "ncurses-bin",
    "procps",
    "psmisc",
    "rsync",
    "sudo",
    "unzip",
    "xz-utils",
    "zip",
    // The network's
    "ca-certificates",
    "curl",
    "iproute2",
    "iputils-ping",
    "netbase",
    "netcat-openbsd",
    "openssl",
    "wget",
    // Languages and what builds their packages
    "build-essential",
    "git",
    "nodejs",
    "npm",
    "openssh-client",
    "python-is-python3",
    "python3",
    "python3-pip",
    "python3-venv",
    "tzdata",
];

/// What dpkg leaves out, now and when packages are installed inside a sandbox: a third of the files of the tree, that
/// no program reads. Copyright files stay, as the licences ask.
///
/// `EXTERNALLY-MANAGED` is how Debian tells pip not to touch the system's Python. A sandbox is the user's own machine,
/// made to be written to: `pip install` must work without a virtual environment.
pub(super) const DPKG_OPTIONS: &[&str] = &[
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/lib/python3*/EXTERNALLY-MANAGED",
    // A sandbox's disk is as durable as its snapshot: syncing after every file only costs time.
    "force-unsafe-io",
];

/// Equal for trees that have the same content, up to security updates of the packages.
pub(super) fn digest() -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for part in [SUITE, ARCHITECTURE].iter().chain(PACKAGES).chain(DPKG_OPTIONS) {
        hasher.update(part.as_bytes()).update(b"\0");
    }
    hasher.update(&VERSION.to_le_bytes());
    hasher.finalize()
}
