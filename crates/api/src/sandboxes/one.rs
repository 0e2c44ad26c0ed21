//! `GET` and `DELETE /sandboxes/{id}`.

use axum::Json;
use axum::extract::State;
use http::StatusCode;

use crate::auth::Caller;
use crate::error::ApiError;
use crate::path::SandboxPath;
use crate::state::ApiState;
use crate::wire;

/// Everything about one sandbox.
#[utoipa::path(
    get, path = "/sandboxes/{id}", operation_id = "getSandbox", tag = "sandboxes",
    responses(
        (status = 200, body = wire::Detail, description = "All about it")
    )
)]
pub(super) async fn detail(
    caller: Caller,
    State(state): State<ApiState>,
    SandboxPath(id): SandboxPath,
) -> Result<Json<wire::Detail>, ApiError> {
    let sandbox = state.control.get(caller.owner.team, &id)?;
    if sandbox.phase.visible().is_none() {
        return Err(ApiError::no_sandbox(&id));
    }
    Ok(Json(wire::Detail::new(sandbox, state.config.domain.as_deref())))
}

/// Ends a sandbox for ever, asleep or not.
#[utoipa::path(
    delete, path = "/sandboxes/{id}", operation_id = "killSandbox", tag = "sandboxes",
    responses(
        (status = 204, description = "It is gone")
    )
)]
pub(super) async fn kill(
    caller: Caller,
    State(state): State<ApiState>,
    SandboxPath(id): SandboxPath,
) -> Result<StatusCode, ApiError> {
    state.control.kill(caller.owner.team, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
