//! Falling asleep, and from light into deep sleep.
//!
//! The order of a pause, and what a crash after each step leaves:
//! 1. the engine suspends the instance and writes its snapshot into a draft, synced: the row still says running, the next start
//!    resumes the instance and sweeps the draft — the pause is undone;
//! 2. the draft is published by a rename: the same, nobody refers to the snapshot yet;
//! 3. the row says paused and names the snapshot: the pause is done, whatever happens to the instance.
//!
//! Only then is the client told.

use std::time::Duration;

use dormouse_engine::{EngineError, InstanceId};
use dormouse_store::{SandboxState, SnapshotId};

use crate::driver::Driver;
use crate::model::Phase;
use crate::{ControlError, clock, events};

/// When a sandbox whose pause failed is told again to go on, if it did not the first time.
const GO_ON_AGAIN: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2)];

impl Driver {
    pub(crate) async fn pause(&mut self) -> Result<(), ControlError> {
        let (Phase::Running, Some(instance)) = (self.phase, self.record.instance.clone()) else {
            return Err(ControlError::AlreadyPaused(self.record.id.clone()));
        };
        self.end_run(Phase::Pausing);
        match self.pause_durably(&instance).await {
            Ok(()) => {
                self.permit = None;
                self.enter(Phase::Paused);
                Ok(())
            }
            Err(error) => {
                // Otherwise the kill is next, and nobody needs it to run on.
                if !self.cut.is_cancelled() {
                    self.undo_pause(&instance).await;
                }
                Err(error)
            }
        }
    }

    async fn pause_durably(&mut self, instance: &InstanceId) -> Result<(), ControlError> {
        let snapshot = self.write_snapshot(instance).await?;
        let mut record = self.record.clone();
        record.state = SandboxState::Paused;
        record.end_at = clock::now();
        let before = record.snapshot.replace(snapshot.clone());
        let saved = self.node.store.save(&record, &[events::paused(&self.record)]).await;
        if let Err(error) = saved {
            self.forget_pause(snapshot).await;
            return Err(error.into());
        }
        self.record = record;
        if let Some(before) = before {
            self.node.remove_later(before);
        }
        Ok(())
    }

    /// The row could not be written, but a write that failed may have reached the disk all the same. Only once the row says that the
    /// sandbox runs is the snapshot surely not what it names; until then it stays, and the next start knows.
    async fn forget_pause(&self, snapshot: SnapshotId) {
        match self.node.store.save(&self.record, &[]).await {
            Ok(()) => self.node.remove_later(snapshot),
            Err(error) => {
                tracing::error!(sandbox = %self.record.id, error = &error as &dyn std::error::Error, "a failed pause could not be recorded");
            }
        }
    }

    async fn write_snapshot(&self, instance: &InstanceId) -> Result<SnapshotId, ControlError> {
        let draft = self.node.snapshots.begin().await.map_err(no_room_for_layers)?;
        match self.unless_cut(instance, self.node.engine.snapshot(instance, draft)).await {
            Ok(draft) => draft.publish().await.map_err(no_room_for_layers),
            Err(error @ EngineError::NoRoom { .. }) => Err(ControlError::NoRoom(Box::new(error))),
            Err(other) => Err(other.into()),
        }
    }

    /// The sandbox runs on as if nobody had asked.
    pub(crate) async fn undo_pause(&mut self, instance: &InstanceId) {
        let mut again = GO_ON_AGAIN.into_iter();
        while let Err(error) = self.unless_cut(instance, self.node.engine.resume(instance)).await {
            if self.cut.is_cancelled() {
                return;
            }
            if matches!(error, EngineError::Gone(_)) {
                return self.lose("instance died").await;
            }
            tracing::error!(sandbox = %self.record.id, error = &error as &dyn std::error::Error, "a sandbox does not come back from a failed pause");
            let Some(pause) = again.next() else {
                return self.lose("failed pause").await;
            };
            tokio::select! { () = tokio::time::sleep(pause) => {} () = self.cut.cancelled() => return }
        }
        self.begin_run();
    }

    /// After a pause was answered: enters the instance that is kept into the account of light sleep.
    pub(crate) async fn settle_into_sleep(&mut self) {
        if self.phase == Phase::Paused
            && self.deep_at.is_none()
            && let Some(instance) = self.record.instance.clone()
        {
            self.sleep_lightly(&instance).await;
        }
    }

    /// Keeps the suspended instance as a cache, as far as the budget goes.
    pub(crate) async fn sleep_lightly(&mut self, instance: &InstanceId) {
        let bytes = match self.unless_cut(instance, self.node.engine.stats(instance)).await {
            Ok(stats) => stats.memory_bytes,
            // Of unknown size: too large.
            Err(_) => u64::MAX,
        };
        self.deep_at = Some(clock::later(clock::now(), self.node.config.light_sleep_age));
        let mut evicted = self.node.asleep.enter(self.record.id.clone(), bytes);
        if evicted.contains(&self.record.id) {
            self.go_deep().await;
            evicted.retain(|id| *id != self.record.id);
        }
        self.node.evict(&evicted);
    }

    /// Gives the cached instance up; the snapshot remains. Does nothing unless the sandbox sleeps lightly.
    pub(crate) async fn go_deep(&mut self) {
        if self.phase != Phase::Paused {
            return;
        }
        self.node.asleep.leave(&self.record.id);
        self.deep_at = None;
        let Some(instance) = self.record.instance.take() else { return };
        // The row first: a crash in between leaves an instance without an owner, which the next start removes.
        if let Err(error) = self.node.store.save(&self.record, &[]).await {
            tracing::warn!(sandbox = %self.record.id, error = &error as &dyn std::error::Error, "deep sleep could not be recorded");
        }
        self.show();
        self.node.destroy_later(instance);
    }
}

fn no_room_for_layers(error: dormouse_layers::LayerError) -> ControlError {
    if error.is_no_space() {
        ControlError::NoRoom(Box::new(error))
    } else {
        error.into()
    }
}
