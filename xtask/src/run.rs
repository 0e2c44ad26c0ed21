//! Runs child processes: each has a time limit, what it prints is seen while it runs, and a silent one is reported.
//!
//! Children stay in our process group, so that Ctrl-C ends all of them together.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A silent child is mentioned this often.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// A command to run.
pub(crate) struct Step {
    name: String,
    command: Command,
    limit: Duration,
    quiet: bool,
}

/// How it went.
pub(crate) struct Outcome {
    /// What it printed on both streams, in order.
    pub(crate) output: String,
    /// Whether it ended with status 0.
    pub(crate) success: bool,
    /// How it ended, in words.
    pub(crate) ending: String,
    /// How long it took.
    pub(crate) took: Duration,
}

impl Step {
    /// `name` is what a person reads.
    pub(crate) fn new(name: impl Into<String>, program: impl AsRef<std::ffi::OsStr>) -> Step {
        let mut command = Command::new(program);
        command.current_dir(crate::paths::root());
        Step {
            name: name.into(),
            command,
            limit: Duration::from_secs(600),
            quiet: false,
        }
    }

    /// Adds arguments.
    pub(crate) fn args<S: AsRef<std::ffi::OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Step {
        self.command.args(arguments);
        self
    }

    /// Sets a variable.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Step {
        self.command.env(name, value);
        self
    }

    /// Sets variables.
    pub(crate) fn envs<'a>(mut self, variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Step {
        self.command.envs(variables);
        self
    }

    /// Stops it when it takes longer.
    pub(crate) fn limit(mut self, limit: Duration) -> Step {
        self.limit = limit;
        self
    }

    /// Keeps what it prints for the outcome alone.
    pub(crate) fn quiet(mut self) -> Step {
        self.quiet = true;
        self
    }

    /// Runs it; failing is an error.
    pub(crate) fn run(self) -> Result<Outcome> {
        let name = self.name.clone();
        let outcome = self.outcome()?;
        if !outcome.success {
            bail!("{name} failed: {}", outcome.ending);
        }
        Ok(outcome)
    }

    /// Runs it; failing is an outcome.
    pub(crate) fn outcome(mut self) -> Result<Outcome> {
        println!("==> {}", self.name);
        let started = Instant::now();
        let (reader, writer) = io::pipe()?;
        self.command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let child = self.command.spawn();
        // Our copies of the pipe's write end are in the command: without them gone, reading never ends.
        let program = self.command.get_program().to_string_lossy().into_owned();
        drop(self.command);
        let mut child = child.with_context(|| format!("could not start `{program}`"))?;
        let lines = read_lines(reader);
        let mut output = String::new();
        let mut limit_hit = false;
        let mut ended: Option<Instant> = None;
        loop {
            match lines.recv_timeout(if ended.is_some() {
                Duration::from_millis(500)
            } else {
                HEARTBEAT
            }) {
                Ok(line) => {
                    if !self.quiet {
                        println!("{line}");
                    }
                    output.push_str(&line);
                    output.push('\n');
                }
                Err(RecvTimeoutError::Timeout) if ended.is_some() => break,
                Err(RecvTimeoutError::Timeout) => {
                    println!("... {}: {} s", self.name, started.elapsed().as_secs());
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if started.elapsed() > self.limit && !limit_hit {
                limit_hit = true;
                stop_tree(&mut child);
            }
            // A grandchild may hold the pipe open: the child's end counts, not the pipe's.
            if ended.is_none() && child.try_wait()?.is_some() {
                ended = Some(Instant::now());
            }
        }
        let status = child.wait()?;
        let ending = if limit_hit {
            format!("stopped after {:?}", self.limit)
        } else {
            status.to_string()
        };
        Ok(Outcome {
            output,
            success: status.success() && !limit_hit,
            ending,
            took: started.elapsed(),
        })
    }
}

fn read_lines(reader: io::PipeReader) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n').map_while(io::Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Ends a child with everything that it started: first asks, then insists.
pub(crate) fn stop_tree(child: &mut Child) {
    let Ok(root) = i32::try_from(child.id()) else { return };
    let family = descendants(root);
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        for pid in family.iter().chain([&root]) {
            let _ = kill(Pid::from_raw(*pid), signal);
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The processes below `root`, found by their parents.
fn descendants(root: i32) -> Vec<i32> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name, in parentheses, may hold anything; the parent is the second field after it.
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        let below = children.remove(&pid).unwrap_or_default();
        found.extend(&below);
        open.extend(below);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_both_streams_and_status_are_kept() {
        let outcome = Step::new("t", "sh")
            .args(["-c", "echo a; echo b >&2; exit 4"])
            .outcome()
            .unwrap();
        assert_eq!(outcome.output, "a\nb\n");
        assert_eq!(outcome.ending, "exit status: 4");
        assert!(!outcome.success);
    }

    #[test]
    fn child_that_takes_too_long_is_stopped_with_its_children() {
        let step = Step::new("t", "sh").args(["-c", "sleep 1000 & echo started; sleep 1000"]);
        let outcome = step.limit(Duration::from_millis(1)).outcome().unwrap();
        assert!(!outcome.success);
        assert!(outcome.took < Duration::from_secs(30));
    }
}
