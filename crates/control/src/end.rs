//! The end of a sandbox: killed, or its instance died under it.

use dormouse_engine::ExitReason;

use crate::driver::Driver;
use crate::model::Phase;
use crate::{ControlError, events};

impl Driver {
    /// Ends the sandbox for ever. On an error it is as it was.
    pub(crate) async fn kill(&mut self, reason: &str) -> Result<(), ControlError> {
        let mut events = Vec::from_iter(self.unannounced.clone());
        events.push(events::killed(&self.record, reason));
        self.node.store.remove(&self.record.id, &events).await?;
        self.clear_away();
        Ok(())
    }

    /// The same for a client, who may have cut a pause short.
    pub(crate) async fn kill_on_request(&mut self) -> Result<(), ControlError> {
        let killed = self.kill("request").await;
        if killed.is_err()
            && self.phase == Phase::Pausing
            && let Some(instance) = self.record.instance.clone()
        {
            self.undo_pause(&instance).await;
        }
        killed
    }

    /// The instance is gone and there is nothing to wake from: the sandbox is gone.
    pub(crate) async fn lose(&mut self, reason: &str) {
        if let Err(error) = self.kill(reason).await {
            // The row stays, without an instance that lives: the next start removes it, or puts it back to sleep if it names a snapshot,
            // which stays for that.
            self.record.snapshot = None;
            tracing::error!(sandbox = %self.record.id, error = &error as &dyn std::error::Error, "the end of a sandbox could not be recorded");
            self.clear_away();
        }
    }

    pub(crate) fn clear_away(&mut self) {
        self.node.forget(&self.record.id);
        self.node.asleep.leave(&self.record.id);
        self.end_run(Phase::Killing);
        self.permit = None;
        if let Some(instance) = self.record.instance.take() {
            self.node.destroy_later(instance);
        }
        if let Some(snapshot) = self.record.snapshot.take() {
            self.node.remove_later(snapshot);
        }
    }

    /// The engine says that the instance ended without having been asked to.
    pub(crate) async fn instance_died(&mut self, reason: &ExitReason) {
        match self.phase {
            Phase::Paused => {
                tracing::warn!(sandbox = %self.record.id, %reason, "the instance of a lightly sleeping sandbox died; it sleeps deeply now");
                self.go_deep().await;
            }
            _ => {
                tracing::warn!(sandbox = %self.record.id, %reason, "the instance of a running sandbox died");
                let reason = if *reason == ExitReason::OutOfMemory {
                    "out of memory"
                } else {
                    "instance died"
                };
                self.lose(reason).await;
            }
        }
    }
}
