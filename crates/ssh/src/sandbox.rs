//! From a login to a sandbox that runs.

use std::sync::Arc;
use std::time::Duration;

use dormouse_agent_client::Caller;
use dormouse_agent_proto::AGENT_PORT;
use dormouse_control::{Control, ControlError, Owner, Phase, Route, RouteError, Visitor};
use dormouse_engine::{ConnectError, Connection};
use dormouse_store::{SandboxId, SandboxRecord, TeamId};

use crate::login::Login;

/// A woken sandbox runs this long at least, as after any wake for traffic (contract 4.4).
const LEAST_TIMEOUT: Duration = Duration::from_secs(300);

/// How often a sandbox is looked for that falls asleep again between the wake and the route.
const ATTEMPTS: usize = 3;

/// A sandbox that runs, as one channel uses it.
#[derive(Clone, Debug)]
pub(crate) struct OpenSandbox {
    control: Arc<Control>,
    pub(crate) team: TeamId,
    pub(crate) id: SandboxId,
    pub(crate) route: Route,
    access_token: Option<String>,
    user: Option<String>,
}

/// Why there is no such sandbox.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// It is missing, killed, or of a team that has not registered the key.
    #[error("Sandbox \"{0}\" doesn't exist or you don't have access to it")]
    NotFound(SandboxId),
    /// It sleeps, and waking it failed.
    #[error(transparent)]
    Wake(ControlError),
    /// There is no way to it.
    #[error(transparent)]
    Route(RouteError),
}

impl OpenSandbox {
    /// Finds the sandbox among those of `teams`, and wakes it if it sleeps.
    pub(crate) async fn open(control: &Arc<Control>, teams: &[TeamId], login: &Login) -> Result<Self, OpenError> {
        let id = &login.sandbox;
        let missing = || OpenError::NotFound(id.clone());
        for _ in 0..ATTEMPTS {
            let found = teams.iter().find_map(|&team| control.get(team, id).ok());
            let sandbox = found.ok_or_else(missing)?;
            let record = sandbox.record;
            if sandbox.phase != Phase::Running {
                wake(control, &record).await?;
            }
            let visitor = Visitor {
                port: AGENT_PORT,
                traffic_token: None,
                access_token: record.access_token.as_deref(),
            };
            match control.route(id, visitor).await {
                Ok(route) => {
                    return Ok(Self {
                        control: Arc::clone(control),
                        team: record.team,
                        id: id.clone(),
                        route,
                        access_token: record.access_token,
                        user: login.user.clone(),
                    });
                }
                // Between our look at it and now it fell asleep, or was killed: the next look tells.
                Err(RouteError::NotFound) => {}
                Err(error) => return Err(OpenError::Route(error)),
            }
        }
        Err(OpenError::Route(RouteError::Transitioning))
    }

    /// A connection to a port inside.
    pub(crate) async fn dial(&self, port: u16) -> Result<Connection, ConnectError> {
        self.control.dial(&self.route, port).await
    }

    /// A connection to the agent.
    pub(crate) async fn dial_agent(&self) -> Result<Connection, ConnectError> {
        self.dial(AGENT_PORT).await
    }

    /// Who asks the agent.
    pub(crate) fn caller(&self) -> Caller<'_> {
        Caller {
            access_token: self.access_token.as_deref(),
            user: self.user.as_deref(),
            sandbox: None,
        }
    }

    /// What has become of it, as far as the team may know.
    pub(crate) fn phase(&self) -> Option<Phase> {
        let phase = self.control.get(self.team, &self.id).ok()?.phase;
        phase.visible().map(|_| phase)
    }
}

async fn wake(control: &Control, record: &SandboxRecord) -> Result<(), OpenError> {
    let owner = Owner {
        team: record.team,
        max_run: record.max_run,
    };
    let timeout = record.timeout.unwrap_or_default().max(LEAST_TIMEOUT).min(record.max_run);
    match control.connect(&owner, &record.id, timeout).await {
        Ok(_) => Ok(()),
        Err(ControlError::NotFound(id) | ControlError::NotRunning(id)) => Err(OpenError::NotFound(id)),
        Err(error) => Err(OpenError::Wake(error)),
    }
}
