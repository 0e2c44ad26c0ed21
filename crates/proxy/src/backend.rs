//! What the proxy asks of the control plane.

use async_trait::async_trait;
use dormouse_control::{Control, Route, RouteError, Visitor};
use dormouse_engine::{ConnectError, Connection};
use dormouse_store::SandboxId;

/// The part of [`Control`] that the proxy needs. Tests put a double in its place.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Where traffic to a port of the sandbox goes. Wakes the sandbox if it sleeps and the visitor may do that (contract 4.4).
    async fn route(&self, id: &SandboxId, visitor: Visitor<'_>) -> Result<Route, RouteError>;

    /// One attempt to open a connection along a route.
    async fn dial(&self, route: &Route, port: u16) -> Result<Connection, ConnectError>;
}

#[async_trait]
impl Backend for Control {
    async fn route(&self, id: &SandboxId, visitor: Visitor<'_>) -> Result<Route, RouteError> {
        Control::route(self, id, visitor).await
    }

    async fn dial(&self, route: &Route, port: u16) -> Result<Connection, ConnectError> {
        Control::dial(self, route, port).await
    }
}
