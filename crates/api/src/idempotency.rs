//! One sandbox for a creation that is sent more than once (contract 2.4).
//!
//! Only a success is kept: a refused or failed creation has left nothing, so the same request may be tried again with the same key.

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use dormouse_store::{Idempotency, Store, TeamId};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, StatusCode};
use sha2::{Digest as _, Sha256};

use crate::error::ApiError;
use crate::json;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The key of a request, if it has one: 1 to 255 of `[a-z0-9-]`.
pub(crate) fn key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let allowed = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    match key.to_str() {
        Ok(key) if (1..=255).contains(&key.len()) && key.as_bytes().iter().all(allowed) => Ok(Some(key.to_owned())),
        _ => Err(ApiError::bad_request(
            "Invalid Idempotency-Key: it has 1 to 255 lowercase letters, digits and hyphens",
        )),
    }
}

/// Answers from memory, or does the work and remembers the answer. The work goes on when the client hangs up.
pub(crate) async fn once<F>(store: &Store, team: TeamId, key: String, request: &[u8], work: F) -> Result<Response, ApiError>
where
    F: Future<Output = Response> + Send + 'static,
{
    match store.begin_idempotent(team, &key, &Sha256::digest(request)).await? {
        Idempotency::New => {}
        Idempotency::Replay { status, body } => return Ok(answer(status, body)),
        Idempotency::Mismatch => {
            let message = "The Idempotency-Key was used for a different request";
            return Err(ApiError::new(StatusCode::CONFLICT, message).with_code("idempotency_request_mismatch"));
        }
        Idempotency::InProgress => {
            let message = "A request with this Idempotency-Key is in progress";
            return Err(ApiError::new(StatusCode::CONFLICT, message).with_code("idempotency_in_progress"));
        }
        Idempotency::OutcomeUnknown => {
            let message = "The outcome of an earlier request with this Idempotency-Key is unknown";
            return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, message).with_code("idempotency_outcome_unknown"));
        }
    }
    let store = store.clone();
    let task = tokio::spawn(async move {
        // A task of its own inside, so that a panic cannot leave the key taken.
        let response = match tokio::spawn(work).await {
            Ok(response) => response,
            Err(panic) => ApiError::internal("Internal server error", &panic).into_response(),
        };
        keep(&store, team, &key, response).await
    });
    Ok(task
        .await
        .unwrap_or_else(|panic| ApiError::internal("Internal server error", &panic).into_response()))
}

async fn keep(store: &Store, team: TeamId, key: &str, response: Response) -> Response {
    let (parts, body) = response.into_parts();
    // Our own small answer: it is there already.
    let body = json::read(body, usize::MAX).await.unwrap_or_else(|_| Bytes::new());
    let kept = if parts.status.is_success() {
        store.finish_idempotent(team, key, parts.status.as_u16(), &body).await
    } else {
        store.forget_idempotent(team, key).await
    };
    if let Err(error) = kept {
        // The sandbox is there; a repeated request is told that this one is in progress.
        tracing::error!(error = %crate::error::chain(&error), "cannot keep an idempotent answer");
    }
    Response::from_parts(parts, Body::from(body))
}

fn answer(status: u16, body: Vec<u8>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn keys_are_lowercase_letters_digits_and_hyphens() {
        let with = |value: &str| {
            key(&HeaderMap::from_iter([(
                IDEMPOTENCY_KEY,
                HeaderValue::from_str(value).unwrap(),
            )]))
        };
        assert_eq!(key(&HeaderMap::new()), Ok(None));
        assert_eq!(with("a-0"), Ok(Some("a-0".to_owned())));
        assert_eq!(with(&"a".repeat(255)), Ok(Some("a".repeat(255))));
        for bad in ["", "A", "a b", "a_b", "ä", &"a".repeat(256)] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }
}
