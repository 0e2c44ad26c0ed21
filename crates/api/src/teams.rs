//! Teams, as far as the CLI asks for them (contract 2.2).

use axum::Json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Caller;
use crate::state::ApiState;
use crate::wire;

pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(list))
}

/// A key belongs to one team, so that is what there is. The key is the caller's own, sent back: the server keeps none.
#[utoipa::path(
    get, path = "/teams", operation_id = "listTeams", tag = "teams",
    responses(
        (status = 200, body = [wire::Team], description = "The key's own team")
    )
)]
async fn list(caller: Caller) -> Json<[wire::Team; 1]> {
    Json([wire::Team {
        team_id: caller.owner.team,
        name: "default",
        api_key: caller.key,
        is_default: true,
    }])
}
