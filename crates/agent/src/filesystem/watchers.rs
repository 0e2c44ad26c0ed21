//! Watching for clients that ask now and then instead of holding a stream (contract 3.6).

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dormouse_agent_proto::rpc::filesystem::FilesystemEvent;
use tokio::task::AbortHandle;

use super::watch::Watch;

/// Events that are kept for one client. One that never asks must not fill the memory; the oldest go first.
const KEPT: usize = 16_384;

/// All watchers of the sandbox.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    next: AtomicU64,
    open: Mutex<HashMap<String, Watcher>>,
}

#[derive(Debug)]
struct Watcher {
    events: Arc<Mutex<VecDeque<FilesystemEvent>>>,
    task: AbortHandle,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watchers {
    /// Collects what `watch` sees, and returns the name to ask for it.
    pub(crate) fn open(&self, mut watch: Watch) -> String {
        let id = format!("w{:x}", self.next.fetch_add(1, Ordering::Relaxed) + 1);
        let events = Arc::<Mutex<VecDeque<FilesystemEvent>>>::default();
        let collected = Arc::clone(&events);
        let task = tokio::spawn(async move {
            while let Ok(event) = watch.next().await {
                let mut events = lock(&collected);
                if events.len() == KEPT {
                    events.pop_front();
                }
                events.push_back(event);
            }
        });
        let watcher = Watcher {
            events,
            task: task.abort_handle(),
        };
        lock(&self.open).insert(id.clone(), watcher);
        id
    }

    /// Takes the events since the last question. None for an unknown watcher.
    pub(crate) fn take(&self, id: &str) -> Option<Vec<FilesystemEvent>> {
        let open = lock(&self.open);
        let watcher = open.get(id)?;
        Some(lock(&watcher.events).drain(..).collect())
    }

    /// Ends a watcher. False for an unknown one.
    pub(crate) fn close(&self, id: &str) -> bool {
        lock(&self.open).remove(id).is_some()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
