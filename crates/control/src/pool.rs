//! The warm pool: instances of templates in use, restored and suspended ahead of time.
//!
//! A create takes one, and the pool makes another one off the request path, one at a time. An instance in the pool has no identity and
//! no owner: if the daemon dies the next one finds it without an owner and removes it.
//!
//! There is a shelf for each build in use, and only for so many builds: the one that was not asked for longest makes room.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dormouse_engine::{EngineError, InstanceId, NetworkPolicy, StartFrom, StartRequest};
use dormouse_store::{BuildId, BuildRecord, TemplateId};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::node::Node;

/// How long a build whose refill failed waits for the next try: a host without room is not asked again at once.
const BACK_OFF: Duration = Duration::from_secs(5);

/// Builds in use at once. Each keeps `size` instances in memory.
const SHELVES: usize = 8;

#[derive(Debug)]
struct Shelf {
    build: BuildRecord,
    ready: VecDeque<InstanceId>,
    asked: Instant,
    /// After a failed refill: not before this moment.
    rests_until: Option<Instant>,
}

/// Instances that wait for a sandbox, by build.
#[derive(Debug)]
pub(crate) struct Pool {
    /// How many to keep of each build.
    size: usize,
    shelves: Mutex<HashMap<BuildId, Shelf>>,
    /// Rung when an instance was taken or a build came into use.
    wanted: Notify,
    /// Rung when the pool may have become full.
    filled: Notify,
}

/// What the pool lacks.
enum Missing {
    Nothing,
    Now(Box<BuildRecord>),
    /// Something, but its last refill failed: to be tried again at this moment.
    At(Instant),
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

    /// Takes a ready instance of the build, if there is one, and has the pool refilled. The build is in use from now on. The second
    /// are instances of a build that made room: to be destroyed.
    pub(crate) fn take(&self, build: &BuildRecord) -> (Option<InstanceId>, Vec<InstanceId>) {
        if self.size == 0 {
            return (None, Vec::new());
        }
        let mut shelves = self.lock();
        let dropped = use_shelf(&mut shelves, build);
        let taken = shelves.get_mut(&build.id).and_then(|shelf| shelf.ready.pop_front());
        self.wanted.notify_one();
        (taken, dropped.into())
    }

    /// Brings a build into use without taking an instance, and drops the shelves of earlier builds of the same template. Returns the
    /// instances that are to be destroyed.
    pub(crate) fn stock(&self, build: &BuildRecord) -> Vec<InstanceId> {
        if self.size == 0 {
            return Vec::new();
        }
        let mut shelves = self.lock();
        let mut dropped: Vec<_> = shelves
            .extract_if(|_, shelf| shelf.build.template == build.template && shelf.build.id != build.id)
            .flat_map(|(_, shelf)| shelf.ready)
            .collect();
        dropped.extend(use_shelf(&mut shelves, build));
        self.wanted.notify_one();
        dropped
    }

    /// Drops the shelves of a template. Returns the instances that are to be destroyed.
    pub(crate) fn retire(&self, template: &TemplateId) -> Vec<InstanceId> {
        let mut shelves = self.lock();
        let retired = shelves.extract_if(|_, shelf| shelf.build.template == *template);
        retired.flat_map(|(_, shelf)| shelf.ready).collect()
    }

