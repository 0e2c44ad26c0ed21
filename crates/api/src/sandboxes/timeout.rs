//! `POST /sandboxes/{id}/timeout` and `/refreshes` (contract 4.2).

use std::time::Duration;

use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::error::ApiError;
use crate::json::{Json, OptionalJson};
use crate::openapi::Error;
use crate::path::SandboxPath;
use crate::state::ApiState;

/// A refresh extends by this at least.
const MIN_REFRESH: u16 = 15;
const MAX_REFRESH: u16 = 3600;

#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct TimeoutBody {
    /// Seconds from now to the end; zero and below are now.
    timeout: i32,
}

/// Sets the end, later or earlier. Zero is now; negative counts as zero.
#[utoipa::path(
    post, path = "/sandboxes/{id}/timeout", operation_id = "setSandboxTimeout", tag = "sandboxes",
    request_body = TimeoutBody,
    responses(
        (status = 204, description = "The end has moved"),
        (status = 409, body = Error, description = "Its state does not allow it, or it is on its way to another one")
    )
)]
pub(super) async fn set(
    caller: Caller,
    State(state): State<ApiState>,
    SandboxPath(id): SandboxPath,
    Json(body): Json<TimeoutBody>,
) -> Result<StatusCode, ApiError> {
    let timeout = Duration::from_secs(u64::try_from(body.timeout).unwrap_or(0));
    state.control.set_timeout(caller.owner.team, &id, timeout).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct RefreshBody {
    /// Seconds; less than 15 count as 15.
    #[schema(minimum = 0, maximum = 3600)]
    duration: Option<i64>,
}

/// Only ever extends.
#[utoipa::path(
    post, path = "/sandboxes/{id}/refreshes", operation_id = "refreshSandbox", tag = "sandboxes",
    request_body = Option<RefreshBody>,
    responses(
        (status = 204, description = "The end is at least that far away"),
        (status = 409, body = Error, description = "Its state does not allow it, or it is on its way to another one")
    )
)]
pub(super) async fn refresh(
    caller: Caller,
    State(state): State<ApiState>,
    SandboxPath(id): SandboxPath,
    OptionalJson(body): OptionalJson<RefreshBody>,
) -> Result<StatusCode, ApiError> {
    let duration = match body.duration {
        None => MIN_REFRESH,
        Some(seconds) => u16::try_from(seconds)
            .ok()
            .filter(|&seconds| seconds <= MAX_REFRESH)
            .ok_or_else(|| ApiError::invalid("duration", format_args!("must be from 0 to {MAX_REFRESH}")))?,
    };
    let duration = Duration::from_secs(duration.max(MIN_REFRESH).into());
    state.control.refresh(caller.owner.team, &id, duration).await?;
    Ok(StatusCode::NO_CONTENT)
}
