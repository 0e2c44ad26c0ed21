//! Lists of templates, and their names (contract 2.2, 5.4).

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use url::form_urlencoded;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Caller;
use crate::error::ApiError;
use crate::openapi::Error;
use crate::paging::{self, Key, NEXT_TOKEN, Page};
use crate::path::Segment;
use crate::state::ApiState;
use crate::wire;

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(list_paged))
        .routes(routes!(alias))
}

/// `GET /templates?teamID`: all of them.
#[utoipa::path(
    get, path = "/templates", operation_id = "listTemplatesV1", tag = "templates",
    params(("teamID" = Option<String>, Query, description = "The key's own team")),
    responses(
        (status = 200, body = [wire::Template], description = "All of them")
    )
)]
async fn list(
    caller: Caller,
    State(state): State<ApiState>,
    RawQuery(query): RawQuery,
) -> Result<Json<Vec<wire::Template>>, ApiError> {
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        if name == "teamID" && value != caller.owner.team.to_string() {
            return Err(ApiError::bad_request("The team ID does not match the API key"));
        }
    }
    let found = state.store.templates(caller.owner.team).await?;
    Ok(Json(found.into_iter().map(wire::Template::from).collect()))
}

/// `GET /v2/templates?limit&nextToken`: newest first, in pages.
#[utoipa::path(
    get, path = "/v2/templates", operation_id = "listTemplates", tag = "templates",
    params(("limit" = Option<i32>, Query, minimum = 1, description = "More than 100 count as 100"), ("nextToken" = Option<String>, Query, description = "From `X-Next-Token` of the page before")),
    responses(
        (status = 200, body = [wire::Template], description = "A page, newest first", headers(("X-Next-Token" = String, description = "Only when there are more")))
    )
)]
async fn list_paged(caller: Caller, State(state): State<ApiState>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let mut page = Page::default();
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*name {
            "limit" => page.limit = paging::limit(&value)?,
            "nextToken" if !value.is_empty() => page.after = Some(paging::parse_token(&value, page.order)?),
            _ => {}
        }
    }
    let found = state.store.templates(caller.owner.team).await?;
    let (found, next) = page.cut(found, |summary| Key {
        at: summary.template.created_at,
        id: summary.template.id.to_string(),
    });
    let mut response = Json(found.into_iter().map(wire::Template::from).collect::<Vec<_>>()).into_response();
    if let Some(next) = next {
        response.headers_mut().insert(NEXT_TOKEN, next);
    }
    Ok(response)
}

/// `GET /templates/aliases/{alias}`: whether a name is taken, and by what. SDKs read 403 as "taken", 404 as "free".
#[utoipa::path(
    get, path = "/templates/aliases/{alias}", operation_id = "getTemplateAlias", tag = "templates",
    responses(
        (status = 200, body = wire::TemplateAlias, description = "The name is the team's, or public"),
        (status = 403, body = Error, description = "The name is another team's"),
        (status = 404, body = Error, description = "The name is free")
    )
)]
async fn alias(
    caller: Caller,
    State(state): State<ApiState>,
    Segment(alias): Segment,
) -> Result<Json<wire::TemplateAlias>, ApiError> {
    if let Some(template) = state.store.template(caller.owner.team, &alias).await? {
        return Ok(Json(wire::TemplateAlias {
            template_id: template.id.into(),
            public: template.public,
        }));
    }
    if state.store.template_exists(&alias).await? {
        Err(ApiError::new(
            StatusCode::FORBIDDEN,
            format!("You don't have access to the template '{alias}'"),
        ))
    } else {
        Err(ApiError::new(StatusCode::NOT_FOUND, format!("template '{alias}' not found")))
    }
}
