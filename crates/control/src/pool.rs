//! The warm pool: instances of templates in use, restored and suspended ahead of time.
//!
//! A create takes one, and the pool makes another one off the request path, one at a time. An instance in the pool has no identity and
//! no owner: if the daemon dies the next one finds it without an owner and removes it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dormouse_engine::{EngineError, InstanceId, NetworkPolicy, StartFrom, StartRequest};
use dormouse_store::{BuildId, BuildRecord};
use tokio::sync::Notify;

use crate::node::Node;

/// How long a failed refill waits before the next try: a host without room is not asked again at once.
const BACK_OFF: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Shelf {
    build: Option<BuildRecord>,
    ready: VecDeque<InstanceId>,
}

/// Instances that wait for a sandbox, by build.
#[derive(Debug)]
pub(crate) struct Pool {
    /// How many to keep of each build.
    size: usize,
    shelves: Mutex<HashMap<BuildId, Shelf>>,
    /// Rung when an instance was taken or a build came into use.
    wanted: Notify,
    /// Rung when an instance was added.
    filled: Notify,
}

impl Pool {
    pub(crate) fn new(size: usize) -> Self {
        Self {
            size,
            shelves: Mutex::default(),
            wanted: Notify::new(),
            filled: Notify::new(),
        }
    }

    /// Takes a ready instance of the build, if there is one, and has the pool refilled. The build is in use from now on.
    pub(crate) fn take(&self, build: &BuildRecord) -> Option<InstanceId> {
        if self.size == 0 {
            return None;
        }
        let mut shelves = self.lock();
        let shelf = shelves.entry(build.id).or_default();
        shelf.build.get_or_insert_with(|| build.clone());
        let taken = shelf.ready.pop_front();
        self.wanted.notify_one();
        taken
    }

    /// Brings a build into use without taking an instance, and drops the shelves of earlier builds of the same template.
    pub(crate) fn stock(&self, build: &BuildRecord) -> Vec<InstanceId> {
        if self.size == 0 {
            return Vec::new();
        }
        let mut shelves = self.lock();
        let stale = |shelf: &Shelf| {
            shelf
                .build
                .as_ref()
                .is_some_and(|old| old.template == build.template && old.id != build.id)
        };
        let dropped = shelves
            .extract_if(|_, shelf| stale(shelf))
            .flat_map(|(_, shelf)| shelf.ready)
            .collect();
        shelves
            .entry(build.id)
            .or_default()
            .build
            .get_or_insert_with(|| build.clone());
        self.wanted.notify_one();
        dropped
    }

    /// Resolves when every build in use has its full number of ready instances.
    pub(crate) async fn full(&self) {
        loop {
            let filled = self.filled.notified();
            if self.missing().is_none() {
                return;
            }
            filled.await;
        }
    }

    /// An instance of the pool died.
    fn lose(&self, build: BuildId, instance: &InstanceId) {
        if let Some(shelf) = self.lock().get_mut(&build) {
            shelf.ready.retain(|ready| ready != instance);
        }
        self.wanted.notify_one();
    }

    /// The build that most lacks instances.
    fn missing(&self) -> Option<BuildRecord> {
        let shelves = self.lock();
        let shelf = shelves
            .values()
            .filter(|shelf| shelf.ready.len() < self.size)
            .min_by_key(|shelf| shelf.ready.len())?;
        shelf.build.clone()
    }

    fn add(&self, build: BuildId, instance: InstanceId) {
        self.lock().entry(build).or_default().ready.push_back(instance);
        self.filled.notify_waiters();
    }

    fn drain(&self) -> Vec<InstanceId> {
        self.lock().drain().flat_map(|(_, shelf)| shelf.ready).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BuildId, Shelf>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the pool full until the daemon stops, then destroys what is in it: pooled instances are nobody's.
pub(crate) async fn keep_full(node: Arc<Node>) {
    while !node.shutdown.is_cancelled() {
        let wanted = node.pool.wanted.notified();
        let Some(build) = node.pool.missing() else {
            tokio::select! { () = wanted => continue, () = node.shutdown.cancelled() => break }
        };
        match make(&node, &build).await {
            Ok(instance) => {
                watch_over(&node, build.id, &instance);
                node.pool.add(build.id, instance);
            }
            Err(error) => {
                tracing::warn!(build = %build.id, error = &error as &dyn std::error::Error, "the warm pool could not be refilled");
                tokio::select! { () = tokio::time::sleep(BACK_OFF) => {} () = node.shutdown.cancelled() => break }
            }
        }
    }
    for instance in node.pool.drain() {
        if let Err(error) = node.engine.destroy(&instance).await {
            tracing::warn!(%instance, error = &error as &dyn std::error::Error, "a pooled instance could not be destroyed");
        }
    }
}

/// A request for a new instance of a build, as its sandboxes start.
pub(crate) fn request(node: &Node, build: &BuildRecord) -> StartRequest {
    StartRequest {
        id: InstanceId::random(),
        root: node.config.data_dir.join(&build.root),
        from: StartFrom::Snapshot(node.snapshots.path(&build.snapshot)),
        resources: build.resources,
        network: NetworkPolicy::default(),
    }
}

async fn make(node: &Node, build: &BuildRecord) -> Result<InstanceId, EngineError> {
    let request = request(node, build);
    let id = request.id.clone();
    node.engine.start(request).await?;
    if let Err(error) = node.engine.suspend(&id).await {
        // Nobody would know of it otherwise.
        node.engine.destroy(&id).await?;
        return Err(error);
    }
    Ok(id)
}

/// Takes the instance off its shelf if it dies there.
fn watch_over(node: &Arc<Node>, build: BuildId, instance: &InstanceId) {
    let exited = node.engine.exited(instance);
    let (node, instance) = (Arc::clone(node), instance.clone());
    tokio::spawn(async move {
        tokio::select! {
            _ = exited => node.pool.lose(build, &instance),
            () = node.shutdown.cancelled() => {}
        }
    });
}
