//! What the front of control takes and gives.

use std::collections::BTreeMap;
use std::time::Duration;

use dormouse_store::{NetworkConfig, OnTimeout, SandboxRecord, SandboxState, TeamId};

/// Who asks: what an API key stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The team whose sandboxes it sees.
    pub team: TeamId,
    /// Longest continuous run of a sandbox made by it.
    pub max_run: Duration,
}

/// A sandbox to be made (contract 2.3 `NewSandbox`, already validated in shape; control checks what needs knowledge).
#[derive(Clone, Debug)]
pub struct NewSandbox {
    /// Template reference: `[namespace/]alias-or-id[:tag]` (contract 4.1).
    pub template: String,
    /// Time to live; the API fills in the route's default.
    pub timeout: Duration,
    /// The timeout as the client gave it, `None` when it gave none (contract 4.4: what auto-resume uses).
    pub given_timeout: Option<Duration>,
    /// At the end of the time.
    pub on_timeout: OnTimeout,
    /// Whether traffic wakes it.
    pub auto_resume: bool,
    /// Whether the agent asks for an access token.
    pub secure: bool,
    /// `allow_internet_access` as given.
    pub allow_internet: Option<bool>,
    /// Network settings as given.
    pub network: Option<NetworkConfig>,
    /// Labels.
    pub metadata: BTreeMap<String, String>,
    /// Environment of every process.
    pub env: BTreeMap<String, String>,
}

/// Where a sandbox is in its life, the steps in between included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its instance is being made; not visible to clients yet.
    Creating,
    /// Running.
    Running,
    /// On its way to paused; clients see `paused`.
    Pausing,
    /// Asleep, light or deep.
    Paused,
    /// On its way to running; clients see `paused` until it runs.
    Resuming,
    /// On its way out; clients no longer see it.
    Killing,
}

impl Phase {
    /// The state that clients see, `None` when they do not see the sandbox (contract 4.2).
    #[must_use]
    pub fn visible(self) -> Option<SandboxState> {
        match self {
            Self::Creating | Self::Killing => None,
            Self::Running => Some(SandboxState::Running),
            Self::Pausing | Self::Paused | Self::Resuming => Some(SandboxState::Paused),
        }
    }
}

/// A sandbox as seen from outside its driver.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// What is on disk, or about to be.
    pub record: SandboxRecord,
    /// Where it is in its life.
    pub phase: Phase,
}

impl Sandbox {
    /// The state that clients see.
    #[must_use]
    pub fn state(&self) -> SandboxState {
        self.phase.visible().unwrap_or(self.record.state)
    }
}

/// The answer to a connect.
#[derive(Clone, Debug)]
pub struct Connected {
    /// The sandbox, running.
    pub sandbox: Sandbox,
    /// Whether it was asleep (201) or running already (200).
    pub resumed: bool,
}

/// Which sandboxes to list.
#[derive(Clone, Debug, Default)]
pub struct ListFilter {
    /// Template id or alias; `None` for all.
    pub template: Option<String>,
    /// States; empty for all.
    pub states: Vec<SandboxState>,
    /// Labels that must all be there.
    pub metadata: BTreeMap<String, String>,
    /// Only runs begun at or after this moment.
    pub started_after: Option<jiff::Timestamp>,
}

impl ListFilter {
    /// Whether a sandbox is to be listed for a team.
    #[must_use]
    pub fn matches(&self, team: TeamId, sandbox: &Sandbox) -> bool {
        let record = &sandbox.record;
        let Some(state) = sandbox.phase.visible() else { return false };
        record.team == team
            && (self.states.is_empty() || self.states.contains(&state))
            && self
                .template
                .as_ref()
                .is_none_or(|name| record.template.as_str() == name || record.alias.as_ref() == Some(name))
            && self
                .metadata
                .iter()
                .all(|(key, value)| record.metadata.get(key) == Some(value))
            && self.started_after.is_none_or(|after| record.started_at >= after)
    }
}
