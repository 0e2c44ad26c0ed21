//! The events that a driver writes along with its changes (contract 4.9).

use dormouse_store::{Event, EventKind, SandboxRecord, SandboxState};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::clock;

fn event(sandbox: &SandboxRecord, kind: EventKind, data: Value) -> Event {
    Event {
        id: uuid::Uuid::new_v4(),
        kind,
        at: clock::now(),
        sandbox: sandbox.id.clone(),
        team: sandbox.team,
        template: sandbox.template.clone(),
        build: sandbox.build,
        data,
    }
}

/// The run that ends now, or ended when it was paused, as `eventData.execution`.
fn execution(sandbox: &SandboxRecord) -> Value {
    let end: Timestamp = match sandbox.state {
        SandboxState::Running => clock::now(),
        SandboxState::Paused => sandbox.end_at,
    };
    json!({
        "started_at": sandbox.started_at.to_string(),
        "vcpu_count": sandbox.resources.vcpus,
        "memory_mb": sandbox.resources.memory_mib,
        "execution_time": u64::try_from(clock::since(sandbox.started_at, end).as_millis()).unwrap_or(u64::MAX),
    })
}

pub(crate) fn created(sandbox: &SandboxRecord) -> Event {
    Event {
        // It is written a moment later, or after a crash.
        at: sandbox.created_at,
        ..event(sandbox, EventKind::Created, json!({ "sandbox_metadata": sandbox.metadata }))
    }
}

pub(crate) fn updated(sandbox: &SandboxRecord) -> Event {
    event(
        sandbox,
        EventKind::Updated,
        json!({ "set_timeout": sandbox.end_at.to_string() }),
    )
}

/// `sandbox` is the record as it was while it ran.
pub(crate) fn paused(sandbox: &SandboxRecord) -> Event {
    event(sandbox, EventKind::Paused, json!({ "execution": execution(sandbox) }))
}

pub(crate) fn resumed(sandbox: &SandboxRecord) -> Event {
    event(sandbox, EventKind::Resumed, json!({ "sandbox_metadata": sandbox.metadata }))
}

pub(crate) fn killed(sandbox: &SandboxRecord, reason: &str) -> Event {
    event(
        sandbox,
        EventKind::Killed,
        json!({ "kill_reason": reason, "execution": execution(sandbox) }),
    )
}
