//! How a long build tells what it is doing.

use std::fmt;

/// A part of a build, in the order in which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Looking at what is there already.
    Prepare,
    /// Fetching the lists of packages.
    Index,
    /// Fetching packages.
    Download,
    /// Unpacking packages.
    Unpack,
    /// Setting packages up.
    Configure,
    /// Users, settings and certificates.
    Customize,
    /// Writing everything to disk.
    Commit,
    /// The build is there.
    Done,
}

impl Stage {
    /// A word or two for a person.
    pub fn label(self) -> &'static str {
        match self {
            Stage::Prepare => "preparing",
            Stage::Index => "reading package lists",
            Stage::Download => "fetching packages",
            Stage::Unpack => "unpacking packages",
            Stage::Configure => "setting packages up",
            Stage::Customize => "users and settings",
            Stage::Commit => "writing to disk",
            Stage::Done => "done",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// One sign of life.
#[derive(Debug, Clone, Copy)]
pub struct Update<'a> {
    /// The part that runs.
    pub stage: Stage,
    /// Steps of this part that are finished.
    pub done: u64,
    /// Steps of this part, when known.
    pub total: Option<u64>,
    /// What the program said, or a sentence of ours when it has been silent for a few seconds.
    pub line: &'a str,
}

impl<'a> Update<'a> {
    /// One of a part that is not counted.
    pub fn note(stage: Stage, line: &'a str) -> Update<'a> {
        Update {
            stage,
            done: 0,
            total: None,
            line,
        }
    }
}

/// Hears what a build does. Called from the thread that builds, at least every few seconds.
pub trait Progress: Send + Sync {
    /// Something happened, or a few seconds passed.
    fn update(&self, update: Update<'_>);
}

/// Hears nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn update(&self, _: Update<'_>) {}
}

impl<F: Fn(Update<'_>) + Send + Sync> Progress for F {
    fn update(&self, update: Update<'_>) {
        self(update);
    }
}