    /// Resolves when every build in use has its full number of ready instances.
    pub(crate) async fn full(&self) {
        loop {
            let filled = self.filled.notified();
            if matches!(self.missing(), Missing::Nothing) {
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
    fn missing(&self) -> Missing {
        let shelves = self.lock();
        let lacking = || shelves.values().filter(|shelf| shelf.ready.len() < self.size);
        let now = Instant::now();
        let rested = lacking().filter(|shelf| shelf.rests_until.is_none_or(|until| until <= now));
        match rested.min_by_key(|shelf| shelf.ready.len()) {
            Some(shelf) => Missing::Now(Box::new(shelf.build.clone())),
            None => lacking()
                .filter_map(|shelf| shelf.rests_until)
                .min()
                .map_or(Missing::Nothing, Missing::At),
        }
    }

    /// Puts an instance on its build's shelf. Gives it back if the build has gone out of use while it was made.
    fn add(&self, build: BuildId, instance: InstanceId) -> Result<(), InstanceId> {
        match self.lock().get_mut(&build) {
            Some(shelf) => {
                shelf.ready.push_back(instance);
                shelf.rests_until = None;
                Ok(())
            }
            None => Err(instance),
        }
    }

    /// A refill failed: the other builds go first for a while.
    fn rest(&self, build: BuildId) {
        if let Some(shelf) = self.lock().get_mut(&build) {
            shelf.rests_until = Some(Instant::now() + BACK_OFF);
        }
    }

    fn drain(&self) -> Vec<InstanceId> {
        self.lock().drain().flat_map(|(_, shelf)| shelf.ready).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BuildId, Shelf>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks a build as asked for. Returns what stood on the shelf that made room for it.
fn use_shelf(shelves: &mut HashMap<BuildId, Shelf>, build: &BuildRecord) -> VecDeque<InstanceId> {
    let asked = Instant::now();
    if let Some(shelf) = shelves.get_mut(&build.id) {
        shelf.asked = asked;
        return VecDeque::new();
    }
    let oldest = shelves.values().min_by_key(|shelf| shelf.asked).map(|shelf| shelf.build.id);
    let dropped = oldest
        .filter(|_| shelves.len() >= SHELVES)
        .and_then(|oldest| shelves.remove(&oldest));
    let shelf = Shelf {
        build: build.clone(),
        ready: VecDeque::new(),
        asked,
        rests_until: None,
    };
    shelves.insert(build.id, shelf);
    dropped.map(|shelf| shelf.ready).unwrap_or_default()
}

/// Keeps the pool full until the daemon stops, then destroys what is in it: pooled instances are nobody's.
pub(crate) async fn keep_full(node: Arc<Node>) {
    while !node.shutdown.is_cancelled() {
        let wanted = node.pool.wanted.notified();
        let build = match node.pool.missing() {
            Missing::Now(build) => build,
            Missing::Nothing => {
                node.pool.filled.notify_waiters();
                tokio::select! { () = wanted => continue, () = node.shutdown.cancelled() => break }
            }
            Missing::At(moment) => tokio::select! {
                () = wanted => continue,
                () = tokio::time::sleep_until(moment) => continue,
                () = node.shutdown.cancelled() => break,
            },
        };
        match make(&node, &build).await {
            Ok(instance) => match node.pool.add(build.id, instance.clone()) {
                Ok(()) => watch_over(&node, build.id, instance),
                Err(unwanted) => node.destroy_later(unwanted),
            },
            Err(error) => {
                tracing::warn!(build = %build.id, error = &error as &dyn std::error::Error, "the warm pool could not be refilled");
                node.pool.rest(build.id);
            }
        }
    }
    for instance in node.pool.drain() {
        node.destroy(&instance).await;
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

async fn make(node: &Arc<Node>, build: &BuildRecord) -> Result<InstanceId, EngineError> {
    let request = request(node, build);
    let id = request.id.clone();
    node.engine.start(request).await?;
    if let Err(error) = node.engine.warm(&id).await {
        // It is as good as any other, only its first command takes longer.
        tracing::warn!(instance = %id, error = &error as &dyn std::error::Error, "a pooled instance stays cold");
    }
    if let Err(error) = node.engine.suspend(&id).await {
        // Nobody would know of it otherwise.
        node.destroy_later(id);
        return Err(error);
    }
    Ok(id)
}

/// Takes the instance off its shelf if it dies there. Called when it stands there already: a death before that would go unnoticed.
fn watch_over(node: &Arc<Node>, build: BuildId, instance: InstanceId) {
    let exited = node.engine.exited(&instance);
    let node = Arc::clone(node);
    tokio::spawn(async move {
        tokio::select! {
            _ = exited => node.pool.lose(build, &instance),
            () = node.shutdown.cancelled() => {}
        }
    });
}
