//! The front: one method for each thing that can be asked of a sandbox.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dormouse_engine::{ConnectError, Connection, Engine, EngineError, InstanceId, StartFrom, StartRequest};
use dormouse_layers::SnapshotStore;
use dormouse_store::{BuildRecord, SandboxId, Store, TeamId, TemplateId};

use crate::guarded::Deadlines;
use crate::handle::{Command, Handle, View};
use crate::node::Node;
use crate::{
    Connected, ControlError, ListFilter, NewSandbox, Owner, Route, RouteError, Sandbox, Visitor, bake, create, pool, recover,
    route,
};

/// Limits and budgets.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// The data directory: root trees of builds are relative to it.
    pub data_dir: PathBuf,
    /// Most sandboxes running at once.
    pub max_running: usize,
    /// Instances kept ready of each template in use. Zero turns the pool off.
    pub pool_size: usize,
    /// Memory that lightly sleeping sandboxes may keep in all, bytes. Zero turns light sleep off.
    pub light_sleep_memory: u64,
    /// After this long, light sleep becomes deep sleep.
    pub light_sleep_age: Duration,
    /// Limits of the engine's operations.
    pub deadlines: Deadlines,
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/dormouse"),
            max_running: 1000,
            pool_size: 2,
            light_sleep_memory: 4 << 30,
            light_sleep_age: Duration::from_secs(15 * 60),
            deadlines: Deadlines::default(),
        }
    }
}

/// The control plane of this node.
#[derive(Debug)]
pub struct Control {
    node: Arc<Node>,
}

impl Control {
    /// Takes over what an earlier daemon left, and begins to work.
    ///
    /// # Errors
    /// The engine, the database or the snapshot directory cannot be read.
    pub async fn start(
        config: ControlConfig,
        engine: Arc<dyn Engine>,
        store: Store,
        snapshots: SnapshotStore,
    ) -> Result<Arc<Self>, ControlError> {
        let node = Arc::new(Node::new(config, engine, store, snapshots));
        if let Err(error) = recover::recover(&node).await {
            // Drivers that run already are to leave their sandboxes alone.
            node.shutdown.cancel();
            return Err(error);
        }
        node.tasks.spawn(pool::keep_full(Arc::clone(&node)));
        Ok(Arc::new(Self { node }))
    }

    /// Stops: takes no more commands, finishes what is under way, and leaves every sandbox as it is. Pooled instances are destroyed.
    pub async fn stop(&self) {
        self.node.shutdown.cancel();
        self.node.tasks.close();
        self.node.tasks.wait().await;
    }

    /// Makes the snapshot that a template's sandboxes start from: boots the root tree, waits for the agent, writes the snapshot.
    ///
    /// # Errors
    /// The engine or the snapshot directory failed; nothing is left behind.
    pub async fn bake(&self, request: StartRequest) -> Result<dormouse_store::SnapshotId, ControlError> {
        debug_assert_eq!(request.from, StartFrom::Boot);
        // A caller that goes away must not leave the instance behind.
        let task = self.node.tasks.spawn(bake::bake(Arc::clone(&self.node), request));
        task.await.unwrap_or(Err(ControlError::ShuttingDown))
    }

    /// Brings a template's build into use: the pool keeps instances of it from now on, and none of earlier builds of the template.
    pub fn stock(&self, build: &BuildRecord) {
        if let Err(error) = self.node.check_engine(build) {
            tracing::warn!(error = &error as &dyn std::error::Error, "no instances are kept ready");
            return;
        }
        for stale in self.node.pool.stock(build) {
            self.node.destroy_later(stale);
        }
    }

    /// Takes a template out of use: the pool keeps no instances of it.
    pub fn retire(&self, template: &TemplateId) {
        for stale in self.node.pool.retire(template) {
            self.node.destroy_later(stale);
        }
    }

    /// Resolves when the warm pool is full, or the daemon stops.
    pub async fn pool_full(&self) {
        tokio::select! { () = self.node.pool.full() => {} () = self.node.shutdown.cancelled() => {} }
    }

    /// Makes a sandbox; it runs, and its agent answers, when this returns.
    ///
    /// # Errors
    /// [`ControlError::TemplateNotFound`], [`ControlError::TimeoutTooLong`], [`ControlError::TooMany`], or the engine failed.
    pub async fn create(&self, owner: &Owner, new: NewSandbox) -> Result<Sandbox, ControlError> {
        if self.node.shutdown.is_cancelled() {
            return Err(ControlError::ShuttingDown);
        }
        // A client that goes away must not stop it half-way.
        let task = self
            .node
            .tasks
            .spawn(create::create(Arc::clone(&self.node), owner.clone(), new));
        task.await.unwrap_or(Err(ControlError::ShuttingDown))
    }

    /// One sandbox.
    ///
    /// # Errors
    /// [`ControlError::NotFound`].
    pub fn get(&self, team: TeamId, id: &SandboxId) -> Result<Sandbox, ControlError> {
        self.node
            .handle(id)
            .and_then(|handle| handle.look(|view| visible_to(team, view).then(|| view.sandbox.clone())))
            .ok_or_else(|| ControlError::NotFound(id.clone()))
    }

