//! Puts into a build what changes more often than Debian: the agent, and the host's additional certificates.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::base::settings::{chroot, write};
use crate::base::{AGENT_PATH, AgentSource};
use crate::ca::Certificate;
use crate::error::{Error, Result};
use crate::tree;

/// Where every program that asks the system for its authorities looks.
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Programs that bring authorities of their own, and the variable with which each is told of the system's.
const BUNDLE_VARIABLES: &[&str] = &[
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
];

/// Reads the agent's binary.
pub(super) fn read(source: &AgentSource) -> Result<Vec<u8>> {
    match source {
        AgentSource::Bytes(bytes) => Ok(bytes.clone()),
        AgentSource::File(path) => fs::read(path).map_err(Error::io("read", path)),
    }
}

/// Installs the agent, and makes it answer as `sudo` when `sudo` is set.
///
/// In an engine in which setuid programs gain nothing (gVisor), Debian's `sudo` cannot work; the agent, which runs as
/// root, serves it. Debian's own stays beside it as `sudo.real`, diverted so that an upgrade does not bring it back.
pub(super) fn install(root: &Path, agent: &[u8], sudo: bool) -> Result<()> {
    let inside = AGENT_PATH.trim_start_matches('/');
    tree::replace_file(&root.join(inside), agent, 0o755)?;
    if sudo {
        chroot(
            root,
            &[
                "dpkg-divert",
                "--local",
                "--rename",
                "--divert",
                "/usr/bin/sudo.real",
                "--add",
                "/usr/bin/sudo",
            ],
        )?;
        let link = root.join("usr/bin/sudo");
        symlink(AGENT_PATH, &link).map_err(Error::io("create", &link))?;
    }
    Ok(())
}

/// Makes programs in the tree trust `certificates`; returns the variables that a process needs for it.
pub(super) fn trust(root: &Path, certificates: &[Certificate]) -> Result<BTreeMap<String, String>> {
    if certificates.is_empty() {
        return Ok(BTreeMap::new());
    }
    for certificate in certificates {
        let name = format!("usr/local/share/ca-certificates/dormouse-{}.crt", certificate.fingerprint());
        write(root, &name, certificate.pem(), 0o644)?;
    }
    chroot(root, &["update-ca-certificates"])?;
    let variables: BTreeMap<String, String> = BUNDLE_VARIABLES
        .iter()
        .map(|name| ((*name).to_owned(), BUNDLE.to_owned()))
        .collect();
    // For what does not inherit the agent's environment: login sessions, services.
    let lines: String = variables.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    write(root, "etc/environment", &lines, 0o644)?;
    Ok(variables)
}
