//! What can be asked of sandboxes, one file each (contract 2.2, 4.1, 4.2).

mod connect;
mod create;
mod list;
mod logs;
mod metadata;
mod one;
mod pause;
mod timeout;

use axum::Router;
use axum::routing::{get, post};

use crate::state::ApiState;

pub(crate) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/sandboxes", get(list::v1).post(create::v1))
        .route("/v2/sandboxes", get(list::v2).post(create::v2))
        .route("/sandboxes/{id}", get(one::detail).delete(one::kill))
        .route("/sandboxes/{id}/connect", post(connect::v1))
        .route("/v2/sandboxes/{id}/connect", post(connect::v2))
        .route("/sandboxes/{id}/resume", post(connect::resume))
        .route("/sandboxes/{id}/pause", post(pause::pause))
        .route("/sandboxes/{id}/timeout", post(timeout::set))
        .route("/sandboxes/{id}/refreshes", post(timeout::refresh))
        .route("/sandboxes/{id}/logs", get(logs::logs))
}
