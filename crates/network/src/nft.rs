//! Runs `nft` in the calling thread's network namespace.

use std::io::{self, Write};
use std::process::{Child, Command, Stdio};

use crate::error::{NetworkError, Result};

/// A rule set that `nft` is working on. All of one script is applied, or nothing.
pub(crate) struct Applying {
    action: String,
    child: Child,
}

/// Whether the kernel would take a script; applies nothing.
pub(crate) fn would_apply(script: &str) -> Result<bool> {
    match feed(&["-c", "-f", "-"], "try rules", script)?.finish() {
        Ok(()) => Ok(true),
        Err(NetworkError::Nft { .. }) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Starts to apply a script; the child process inherits the namespace of the calling thread.
pub(crate) fn start(action: &str, script: &str) -> Result<Applying> {
    feed(&["-f", "-"], action, script)
}

fn feed(arguments: &[&str], action: &str, script: &str) -> Result<Applying> {
    let mut child = spawn(arguments)?;
    // Dropping the pipe afterwards is the end of the script. A write error means that `nft` gave up early: its exit
    // status and what it printed say more.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(script.as_bytes());
    }
    Ok(Applying {
        action: action.to_owned(),
        child,
    })
}

/// Applies a script.
pub(crate) fn apply(action: &str, script: &str) -> Result<()> {
    start(action, script)?.finish()
}

impl Applying {
    /// Waits for the end.
    pub(crate) fn finish(self) -> Result<()> {
        let output = self
            .child
            .wait_with_output()
            .map_err(|source| NetworkError::NoNft { source })?;
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(NetworkError::Nft {
            action: self.action,
            stderr,
        })
    }
}

fn spawn(arguments: &[&str]) -> Result<Child> {
    let mut last = io::ErrorKind::NotFound.into();
    // Service managers often start daemons without the sbin directories on PATH.
    for program in ["nft", "/usr/sbin/nft", "/sbin/nft"] {
        let spawned = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        match spawned {
            Ok(child) => return Ok(child),
            Err(e) if e.kind() == io::ErrorKind::NotFound => last = e,
            Err(source) => return Err(NetworkError::NoNft { source }),
        }
    }
    Err(NetworkError::NoNft { source: last })
}
