//! What can go wrong with the wish for a build, and in a build.

use dormouse_store::StoreError;

/// Why something that was asked of the builder was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuilderError {
    /// A name, tag or reference is not allowed; the text is for the client.
    #[error("{0}")]
    Invalid(String),
    /// There is no such build of that template.
    #[error("build '{0}' not found")]
    UnknownBuild(String),
    /// It was started before.
    #[error("build is not in waiting state")]
    NotWaiting,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file system of the data directory failed.
    #[error("Cannot {action}")]
    Files {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The server stops.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// Why a build failed, in words for its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) message: String,
    /// `base`, the number of a step, or `finalize`.
    pub(crate) step: Option<String>,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            step: None,
        }
    }

    /// The error with all its causes.
    pub(crate) fn of(what: &str, error: &dyn std::error::Error) -> Self {
        Self::new(format!("{what}: {}", chain(error)))
    }

    /// Says where it was, if nobody closer has.
    pub(crate) fn at(mut self, step: impl Into<String>) -> Self {
        self.step.get_or_insert_with(|| step.into());
        self
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        let full = matches!(
            error.kind(),
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
        );
        if full {
            Self::new("the host's disk is full")
        } else {
            Self::of("the files of the build could not be written", &error)
        }
    }
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
