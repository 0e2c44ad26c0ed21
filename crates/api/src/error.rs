//! Every refusal and failure as E2B's clients expect it (contract 1.5): `{"code": <status>, "message": …}`, with the headers that tell
//! a client whether trying again can help.

use std::error::Error;
use std::fmt::Write as _;

use axum::Json;
use axum::response::{IntoResponse, Response};
use dormouse_control::ControlError;
use dormouse_store::{SandboxId, StoreError};
use http::header::RETRY_AFTER;
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;

/// Python clients obey it on any answer; without it they repeat 429, 502, 503 and 504.
pub(crate) const SHOULD_RETRY: HeaderName = HeaderName::from_static("should-retry");

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
    error_code: Option<&'static str>,
    retry: Retry,
}

/// Whether the same request can succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retry {
    /// Not by itself.
    Never,
    /// In this many seconds.
    After(u32),
}

#[derive(Serialize)]
struct Body<'a> {
    code: u16,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<&'static str>,
}

impl ApiError {
    /// A refusal for good.
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            error_code: None,
            retry: Retry::Never,
        }
    }

    /// 400 with a text of the contract.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 400: a field is well-formed but not valid.
    pub(crate) fn invalid(field: &str, what: impl std::fmt::Display) -> Self {
        Self::bad_request(format!("validation error: {field}: {what}"))
    }

    /// 400: the body is not what it should be.
    pub(crate) fn unparsable(what: impl std::fmt::Display) -> Self {
        Self::bad_request(format!("Error when parsing request: {what}"))
    }

    /// 501: part of the contract, but not of Dormouse yet. Better than to take a setting and not to keep it.
    pub(crate) fn not_implemented(what: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::NOT_IMPLEMENTED,
            format!("{what} is not supported by this server yet"),
        )
        .with_code("not_implemented")
    }

    /// 404 for a sandbox that is missing, killed, or another team's.
    pub(crate) fn no_sandbox(id: &SandboxId) -> Self {
        Self::new(StatusCode::NOT_FOUND, ControlError::NotFound(id.clone()).to_string())
    }

    /// 500: the reason is for the log, not for the client.
    pub(crate) fn internal(message: &str, error: &(dyn Error + 'static)) -> Self {
        tracing::error!(error = %chain(error), "{message}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// Adds the `error_code` that clients tell refusals of one status apart by.
    #[must_use]
    pub(crate) fn with_code(mut self, code: &'static str) -> Self {
        self.error_code = Some(code);
        self
    }

    fn retry_after(mut self, seconds: u32) -> Self {
        self.retry = Retry::After(seconds);
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Json(Body {
            code: self.status.as_u16(),
            message: &self.message,
            error_code: self.error_code,
        });
        let mut response = (self.status, body).into_response();
        match self.retry {
            Retry::After(seconds) => {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
            }
            Retry::Never if self.status.is_server_error() => {
                response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
            }
            Retry::Never => {}
        }
        response
    }
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> Self {
        let status = match &error {
            ControlError::NotRunning(id) => return Self::no_sandbox(id),
            ControlError::NotFound(_) | ControlError::TemplateNotFound(_) | ControlError::TagNotFound { .. } => {
                StatusCode::NOT_FOUND
            }
            ControlError::Busy { .. } | ControlError::AlreadyPaused(_) | ControlError::AlreadyRunning(_) => StatusCode::CONFLICT,
            ControlError::TimeoutTooLong(_) | ControlError::MaxRunReached => StatusCode::BAD_REQUEST,
            ControlError::TooMany(_) => return Self::new(StatusCode::TOO_MANY_REQUESTS, error.to_string()).retry_after(1),
            ControlError::NoRoom(reason) => {
                tracing::error!(error = %chain(&error), "no room");
                let reason = root(&**reason);
                return Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("{error}: {reason}"));
            }
            // Another start of the server is on its way.
            ControlError::ShuttingDown => return Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()).retry_after(1),
            ControlError::WrongEngine { .. } => {
                return Self::new(StatusCode::CONFLICT, error.to_string()).with_code("engine_mismatch");
            }
            ControlError::Interrupted(_) | ControlError::Engine(_) | ControlError::Store(_) | ControlError::Layers(_) => {
                return Self::internal(&error.to_string(), &error);
            }
        };
        Self::new(status, error.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::internal("The database failed", &error)
    }
}

/// An error with everything behind it, in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        // Writing into a string does not fail.
        let _ = write!(text, ": {error}");
        next = error.source();
    }
    text
}

