//! What traffic to a port of a sandbox may do.
//!
//! A running sandbox answers at once from the driver's view, without asking the driver. A sleeping one is woken if its owner wants that
//! (`auto_resume`) and the visitor shows the credentials that the port asks for (contract 4.4).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dormouse_agent_proto::AGENT_PORT;
use dormouse_agent_proto::signature::token_matches;
use dormouse_engine::InstanceId;
use dormouse_store::{SandboxId, SandboxRecord};
use tokio_util::sync::CancellationToken;

use crate::ControlError;
use crate::handle::{Command, Handle, View};
use crate::model::Phase;
use crate::node::Node;

/// How long traffic waits for a sandbox on its way between states.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who knocks at a port: what the proxy has read from the request.
#[derive(Clone, Copy, Debug)]
pub struct Visitor<'a> {
    /// The port inside the sandbox.
    pub port: u16,
    /// `e2b-traffic-access-token`, if there is one.
    pub traffic_token: Option<&'a str>,
    /// `X-Access-Token`, if there is one.
    pub access_token: Option<&'a str>,
}

/// The end of a run, before and after it has come. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct RunEnd {
    token: CancellationToken,
    paused: Arc<AtomicBool>,
}

impl RunEnd {
    /// The run ends for ever.
    pub fn cancel(&self) {
        self.token.cancel();
    }

    /// The run ends by a pause.
    pub fn pause(&self) {
        self.paused.store(true, Ordering::Release);
        self.token.cancel();
    }

    /// Resolves when the run has ended.
    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    /// Whether the run has ended.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Whether the run has ended by a pause.
    #[must_use]
    pub fn is_pause(&self) -> bool {
        self.is_cancelled() && self.paused.load(Ordering::Acquire)
    }
}

/// Where traffic goes.
#[derive(Clone, Debug)]
pub struct Route {
    /// The instance that carries the sandbox now.
    pub instance: InstanceId,
    /// Changes with every wake, so that connections kept from before a sleep are not used again.
    pub run: u64,
    /// `maskRequestHost` (contract 4.5), for ports other than the agent's.
    pub mask_host: Option<String>,
    /// When this run of the sandbox ends (paused, killed, died): open streams are to be cut then.
    pub ended: RunEnd,
}

/// Why traffic is turned away (contract 4.4, 4.5).
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// Unknown, killed, or paused and not to be woken by traffic: 502.
    #[error("The sandbox was not found")]
    NotFound,
    /// The port needs the traffic access token and none came: 403.
    #[error("Sandbox is secured with traffic access token. Token header 'e2b-traffic-access-token' is missing")]
    TokenMissing,
    /// A wrong traffic access token: 403.
    #[error("Sandbox is secured with traffic access token. Provided token in header 'e2b-traffic-access-token' is invalid")]
    TokenInvalid,
    /// Asleep, and the credentials are not enough to wake it: 403.
    #[error("This sandbox can't be resumed with the credentials provided. Check your access token and try again.")]
    ResumeRefused,
    /// On its way between states for too long: 409.
    #[error("The sandbox is still transitioning. Try again in a moment.")]
    Transitioning,
    /// Too many sandboxes run already: 429.
    #[error("{0}")]
    TooMany(String),
    /// Waking it failed: 500.
    #[error("Waking sandbox {id} failed")]
    Failed {
        /// Which.
        id: SandboxId,
        /// Why.
        #[source]
        source: Box<crate::ControlError>,
    },
}

pub(crate) async fn route(node: &Node, id: &SandboxId, visitor: Visitor<'_>) -> Result<Route, RouteError> {
    let handle = node.handle(id).ok_or(RouteError::NotFound)?;
    if let Some(found) = handle.look(|view| open_route(view, visitor)) {
        return found;
    }
    // A wake for traffic may find the sandbox paused again before the route is read; as often as that happens in a minute.
    let woken = tokio::time::timeout(PATIENCE, async {
        loop {
            let may = handle.look(|view| may_wake(&view.sandbox.record, view.sandbox.phase, visitor));
            may?;
            wake(&handle, id).await?;
            if let Some(found) = handle.look(|view| open_route(view, visitor)) {
                return found;
            }
        }
    });
    woken.await.unwrap_or(Err(RouteError::Transitioning))
}

/// The route to a running sandbox; `None` when it does not run.
fn open_route(view: &View, visitor: Visitor<'_>) -> Option<Result<Route, RouteError>> {
    let carrier = view.carrier.as_ref()?;
    let record = &view.sandbox.record;
    if let Some(expected) = traffic_token(record, visitor.port)
        && !shown(expected, visitor.traffic_token)
    {
        let refused = if visitor.traffic_token.is_none() {
            RouteError::TokenMissing
        } else {
            RouteError::TokenInvalid
        };
        return Some(Err(refused));
    }
    let mask = record.network.as_ref().and_then(|network| network.mask_request_host.clone());
    Some(Ok(Route {
        instance: carrier.instance.clone(),
        run: carrier.run,
        mask_host: mask.filter(|_| visitor.port != AGENT_PORT),
        ended: carrier.ended.clone(),
    }))
}

fn traffic_token(record: &SandboxRecord, port: u16) -> Option<&str> {
    record.traffic_token.as_deref().filter(|_| port != AGENT_PORT)
}

/// Whether the token that is asked for was shown.
fn shown(expected: &str, given: Option<&str>) -> bool {
    given.is_some_and(|given| token_matches(given, expected))
}

/// Whether the visitor may wake a sandbox that does not run.
fn may_wake(record: &SandboxRecord, phase: Phase, visitor: Visitor<'_>) -> Result<(), RouteError> {
    if phase == Phase::Killing || !record.auto_resume {
        return Err(RouteError::NotFound);
    }
    let (expected, given) = if visitor.port == AGENT_PORT {
        (record.access_token.as_deref(), visitor.access_token)
    } else {
        (record.traffic_token.as_deref(), visitor.traffic_token)
    };
    match expected {
        Some(expected) if !shown(expected, given) => Err(RouteError::ResumeRefused),
        _ => Ok(()),
    }
}

async fn wake(handle: &Handle, id: &SandboxId) -> Result<(), RouteError> {
    handle
        .ask(id, |reply| Command::Wake { reply })
        .await
        .map_err(|error| match error {
            ControlError::NotFound(_) | ControlError::NotRunning(_) => RouteError::NotFound,
            limit @ ControlError::TooMany(_) => RouteError::TooMany(limit.to_string()),
            other => RouteError::Failed {
                id: id.clone(),
                source: Box::new(other),
            },
        })
}
