//! What keeps a driver's panic from taking its sandbox along: the driver starts over from what the database says.
//!
//! What was in memory is not to be trusted then. The row is: it is what a restart of the daemon would go by, and the same rules make it
//! true (`recover`), but that a sandbox which sleeps lightly sleeps deeply afterwards: whether its instance was touched is not known.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use dormouse_store::SandboxState;
use futures::FutureExt as _;
use tokio_util::sync::CancellationToken;

use crate::driver::Driver;
use crate::handle::Inbox;
use crate::model::Phase;
use crate::{ControlError, recover};

/// Before the first start over; each further one waits twice as long as the one before it, up to the second.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Runs a driver until its sandbox is gone or the daemon stops, whatever happens to it.
pub(crate) fn launch(mut driver: Driver, mut inbox: Inbox) {
    let node = Arc::clone(&driver.node);
    let tasks = node.tasks.clone();
    tasks.spawn(async move {
        let mut pause = BACK_OFF.0;
        let mut fallen = false;
        loop {
            let run = async {
                if !fallen || driver.start_over().await {
                    driver.run(&mut inbox).await;
                }
            };
            let Err(panic) = AssertUnwindSafe(run).catch_unwind().await else { return };
            tracing::error!(sandbox = %driver.record.id, panic = text(&*panic), "the driver of a sandbox panicked; it starts over");
            fallen = true;
            tokio::select! { () = tokio::time::sleep(pause) => {} () = node.shutdown.cancelled() => return }
            pause = (pause * 2).min(BACK_OFF.1);
        }
    });
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

impl Driver {
    /// Takes the truth from the database. `false` when there is no sandbox any more, or the daemon stops.
    async fn start_over(&mut self) -> bool {
        self.end_run(Phase::Resuming);
        self.cut = CancellationToken::new();
        self.node.asleep.leave(&self.record.id);
        self.deep_at = None;
        let mut pause = BACK_OFF.0;
        loop {
            match self.read_row().await {
                Ok(lives) => return lives,
                Err(error) => {
                    tracing::error!(sandbox = %self.record.id, error = &error as &dyn std::error::Error, "the row of a sandbox could not be read or made true");
                    let stop = self.node.shutdown.cancelled();
                    tokio::select! { () = tokio::time::sleep(pause) => {} () = stop => return false }
                    pause = (pause * 2).min(BACK_OFF.1);
                }
            }
        }
    }

    async fn read_row(&mut self) -> Result<bool, ControlError> {
        let Some(row) = self.node.store.sandbox(&self.record.id).await? else {
            self.clear_away();
            return Ok(false);
        };
        if let Some(instance) = self
            .record
            .instance
            .take()
            .filter(|instance| row.instance.as_ref() != Some(instance))
        {
            self.node.destroy_later(instance);
        }
        let suspended = match (row.state, &row.instance) {
            (SandboxState::Paused, _) => Some(false),
            (SandboxState::Running, None) => None,
            (SandboxState::Running, Some(instance)) => {
                let dead = self.node.engine.exited(instance).now_or_never().is_some();
                (!dead).then_some(true)
            }
        };
        let used = row.snapshot.clone();
        let Some(record) = recover::settle(&self.node, row, suspended).await? else {
            self.record.snapshot = used;
            self.clear_away();
            return Ok(false);
        };
        if let Some(used) = used.filter(|used| record.snapshot.as_ref() != Some(used)) {
            self.node.remove_later(used);
        }
        self.record = record;
        match self.record.state {
            SandboxState::Running => {
                if self.permit.is_none() {
                    self.permit = self.node.permit().ok();
                }
                self.begin_run();
            }
            SandboxState::Paused => {
                self.permit = None;
                self.enter(Phase::Paused);
            }
        }
        Ok(true)
    }
}
