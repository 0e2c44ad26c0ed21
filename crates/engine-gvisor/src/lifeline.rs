//! How the daemon learns that a shim has ended: a named pipe that only the shim has open for writing.
//!
//! It works for a shim of an earlier daemon as for a child, cannot be confused by a process number that is used again, and its end is an
//! event.

use std::fs::File;
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use crate::error::{GvisorError, Result};

/// The daemon's end.
#[derive(Debug)]
pub(crate) struct Lifeline(pipe::Receiver);

/// The shim's end.
#[derive(Debug)]
pub(crate) struct Held {
    _file: File,
}

impl Lifeline {
    /// Makes the pipe, before the shim starts.
    pub(crate) fn create(path: &Path) -> Result<()> {
        mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(GvisorError::file("create", path))
    }

    /// Opens the daemon's end. None: nothing was ever made there. Needs a tokio runtime.
    ///
    /// Open it before the shim starts, or look with [`is_held`](Self::is_held): a holder that ended before is never reported.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>> {
        match pipe::OpenOptions::new().open_receiver(path) {
            Ok(receiver) => Ok(Some(Self(receiver))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(GvisorError::file("open", path)(e)),
        }
    }

    /// Whether the shim holds its end.
    pub(crate) fn is_held(&self) -> bool {
        // Without a writer a read says at once that there is nothing more to come. Not by tokio: it reads only after an event.
        !matches!(rustix::io::read(&self.0, &mut [0]), Ok(0))
    }

    /// Resolves when the shim has ended.
    pub(crate) async fn ended(mut self) -> Result<()> {
        // Nobody writes; should somebody, it is not the end.
        while self
            .0
            .read(&mut [0; 64])
            .await
            .map_err(GvisorError::system("watch the shim"))?
            > 0
        {}
        Ok(())
    }
}

impl Held {
    /// Takes hold, in the shim.
    pub(crate) fn take(path: &Path) -> Result<Self> {
        // For reading too, or it would wait for a reader.
        let file = File::options()
            .read(true)
            .write(true)
            .open(path)
            .map_err(GvisorError::file("open", path))?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_the_holder_is_seen() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("alive");
        assert!(Lifeline::open(&path).expect("no error").is_none());
        Lifeline::create(&path).expect("made");
        let held = Held::take(&path).expect("taken");
        let line = Lifeline::open(&path).expect("opened").expect("there");
        assert!(line.is_held());
        let ended = tokio::spawn(line.ended());
        drop(held);
        ended.await.expect("no panic").expect("seen");
        let line = Lifeline::open(&path).expect("opened").expect("there");
        assert!(!line.is_held());
    }
}
