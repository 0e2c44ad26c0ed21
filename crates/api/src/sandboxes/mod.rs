//! What can be asked of sandboxes, one file each (contract 2.2, 4.1, 4.2).

mod connect;
mod create;
mod list;
mod logs;
mod metadata;
mod one;
mod pause;
mod timeout;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::state::ApiState;

pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(list::v1, create::v1))
        .routes(routes!(list::v2, create::v2))
        .routes(routes!(one::detail, one::kill))
        .routes(routes!(connect::v1))
        .routes(routes!(connect::v2))
        .routes(routes!(connect::resume))
        .routes(routes!(pause::pause))
        .routes(routes!(timeout::set))
        .routes(routes!(timeout::refresh))
        .routes(routes!(logs::logs))
}
