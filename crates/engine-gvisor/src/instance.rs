//! One live instance: what can be done with it, and the task that waits for its end.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dormouse_engine::{ExitReason, InstanceId, SnapshotStats};
use dormouse_network::{Dialer, Slot};
use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::watch;

use crate::cgroup::Cgroup;
use crate::checkpoint::{self, Writer};
use crate::error::{GvisorError, Result};
use crate::layout::{Dir, Exit, Record, read_json};
use crate::lifeline::Lifeline;
use crate::urpc::Control;

/// How long a shim may take to end after its sandbox.
const SHIM_PATIENCE: Duration = Duration::from_secs(10);

/// A live instance.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) record: Record,
    pub(crate) dir: Dir,
    pub(crate) cgroup: Cgroup,
    pub(crate) dialer: Dialer,
    control: Control,
    /// Held over changes of what the sandbox does. A blocking lock: these are blocking calls.
    changing: Mutex<()>,
    suspended: AtomicBool,
    destroyed: AtomicBool,
    slot: tokio::sync::Mutex<Option<Slot>>,
    exit: watch::Sender<Option<ExitReason>>,
}

impl Instance {
    pub(crate) fn new(record: Record, dir: Dir, cgroup: Cgroup, slot: Slot, patience: Duration, suspended: bool) -> Self {
        Self {
            control: Control::new(dir.control_socket(&record.id), suspended, patience),
            dialer: slot.dialer(),
            record,
            dir,
            cgroup,
            changing: Mutex::default(),
            suspended: suspended.into(),
            destroyed: false.into(),
            slot: Some(slot).into(),
            exit: watch::Sender::new(None),
        }
    }

    pub(crate) fn id(&self) -> &InstanceId {
        &self.record.id
    }

