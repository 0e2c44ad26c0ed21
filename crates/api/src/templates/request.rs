//! `POST /v3/templates`: asks for a build (contract 5.1 step 1, 5.2).

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use dormouse_builder::names;
use dormouse_engine::Resources;
use dormouse_store::{DEFAULT_TAG, NewBuild};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{builder, full_name};
use crate::auth::Caller;
use crate::error::ApiError;
use crate::json::Json;
use crate::state::ApiState;

/// Most CPUs of a template (contract 5.2).
const MOST_CPUS: i64 = 32;
const LEAST_MEMORY: i64 = 128;
/// Most memory of a template, MiB.
const MOST_MEMORY: i64 = 256 * 1024;
/// Most disk of a template, MiB.
const MOST_DISK: i64 = 1024 * 1024;

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(request))
}

/// `TemplateBuildRequestV3`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = TemplateBuildRequest)]
#[serde(rename_all = "camelCase")]
struct Body {
    name: Option<String>,
    alias: Option<String>,
    tags: Option<Vec<String>>,
    #[serde(rename = "teamID")]
    team_id: Option<String>,
    cpu_count: Option<i64>,
    #[serde(rename = "memoryMB")]
    memory_mb: Option<i64>,
    min_free_disk_mb: Option<i64>,
}

/// `TemplateRequestResponseV3`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TemplateRequestResponse)]
struct Requested {
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "buildID")]
    build_id: String,
    public: bool,
    names: Vec<String>,
    tags: Vec<String>,
    aliases: Vec<String>,
}

/// Asks for a build of a template; the template is made if there is none of that name.
#[utoipa::path(
    post, path = "/v3/templates", operation_id = "requestTemplateBuild", tag = "templates",
    request_body = Body,
    responses(
        (status = 202, body = Requested, description = "The build waits for its steps")
    )
)]
async fn request(caller: Caller, State(state): State<ApiState>, Json(body): Json<Body>) -> Result<Response, ApiError> {
    let builder = builder(&state)?;
    if body
        .team_id
        .as_ref()
        .is_some_and(|team| *team != caller.owner.team.to_string())
    {
        return Err(ApiError::bad_request("The team ID does not match the API key"));
    }
    let name = body.name.or(body.alias).unwrap_or_default();
    let reference = names::parse(&name)?;
    let mut tags: Vec<String> = reference.tag.into_iter().collect();
    for tag in body.tags.unwrap_or_default() {
        let tag = names::tag(&tag)?;
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    if tags.is_empty() {
        tags.push(DEFAULT_TAG.to_owned());
    }
    let new = NewBuild {
        team: caller.owner.team,
        alias: reference.name,
        tags,
        resources: resources(body.cpu_count, body.memory_mb, body.min_free_disk_mb)?,
    };
    let (template, job) = builder.request(&new).await?;
    let answer = Requested {
        template_id: template.id.into(),
        build_id: job.id.to_string(),
        public: template.public,
        names: template.aliases.iter().map(|alias| full_name(alias)).collect(),
        tags: job.tags,
        aliases: template.aliases,
    };
    Ok((StatusCode::ACCEPTED, axum::Json(answer)).into_response())
}

/// The size of a template's sandboxes, with the words of the contract when it cannot be.
fn resources(cpus: Option<i64>, memory: Option<i64>, disk: Option<i64>) -> Result<Resources, ApiError> {
    let default = Resources::default();
    let cpus = cpus.unwrap_or(i64::from(default.vcpus));
    if cpus < 1 {
        return Err(ApiError::invalid("cpuCount", "number must be at least 1"));
    }
    if cpus > MOST_CPUS {
        return Err(ApiError::bad_request(format!("CPU count must be at most {MOST_CPUS}")));
    }
    if cpus != 1 && cpus % 2 != 0 {
        return Err(ApiError::bad_request("CPU count must be 1 or an even number"));
    }
    let memory = memory.unwrap_or(i64::from(default.memory_mib));
    if memory < LEAST_MEMORY {
        return Err(ApiError::invalid(
            "memoryMB",
            format!("number must be at least {LEAST_MEMORY}"),
        ));
    }
    if memory % 2 != 0 {
        return Err(ApiError::bad_request("Memory must be divisible by 2"));
    }
    if memory > MOST_MEMORY {
        return Err(ApiError::bad_request(format!(
            "Memory can't be higher than {MOST_MEMORY} MiB"
        )));
    }
    let disk = disk.unwrap_or(0);
    if !(0..=MOST_DISK).contains(&disk) {
        return Err(ApiError::invalid(
            "minFreeDiskMb",
            format!("number must be from 0 to {MOST_DISK}"),
        ));
    }
    let number = |value: i64| u32::try_from(value).unwrap_or(u32::MAX);
    Ok(Resources {
        vcpus: number(cpus),
        memory_mib: number(memory),
        disk_mib: default.disk_mib.max(number(disk)),
        ..default
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cpus: i64, memory: i64, disk: i64) -> Option<Resources> {
        resources(Some(cpus), Some(memory), Some(disk)).ok()
    }

    #[test]
    fn sizes_are_checked_as_the_contract_says() {
        assert_eq!(resources(None, None, None).unwrap(), Resources::default());
        for cpus in [0, -1, 3, 33, 34] {
            assert_eq!(check(cpus, 512, 0), None, "{cpus}");
        }
        for memory in [0, 32, 127, 129, MOST_MEMORY + 2] {
            assert_eq!(check(2, memory, 0), None, "{memory}");
        }
        let big = check(1, 512, 20_480).unwrap();
        assert_eq!((big.vcpus, big.memory_mib, big.disk_mib), (1, 512, 20_480));
        assert_eq!(check(2, 512, -1), None);
    }
}
