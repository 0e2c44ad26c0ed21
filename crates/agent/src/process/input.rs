//! What is written to a process.

use std::io;
use std::sync::Arc;

use rustix::io::Errno;
use tokio::sync::Mutex;

use super::{launch, window};
use crate::readiness::Watched;

/// Input that could not be delivered. Clients are told these words (contract 3.5).
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    /// `stdin` for a process that has a terminal.
    #[error("tty assigned to process, input should be written to the pty, not the stdin")]
    HasTerminal,
    /// `pty` for a process that has none.
    #[error("tty not assigned to process")]
    NoTerminal,
    /// Started without input, or closed since.
    #[error("stdin not enabled or closed")]
    Closed,
    /// A terminal has no end of input to send; programs take Ctrl-D.
    #[error("cannot close stdin for PTY process, send Ctrl+D instead")]
    CannotClose,
    /// The process has closed its side, or is gone.
    #[error("error writing to the process: {0}")]
    Write(#[from] io::Error),
}

/// The way into a process. Writers take turns, so what one request sends stays in one piece.
#[derive(Debug)]
pub(crate) enum Input {
    Pipe(Mutex<Option<Watched>>),
    Terminal { master: Arc<Watched>, turn: Mutex<()> },
}

impl Input {
    /// Writes all of `bytes` to the process's standard input. Waits while the process does not read.
    pub(crate) async fn write_stdin(&self, bytes: &[u8]) -> Result<(), InputError> {
        match self {
            Self::Terminal { .. } => Err(InputError::HasTerminal),
            Self::Pipe(pipe) => match pipe.lock().await.as_ref() {
                Some(pipe) => Ok(write_all(pipe, bytes).await?),
                None => Err(InputError::Closed),
            },
        }
    }

    /// Writes all of `bytes` to the process's terminal.
    pub(crate) async fn write_terminal(&self, bytes: &[u8]) -> Result<(), InputError> {
        match self {
            Self::Pipe(_) => Err(InputError::NoTerminal),
            Self::Terminal { master, turn } => {
                let _turn = turn.lock().await;
                Ok(write_all(master, bytes).await?)
            }
        }
    }

    /// Lets the process see the end of its input. Closing twice is no error.
    pub(crate) async fn close(&self) -> Result<(), InputError> {
        match self {
            Self::Terminal { .. } => Err(InputError::CannotClose),
            Self::Pipe(pipe) => {
                pipe.lock().await.take();
                Ok(())
            }
        }
    }

    /// Changes the size of the terminal. True when the kernel has told the programs at it.
    pub(crate) fn resize(&self, cols: u16, rows: u16) -> Result<bool, InputError> {
        match self {
            Self::Pipe(_) => Err(InputError::NoTerminal),
            Self::Terminal { master, .. } => {
                launch::resize(master.get_ref(), cols, rows)?;
                Ok(window::kernel_tells(master.get_ref()))
            }
        }
    }
}

async fn write_all(fd: &Watched, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let mut ready = fd.writable().await?;
        match rustix::io::write(fd.get_ref(), bytes) {
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
