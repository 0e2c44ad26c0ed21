//! Records for tests that do not care about most fields.

use std::collections::BTreeMap;
use std::time::Duration;

use dormouse_engine::{EngineKind, InstanceId, Resources};
use dormouse_store::{
    BuildId, BuildRecord, Event, EventKind, OnTimeout, SandboxId, SandboxRecord, SandboxState, SnapshotId, TeamId, TemplateId,
    TemplateRecord,
};
use jiff::Timestamp;

pub(crate) fn sandbox() -> SandboxRecord {
    SandboxRecord {
        id: SandboxId::random(),
        team: TeamId::FIRST,
        template: TemplateId::random(),
        alias: Some("base".to_owned()),
        build: BuildId::random(),
        state: SandboxState::Running,
        instance: Some(InstanceId::random()),
        snapshot: None,
        created_at: Timestamp::UNIX_EPOCH,
        started_at: Timestamp::UNIX_EPOCH,
        end_at: Timestamp::UNIX_EPOCH,
        timeout: Some(Duration::from_secs(60)),
        max_run: Duration::from_secs(86_400),
        on_timeout: OnTimeout::Pause,
        auto_resume: true,
        access_token: None,
        traffic_token: None,
        allow_internet: None,
        network: None,
        metadata: BTreeMap::new(),
        env: BTreeMap::new(),
        resources: Resources::default(),
    }
}

pub(crate) fn event(of: &SandboxRecord, kind: EventKind) -> Event {
    Event {
        id: uuid::Uuid::new_v4(),
        kind,
        at: Timestamp::UNIX_EPOCH,
        sandbox: of.id.clone(),
        team: of.team,
        template: of.template.clone(),
        build: of.build,
        data: serde_json::json!({ "sandbox_metadata": { "a": "b" } }),
    }
}

pub(crate) fn template(team: TeamId, aliases: &[&str]) -> TemplateRecord {
    TemplateRecord {
        id: TemplateId::random(),
        team,
        aliases: aliases.iter().map(|&alias| alias.to_owned()).collect(),
        public: false,
        created_at: Timestamp::UNIX_EPOCH,
    }
}

pub(crate) fn build(of: &TemplateRecord, age: i64) -> BuildRecord {
    BuildRecord {
        id: BuildId::random(),
        template: of.id.clone(),
        engine: EngineKind::Gvisor,
        root: "templates/x/root".into(),
        snapshot: SnapshotId::random(),
        resources: Resources::default(),
        env: BTreeMap::from([("LANG".to_owned(), "C.UTF-8".to_owned())]),
        default_user: "user".to_owned(),
        default_workdir: None,
        created_at: Timestamp::new(1_000_000 - age, 0).expect("in range"),
    }
}
