//! Templates, read only (contract 2.2, 5.4).

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use url::form_urlencoded;

use crate::auth::Caller;
use crate::error::ApiError;
use crate::paging::{self, Key, NEXT_TOKEN, Page};
use crate::path::Segment;
use crate::state::ApiState;
use crate::wire;

pub(crate) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/templates", get(list))
        .route("/v2/templates", get(list_paged))
        .route("/templates/aliases/{alias}", get(alias))
}

/// `GET /templates?teamID`: all of them.
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
