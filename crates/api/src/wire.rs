//! The answers' shapes (contract 2.3, 2.4). Fields that clients need are always there; optional ones are left out when empty, except
//! those that the contract shows as `null`.

use std::collections::BTreeMap;

use dormouse_agent_proto::ENVD_VERSION;
use dormouse_control::Sandbox;
use dormouse_store::{BuildStatus, NetworkConfig, OnTimeout, SandboxRecord, SandboxState, TeamId, TemplateSummary};
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::network::NetworkBody;
use crate::templates;

/// Once the node a sandbox ran on; a constant for years, and still required (contract 2.1).
pub(crate) const CLIENT_ID: &str = "6532622b";

/// RFC 3339 with microseconds: what every client can read, and enough for `endAt` to stay the same to the millisecond.
pub(crate) fn time<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{at:.6}"))
}

/// The words of [`SandboxState`], for the OpenAPI document.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "stands for a type of the store")]
enum State {
    Running,
    Paused,
}

/// The words of [`OnTimeout`], for the OpenAPI document.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "stands for a type of the store")]
enum AtTheEnd {
    Kill,
    Pause,
}

/// The words of [`BuildStatus`], for the OpenAPI document.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "stands for a type of the store")]
pub(crate) enum TemplateBuildStatus {
    Waiting,
    Building,
    Ready,
    Error,
}

/// The same, or nothing.
pub(crate) fn optional_time<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => time(at, serializer),
        None => serializer.serialize_none(),
    }
}

/// `Sandbox`: the answer to create, connect and resume.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Sandbox)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Handle {
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "sandboxID")]
    sandbox_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    alias: Option<String>,
    #[serde(rename = "clientID")]
    client_id: &'static str,
    envd_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    envd_access_token: Option<String>,
    traffic_access_token: Option<String>,
    domain: Option<String>,
}

impl Handle {
    /// What its owner needs to talk to a sandbox.
    pub(crate) fn new(sandbox: Sandbox, domain: Option<&str>) -> Self {
        let record = sandbox.record;
        Self {
            template_id: record.template.into(),
            sandbox_id: record.id.into(),
            alias: record.alias,
            client_id: CLIENT_ID,
            envd_version: ENVD_VERSION,
            envd_access_token: record.access_token,
            traffic_access_token: record.traffic_token,
            domain: domain.map(str::to_owned),
        }
    }
}

/// `ListedSandbox`; what the list and the details have in common.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ListedSandbox)]
pub(crate) struct Listed {
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    alias: Option<String>,
    #[serde(rename = "sandboxID")]
    sandbox_id: String,
    #[serde(rename = "clientID")]
    client_id: &'static str,
    #[serde(rename = "startedAt", serialize_with = "time")]
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    #[serde(rename = "endAt", serialize_with = "time")]
    #[schema(value_type = String, format = DateTime)]
    end_at: Timestamp,
    #[serde(rename = "cpuCount")]
    cpu_count: u32,
    #[serde(rename = "memoryMB")]
    memory_mb: u32,
    #[serde(rename = "diskSizeMB")]
    disk_size_mb: u32,
    metadata: BTreeMap<String, String>,
    #[schema(inline, value_type = State)]
    state: SandboxState,
    #[serde(rename = "envdVersion")]
    envd_version: &'static str,
}

impl From<Sandbox> for Listed {
    fn from(sandbox: Sandbox) -> Self {
        let state = sandbox.state();
        Self::new(sandbox.record, state)
    }
}

impl Listed {
    fn new(record: SandboxRecord, state: SandboxState) -> Self {
        Self {
            template_id: record.template.into(),
            alias: record.alias,
            sandbox_id: record.id.into(),
            client_id: CLIENT_ID,
            started_at: record.started_at,
            end_at: record.end_at,
            cpu_count: record.resources.vcpus,
            memory_mb: record.resources.memory_mib,
            disk_size_mb: record.resources.disk_mib,
            metadata: record.metadata,
            state,
            envd_version: ENVD_VERSION,
        }
    }
}

/// `SandboxDetail`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SandboxDetail)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Detail {
    #[serde(flatten)]
    listed: Listed,
    #[serde(skip_serializing_if = "Option::is_none")]
    envd_access_token: Option<String>,
    allow_internet_access: Option<bool>,
    domain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<NetworkBody>)]
    network: Option<NetworkConfig>,
    lifecycle: Lifecycle,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Lifecycle {
    auto_resume: bool,
    #[schema(inline, value_type = AtTheEnd)]
    on_timeout: OnTimeout,
}

