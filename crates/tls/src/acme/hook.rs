//! Records for DNS-01: by our own responder, or by a program that knows the zone's provider.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;

use crate::error::{Error, Result};

/// A provider's own waiting for its servers to agree is within this.
const LIMIT: Duration = Duration::from_secs(600);

/// Somebody who answers TXT questions at once, such as a DNS responder in this process.
pub trait PublishTxt: Send + Sync + std::fmt::Debug {
    /// Adds a value to those of a name.
    fn add(&self, name: &str, value: &str);
    /// Takes it away again.
    fn remove(&self, name: &str, value: &str);
}

/// Who publishes TXT records.
#[derive(Clone, Debug)]
pub enum Dns01 {
    /// A program, called as lego calls those of its `exec` provider: `<program> present|cleanup <name>. <value>`. It returns 0 when the
    /// record can be asked for.
    Hook(PathBuf),
    /// Our own responder.
    Responder(Arc<dyn PublishTxt>),
}

impl Dns01 {
    /// Publishes a value at `_acme-challenge.<domain>`, beside others there.
    pub(crate) async fn present(&self, domain: &str, value: &str) -> Result<()> {
        let name = format!("_acme-challenge.{domain}");
        match self {
            Self::Hook(program) => run(program, "present", &name, value).await,
            Self::Responder(responder) => {
                responder.add(&name, value);
                Ok(())
            }
        }
    }

    /// Takes it away. What stays behind is a blemish, not a failure.
    pub(crate) async fn clean_up(&self, domain: &str, value: &str) {
        let name = format!("_acme-challenge.{domain}");
        match self {
            Self::Hook(program) => {
                if let Err(error) = run(program, "cleanup", &name, value).await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a DNS record stays behind");
                }
            }
            Self::Responder(responder) => responder.remove(&name, value),
        }
    }
}

async fn run(program: &Path, action: &str, name: &str, value: &str) -> Result<()> {
    let arguments = [action, &format!("{name}."), value];
    let failed = |problem: String| Error::Hook {
        program: program.to_owned(),
        arguments: arguments.join(" "),
        problem,
    };
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(LIMIT, output)
        .await
        .map_err(|_| failed(format!("it took longer than {} s", LIMIT.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("it said nothing");
    Err(failed(format!("{}: {last}", output.status)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn program(dir: &tempfile::TempDir, script: &str) -> PathBuf {
        let (text, path) = (dir.path().join("text"), dir.path().join("hook"));
        fs::write(&text, format!("#!/bin/sh\n{script}\n")).unwrap();
        // Written by another process: a child of a test beside this one could inherit our descriptor, and the file were busy.
        let install = std::process::Command::new("install")
            .args(["-m", "755"])
            .args([&text, &path])
            .status();
        assert!(install.unwrap().success());
        path
    }

    #[tokio::test]
    async fn the_program_gets_what_lego_gives() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let hook = Dns01::Hook(program(&dir, &format!("echo \"$@\" >> {}", log.display())));
        hook.present("box.example", "value").await.unwrap();
        hook.clean_up("box.example", "value").await;
        assert_eq!(
            fs::read_to_string(log).unwrap(),
            "present _acme-challenge.box.example. value\ncleanup _acme-challenge.box.example. value\n"
        );
    }

    #[tokio::test]
    async fn a_failure_is_told_with_the_programs_words() {
        let dir = tempfile::tempdir().unwrap();
        let hook = Dns01::Hook(program(&dir, "echo no such zone >&2; exit 3"));
        let error = hook.present("box.example", "value").await.unwrap_err().to_string();
        assert!(error.contains("no such zone") && error.contains('3'), "{error}");

        let missing = Dns01::Hook(dir.path().join("missing"));
        let error = missing.present("box.example", "value").await.unwrap_err().to_string();
        assert!(error.contains("missing present _acme-challenge.box.example."), "{error}");
    }
}
