//! Errors of the REST endpoints: a status and words, as JSON (contract 3.2).

use std::io;

use axum::Json;
use axum::response::{IntoResponse, Response};
use dormouse_agent_proto::rest::ErrorBody;
use http::StatusCode;
use rustix::io::Errno;

/// An unsuccessful answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub status: StatusCode,
    pub message: String,
}

impl Failure {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// A system call that failed while doing `what`. A full disk has a status of its own.
    pub(crate) fn io(what: &str, error: &io::Error) -> Self {
        let status = match Errno::from_io_error(error) {
            Some(Errno::NOSPC | Errno::DQUOT) => {
                return Self::new(StatusCode::INSUFFICIENT_STORAGE, "not enough disk space available");
            }
            Some(Errno::NAMETOOLONG | Errno::NOTDIR | Errno::ISDIR | Errno::LOOP) => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, format!("error {what}: {error}"))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = ErrorBody {
            code: self.status.as_u16(),
            message: self.message,
        };
        (self.status, Json(body)).into_response()
    }
}
