//! What the parts of control share.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use dormouse_engine::{Engine, InstanceId};
use dormouse_layers::SnapshotStore;
use dormouse_store::{SandboxId, Store};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ControlConfig;
use crate::asleep::Asleep;
use crate::driver::Handle;
use crate::pool::Pool;

/// The node: its parts and the registry of its sandboxes.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) config: ControlConfig,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) store: Store,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) pool: Pool,
    pub(crate) asleep: Asleep,
    /// One permit for each sandbox that may run at once.
    pub(crate) running: Arc<Semaphore>,
    /// Work that goes on after an answer was given: a shutdown waits for it.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the daemon stops.
    pub(crate) shutdown: CancellationToken,
    sandboxes: RwLock<HashMap<SandboxId, Handle>>,
}

impl Node {
    pub(crate) fn new(config: ControlConfig, engine: Arc<dyn Engine>, store: Store, snapshots: SnapshotStore) -> Self {
        Self {
            running: Arc::new(Semaphore::new(config.max_running)),
            pool: Pool::new(config.pool_size),
            asleep: Asleep::new(config.light_sleep_memory),
            config,
            engine,
            store,
            snapshots,
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
            sandboxes: RwLock::default(),
        }
    }

    pub(crate) fn handle(&self, id: &SandboxId) -> Option<Handle> {
        self.sandboxes.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub(crate) fn handles(&self) -> Vec<Handle> {
        self.sandboxes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    pub(crate) fn register(&self, id: SandboxId, handle: Handle) {
        self.sandboxes
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, handle);
    }

    pub(crate) fn forget(&self, id: &SandboxId) {
        self.sandboxes.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Destroys an instance off the caller's path. A failure is logged: the next start finds the instance without an owner.
    pub(crate) fn destroy_later(self: &Arc<Self>, instance: InstanceId) {
        let node = Arc::clone(self);
        self.tasks.spawn(async move {
            if let Err(error) = node.engine.destroy(&instance).await {
                tracing::warn!(%instance, error = &error as &dyn std::error::Error, "an instance could not be destroyed");
            }
        });
    }

    /// Removes a snapshot off the caller's path. A failure is logged: the next start sweeps it.
    pub(crate) fn remove_later(self: &Arc<Self>, snapshot: dormouse_store::SnapshotId) {
        let node = Arc::clone(self);
        self.tasks.spawn(async move {
            if let Err(error) = node.snapshots.remove(&snapshot).await {
                tracing::warn!(%snapshot, error = &error as &dyn std::error::Error, "a snapshot could not be removed");
            }
        });
    }
}
