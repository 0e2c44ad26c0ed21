//! What can go wrong between this engine, runsc and the host.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dormouse_network::NetworkError;

/// An error of the gVisor engine. It reaches callers as the source of an [`EngineError`](dormouse_engine::EngineError).
#[derive(Debug, thiserror::Error)]
pub enum GvisorError {
    /// A file of the engine could not be read or written.
    #[error("Cannot {action} {path}")]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// A file of the engine does not hold what it should.
    #[error("{path} is damaged")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the decoder says.
        #[source]
        source: serde_json::Error,
    },
    /// A system call that is not about one file failed.
    #[error("Cannot {action}")]
    System {
        /// What was tried, as a verb.
        action: &'static str,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// runsc could not make the sandbox.
    #[error("runsc could not {action} the sandbox: {message}. Its log is {log}", log = log.display())]
    Runsc {
        /// `run` or `restore`.
        action: &'static str,
        /// The first line of what runsc said.
        message: String,
        /// Where all of it is.
        log: PathBuf,
    },
    /// The process between the daemon and runsc ended before it could say anything.
    #[error("The shim ended early. Its log is {log}", log = log.display())]
    ShimEnded {
        /// Where its last words are.
        log: PathBuf,
    },
    /// The sandbox's control socket refused a call.
    #[error("The sandbox refused {method}: {message}")]
    Refused {
        /// The method that was called.
        method: &'static str,
        /// The sandbox's words, their first line.
        message: String,
    },
    /// The sandbox's control socket broke.
    #[error("The sandbox's control socket failed in {method}")]
    Control {
        /// The method that was called.
        method: &'static str,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// The sandbox's kernel does not answer.
    #[error("The sandbox's kernel did not answer {method} within {} s: it is stuck, stopped, or the host is overloaded", patience.as_secs())]
    NoAnswer {
        /// The method that was called.
        method: &'static str,
        /// How long it had.
        patience: Duration,
    },
    /// Making the sandbox took too long.
    #[error("runsc did not {action} the sandbox within {} s. Its log is {log}", patience.as_secs(), log = log.display())]
    Slow {
        /// `run` or `restore`.
        action: &'static str,
        /// How long it had.
        patience: Duration,
        /// Where its words are.
        log: PathBuf,
    },
    /// The agent inside did not do what it was asked.
    #[error("The agent inside the sandbox failed")]
    Agent(#[from] dormouse_agent_client::Error),
    /// The sandbox's network failed.
    #[error("The sandbox's network failed")]
    Network(#[from] NetworkError),
    /// The sandbox ended while something was done with it.
    #[error("The sandbox ended: {0}")]
    Ended(String),
    /// `mkfs.erofs` could not make a root image.
    #[error("mkfs.erofs could not make an image of {tree}: {message}", tree = tree.display())]
    Image {
        /// The tree that was to become an image.
        tree: PathBuf,
        /// What it said.
        message: String,
    },
    /// A task of the engine panicked; a bug.
    #[error("A task of the gVisor engine panicked")]
    Panicked,
}

/// Result with a [`GvisorError`].
pub type Result<T, E = GvisorError> = std::result::Result<T, E>;

impl GvisorError {
    /// Wraps an error about a file, for `map_err`.
    pub(crate) fn file<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.to_path_buf();
        move |source| Self::File {
            action,
            path,
            source: source.into(),
        }
    }

    /// Wraps an error of a system call, for `map_err`.
    pub(crate) fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System {
            action,
            source: source.into(),
        }
    }

    /// Whether the host lacks room.
    pub(crate) fn is_no_room(&self) -> bool {
        match self {
            Self::File { source, .. } | Self::System { source, .. } => {
                matches!(
                    source.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::OutOfMemory | io::ErrorKind::QuotaExceeded
                )
            }
            // The sentry reports the errors of its own writes as text.
            Self::Refused { message, .. } | Self::Runsc { message, .. } => message.contains("no space left on device"),
            _ => false,
        }
    }
}
