//! Whether the server answers at all. Needs no key (contract 2.1).

use axum::Router;
use axum::routing::get;
use http::StatusCode;

use crate::state::ApiState;

pub(crate) fn routes() -> Router<ApiState> {
    Router::new().route("/health", get(async || StatusCode::NO_CONTENT))
}
