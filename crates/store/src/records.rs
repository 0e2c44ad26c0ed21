//! Plain data, one type a table.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use dormouse_engine::{EngineKind, InstanceId, Resources};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{BuildId, SandboxId, SnapshotId, TeamId, TemplateId};

/// The durable states of a sandbox. Everything in between (pausing, resuming, …) is the driver's and never on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxState {
    /// An instance carries it.
    Running,
    /// A snapshot holds it; an instance may be kept as a cache (light sleep).
    Paused,
}

impl SandboxState {
    /// The word that stands for it in the database and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
        }
    }
}

/// What happens when the time is up (contract 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnTimeout {
    /// The sandbox is killed.
    Kill,
    /// The sandbox is paused.
    Pause,
}

impl OnTimeout {
    /// The word that stands for it in the database and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
        }
    }
}

/// A sandbox's network settings as its owner configured them (contract 2.3 `SandboxNetworkConfig`); returned as they came.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkConfig {
    /// `false`: every port but the agent's needs the traffic access token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_public_traffic: Option<bool>,
    /// Destinations that are allowed even when denied below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_out: Option<Vec<String>>,
    /// Destinations that are denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deny_out: Option<Vec<String>>,
    /// The `Host` header that services inside see; `${PORT}` stands for the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_request_host: Option<String>,
    /// Resolvers of domains in `allow_out`. Without such domains they have no effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_servers: Option<Vec<String>>,
}

/// A sandbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// Its id, for ever.
    pub id: SandboxId,
    /// Its owner.
    pub team: TeamId,
    /// What it was made from.
    pub template: TemplateId,
    /// The template's first alias at that time.
    pub alias: Option<String>,
    /// The template's version.
    pub build: BuildId,
    /// Running or paused.
    pub state: SandboxState,
    /// The instance that carries it (running), or that is kept as a cache of the snapshot (paused).
    pub instance: Option<InstanceId>,
    /// The snapshot that holds it. Set whenever `state` is paused.
    pub snapshot: Option<SnapshotId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its current continuous run began: creation, or the last wake.
    pub started_at: Timestamp,
    /// When the run ends (running), or when it was paused.
    pub end_at: Timestamp,
    /// The timeout given at creation; what an automatic wake gives it again (contract 4.4).
    pub timeout: Option<Duration>,
    /// Longest continuous run.
    pub max_run: Duration,
    /// What happens at `end_at`.
    pub on_timeout: OnTimeout,
    /// Whether traffic wakes it.
    pub auto_resume: bool,
    /// The agent's access token.
    pub access_token: Option<String>,
    /// The token for the other ports, when traffic is not public.
    pub traffic_token: Option<String>,
    /// `allow_internet_access` as given.
    pub allow_internet: Option<bool>,
    /// Network settings as given.
    pub network: Option<NetworkConfig>,
    /// The owner's labels.
    pub metadata: BTreeMap<String, String>,
    /// The environment given at creation.
    pub env: BTreeMap<String, String>,
    /// Its size.
    pub resources: Resources,
}

/// An API key. The key itself is not stored, only its hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Hash of the key: lowercase hex SHA-256.
    pub hash: String,
    /// What people call it.
    pub name: String,
    /// Whose sandboxes it sees.
    pub team: TeamId,
    /// Longest continuous run of sandboxes made with it.
    pub max_run: Duration,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A template: a name for builds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TemplateRecord {
    /// Its id.
    pub id: TemplateId,
    /// Its owner.
    pub team: TeamId,
    /// Its names, the first is the one shown.
    pub aliases: Vec<String>,
    /// Whether every team may use it.
    pub public: bool,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A finished version of a template: a root tree and a snapshot of it with the agent up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// Its id.
    pub id: BuildId,
    /// Of which template.
    pub template: TemplateId,
    /// Which engine made the snapshot.
    pub engine: EngineKind,
    /// The root tree, relative to the data directory.
    pub root: PathBuf,
    /// The snapshot that new sandboxes start from.
    pub snapshot: SnapshotId,
    /// Size of its sandboxes.
    pub resources: Resources,
    /// Environment of its sandboxes.
    pub env: BTreeMap<String, String>,
    /// User of requests that name none.
    pub default_user: String,
    /// Working directory of requests that name none.
    pub default_workdir: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// The kinds of lifecycle event (contract 4.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// Made.
    Created,
    /// Its end time changed.
    Updated,
    /// Fell asleep.
    Paused,
    /// Woke.
    Resumed,
    /// Ended for ever.
    Killed,
    /// A snapshot of it was made.
    Checkpointed,
}

impl EventKind {
    /// The word that stands for it in the database and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Killed => "killed",
            Self::Checkpointed => "checkpointed",
        }
    }
}

/// Something that happened to a sandbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its id.
    pub id: uuid::Uuid,
    /// What happened.
    pub kind: EventKind,
    /// When.
    pub at: Timestamp,
    /// To which sandbox.
    pub sandbox: SandboxId,
    /// Whose.
    pub team: TeamId,
    /// Of which template.
    pub template: TemplateId,
    /// And which version of it.
    pub build: BuildId,
    /// Details, by kind (contract 4.9 `eventData`).
    pub data: serde_json::Value,
}
