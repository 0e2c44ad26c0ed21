//! Whether the server answers at all. Needs no key (contract 2.1).

use http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::state::ApiState;

pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(health))
}

/// Whether the server answers.
#[utoipa::path(
    get, path = "/health", operation_id = "health", tag = "health",
    security(()),
    responses(
        (status = 204, description = "It does")
    )
)]
async fn health() -> StatusCode {
    StatusCode::NO_CONTENT
}
