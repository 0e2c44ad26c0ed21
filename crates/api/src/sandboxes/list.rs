//! `GET /sandboxes` and `GET /v2/sandboxes` (contract 4.8).

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use dormouse_control::{ListFilter, Sandbox};
use dormouse_store::{SandboxState, TeamId};
use http::{HeaderName, HeaderValue};
use url::form_urlencoded;

use super::metadata;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::paging::{self, Key, NEXT_TOKEN, Order, Page};
use crate::state::ApiState;
use crate::wire;

/// How many run, of those that match.
const TOTAL_RUNNING: HeaderName = HeaderName::from_static("x-total-running");

/// `GET /sandboxes`: all that run, newest first.
#[utoipa::path(
    get, path = "/sandboxes", operation_id = "listSandboxesV1", tag = "sandboxes",
    params(("metadata" = Option<String>, Query, description = "Labels as a query string, percent-encoded once more")),
    responses(
        (status = 200, body = [wire::Listed], description = "All that run, newest first")
    )
)]
pub(super) async fn v1(
    caller: Caller,
    State(state): State<ApiState>,
    RawQuery(query): RawQuery,
) -> Result<Json<Vec<wire::Listed>>, ApiError> {
    let mut query = Query::parse(query.as_deref().unwrap_or_default())?;
    query.filter.states = vec![SandboxState::Running];
    let found = find(&state, caller.owner.team, query.filter).await?;
    Ok(Json(found.into_iter().map(wire::Listed::from).collect()))
}

/// `GET /v2/sandboxes`: filtered, ordered, in pages.
#[utoipa::path(
    get, path = "/v2/sandboxes", operation_id = "listSandboxes", tag = "sandboxes",
    params(
        ("state" = Option<String>, Query, description = "`running`, `paused`, or both with a comma"),
        ("metadata" = Option<String>, Query, description = "Labels as a query string, percent-encoded once more"),
        ("template" = Option<String>, Query, description = "Id or name of the template, without a tag"),
        ("startedAfter" = Option<String>, Query, description = "RFC 3339"),
        ("order" = Option<String>, Query, description = "`asc` or `desc`, by start; newest first without it"),
        ("limit" = Option<i32>, Query, minimum = 1, description = "More than 100 count as 100"),
        ("nextToken" = Option<String>, Query, description = "From `X-Next-Token` of the page before"),
    ),
    responses(
        (status = 200, body = [wire::Listed], description = "A page", headers(("X-Next-Token" = String, description = "Only when there are more"), ("X-Total-Running" = String, description = "How many run of those that match")))
    )
)]
pub(super) async fn v2(caller: Caller, State(state): State<ApiState>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let Query { filter, page } = Query::parse(query.as_deref().unwrap_or_default())?;
    let counted = filter.states.is_empty() || filter.states.contains(&SandboxState::Running);
    let found = find(&state, caller.owner.team, filter).await?;
    let running = found
        .iter()
        .filter(|sandbox| sandbox.state() == SandboxState::Running)
        .count();
    let (found, next) = page.cut(found, key);
    let mut response = Json(found.into_iter().map(wire::Listed::from).collect::<Vec<_>>()).into_response();
    let headers = response.headers_mut();
    if counted {
        headers.insert(TOTAL_RUNNING, HeaderValue::from(running));
    }
    if let Some(next) = next {
        headers.insert(NEXT_TOKEN, next);
    }
    Ok(response)
}

fn key(sandbox: &Sandbox) -> Key {
    Key {
        at: sandbox.record.started_at,
        id: sandbox.record.id.to_string(),
    }
}

/// A template may be named by any of its aliases, and sandboxes remember one: the store translates. Sandboxes of a template that is gone
/// are still found by what they remember.
async fn find(state: &ApiState, team: TeamId, mut filter: ListFilter) -> Result<Vec<Sandbox>, ApiError> {
    if let Some(name) = &filter.template
        && let Some(template) = state.store.template(team, name).await?
    {
        filter.template = Some(template.id.into());
    }
    Ok(state.control.list(team, &filter))
}

/// The parameters of both lists. Unknown ones are ignored.
#[derive(Debug, Default)]
struct Query {
    filter: ListFilter,
    page: Page,
}

impl Query {
    fn parse(query: &str) -> Result<Self, ApiError> {
        let mut parsed = Self::default();
        let mut token = None;
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "state" => parsed.filter.states.extend(states(&value)?),
                "metadata" => parsed.filter.metadata.extend(metadata::parse(&value)?),
                "template" if !value.is_empty() => parsed.filter.template = Some(template(&value)?),
                "startedAfter" => parsed.filter.started_after = Some(started_after(&value)?),
                "order" => parsed.page.order = Order::parse(&value)?,
                "limit" => parsed.page.limit = paging::limit(&value)?,
                "nextToken" if !value.is_empty() => token = Some(value.into_owned()),
                _ => {}
            }
        }
        // The order may come after the token that belongs to it.
        parsed.page.after = token
            .map(|token| paging::parse_token(&token, parsed.page.order))
            .transpose()?;
        Ok(parsed)
    }
}

/// `state=running,paused`, or the parameter more than once.
fn states(value: &str) -> Result<Vec<SandboxState>, ApiError> {
    value
        .split(',')
        .filter(|state| !state.is_empty())
        .map(|state| match state {
            "running" => Ok(SandboxState::Running),
            "paused" => Ok(SandboxState::Paused),
            _ => Err(ApiError::bad_request(format!(
                "Invalid state `{state}`: it is `running` or `paused`"
            ))),
        })
        .collect()
}

fn template(value: &str) -> Result<String, ApiError> {
    if value.contains(':') {
        return Err(ApiError::bad_request("Invalid template filter: a tag is not allowed"));
    }
    Ok(value.trim().to_lowercase())
}

fn started_after(value: &str) -> Result<jiff::Timestamp, ApiError> {
    // A `+` that a client did not encode has become a space.
    value
        .replace(' ', "+")
        .parse()
        .map_err(|_| ApiError::bad_request(format!("Invalid startedAfter `{value}`: it is an RFC 3339 time")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_is_read() {
        let query = Query::parse(
            "state=running%2Cpaused&metadata=a%3Db&template=Base&startedAfter=2026-01-01T00:00:00%2B01:00&order=asc&limit=7&x=y",
        )
        .unwrap();
        assert_eq!(query.filter.states, [SandboxState::Running, SandboxState::Paused]);
        assert_eq!(query.filter.metadata["a"], "b");
        assert_eq!(query.filter.template.as_deref(), Some("base"));
        assert_eq!(query.filter.started_after.unwrap().to_string(), "2025-12-31T23:00:00Z");
        assert_eq!((query.page.order, query.page.limit), (Order::Ascending, 7));
        let query = Query::parse("state=running&state=paused").unwrap();
        assert_eq!(query.filter.states, [SandboxState::Running, SandboxState::Paused]);
        let query = Query::parse("").unwrap();
        assert!(query.filter.states.is_empty());
        assert_eq!((query.page.order, query.page.limit), (Order::Descending, 100));
    }

    #[test]
    fn bad_parameters_are_refused() {
        for query in [
            "state=dead",
            "order=up",
            "limit=0",
            "startedAfter=soon",
            "nextToken=x",
            "template=a:b",
            "metadata=a%3D%2525ff",
        ] {
            assert!(Query::parse(query).is_err(), "{query}");
        }
    }
}
