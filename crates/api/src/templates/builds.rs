//! Starting a build and following it (contract 5.1 steps 3 and 4).

use axum::extract::{RawQuery, State};
use dormouse_builder::{BuildSpec, From, Level, LogEntry, LogFilter, StepSpec};
use dormouse_store::BuildStatus;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use url::form_urlencoded;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{build_id, builder, own};
use crate::auth::Caller;
use crate::error::ApiError;
use crate::json::Json;
use crate::openapi::Error;
use crate::path::Segments;
use crate::state::ApiState;
use crate::wire;

/// Most entries in an answer (contract 5.1).
const MOST_ENTRIES: usize = 100;

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(start))
        .routes(routes!(status))
        .routes(routes!(logs))
}

/// `TemplateBuildStartV2`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = TemplateBuildStart)]
#[serde(rename_all = "camelCase")]
struct Start {
    from_image: Option<String>,
    from_template: Option<String>,
    from_image_registry: Option<Registry>,
    #[serde(default)]
    force: bool,
    #[serde(default)]
    #[schema(value_type = Vec<TemplateStep>)]
    steps: Vec<StepSpec>,
    start_cmd: Option<String>,
    ready_cmd: Option<String>,
}

/// [`StepSpec`], for the OpenAPI document.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "stands for a type of the builder")]
struct TemplateStep {
    /// `RUN`, `COPY`, `ENV`, `WORKDIR` or `USER`.
    r#type: String,
    args: Option<Vec<String>>,
    /// 64 lowercase hexadecimal digits; for `COPY`.
    files_hash: Option<String>,
    force: Option<bool>,
}

/// The credentials of a registry (contract 2.3 `FromImageRegistry`).
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = FromImageRegistry)]
struct Registry {
    #[serde(rename = "type")]
    _kind: String,
}

/// Starts a build that waits. Other builds of the template that are under way are cancelled.
#[utoipa::path(
    post, path = "/v2/templates/{id}/builds/{build}", operation_id = "startTemplateBuild", tag = "templates",
    request_body = Start,
    responses(
        (status = 202, description = "It is under way"),
        (status = 501, body = Error, description = "A kind of credentials that this server cannot use yet")
    )
)]
async fn start(
    caller: Caller,
    State(state): State<ApiState>,
    Segments([template, build]): Segments<2>,
    Json(body): Json<Start>,
) -> Result<StatusCode, ApiError> {
    let builder = builder(&state)?;
    let template = own(&state, &caller, &template, StatusCode::NOT_FOUND).await?;
    let build = build_id(&build)?;
    let given = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
    let from = match (given(body.from_image), given(body.from_template)) {
        (Some(image), None) => From::Image(image),
        (None, Some(template)) => From::Template(template),
        (None, None) => return Err(ApiError::bad_request("Either fromImage or fromTemplate must be set")),
        (Some(_), Some(_)) => {
            return Err(ApiError::bad_request("fromImage and fromTemplate cannot both be set"));
        }
    };
    if body.from_image_registry.is_some() {
        return Err(ApiError::not_implemented("Pulling images from private registries"));
    }
    let spec = BuildSpec {
        from,
        force: body.force,
        steps: body.steps,
        start_cmd: given(body.start_cmd),
        ready_cmd: given(body.ready_cmd),
    };
    builder.start(&template, build, spec).await?;
    Ok(StatusCode::ACCEPTED)
}

/// `TemplateBuildInfo`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TemplateBuildInfo)]
#[serde(rename_all = "camelCase")]
struct Info {
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "buildID")]
    build_id: String,
    #[schema(value_type = wire::TemplateBuildStatus)]
    status: BuildStatus,
    logs: Vec<String>,
    log_entries: Vec<Entry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
}

/// [`Level`], for the OpenAPI document.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "stands for a type of the builder")]
enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

/// `BuildLogEntry`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BuildLogEntry)]
struct Entry {
    #[serde(serialize_with = "wire::time")]
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
    message: String,
    #[schema(value_type = LogLevel)]
    level: Level,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<String>,
}

impl std::convert::From<LogEntry> for Entry {
    fn from(entry: LogEntry) -> Self {
        Self {
            timestamp: entry.timestamp,
            message: entry.message,
            level: entry.level,
            step: entry.step,
        }
    }
}

/// `BuildStatusReason`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BuildStatusReason)]
#[serde(rename_all = "camelCase")]
struct Reason {
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<String>,
    log_entries: Vec<Entry>,
}

