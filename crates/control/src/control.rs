//! The front: one method for each thing that can be asked of a sandbox.

use std::sync::Arc;
use std::time::Duration;

use dormouse_engine::{ConnectError, Connection, Engine};
use dormouse_layers::SnapshotStore;
use dormouse_store::{SandboxId, Store, TeamId};

use crate::{Connected, ControlError, ListFilter, NewSandbox, Owner, Route, RouteError, Sandbox, Visitor};

/// Limits and budgets.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// Most sandboxes running at once.
    pub max_running: usize,
}

/// The control plane of this node.
#[derive(Debug)]
pub struct Control {}

#[allow(missing_docs, unused_variables, clippy::unused_async, clippy::unimplemented)]
impl Control {
    pub async fn start(
        config: ControlConfig,
        engine: Arc<dyn Engine>,
        store: Store,
        snapshots: SnapshotStore,
    ) -> Result<Arc<Self>, ControlError> {
        unimplemented!()
    }

    /// Makes a sandbox; it runs, and its agent answers, when this returns.
    pub async fn create(&self, owner: &Owner, new: NewSandbox) -> Result<Sandbox, ControlError> {
        unimplemented!()
    }

    /// One sandbox.
    pub fn get(&self, team: TeamId, id: &SandboxId) -> Result<Sandbox, ControlError> {
        unimplemented!()
    }

    /// The team's visible sandboxes that match, newest run first (`started_at`, then id, both descending).
    pub fn list(&self, team: TeamId, filter: &ListFilter) -> Vec<Sandbox> {
        unimplemented!()
    }

    /// Wakes it if it sleeps; extends its time to now + `timeout`, never shortens it (contract 4.2).
    pub async fn connect(&self, owner: &Owner, id: &SandboxId, timeout: Duration) -> Result<Connected, ControlError> {
        unimplemented!()
    }

    /// Wakes it; refused when it runs.
    pub async fn resume(
        &self,
        owner: &Owner,
        id: &SandboxId,
        timeout: Duration,
        auto_pause: Option<bool>,
    ) -> Result<Sandbox, ControlError> {
        unimplemented!()
    }

    /// Puts it to sleep with memory and files. It is on disk when this returns.
    pub async fn pause(&self, team: TeamId, id: &SandboxId) -> Result<(), ControlError> {
        unimplemented!()
    }

    /// Ends it for ever.
    pub async fn kill(&self, team: TeamId, id: &SandboxId) -> Result<(), ControlError> {
        unimplemented!()
    }

    /// Sets its end to now + `timeout` (shorter is allowed, zero is now).
    pub async fn set_timeout(&self, team: TeamId, id: &SandboxId, timeout: Duration) -> Result<(), ControlError> {
        unimplemented!()
    }

    /// Extends its end to now + `duration` if that is later.
    pub async fn refresh(&self, team: TeamId, id: &SandboxId, duration: Duration) -> Result<(), ControlError> {
        unimplemented!()
    }

    /// Where traffic to a port goes; wakes the sandbox if it may.
    pub async fn route(&self, id: &SandboxId, visitor: Visitor<'_>) -> Result<Route, RouteError> {
        unimplemented!()
    }

    /// Opens a connection along a route.
    pub async fn dial(&self, route: &Route, port: u16) -> Result<Connection, ConnectError> {
        unimplemented!()
    }
}
