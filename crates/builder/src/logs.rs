//! What builds say (contract 2.3 `BuildLogEntry`, 5.1): kept in memory while a build runs, and in a file, one JSON object a line.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dormouse_store::BuildId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Most bytes of output in one log. A build that says more is still told how it ends.
const MOST_OUTPUT: usize = 8 << 20;
/// Most lines of output in one log.
const MOST_LINES: usize = 50_000;
/// Longest line, bytes; what is longer becomes several.
pub(crate) const LONGEST_LINE: usize = 16 << 10;

/// How much an entry matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Details.
    Debug,
    /// The usual.
    Info,
    /// What commands write to their standard error.
    Warn,
    /// Why the build fails.
    Error,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// When.
    pub timestamp: Timestamp,
    /// How much it matters.
    pub level: Level,
    /// The line.
    pub message: String,
    /// `base`, the number of a step, or `finalize`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
}

/// Which entries are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogFilter {
    /// Entries that matter less are left out.
    pub level: Option<Level>,
    /// Entries to skip from the beginning, of those that are left.
    pub offset: usize,
    /// Most entries.
    pub limit: usize,
}

impl LogFilter {
    fn apply(&self, entries: &[LogEntry]) -> Vec<LogEntry> {
        let wanted = entries
            .iter()
            .filter(|entry| self.level.is_none_or(|level| entry.level >= level));
        wanted.skip(self.offset).take(self.limit).cloned().collect()
    }
}

/// The log of a build that runs.
#[derive(Debug)]
pub(crate) struct BuildLog {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    entries: Vec<LogEntry>,
    file: File,
    output: usize,
    lines: usize,
    cut: bool,
}

impl BuildLog {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something about the build itself.
    pub(crate) fn say(&self, level: Level, step: Option<&str>, message: impl Into<String>) {
        self.lock().push(level, step, message.into());
    }

    /// Passes on a line of a command, unless there were too many.
    pub(crate) fn output(&self, level: Level, step: Option<&str>, message: String) {
        let mut state = self.lock();
        state.output += message.len();
        state.lines += 1;
        if state.output <= MOST_OUTPUT && state.lines <= MOST_LINES {
            state.push(level, step, message);
        } else if !state.cut {
            state.cut = true;
            state.push(
                Level::Warn,
                step,
                "The output is too long; the rest of it is not kept".to_owned(),
            );
        }
    }
}

impl State {
    fn push(&mut self, level: Level, step: Option<&str>, message: String) {
        let entry = LogEntry {
            timestamp: Timestamp::now(),
            level,
            message,
            step: step.map(str::to_owned),
        };
        if let Ok(mut line) = serde_json::to_vec(&entry) {
            line.push(b'\n');
            // The file is for after a restart; without it the build goes on.
            if let Err(error) = self.file.write_all(&line) {
                tracing::warn!(%error, "the log of a build cannot be written");
            }
        }
        self.entries.push(entry);
    }
}

/// All logs.
#[derive(Debug)]
pub(crate) struct Logs {
    dir: PathBuf,
    live: Mutex<HashMap<BuildId, Arc<BuildLog>>>,
}

