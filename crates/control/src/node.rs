//! What the parts of control share.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use dormouse_engine::{Engine, InstanceId};
use dormouse_layers::SnapshotStore;
use dormouse_store::{SandboxId, Store};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ControlConfig;
use crate::asleep::Asleep;
use crate::guarded::Guarded;
use crate::handle::{Command, Handle};
use crate::pool::Pool;

/// When the destruction of an instance is tried again that failed.
const DESTROY_AGAIN: [Duration; 3] = [Duration::from_millis(250), Duration::from_secs(2), Duration::from_secs(15)];

/// The node: its parts and the registry of its sandboxes.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) config: ControlConfig,
    pub(crate) engine: Guarded,
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
            running: Arc::new(Semaphore::new(config.max_running.min(Semaphore::MAX_PERMITS))),
            pool: Pool::new(config.pool_size),
            asleep: Asleep::new(config.light_sleep_memory),
            engine: Guarded::new(engine, config.deadlines),
            config,
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

    /// Destroys an instance off the caller's path.
    pub(crate) fn destroy_later(self: &Arc<Self>, instance: InstanceId) {
        let node = Arc::clone(self);
        self.tasks.spawn(async move { node.destroy(&instance).await });
    }

    /// Destroys an instance, stubbornly. One that stays all the same is logged: the next start finds it without an owner.
    pub(crate) async fn destroy(&self, instance: &InstanceId) {
        let mut again = DESTROY_AGAIN.into_iter();
        while let Err(error) = self.engine.destroy(instance).await {
            tracing::warn!(%instance, error = &error as &dyn std::error::Error, "an instance could not be destroyed");
            let Some(pause) = again.next() else { return };
            tokio::select! { () = tokio::time::sleep(pause) => {} () = self.shutdown.cancelled() => return }
        }
    }

    /// Tells sandboxes that sleep lightly to sleep deeply.
    pub(crate) fn evict(self: &Arc<Self>, sandboxes: &[SandboxId]) {
        for handle in sandboxes.iter().filter_map(|id| self.handle(id)) {
            // Not by the caller, who may be a driver: two of them with full queues would wait for each other.
            self.tasks.spawn(async move { handle.tell(Command::GoDeep).await });
        }
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