    /// The team's visible sandboxes that match, newest run first (`started_at`, then id, both descending).
    #[must_use]
    pub fn list(&self, team: TeamId, filter: &ListFilter) -> Vec<Sandbox> {
        let mut found: Vec<Sandbox> = self
            .node
            .handles()
            .into_iter()
            .filter_map(|handle| handle.look(|view| filter.matches(team, &view.sandbox).then(|| view.sandbox.clone())))
            .collect();
        found.sort_by(|a, b| (b.record.started_at, &b.record.id).cmp(&(a.record.started_at, &a.record.id)));
        found
    }

    /// Wakes it if it sleeps; extends its time to now + `timeout`, never shortens it (contract 4.2).
    ///
    /// # Errors
    /// [`ControlError::NotFound`], [`ControlError::TimeoutTooLong`], [`ControlError::TooMany`], or the wake failed and it sleeps on.
    pub async fn connect(&self, owner: &Owner, id: &SandboxId, timeout: Duration) -> Result<Connected, ControlError> {
        self.handle(owner.team, id)?
            .ask(id, |reply| Command::Connect { timeout, reply })
            .await
    }

    /// Wakes it; refused when it runs.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), and [`ControlError::AlreadyRunning`].
    pub async fn resume(
        &self,
        owner: &Owner,
        id: &SandboxId,
        timeout: Duration,
        auto_pause: Option<bool>,
    ) -> Result<Sandbox, ControlError> {
        self.handle(owner.team, id)?
            .ask(id, |reply| Command::Resume {
                timeout,
                auto_pause,
                reply,
            })
            .await
    }

    /// Puts it to sleep with memory and files. It is on disk when this returns.
    ///
    /// # Errors
    /// [`ControlError::NotFound`], [`ControlError::AlreadyPaused`], or the pause failed and it runs on.
    pub async fn pause(&self, team: TeamId, id: &SandboxId) -> Result<(), ControlError> {
        self.handle(team, id)?.ask(id, |reply| Command::Pause { reply }).await
    }

    /// Ends it for ever.
    ///
    /// # Errors
    /// [`ControlError::NotFound`], or the database failed and it is as it was.
    pub async fn kill(&self, team: TeamId, id: &SandboxId) -> Result<(), ControlError> {
        self.handle(team, id)?.ask(id, |reply| Command::Kill { reply }).await
    }

    /// Sets its end to now + `timeout` (shorter is allowed, zero is now), at most the longest continuous run.
    ///
    /// # Errors
    /// [`ControlError::NotFound`], [`ControlError::NotRunning`], [`ControlError::MaxRunReached`].
    pub async fn set_timeout(&self, team: TeamId, id: &SandboxId, timeout: Duration) -> Result<(), ControlError> {
        self.handle(team, id)?
            .ask(id, |reply| Command::SetTimeout { timeout, reply })
            .await
    }

    /// Extends its end to now + `duration` if that is later.
    ///
    /// # Errors
    /// [`ControlError::NotFound`], [`ControlError::NotRunning`].
    pub async fn refresh(&self, team: TeamId, id: &SandboxId, duration: Duration) -> Result<(), ControlError> {
        self.handle(team, id)?
            .ask(id, |reply| Command::Refresh {
                timeout: duration,
                reply,
            })
            .await
    }

    /// Gives up what a lightly sleeping sandbox keeps in memory; does nothing to any other.
    ///
    /// # Errors
    /// [`ControlError::NotFound`].
    pub async fn sleep_deeply(&self, team: TeamId, id: &SandboxId) -> Result<(), ControlError> {
        self.handle(team, id)?.ask(id, |reply| Command::SleepDeeply { reply }).await
    }

    /// Where traffic to a port goes; wakes the sandbox if it may.
    ///
    /// # Errors
    /// Why the traffic is turned away.
    pub async fn route(&self, id: &SandboxId, visitor: Visitor<'_>) -> Result<Route, RouteError> {
        route::route(&self.node, id, visitor).await
    }

    /// Opens a connection along a route.
    ///
    /// # Errors
    /// Nothing listens there, or the run has ended.
    pub async fn dial(&self, route: &Route, port: u16) -> Result<Connection, ConnectError> {
        self.node.engine.connect(&route.instance, port).await
    }

    /// What a running sandbox's instance uses.
    ///
    /// # Errors
    /// The instance is gone.
    pub async fn stats(&self, instance: &InstanceId) -> Result<dormouse_engine::InstanceStats, EngineError> {
        self.node.engine.stats(instance).await
    }

    /// The handle of a sandbox that the team may see.
    fn handle(&self, team: TeamId, id: &SandboxId) -> Result<Handle, ControlError> {
        self.node
            .handle(id)
            .filter(|handle| handle.look(|view| visible_to(team, view)))
            .ok_or_else(|| ControlError::NotFound(id.clone()))
    }
}

fn visible_to(team: TeamId, view: &View) -> bool {
    view.sandbox.record.team == team && view.sandbox.phase.visible().is_some()
}