impl Logs {
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self {
            dir,
            live: Mutex::default(),
        })
    }

    fn path(&self, build: BuildId) -> PathBuf {
        self.dir.join(build.to_string())
    }

    fn live(&self) -> MutexGuard<'_, HashMap<BuildId, Arc<BuildLog>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a log.
    pub(crate) fn begin(&self, build: BuildId) -> io::Result<Arc<BuildLog>> {
        let log = Arc::new(BuildLog {
            state: Mutex::new(State {
                entries: Vec::new(),
                file: File::options().create(true).append(true).open(self.path(build))?,
                output: 0,
                lines: 0,
                cut: false,
            }),
        });
        self.live().insert(build, Arc::clone(&log));
        Ok(log)
    }

    /// Lets go of a log; it is in its file.
    pub(crate) fn end(&self, build: BuildId) {
        self.live().remove(&build);
    }

    /// Adds a line to the log of a build of an earlier run.
    pub(crate) fn add(&self, build: BuildId, message: &str) {
        if let Ok(log) = self.begin(build) {
            log.say(Level::Error, None, message);
        }
        self.end(build);
    }

    /// Entries of a log, oldest first. A build that has said nothing has none. Blocks.
    pub(crate) fn read(&self, build: BuildId, filter: &LogFilter) -> io::Result<Vec<LogEntry>> {
        let live = self.live().get(&build).cloned();
        match live {
            Some(log) => Ok(filter.apply(&log.lock().entries)),
            None => Ok(filter.apply(&load(&self.path(build))?)),
        }
    }

    pub(crate) fn remove(&self, build: BuildId) -> io::Result<()> {
        match fs::remove_file(self.path(build)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn load(path: &Path) -> io::Result<Vec<LogEntry>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut entries = Vec::new();
    for line in io::BufReader::new(file).split(b'\n') {
        // A crash may have cut the last one.
        if let Ok(entry) = serde_json::from_slice(&line?) {
            entries.push(entry);
        }
    }
    Ok(entries)
}

/// Cuts a stream of bytes into lines for a log.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes bytes, gives the lines that are complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            if byte == b'\n' {
                lines.push(text(&self.rest));
                self.rest.clear();
                continue;
            }
            self.rest.push(byte);
            if self.rest.len() >= LONGEST_LINE {
                lines.push(text(&self.rest));
                self.rest.clear();
            }
        }
        lines
    }

    /// What is left at the end.
    pub(crate) fn finish(self) -> Option<String> {
        (!self.rest.is_empty()).then(|| text(&self.rest))
    }
}

/// A line as a person should see it: of a progress bar that draws over itself, the last state.
fn text(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let last = line.rsplit(|&byte| byte == b'\r').next().unwrap_or(line);
    String::from_utf8_lossy(last).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(level: Option<Level>, offset: usize) -> LogFilter {
        LogFilter {
            level,
            offset,
            limit: 100,
        }
    }

    #[test]
    fn a_log_reads_the_same_from_memory_and_from_its_file() {
        let home = tempfile::tempdir().unwrap();
        let logs = Logs::open(home.path().join("logs")).unwrap();
        let build = BuildId::random();
        let log = logs.begin(build).unwrap();
        log.say(Level::Info, Some("base"), "one");
        log.output(Level::Warn, Some("1"), "two".to_owned());
        let live = logs.read(build, &all(None, 0)).unwrap();
        assert_eq!(live.len(), 2);
        assert_eq!(logs.read(build, &all(Some(Level::Warn), 0)).unwrap(), live[1..]);
        assert_eq!(logs.read(build, &all(None, 1)).unwrap(), live[1..]);
        logs.end(build);
        assert_eq!(logs.read(build, &all(None, 0)).unwrap(), live);
        assert_eq!(logs.read(BuildId::random(), &all(None, 0)).unwrap(), []);
    }

    #[test]
    fn a_flood_is_cut_but_the_end_is_told() {
        let home = tempfile::tempdir().unwrap();
        let logs = Logs::open(home.path().join("logs")).unwrap();
        let log = logs.begin(BuildId::random()).unwrap();
        for _ in 0..1000 {
            log.output(Level::Info, None, "x".repeat(LONGEST_LINE));
        }
        log.say(Level::Error, None, "the end");
        let state = log.lock();
        assert!(state.entries.len() < 600);
        assert_eq!(state.entries.last().unwrap().message, "the end");
    }

    #[test]
    fn lines_are_cut_where_people_see_them_end() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"a\r\nb\n10%\r100%\nre"), ["a", "b", "100%"]);
        assert_eq!(lines.push(b"st"), [] as [&str; 0]);
        assert_eq!(lines.finish().unwrap(), "rest");
        assert_eq!(Lines::default().push(&vec![b'x'; LONGEST_LINE * 2]).len(), 2);
    }

    proptest! {
        #[test]
        fn no_byte_is_lost(chunks in proptest::collection::vec("[a-z\n]{0,20}", 0..8)) {
            let mut lines = Lines::default();
            let mut got: Vec<String> = chunks.iter().flat_map(|chunk| lines.push(chunk.as_bytes())).collect();
            got.extend(lines.finish());
            prop_assert_eq!(got, chunks.concat().lines().map(str::to_owned).collect::<Vec<_>>());
        }
    }
}
