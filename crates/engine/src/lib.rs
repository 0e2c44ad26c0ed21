//! The seam between Dormouse and whatever isolates a sandbox.
//!
//! An engine knows *instances* and *snapshots*. An instance is one running (or suspended) machine: the engine makes it from a
//! template's root tree or from a snapshot, suspends and resumes it, writes it into a snapshot, and destroys it. An engine does not
//! know sandboxes, owners, timeouts or HTTP: `control` maps a sandbox to the instance that currently carries it, and a
//! sandbox goes through many instances in its life.
//!
//! - [`Engine`] is the trait. `engine-gvisor` implements it with runsc, `sim::SimEngine` in memory for the tests of everything above.
//! - [`InstanceId`], [`StartRequest`], [`Identity`], [`InstanceStats`] and friends are its vocabulary (`types`).
//! - [`EngineError`] says what failed, during which operation, on which instance (`error`).
//!
//! # The life of an instance
//!
//! ```text
//!            start(Boot | Snapshot)
//!                    │
//!                    ▼        suspend / snapshot
//!                 running ───────────────────────► suspended
//!                    ▲ ◄─────────────────────────────  │
//!                    │              resume             │
//!                    └───────── destroy / dies ────────┴──► gone
//! ```
//!
#![forbid(unsafe_code)]

mod error;
pub mod sim;
mod types;

use std::path::Path;

use async_trait::async_trait;
use futures::future::BoxFuture;

pub use self::error::{ConnectError, EngineError, Operation};
pub use self::types::{
    Adopted, AdoptedInstance, Connection, EngineKind, ExitReason, Identity, InstanceId, InstanceStats, LayeredRoot,
    NetworkPolicy, Resources, SnapshotStats, StartFrom, StartRequest, Stream, random_name,
};

/// Makes, suspends, snapshots and destroys instances. One engine serves a whole daemon; every method may be called concurrently for
/// different instances, and the caller (the sandbox's driver) never runs two on the same instance at once, except
/// [`connect`](Engine::connect), [`stats`](Engine::stats), [`exited`](Engine::exited) and [`destroy`](Engine::destroy).
///
/// Instances outlive the value that implements this trait: dropping it leaves them as they are, and [`adopt`](Engine::adopt) of a
/// later one finds them by the engine's state directory.
#[async_trait]
pub trait Engine: Send + Sync + std::fmt::Debug + 'static {
    /// Which engine this is. A snapshot of one kind is never given to another.
    fn kind(&self) -> EngineKind;

    /// Makes an instance and returns when its agent answers: it is running, with no identity yet.
    ///
    /// On an error nothing of the instance is left.
    async fn start(&self, request: StartRequest) -> Result<(), EngineError>;

    /// Has an instance without identity do what makes a client's first command quick: the first start of a process in a fresh instance
    /// is slower than the next. Called for pooled instances, off every request path. An engine that gains nothing does nothing.
    async fn warm(&self, _id: &InstanceId) -> Result<(), EngineError> {
        Ok(())
    }

    /// Gives a running instance its identity (contract 3.3 `/init`): ids, tokens, host name, environment, clock. Before this returns no
    /// request of a client may reach the instance. Replaces an earlier identity completely.
    async fn identify(&self, id: &InstanceId, identity: &Identity) -> Result<(), EngineError>;

    /// Sets what the instance may reach from now on. Works on running and suspended instances.
    async fn set_network(&self, id: &InstanceId, policy: &NetworkPolicy) -> Result<(), EngineError>;

    /// Stops every process of the instance in its tracks, keeping its memory. A suspended instance uses no CPU. Idempotent.
    async fn suspend(&self, id: &InstanceId) -> Result<(), EngineError>;

    /// Lets a suspended instance go on. Idempotent; returns when the instance executes again.
    async fn resume(&self, id: &InstanceId) -> Result<(), EngineError>;

    /// Suspends the instance and writes its memory and files into the directory `into`, which exists and is empty. When this returns,
    /// every byte is on stable storage and the instance is **still suspended exactly at the snapshot's moment**: the caller resumes it
    /// (a checkpoint, or an undone pause), keeps it as light sleep, or destroys it.
    ///
    /// On an error the instance is suspended or running, never lost; the caller resumes it. What was written to `into` is void.
    async fn snapshot(&self, id: &InstanceId, into: &Path) -> Result<SnapshotStats, EngineError>;

    /// Destroys the instance and everything on the host that belongs to it. Destroying an unknown instance is not an error.
    async fn destroy(&self, id: &InstanceId) -> Result<(), EngineError>;

    /// Opens a TCP connection to a port inside the instance, also when its listener is bound to loopback only.
    async fn connect(&self, id: &InstanceId, port: u16) -> Result<Connection, ConnectError>;

    /// What the instance uses at this moment.
    async fn stats(&self, id: &InstanceId) -> Result<InstanceStats, EngineError>;

    /// Resolves when the instance is gone, for whatever reason, [`destroy`](Engine::destroy) included. At once for an unknown one.
    fn exited(&self, id: &InstanceId) -> BoxFuture<'static, ExitReason>;

    /// After a restart of the daemon: takes over the instances that still live and removes what is left of the dead ones. Called once,
    /// before any other method.
    async fn adopt(&self) -> Result<Adopted, EngineError>;
}