impl Detail {
    /// Everything an owner may know of a sandbox.
    pub(crate) fn new(sandbox: Sandbox, domain: Option<&str>) -> Self {
        let state = sandbox.state();
        let mut record = sandbox.record;
        Self {
            envd_access_token: record.access_token.take(),
            allow_internet_access: record.allow_internet,
            domain: domain.map(str::to_owned),
            network: record.network.take(),
            lifecycle: Lifecycle {
                auto_resume: record.auto_resume,
                on_timeout: record.on_timeout,
            },
            listed: Listed::new(record, state),
        }
    }
}

/// `Team`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Team {
    #[serde(rename = "teamID")]
    #[schema(value_type = String)]
    pub(crate) team_id: TeamId,
    pub(crate) name: &'static str,
    #[serde(rename = "apiKey")]
    pub(crate) api_key: String,
    #[serde(rename = "isDefault")]
    pub(crate) is_default: bool,
}

/// `Template`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Template {
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "buildID")]
    build_id: String,
    #[serde(rename = "cpuCount")]
    cpu_count: u32,
    #[serde(rename = "memoryMB")]
    memory_mb: u32,
    #[serde(rename = "diskSizeMB")]
    disk_size_mb: u32,
    public: bool,
    aliases: Vec<String>,
    names: Vec<String>,
    #[serde(rename = "createdAt", serialize_with = "time")]
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[serde(rename = "updatedAt", serialize_with = "time")]
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    #[serde(rename = "createdBy")]
    #[schema(value_type = Option<String>)]
    created_by: Option<()>,
    #[serde(rename = "lastSpawnedAt", serialize_with = "optional_time")]
    #[schema(value_type = Option<String>, format = DateTime)]
    last_spawned_at: Option<Timestamp>,
    #[serde(rename = "spawnCount")]
    spawn_count: u64,
    #[serde(rename = "buildCount")]
    build_count: u32,
    #[serde(rename = "envdVersion")]
    envd_version: &'static str,
    #[serde(rename = "buildStatus")]
    #[schema(value_type = TemplateBuildStatus)]
    build_status: BuildStatus,
}

impl From<TemplateSummary> for Template {
    fn from(summary: TemplateSummary) -> Self {
        let TemplateSummary {
            template,
            newest,
            builds,
            spawned,
            last_spawned,
        } = summary;
        Self {
            template_id: template.id.into(),
            build_id: newest.id.to_string(),
            cpu_count: newest.resources.vcpus,
            memory_mb: newest.resources.memory_mib,
            disk_size_mb: newest.resources.disk_mib,
            public: template.public,
            names: template.aliases.iter().map(|alias| templates::full_name(alias)).collect(),
            aliases: template.aliases,
            created_at: template.created_at,
            updated_at: newest.updated_at,
            created_by: None,
            last_spawned_at: last_spawned,
            spawn_count: spawned,
            build_count: builds,
            envd_version: ENVD_VERSION,
            build_status: newest.status,
        }
    }
}

/// `TemplateAliasResponse`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TemplateAliasResponse)]
pub(crate) struct TemplateAlias {
    #[serde(rename = "templateID")]
    pub(crate) template_id: String,
    pub(crate) public: bool,
}

/// `SandboxLogs`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SandboxLogs)]
pub(crate) struct Logs {
    pub(crate) logs: Vec<LogLine>,
    #[serde(rename = "logEntries")]
    pub(crate) entries: Vec<LogEntry>,
}

/// `SandboxLog`: the line is itself JSON, which is what the CLI takes apart (contract 4.8).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SandboxLog)]
pub(crate) struct LogLine {
    #[serde(serialize_with = "time")]
    #[schema(value_type = String, format = DateTime)]
    pub(crate) timestamp: Timestamp,
    pub(crate) line: String,
}

/// `SandboxLogEntry`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SandboxLogEntry)]
pub(crate) struct LogEntry {
    #[serde(serialize_with = "time")]
    #[schema(value_type = String, format = DateTime)]
    pub(crate) timestamp: Timestamp,
    pub(crate) message: String,
    pub(crate) level: &'static str,
    pub(crate) fields: BTreeMap<String, String>,
}
