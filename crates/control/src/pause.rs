//! Falling asleep, and from light into deep sleep.
//!
//! The order of a pause, and what a crash after each step leaves:
//! 1. the engine suspends the instance and writes its snapshot into a draft, synced: the row still says running, the next start
//!    resumes the instance and sweeps the draft — the pause is undone;
//! 2. the draft is published by a rename: the same, nobody refers to the snapshot yet;
//! 3. the row says paused and names the snapshot: the pause is done, whatever happens to the instance.
//!
//! Only then is the client told.

use dormouse_engine::{EngineError, InstanceId};
use dormouse_layers::Draft;
use dormouse_store::{SandboxState, SnapshotId};

use crate::driver::{Command, Driver};
use crate::model::Phase;
use crate::{ControlError, clock, events};

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
                self.sleep_lightly(&instance).await;
                Ok(())
            }
            Err(error) => {
                self.undo_pause(&instance).await;
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
            self.node.remove_later(snapshot);
            return Err(error.into());
        }
        self.record = record;
        if let Some(before) = before {
            self.node.remove_later(before);
        }
        Ok(())
    }

    async fn write_snapshot(&self, instance: &InstanceId) -> Result<SnapshotId, ControlError> {
        let draft = self.node.snapshots.begin().await.map_err(no_room_for_layers)?;
        match self.node.engine.snapshot(instance, draft.path()).await {
            Ok(stats) => {
                tracing::debug!(sandbox = %self.record.id, bytes = stats.bytes, "snapshot written");
                draft.publish().await.map_err(no_room_for_layers)
            }
            Err(error) => {
                discard(draft).await;
                Err(match error {
                    EngineError::NoRoom { .. } => ControlError::NoRoom(Box::new(error)),
                    other => other.into(),
                })
            }
        }
    }

    /// The sandbox runs on as if nobody had asked.
    async fn undo_pause(&mut self, instance: &InstanceId) {
        match self.node.engine.resume(instance).await {
            Ok(()) => self.begin_run(),
            Err(error) => {
                tracing::error!(sandbox = %self.record.id, error = &error as &dyn std::error::Error, "a sandbox did not come back from a failed pause");
                self.lose("failed pause").await;
            }
        }
    }

    /// Keeps the suspended instance as a cache, as far as the budget goes.
    async fn sleep_lightly(&mut self, instance: &InstanceId) {
        let bytes = match self.node.engine.stats(instance).await {
            Ok(stats) => stats.memory_bytes,
            // Of unknown size: too large.
            Err(_) => u64::MAX,
        };
        self.deep_at = Some(clock::later(clock::now(), self.node.config.light_sleep_age));
        for evicted in self.node.asleep.enter(self.record.id.clone(), bytes) {
            if evicted == self.record.id {
                self.go_deep().await;
            } else if let Some(handle) = self.node.handle(&evicted) {
                handle.hint(Command::GoDeep);
            }
        }
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

async fn discard(draft: Draft) {
    if let Err(error) = draft.discard().await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "a void snapshot could not be removed; the next start sweeps it"
        );
    }
}

fn no_room_for_layers(error: dormouse_layers::LayerError) -> ControlError {
    if error.is_no_space() {
        ControlError::NoRoom(Box::new(error))
    } else {
        error.into()
    }
}
