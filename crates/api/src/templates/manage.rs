//! One template: its builds, publishing, deletion (contract 2.2, 5.4).

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use dormouse_agent_proto::ENVD_VERSION;
use dormouse_builder::names;
use dormouse_store::{BuildStatus, DeletedTemplate};
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use url::form_urlencoded;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{builder, full_name, own, unknown};
use crate::auth::Caller;
use crate::error::ApiError;
use crate::json::Json;
use crate::openapi::Error;
use crate::paging::{self, Key, NEXT_TOKEN, Page};
use crate::path::Segment;
use crate::state::ApiState;
use crate::wire;

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(one, update_v1, delete))
        .routes(routes!(update))
}

/// `TemplateBuild`.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = TemplateBuild)]
#[serde(rename_all = "camelCase")]
struct Build {
    #[serde(rename = "buildID")]
    build_id: String,
    #[schema(value_type = wire::TemplateBuildStatus)]
    status: BuildStatus,
    #[serde(serialize_with = "wire::time")]
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[serde(serialize_with = "wire::time")]
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "wire::optional_time")]
    #[schema(value_type = Option<String>, format = DateTime)]
    finished_at: Option<Timestamp>,
    cpu_count: u32,
    #[serde(rename = "memoryMB")]
    memory_mb: u32,
    #[serde(rename = "diskSizeMB")]
    disk_size_mb: u32,
    envd_version: &'static str,
}

/// `TemplateWithBuilds`, with the fields that Python's model wants besides (contract 2.4).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TemplateWithBuilds)]
struct WithBuilds {
    #[serde(flatten)]
    template: wire::Template,
    builds: Vec<Build>,
}

/// A template with its builds, newest first, in pages.
#[utoipa::path(
    get, path = "/templates/{id}", operation_id = "getTemplate", tag = "templates",
    params(("limit" = Option<i32>, Query, minimum = 1, description = "More than 100 count as 100"), ("nextToken" = Option<String>, Query, description = "From `X-Next-Token` of the page before")),
    responses(
        (status = 200, body = WithBuilds, description = "The template", headers(("X-Next-Token" = String, description = "Only when there are more builds")))
    )
)]
async fn one(
    caller: Caller,
    State(state): State<ApiState>,
    Segment(reference): Segment,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let name = names::parse(&reference).map_err(|_| unknown(&reference))?.name;
    let mut page = Page::default();
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*name {
            "limit" => page.limit = paging::limit(&value)?,
            "nextToken" if !value.is_empty() => page.after = Some(paging::parse_token(&value, page.order)?),
            _ => {}
        }
    }
    let team = caller.owner.team;
    let template = state.store.template(team, &name).await?.ok_or_else(|| unknown(&reference))?;
    let summary = state
        .store
        .template_summary(&template)
        .await?
        .ok_or_else(|| unknown(&reference))?;
    let builds = state.store.template_builds(&template.id).await?;
    let builds: Vec<Build> = builds
        .into_iter()
        .map(|job| Build {
            build_id: job.id.to_string(),
            status: job.status,
            created_at: job.created_at,
            updated_at: job.updated_at,
            finished_at: job.finished_at,
            cpu_count: job.resources.vcpus,
            memory_mb: job.resources.memory_mib,
            disk_size_mb: job.resources.disk_mib,
            envd_version: ENVD_VERSION,
        })
        .collect();
    let (builds, next) = page.cut(builds, |build| Key {
        at: build.created_at,
        id: build.build_id.clone(),
    });
    let mut response = axum::Json(WithBuilds {
        template: summary.into(),
        builds,
    })
    .into_response();
    if let Some(next) = next {
        response.headers_mut().insert(NEXT_TOKEN, next);
    }
    Ok(response)
}

/// `TemplateUpdateRequest`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = TemplateUpdateRequest)]
struct Update {
    public: Option<bool>,
}

/// `TemplateUpdateResponse`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TemplateUpdateResponse)]
struct Updated {
    names: Vec<String>,
}

/// Lets every team use a template, or only its own.
#[utoipa::path(
    patch, path = "/v2/templates/{id}", operation_id = "updateTemplate", tag = "templates",
    request_body = Update,
    responses(
        (status = 200, body = Updated, description = "Its names"),
        (status = 403, body = Error, description = "Another team's template")
    )
)]
async fn update(
    caller: Caller,
    State(state): State<ApiState>,
    Segment(reference): Segment,
    Json(body): Json<Update>,
) -> Result<axum::Json<Updated>, ApiError> {
    let template = own(&state, &caller, &reference, StatusCode::FORBIDDEN).await?;
    if let Some(public) = body.public {
        state.store.publish_template(&template, public).await?;
    }
    Ok(axum::Json(Updated {
        names: template.aliases.iter().map(|alias| full_name(alias)).collect(),
    }))
}

/// As [`update`], for older clients.
#[utoipa::path(
    patch, path = "/templates/{id}", operation_id = "updateTemplateV1", tag = "templates",
    request_body = Update,
    responses(
        (status = 200, body = Updated, description = "Its names"),
        (status = 403, body = Error, description = "Another team's template")
    )
)]
async fn update_v1(
    caller: Caller,
    state: State<ApiState>,
    reference: Segment,
    body: Json<Update>,
) -> Result<axum::Json<Updated>, ApiError> {
    update(caller, state, reference, body).await
}

/// Deletes a template with all its builds.
#[utoipa::path(
    delete, path = "/templates/{id}", operation_id = "deleteTemplate", tag = "templates",
    responses(
        (status = 204, description = "It is gone"),
        (status = 400, body = Error, description = "There are sandboxes of it")
    )
)]
async fn delete(caller: Caller, State(state): State<ApiState>, Segment(reference): Segment) -> Result<StatusCode, ApiError> {
    let template = own(&state, &caller, &reference, StatusCode::NOT_FOUND).await?;
    let in_use = |which: &str| {
        ApiError::bad_request(format!(
            "cannot delete template '{reference}' because there are {which} sandboxes using it"
        ))
    };
    match builder(&state)?.delete(&template).await? {
        DeletedTemplate::Deleted(_) => Ok(StatusCode::NO_CONTENT),
        DeletedTemplate::Running => Err(in_use("running")),
        DeletedTemplate::Paused => Err(in_use("paused")),
    }
}
