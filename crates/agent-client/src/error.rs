//! What can go wrong between host and agent.

use http::StatusCode;

/// Why an exchange with the agent failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream broke or did not speak HTTP.
    #[error("talking to the sandbox's agent failed")]
    Transport(#[from] hyper::Error),
    /// No stream could be had.
    #[error("the sandbox's agent cannot be reached")]
    Connect(#[source] std::io::Error),
    /// The agent was reached and said no.
    #[error("the sandbox's agent refused: {message} ({status})")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// The agent's words, or the status line's where it had none.
        message: String,
    },
    /// Nothing listens on a port inside the sandbox.
    #[error("nothing listens on port {port} inside the sandbox")]
    PortClosed {
        /// The port that was asked for.
        port: u16,
    },
    /// A call ended with an error of the Connect protocol.
    #[error("the sandbox's agent reports {code}: {message}")]
    Call {
        /// Such as `not_found`.
        code: String,
        /// The agent's words.
        message: String,
    },
    /// The agent answered something that is no answer to the question.
    #[error("the sandbox's agent gave an answer that makes no sense: {0}")]
    Nonsense(&'static str),
    /// The agent did not get ready in the time that it was given.
    #[error("the sandbox's agent was not ready within {0:?}")]
    NotReady(std::time::Duration),
}
