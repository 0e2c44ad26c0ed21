//! `GET /sandboxes/{id}/logs` (contract 4.8). What there is so far: the sandbox's life, from its events.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{RawQuery, State};
use dormouse_store::{Event, EventKind, EventQuery};
use jiff::Timestamp;
use url::form_urlencoded;

use crate::auth::Caller;
use crate::error::ApiError;
use crate::path::SandboxPath;
use crate::state::ApiState;
use crate::wire;

const MAX_LIMIT: usize = 1000;

/// Lines since `start`, oldest first.
#[utoipa::path(
    get, path = "/sandboxes/{id}/logs", operation_id = "getSandboxLogs", tag = "sandboxes",
    params(("start" = Option<i64>, Query, description = "Unix milliseconds"), ("limit" = Option<i32>, Query, minimum = 0, description = "At most 1000")),
    responses(
        (status = 200, body = wire::Logs, description = "Oldest first")
    )
)]
pub(super) async fn logs(
    caller: Caller,
    State(state): State<ApiState>,
    SandboxPath(id): SandboxPath,
    RawQuery(query): RawQuery,
) -> Result<Json<wire::Logs>, ApiError> {
    let (start, limit) = range(query.as_deref().unwrap_or_default())?;
    let team = caller.owner.team;
    state.control.get(team, &id)?;
    let all = EventQuery {
        sandbox: Some(id),
        limit: u32::MAX,
        oldest_first: true,
        ..EventQuery::default()
    };
    let events = state.store.query_events(team, &all).await?;
    let entries: Vec<_> = events
        .iter()
        .filter(|event| event.at >= start)
        .take(limit)
        .map(entry)
        .collect();
    Ok(Json(wire::Logs {
        logs: entries.iter().map(line).collect(),
        entries,
    }))
}

/// `start` in milliseconds, `limit` up to 1000.
fn range(query: &str) -> Result<(Timestamp, usize), ApiError> {
    let (mut start, mut limit) = (Timestamp::MIN, MAX_LIMIT);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let invalid = || ApiError::bad_request(format!("Invalid {name} `{value}`"));
        match &*name {
            "start" => {
                let ms: i64 = value.parse().map_err(|_| invalid())?;
                start = Timestamp::from_millisecond(ms).map_err(|_| invalid())?;
            }
            "limit" => limit = value.parse::<usize>().map_err(|_| invalid())?.min(MAX_LIMIT),
            _ => {}
        }
    }
    Ok((start, limit))
}

fn entry(event: &Event) -> wire::LogEntry {
    let message = match event.kind {
        EventKind::Created => "Sandbox created",
        EventKind::Updated => "Sandbox updated",
        EventKind::Paused => "Sandbox paused",
        EventKind::Resumed => "Sandbox resumed",
        EventKind::Killed => "Sandbox killed",
        EventKind::Checkpointed => "Sandbox checkpointed",
    };
    wire::LogEntry {
        timestamp: event.at,
        message: message.to_owned(),
        level: "info",
        fields: BTreeMap::from([("logger".to_owned(), "dormouse".to_owned())]),
    }
}

fn line(entry: &wire::LogEntry) -> wire::LogLine {
    let line = serde_json::json!({ "level": entry.level, "logger": "dormouse", "message": entry.message });
    wire::LogLine {
        timestamp: entry.timestamp,
        line: line.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_or_refused() {
        let (start, limit) = range("start=1500&limit=5000").unwrap();
        assert_eq!((start.as_millisecond(), limit), (1500, 1000));
        for query in ["start=x", "start=99999999999999999", "limit=-1"] {
            assert!(range(query).is_err(), "{query}");
        }
    }
}
