//! `POST /sandboxes/{id}/pause` (contract 4.3).

use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::error::ApiError;
use crate::json::OptionalJson;
use crate::openapi::Error;
use crate::path::SandboxPath;
use crate::state::ApiState;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PauseBody {
    memory: Option<bool>,
    require_healthy_guest: Option<bool>,
}

/// Puts a sandbox to sleep with its memory.
#[utoipa::path(
    post, path = "/sandboxes/{id}/pause", operation_id = "pauseSandbox", tag = "sandboxes",
    request_body = Option<PauseBody>,
    responses(
        (status = 204, description = "It sleeps, on disk"),
        (status = 409, body = Error, description = "It sleeps already, or is about to"),
        (status = 501, body = Error, description = "A setting that this server cannot keep yet")
    )
)]
pub(super) async fn pause(
    caller: Caller,
    State(state): State<ApiState>,
    SandboxPath(id): SandboxPath,
    OptionalJson(body): OptionalJson<PauseBody>,
) -> Result<StatusCode, ApiError> {
    if body.memory == Some(false) {
        return Err(ApiError::not_implemented("Pausing without memory (memory: false)"));
    }
    if body.require_healthy_guest == Some(true) {
        return Err(ApiError::not_implemented(
            "Checking the guest before a pause (requireHealthyGuest: true)",
        ));
    }
    state.control.pause(caller.owner.team, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
