//! Waking: `POST …/connect` (v1, v2) and the older `…/resume` (contract 2.4, 4.2, 4.3).

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use dormouse_store::SandboxId;
use http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::error::ApiError;
use crate::json::{Json, OptionalJson};
use crate::openapi::Error;
use crate::path::SandboxPath;
use crate::state::ApiState;
use crate::wire;

/// Time given by v2 when the client asks for none.
const DEFAULT_V2: i32 = 300;
/// And by the older resume.
const DEFAULT_RESUME: i32 = 15;

#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct ConnectV1 {
    /// Seconds from now; the end is only ever moved later.
    #[schema(minimum = 0, maximum = 2147483647)]
    timeout: i32,
    memory: Option<bool>,
}

/// `POST /sandboxes/{id}/connect`: the timeout is required and may be zero.
#[utoipa::path(
    post, path = "/sandboxes/{id}/connect", operation_id = "connectSandboxV1", tag = "sandboxes",
    request_body = ConnectV1,
    responses(
        (status = 200, body = wire::Handle, description = "It ran already"),
        (status = 201, body = wire::Handle, description = "It slept and runs now"),
        (status = 409, body = Error, description = "Its state does not allow it, or it is on its way to another one"),
        (status = 429, body = Error, description = "As many sandboxes run as may")
    )
)]
pub(super) async fn v1(
    caller: Caller,
    State(state): State<ApiState>,
    SandboxPath(id): SandboxPath,
    Json(body): Json<ConnectV1>,
) -> Result<Response, ApiError> {
    with_memory(body.memory)?;
    connect(&caller, &state, &id, at_least_zero(body.timeout)?).await
}

#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct ConnectV2 {
    /// Seconds from now; 300 without it. The end is only ever moved later.
    #[schema(minimum = 1, maximum = 2147483647)]
    timeout: Option<i32>,
    memory: Option<bool>,
}

/// `POST /v2/sandboxes/{id}/connect`: everything is optional.
#[utoipa::path(
    post, path = "/v2/sandboxes/{id}/connect", operation_id = "connectSandbox", tag = "sandboxes",
    request_body = Option<ConnectV2>,
    responses(
        (status = 200, body = wire::Handle, description = "It ran already"),
        (status = 201, body = wire::Handle, description = "It slept and runs now"),
        (status = 409, body = Error, description = "Its state does not allow it, or it is on its way to another one"),
        (status = 429, body = Error, description = "As many sandboxes run as may")
    )
)]
pub(super) async fn v2(
    caller: Caller,
    State(state): State<ApiState>,
    SandboxPath(id): SandboxPath,
    OptionalJson(body): OptionalJson<ConnectV2>,
) -> Result<Response, ApiError> {
    with_memory(body.memory)?;
    let timeout = positive(body.timeout.unwrap_or(DEFAULT_V2))?;
    connect(&caller, &state, &id, timeout).await
}

/// 201 if it slept, 200 if it ran.
async fn connect(caller: &Caller, state: &ApiState, id: &SandboxId, timeout: Duration) -> Result<Response, ApiError> {
    let connected = state.control.connect(&caller.owner, id, timeout).await?;
    let status = if connected.resumed {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let handle = wire::Handle::new(connected.sandbox, state.config.domain.as_deref());
    Ok((status, axum::Json(handle)).into_response())
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resume {
    /// Seconds from now; 15 without it.
    #[schema(minimum = 0, maximum = 2147483647)]
    timeout: Option<i32>,
    auto_pause: Option<bool>,
    memory: Option<bool>,
}

/// `POST /sandboxes/{id}/resume`: refused when it runs already.
#[utoipa::path(
    post, path = "/sandboxes/{id}/resume", operation_id = "resumeSandbox", tag = "sandboxes",
    request_body = Option<Resume>,
    responses(
        (status = 201, body = wire::Handle, description = "It slept and runs now"),
        (status = 409, body = Error, description = "Its state does not allow it, or it is on its way to another one"),
        (status = 429, body = Error, description = "As many sandboxes run as may")
    )
)]
pub(super) async fn resume(
    caller: Caller,
    State(state): State<ApiState>,
    SandboxPath(id): SandboxPath,
    OptionalJson(body): OptionalJson<Resume>,
) -> Result<Response, ApiError> {
    with_memory(body.memory)?;
    let timeout = at_least_zero(body.timeout.unwrap_or(DEFAULT_RESUME))?;
    let sandbox = state.control.resume(&caller.owner, &id, timeout, body.auto_pause).await?;
    let handle = wire::Handle::new(sandbox, state.config.domain.as_deref());
    Ok((StatusCode::CREATED, axum::Json(handle)).into_response())
}

fn at_least_zero(seconds: i32) -> Result<Duration, ApiError> {
    u64::try_from(seconds)
        .map(Duration::from_secs)
        .map_err(|_| ApiError::invalid("timeout", "must be at least 0"))
}

/// A time to live, which is never zero (contract 4.1).
pub(super) fn positive(seconds: i32) -> Result<Duration, ApiError> {
    match u64::try_from(seconds) {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        _ => Err(ApiError::bad_request("Timeout must be greater than 0")),
    }
}

/// `memory: false` asks for a cold boot, which contract 4.3 allows a server to refuse by this code.
fn with_memory(memory: Option<bool>) -> Result<(), ApiError> {
    if memory == Some(false) {
        return Err(
            ApiError::bad_request("Waking without memory (memory: false) is not supported by this server yet")
                .with_code("sandbox_memory_override_disabled"),
        );
    }
    Ok(())
}