/// How far a build is, and what it has said.
#[utoipa::path(
    get, path = "/templates/{id}/builds/{build}/status", operation_id = "getTemplateBuildStatus", tag = "templates",
    params(
        ("logsOffset" = Option<i32>, Query, description = "Entries to skip"),
        ("limit" = Option<i32>, Query, description = "Most entries; more than 100 count as 100"),
        ("level" = Option<LogLevel>, Query, description = "Entries that matter less are left out")
    ),
    responses(
        (status = 200, body = Info, description = "The build")
    )
)]
async fn status(
    caller: Caller,
    State(state): State<ApiState>,
    Segments([template, build]): Segments<2>,
    RawQuery(query): RawQuery,
) -> Result<axum::Json<Info>, ApiError> {
    let filter = filter(query.as_deref(), "logsOffset")?;
    let build = build_id(&build)?;
    let template = own(&state, &caller, &template, StatusCode::NOT_FOUND).await?;
    let view = builder(&state)?.view(&template, build, filter).await?;
    let job = view.job;
    let reason = job.reason.map(|message| Reason {
        message,
        step: job.step,
        log_entries: Vec::new(),
    });
    Ok(axum::Json(Info {
        template_id: template.id.into(),
        build_id: build.to_string(),
        status: job.status,
        logs: view.entries.iter().map(|entry| format!("{}\n", entry.message)).collect(),
        log_entries: view.entries.into_iter().map(Entry::from).collect(),
        reason: reason.filter(|_| job.status == BuildStatus::Error),
    }))
}

/// `TemplateBuildLogsResponse`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TemplateBuildLogs)]
struct Logs {
    logs: Vec<Entry>,
}

/// What a build has said, from either end.
#[utoipa::path(
    get, path = "/templates/{id}/builds/{build}/logs", operation_id = "getTemplateBuildLogs", tag = "templates",
    params(
        ("offset" = Option<i32>, Query, description = "Entries to skip"),
        ("limit" = Option<i32>, Query, description = "Most entries; more than 100 count as 100"),
        ("level" = Option<LogLevel>, Query, description = "Entries that matter less are left out"),
        ("cursor" = Option<i64>, Query, description = "A time, milliseconds since 1970, at which to begin"),
        ("direction" = Option<String>, Query, description = "`forward` or `backward`")
    ),
    responses(
        (status = 200, body = Logs, description = "A page of the log")
    )
)]
async fn logs(
    caller: Caller,
    State(state): State<ApiState>,
    Segments([template, build]): Segments<2>,
    RawQuery(query): RawQuery,
) -> Result<axum::Json<Logs>, ApiError> {
    let mut filter = filter(query.as_deref(), "offset")?;
    let page = std::mem::replace(&mut filter.limit, usize::MAX);
    let build = build_id(&build)?;
    let template = own(&state, &caller, &template, StatusCode::NOT_FOUND).await?;
    let mut entries = builder(&state)?.view(&template, build, filter).await?.entries;
    let (mut cursor, mut forward) = (None, false);
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*name {
            "cursor" => {
                let millis = value.parse().ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
                cursor = Some(millis.ok_or_else(|| ApiError::bad_request(format!("Invalid cursor `{value}`")))?);
            }
            "direction" => forward = value == "forward",
            _ => {}
        }
    }
    if !forward {
        entries.reverse();
    }
    if let Some(cursor) = cursor {
        entries.retain(|entry| {
            if forward {
                entry.timestamp >= cursor
            } else {
                entry.timestamp <= cursor
            }
        });
    }
    entries.truncate(page);
    Ok(axum::Json(Logs {
        logs: entries.into_iter().map(Entry::from).collect(),
    }))
}

/// Which entries are asked for.
fn filter(query: Option<&str>, offset_name: &str) -> Result<LogFilter, ApiError> {
    let mut filter = LogFilter {
        limit: MOST_ENTRIES,
        ..LogFilter::default()
    };
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        let number = || {
            value
                .parse::<usize>()
                .map_err(|_| ApiError::bad_request(format!("Invalid {name} `{value}`")))
        };
        match &*name {
            "limit" => filter.limit = number()?.min(MOST_ENTRIES),
            "level" => {
                filter.level = Some(match &*value {
                    "debug" => Level::Debug,
                    "info" => Level::Info,
                    "warn" => Level::Warn,
                    "error" => Level::Error,
                    _ => return Err(ApiError::bad_request(format!("Invalid level `{value}`"))),
                });
            }
            name if name == offset_name => filter.offset = number()?,
            _ => {}
        }
    }
    Ok(filter)
}