    pub(crate) fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::Acquire)
    }

    /// A receiver that gets the reason of the end.
    pub(crate) fn exit(&self) -> watch::Receiver<Option<ExitReason>> {
        self.exit.subscribe()
    }

    pub(crate) async fn set_internet(&self, on: bool) -> Result<()> {
        match &*self.slot.lock().await {
            Some(slot) => Ok(slot.set_internet(on).await?),
            None => Err(GvisorError::Ended("its network is gone".to_owned())),
        }
    }

    /// Runs blocking work on the instance, one at a time.
    pub(crate) async fn change<T, F>(self: &Arc<Self>, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Self) -> Result<T> + Send + 'static,
    {
        let instance = Arc::clone(self);
        let work = move || {
            let _changing = instance.changing();
            let done = work(&instance);
            if done.is_err() {
                instance.undo_later();
            }
            done
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| GvisorError::Panicked)?
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After a change that failed because the sentry did not answer: should it answer after all, a sandbox that counts as running must
    /// not stay stopped.
    fn undo_later(self: &Arc<Self>) {
        let Some(answer) = self.control.overdue().filter(|_| !self.is_suspended()) else {
            return;
        };
        let instance = Arc::clone(self);
        let undo = move || {
            // Ends with the answer or with the sentry.
            while poll(&mut [PollFd::new(&answer, PollFlags::IN)], None) == Err(rustix::io::Errno::INTR) {}
            let _changing = instance.changing();
            if !instance.is_suspended()
                && let Err(error) = instance.control.resume()
            {
                tracing::debug!(instance = %instance.id(), error = &error as &dyn std::error::Error, "a late answer was not undone");
            }
        };
        if let Err(error) = std::thread::Builder::new().name("dm-late".to_owned()).spawn(undo) {
            tracing::warn!(%error, "a late answer will not be undone");
        }
    }

    /// Stops the guest's tasks, then freezes the sentry: a paused sentry alone still uses a few percent of a processor. In this order
    /// the guest never executes between a thaw and a resume.
    pub(crate) fn suspend(&self) -> Result<()> {
        if self.is_suspended() {
            return Ok(());
        }
        let pausing = self.dir.pausing();
        std::fs::File::create(&pausing).map_err(GvisorError::file("create", &pausing))?;
        self.control.pause()?;
        self.suspended.store(true, Ordering::Release);
        self.cgroup.freeze()?;
        self.forget_pausing()
    }

    /// Undoes [`suspend`](Self::suspend).
    pub(crate) fn resume(&self) -> Result<()> {
        if !self.is_suspended() {
            return Ok(());
        }
        let pausing = self.dir.pausing();
        std::fs::File::create(&pausing).map_err(GvisorError::file("create", &pausing))?;
        self.cgroup.thaw()?;
        self.control.resume()?;
        self.suspended.store(false, Ordering::Release);
        self.forget_pausing()
    }

    /// Writes the instance into a snapshot and leaves it suspended.
    pub(crate) fn snapshot(&self, into: &Path) -> Result<SnapshotStats> {
        let memory = self.cgroup.usage().map_or(u64::MAX, |usage| usage.memory_bytes);
        let writer = Writer::create(into, memory)?;
        let pausing = self.dir.pausing();
        std::fs::File::create(&pausing).map_err(GvisorError::file("create", &pausing))?;
        if self.is_suspended() {
            self.cgroup.thaw()?;
        } else {
            self.control.pause()?;
            self.suspended.store(true, Ordering::Release);
        }
        let filled = checkpoint::disconnect(&self.control).and_then(|()| writer.fill(&self.control));
        // Whether it went well or not: the instance is suspended now, and a suspended instance is frozen.
        self.cgroup.freeze()?;
        self.forget_pausing()?;
        filled?;
        Ok(SnapshotStats {
            bytes: writer.finish(&self.record.root)?,
        })
    }

    /// After a restart of the daemon in the middle of a change: makes a sandbox go on whose tasks may be stopped.
    pub(crate) fn resume_blindly(&self) -> Result<()> {
        self.control.note_stopped();
        self.control.resume()
    }

    pub(crate) fn forget_pausing(&self) -> Result<()> {
        match std::fs::remove_file(self.dir.pausing()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(GvisorError::file("remove", &self.dir.pausing())(e)),
            _ => Ok(()),
        }
    }

    /// Kills the sandbox and waits until everything is cleaned up; [`exit`](Self::exit) has told of it then.
    pub(crate) async fn kill(self: &Arc<Self>) -> Result<()> {
        self.destroyed.store(true, Ordering::Release);
        // Not by `change`: a change that hangs must not be in the way.
        let cgroup = self.cgroup.clone();
        tokio::task::spawn_blocking(move || cgroup.kill())
            .await
            .map_err(|_| GvisorError::Panicked)??;
        // The sender lives as long as the instance, which we hold.
        let mut exit = self.exit();
        let ended = tokio::time::timeout(SHIM_PATIENCE, exit.wait_for(Option::is_some))
            .await
            .is_ok();
        // A shim that has ended already has no number any more; then it is the cleaning that takes long.
        let shim = if ended { None } else { Lifeline::open(&self.dir.alive())? };
        if shim.is_some_and(|shim| shim.is_held()) {
            tracing::warn!(instance = %self.id(), "a shim does not notice the end of its sandbox; it is killed too");
            self.dir.kill_shim();
        }
        let _ = exit.wait_for(Option::is_some).await;
        Ok(())
    }

    /// Waits for the end of the shim, removes all that is left, and tells everybody.
    pub(crate) async fn attend(self: Arc<Self>, shim: Lifeline) {
        if let Err(error) = shim.ended().await {
            tracing::error!(instance = %self.id(), error = &error as &dyn std::error::Error, "cannot wait for the end of a sandbox");
            return;
        }
        let exit = read_json::<Exit>(&self.dir.exit()).ok().flatten();
        let reason = match exit {
            _ if self.destroyed.load(Ordering::Acquire) => ExitReason::Destroyed,
            Some(exit) if exit.out_of_memory => ExitReason::OutOfMemory,
            Some(exit) => ExitReason::Died(exit.how),
            None => ExitReason::Died("its shim was killed".to_owned()),
        };
        tracing::debug!(instance = %self.id(), %reason, "a sandbox has ended");
        if let Err(error) = self.clean().await {
            tracing::warn!(instance = %self.id(), error = &error as &dyn std::error::Error, "a sandbox left something behind");
        }
        self.exit.send_replace(Some(reason));
    }

    async fn clean(&self) -> Result<()> {
        let slot = self.slot.lock().await.take();
        remove_remains(self.cgroup.clone(), self.dir.clone(), slot).await
    }
}

/// Removes what is left of an instance whose shim has ended. The directory goes last: it is how the rest is found.
pub(crate) async fn remove_remains(cgroup: Cgroup, dir: Dir, slot: Option<Slot>) -> Result<()> {
    let killing = cgroup.clone();
    let killed = tokio::task::spawn_blocking(move || killing.kill().and_then(|()| killing.remove()));
    killed.await.map_err(|_| GvisorError::Panicked)??;
    if let Some(slot) = slot {
        slot.release().await?;
    }
    tokio::task::spawn_blocking(move || dir.remove())
        .await
        .map_err(|_| GvisorError::Panicked)?
}
