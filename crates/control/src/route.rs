//! What traffic to a port of a sandbox may do.

use dormouse_engine::InstanceId;
use dormouse_store::SandboxId;
use tokio_util::sync::CancellationToken;

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

/// Where traffic goes.
#[derive(Clone, Debug)]
pub struct Route {
    /// The instance that carries the sandbox now.
    pub instance: InstanceId,
    /// Changes with every wake, so that connections kept from before a sleep are not used again.
    pub run: u64,
    /// `maskRequestHost` (contract 4.5), for ports other than the agent's.
    pub mask_host: Option<String>,
    /// Cancelled when this run of the sandbox ends (paused, killed, died): open streams are to be cut then.
    pub ended: CancellationToken,
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