fn root<'e>(error: &'e (dyn Error + 'static)) -> &'e (dyn Error + 'static) {
    let mut root = error;
    while let Some(next) = root.source() {
        root = next;
    }
    root
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};

    use super::*;

    async fn check(error: impl Into<ApiError>, status: u16, body: Value, headers: &[(&str, &str)]) {
        let response = error.into().into_response();
        assert_eq!(response.status(), status);
        for name in ["retry-after", "should-retry"] {
            let expected = headers.iter().find(|(header, _)| *header == name).map(|(_, value)| *value);
            assert_eq!(
                response.headers().get(name).map(|value| value.to_str().unwrap()),
                expected,
                "{name}"
            );
        }
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), body);
    }

    fn id() -> SandboxId {
        "i01234567890123456789".parse().unwrap()
    }

    #[tokio::test]
    async fn control_errors_have_their_status_and_text() {
        let gone = "Sandbox \"i01234567890123456789\" doesn't exist or you don't have access to it";
        check(ControlError::NotFound(id()), 404, json!({"code": 404, "message": gone}), &[]).await;
        check(
            ControlError::NotRunning(id()),
            404,
            json!({"code": 404, "message": gone}),
            &[],
        )
        .await;
        check(
            ControlError::AlreadyPaused(id()),
            409,
            json!({"code": 409, "message": "Error pausing sandbox - sandbox 'i01234567890123456789' is already paused"}),
            &[],
        )
        .await;
        check(
            ControlError::AlreadyRunning(id()),
            409,
            json!({"code": 409, "message": "Sandbox i01234567890123456789 is already running"}),
            &[],
        )
        .await;
        check(
            ControlError::TemplateNotFound("nope".to_owned()),
            404,
            json!({"code": 404, "message": "template 'nope' not found"}),
            &[],
        )
        .await;
        check(
            ControlError::TimeoutTooLong(Duration::from_secs(86_400)),
            400,
            json!({"code": 400, "message": "Timeout cannot be greater than 24 hours"}),
            &[],
        )
        .await;
        check(
            ControlError::TooMany(20),
            429,
            json!({"code": 429, "message": "you have reached the maximum number of concurrent sandboxes (20)"}),
            &[("retry-after", "1")],
        )
        .await;
    }

    #[tokio::test]
    async fn permanent_failures_tell_clients_not_to_repeat() {
        let full = std::io::Error::new(std::io::ErrorKind::StorageFull, "no space left on device");
        check(
            ControlError::NoRoom(Box::new(full)),
            503,
            json!({"code": 503, "message": "The host has no room left: no space left on device"}),
            &[("should-retry", "false")],
        )
        .await;
        check(
            ApiError::not_implemented("fork"),
            501,
            json!({"code": 501, "message": "fork is not supported by this server yet", "error_code": "not_implemented"}),
            &[("should-retry", "false")],
        )
        .await;
    }

    #[tokio::test]
    async fn the_reason_of_a_failure_stays_in_the_log() {
        let error = StoreError::Corrupt {
            what: "sandbox",
            id: "x".to_owned(),
            source: "secret".into(),
        };
        assert_eq!(chain(&error), "The database's sandbox `x` cannot be read: secret");
        check(
            ControlError::Store(error),
            500,
            json!({"code": 500, "message": "The database failed"}),
            &[("should-retry", "false")],
        )
        .await;
    }
}
