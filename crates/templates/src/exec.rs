//! Runs the programs of a build: hears every line, never waits in silence, keeps the end of the output for the error.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{Error, Result};

/// How often `on_event` hears [`Event::Silent`] while the program says nothing.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// A program that says nothing for this long hangs (a download that stalls is given up by apt long before).
const SILENCE_LIMIT: Duration = Duration::from_secs(15 * 60);
/// After SIGTERM, time to unmount and clean up.
const GRACE: Duration = Duration::from_secs(20);
/// Lines kept for an error.
const TAIL: usize = 25;

/// What a running program did.
pub(crate) enum Event<'a> {
    /// It printed a line.
    Line(&'a str),
    /// It printed nothing since the last event.
    Silent(Duration),
}

/// Runs `command` to its end; output and errors arrive line by line, mixed as they were written.
pub(crate) fn run(mut command: Command, mut on_event: impl FnMut(Event<'_>)) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let (reader, writer) = io::pipe().map_err(Error::io("make a pipe for", &program))?;
    command.stdin(Stdio::null());
    command.stdout(writer.try_clone().map_err(Error::io("make a pipe for", &program))?);
    command.stderr(writer);
    let spawned = command.spawn();
    // The command holds our copies of the pipe's write end: while it lives, the reader never sees the end.
    drop(command);
    let mut child = spawned.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Error::MissingProgram {
            program: program.clone(),
        },
        _ => Error::Io {
            action: "start",
            path: program.clone().into(),
            source,
        },
    })?;

    let (lines, heard) = mpsc::channel();
    let read = thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n').map_while(io::Result::ok) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if lines.send(text).is_err() {
                break;
            }
        }
    });

    let mut tail = VecDeque::with_capacity(TAIL);
    let mut last_line = Instant::now();
    loop {
        match heard.recv_timeout(HEARTBEAT) {
            Ok(line) => {
                last_line = Instant::now();
                on_event(Event::Line(&line));
                if tail.len() == TAIL {
                    tail.pop_front();
                }
                tail.push_back(line);
            }
            Err(RecvTimeoutError::Timeout) => {
                let silence = last_line.elapsed();
                if silence > SILENCE_LIMIT {
                    stop(&mut child);
                    return Err(Error::Stalled { program, silence });
                }
                on_event(Event::Silent(silence));
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let _ = read.join();
    let status = child.wait().map_err(Error::io("wait for", &program))?;
    if status.success() {
        return Ok(());
    }
    let tail: Vec<String> = tail.into();
    Err(explain(program, &status.to_string(), &tail))
}

/// Asks the program to end, so that it can unmount what it mounted, and insists after a while.
fn stop(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    let deadline = Instant::now() + GRACE;
    while Instant::now() < deadline {
        match child.try_wait() {
            Ok(None) => thread::sleep(Duration::from_millis(100)),
            _ => return,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Turns the end of the output into the error that a person can act on.
fn explain(program: String, status: &str, tail: &[String]) -> Error {
    const FULL: &[&str] = &["No space left on device", "Disk quota exceeded"];
    const NETWORK: &[&str] = &[
        "Could not resolve",
        "Temporary failure resolving",
        "Could not connect",
        "Cannot initiate the connection",
        "Unable to connect",
        "Connection timed out",
        "Failed to fetch",
    ];
    let find = |needles: &[&str]| tail.iter().find(|line| needles.iter().any(|needle| line.contains(needle)));
    if find(FULL).is_some() {
        return Error::DiskFull { path: ".".into() };
    }
    if let Some(line) = find(NETWORK) {
        return Error::Network { detail: line.clone() };
    }
    Error::Program {
        program,
        status: status.to_owned(),
        tail: tail.join("\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn lines_of_both_streams_arrive_in_order() {
        let mut lines = Vec::new();
        run(sh("echo one; echo two >&2; printf three"), |event| {
            if let Event::Line(line) = event {
                lines.push(line.to_owned());
            }
        })
        .unwrap();
        assert_eq!(lines, ["one", "two", "three"]);
    }

    #[test]
    fn failure_carries_status_and_last_lines() {
        let error = run(sh("echo before; exit 3"), |_| {}).unwrap_err();
        assert_eq!(error.to_string(), "`sh` failed (exit status: 3): before");
    }

    #[test]
    fn missing_program_is_named() {
        let error = run(Command::new("dormouse-no-such-program"), |_| {}).unwrap_err();
        assert!(matches!(error, Error::MissingProgram { program } if program == "dormouse-no-such-program"));
    }

    #[test]
    fn output_of_the_package_manager_is_understood() {
        let full = run(sh("echo 'tar: x: Cannot write: No space left on device'; exit 1"), |_| {}).unwrap_err();
        let network = run(sh("echo \"Err:1 Temporary failure resolving 'deb'\"; exit 100"), |_| {}).unwrap_err();
        assert!(matches!(full, Error::DiskFull { .. }));
        assert!(matches!(network, Error::Network { .. }));
    }
}
