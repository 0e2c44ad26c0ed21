//! Tags (contract 5.4).

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use dormouse_builder::names::{self, Found};
use dormouse_store::DEFAULT_TAG;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::own;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::json::Json;
use crate::openapi::Error;
use crate::path::Segment;
use crate::state::ApiState;
use crate::wire;

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(assign, remove)).routes(routes!(list))
}

/// `AssignTemplateTagsRequest`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = AssignTemplateTags)]
struct Assign {
    target: String,
    tags: Vec<String>,
}

/// `AssignedTemplateTags`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AssignedTemplateTags)]
struct Assigned {
    tags: Vec<String>,
    #[serde(rename = "buildID")]
    build_id: String,
}

/// Points tags at the build that another reference leads to.
#[utoipa::path(
    post, path = "/templates/tags", operation_id = "assignTemplateTags", tag = "templates",
    request_body = Assign,
    responses(
        (status = 201, body = Assigned, description = "They point there"),
        (status = 403, body = Error, description = "Another team's template"),
        (status = 404, body = Error, description = "No such template or tag")
    )
)]
async fn assign(caller: Caller, State(state): State<ApiState>, Json(body): Json<Assign>) -> Result<Response, ApiError> {
    let tags = bare_tags(&body.tags)?;
    let reference = names::parse(&body.target)?;
    let template = own(&state, &caller, &reference.name, StatusCode::FORBIDDEN).await?;
    let build = match names::find(&state.store, caller.owner.team, &reference).await? {
        Found::Build(_, build) => build,
        _ => return Err(no_tag(reference.tag_or_default(), &reference.name)),
    };
    state
        .store
        .assign_tags(&template.id, &tags, build.id, Timestamp::now())
        .await?;
    let answer = Assigned {
        tags,
        build_id: build.id.to_string(),
    };
    Ok((StatusCode::CREATED, axum::Json(answer)).into_response())
}

/// `DeleteTemplateTagsRequest`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = DeleteTemplateTags)]
struct Remove {
    name: String,
    tags: Vec<String>,
}

/// Takes tags from a template.
#[utoipa::path(
    delete, path = "/templates/tags", operation_id = "removeTemplateTags", tag = "templates",
    request_body = Remove,
    responses(
        (status = 204, description = "They are gone"),
        (status = 403, body = Error, description = "Another team's template"),
        (status = 404, body = Error, description = "No such template or tag")
    )
)]
async fn remove(caller: Caller, State(state): State<ApiState>, Json(body): Json<Remove>) -> Result<StatusCode, ApiError> {
    let tags = bare_tags(&body.tags)?;
    let reference = names::parse(&body.name)?;
    if reference.tag.is_some() {
        return Err(ApiError::bad_request(format!("Invalid name: '{}': it has a tag", body.name)));
    }
    if tags.iter().any(|tag| tag == DEFAULT_TAG) {
        return Err(ApiError::bad_request(format!("The tag '{DEFAULT_TAG}' cannot be removed")));
    }
    let template = own(&state, &caller, &reference.name, StatusCode::FORBIDDEN).await?;
    match state.store.remove_tags(&template.id, &tags).await? {
        None => Ok(StatusCode::NO_CONTENT),
        Some(missing) => Err(no_tag(&missing, &reference.name)),
    }
}

/// `TemplateTag`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TemplateTag)]
struct Tag {
    tag: String,
    #[serde(rename = "buildID")]
    build_id: String,
    #[serde(rename = "createdAt", serialize_with = "wire::time")]
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

/// The tags of a template.
#[utoipa::path(
    get, path = "/templates/{id}/tags", operation_id = "listTemplateTags", tag = "templates",
    responses(
        (status = 200, body = [Tag], description = "All of them"),
        (status = 403, body = Error, description = "Another team's template")
    )
)]
async fn list(
    caller: Caller,
    State(state): State<ApiState>,
    Segment(reference): Segment,
) -> Result<axum::Json<Vec<Tag>>, ApiError> {
    let template = own(&state, &caller, &reference, StatusCode::FORBIDDEN).await?;
    let tags = state.store.tags(&template.id).await?;
    let tags = tags.into_iter().map(|tag| Tag {
        tag: tag.tag,
        build_id: tag.build.to_string(),
        created_at: tag.created_at,
    });
    Ok(axum::Json(tags.collect()))
}

/// Tags as they stand alone, at least one.
fn bare_tags(tags: &[String]) -> Result<Vec<String>, ApiError> {
    if tags.is_empty() {
        return Err(ApiError::bad_request("At least one tag is required"));
    }
    Ok(tags.iter().map(|tag| names::tag(tag)).collect::<Result<_, _>>()?)
}

fn no_tag(tag: &str, template: &str) -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        format!("tag '{tag}' does not exist for template '{template}'"),
    )
}
