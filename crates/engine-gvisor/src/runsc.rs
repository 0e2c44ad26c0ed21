//! The command lines of runsc.

use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::layout::{Dir, Record, Root};
use crate::urpc::first_line;

/// What runsc is asked to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action<'a> {
    /// Make the sandbox and start its first process.
    Run,
    /// Make the sandbox from a checkpoint.
    Restore(&'a Path),
}

impl<'a> Action<'a> {
    /// What makes the sandbox of this record.
    pub(crate) fn of(record: &'a Record) -> Self {
        record.snapshot.as_deref().map_or(Self::Run, Self::Restore)
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Restore(_) => "restore",
        }
    }
}

/// The command that makes a sandbox and ends when it runs.
pub(crate) fn command(dir: &Dir, record: &Record, action: Action<'_>) -> Command {
    let mut command = Command::new(&record.runsc);
    // The guest's first process inherits all three: what it writes must not fill the host's disk.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.arg("--root").arg(dir.runsc()).arg("--log").arg(dir.runsc_log());
    command.args([
        "--platform=systrap",
        "--network=sandbox",
        // Without this a checkpoint fails while any connection through eth0 is open.
        "--net-disconnect-ok",
        "--net-raw",
        // The sentry itself then needs no file system: it runs as nobody, without capabilities, in a user namespace of its own.
        "--directfs=false",
        "--file-access=exclusive",
        "--cpu-num-from-quota",
    ]);
    command.arg(match &record.root {
        // Its own overlay would hide the changes, which are what this instance is for.
        Root::Layers { .. } => "--overlay2=none".to_owned(),
        Root::Image(_) | Root::Tree(_) => format!("--overlay2=root:dir={}", dir.upper().display()),
    });
    command
        .arg(action.word())
        .arg("--bundle")
        .arg(dir.bundle())
        .arg("--pid-file")
        .arg(dir.pid_file());
    if let Action::Restore(image) = action {
        command.arg("--image-path").arg(image);
    }
    command.args(["--detach", record.id.as_str()]);
    command
}

#[derive(Deserialize)]
struct LogEntry {
    msg: String,
}

/// What runsc complained about, as one line.
pub(crate) fn complaint(dir: &Dir) -> String {
    let text = std::fs::read(dir.runsc_log()).unwrap_or_default();
    let mut entries = serde_json::Deserializer::from_slice(&text).into_iter::<LogEntry>();
    match entries.next() {
        Some(Ok(entry)) => first_line(&entry.msg),
        _ => first_line(&String::from_utf8_lossy(&text)),
    }
}
