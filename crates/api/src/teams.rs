//! Teams, as far as the CLI asks for them (contract 2.2).

use axum::routing::get;
use axum::{Json, Router};

use crate::auth::Caller;
use crate::state::ApiState;
use crate::wire;

pub(crate) fn routes() -> Router<ApiState> {
    Router::new().route("/teams", get(list))
}

/// A key belongs to one team, so that is what there is. The key is the caller's own, sent back: the server keeps none.
async fn list(caller: Caller) -> Json<[wire::Team; 1]> {
    Json([wire::Team {
        team_id: caller.owner.team,
        name: "default",
        api_key: caller.key,
        is_default: true,
    }])
}
