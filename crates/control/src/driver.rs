//! One task a sandbox: the owner of its state.
//!
//! ```text
//!                  timer, Pause            Connect, Resume, Wake
//!   Running ─────► Pausing ─────► Paused ─────────────────► Resuming ─────► Running
//!      │              │ failed: back        │                   │ failed: back
//!      │              ▼                     │                   ▼
//!      │           Running                  │                 Paused
//!      └── Kill, timer, instance died ──────┴── Kill ──► Killing ──► gone
//! ```
//!
//! Commands are obeyed one at a time and each is finished before the next. They are taken in all the time ([`Inbox`]): during a pause a
//! connect waits and then wakes the sandbox, a second pause is refused at once, and a kill cuts the pause short. What others see of the
//! sandbox is a [`View`] that the driver publishes; they never touch its state.
//!
//! This module holds the task and its timer. Commands and their queue are in `handle`, the transitions in `pause`, `wake` and `end`;
//! `supervise` keeps the task alive.

use std::sync::Arc;
use std::time::Duration;

use dormouse_engine::{EngineError, ExitReason, InstanceId};
use dormouse_store::{Event, OnTimeout, SandboxRecord};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

use crate::handle::{Carrier, Command, Handle, Inbox, View};
use crate::model::{Phase, Sandbox};
use crate::node::Node;
use crate::{Connected, ControlError, RunEnd, clock, events};

/// After a failed pause at the end of a sandbox's time the driver tries again after this long; the sandbox runs on meanwhile.
const PAUSE_AGAIN: Duration = Duration::from_secs(15);

/// The driver's own state.
pub(crate) struct Driver {
    pub(crate) node: Arc<Node>,
    pub(crate) record: SandboxRecord,
    pub(crate) phase: Phase,
    pub(crate) carrier: Option<Carrier>,
    /// Counts this sandbox's runs under this daemon.
    pub(crate) run: u64,
    /// Held while it runs.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
    /// Not before this moment is a pause tried again that failed at the end of the time.
    pause_again: Option<Timestamp>,
    /// When light sleep becomes deep sleep by age.
    pub(crate) deep_at: Option<Timestamp>,
    /// The event of its creation, until it is in the log.
    pub(crate) unannounced: Option<Event>,
    /// Cancelled when a kill waits: nothing waits for the engine any more.
    pub(crate) cut: CancellationToken,
    view: watch::Sender<View>,
}

/// What the task waits for.
enum Woken {
    Command(Command),
    Died(ExitReason),
    TimeUp,
}

impl Driver {
    /// Makes the driver of a sandbox and registers it. The caller launches it (`supervise`).
    pub(crate) fn register(
        node: &Arc<Node>,
        record: SandboxRecord,
        phase: Phase,
        permit: Option<OwnedSemaphorePermit>,
    ) -> (Self, Inbox) {
        let (view, watcher) = watch::channel(View {
            sandbox: Sandbox {
                record: record.clone(),
                phase,
            },
            carrier: None,
        });
        let (handle, inbox) = Handle::new(watcher, node.shutdown.clone());
        node.register(record.id.clone(), handle);
        let driver = Self {
            node: Arc::clone(node),
            record,
            phase,
            carrier: None,
            run: 0,
            permit,
            pause_again: None,
            deep_at: None,
            unannounced: None,
            cut: CancellationToken::new(),
            view,
        };
        (driver, inbox)
    }

    /// The task: until the sandbox is gone, or the daemon stops.
    pub(crate) async fn run(&mut self, inbox: &mut Inbox) {
        let mut exit = self.watch_instance();
        loop {
            let (view, cut) = (self.view.subscribe(), self.cut.clone());
            inbox.attend(self.announce(), &view, &cut).await;
            let watched = self.record.instance.clone();
            let woken = tokio::select! {
                biased;
                // A command in progress is finished; the next one is the next daemon's.
                () = self.node.shutdown.cancelled() => return,
                reason = &mut exit => Woken::Died(reason),
                Some(command) = inbox.next() => Woken::Command(command),
                () = clock::sleep_until(self.deadline()) => Woken::TimeUp,
            };
            // What was cut short is over, or it is the kill's turn now.
            self.cut = CancellationToken::new();
            let cut = self.cut.clone();
            inbox.attend(self.act(woken), &view, &cut).await;
            if self.phase == Phase::Killing {
                return;
            }
            if self.record.instance != watched {
                exit = self.watch_instance();
            }
        }
    }

    async fn act(&mut self, woken: Woken) {
        match woken {
            Woken::Died(reason) => self.instance_died(&reason).await,
            Woken::Command(command) => self.obey(command).await,
            Woken::TimeUp => self.time_up().await,
        }
        // What follows an answer, before the next command.
        self.give_up_snapshot().await;
        self.settle_into_sleep().await;
    }

    /// Waits for the engine, but not when a kill is waiting: the instance has no future then.
    pub(crate) async fn unless_cut<T>(
        &self,
        instance: &InstanceId,
        answer: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        tokio::select! {
            biased;
            answer = answer => answer,
            () = self.cut.cancelled() => Err(EngineError::Gone(instance.clone())),
        }
    }

    /// Writes the event of the creation, after the answer: a creation that failed is none.
    async fn announce(&mut self) {
        let Some(event) = &self.unannounced else { return };
        match self.node.store.save(&self.record, std::slice::from_ref(event)).await {
            Ok(()) => self.unannounced = None,
            Err(error) => {
                tracing::warn!(sandbox = %self.record.id, error = &error as &dyn std::error::Error, "the creation of a sandbox is not in the log yet");
            }
        }
    }

    fn watch_instance(&self) -> BoxFuture<'static, ExitReason> {
        match &self.record.instance {
            Some(instance) => self.node.engine.exited(instance),
            None => std::future::pending().boxed(),
        }
    }

    /// The next moment at which something is due without anybody asking.
    fn deadline(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Running => Some(self.pause_again.unwrap_or(self.record.end_at)),
            Phase::Paused => self.deep_at,
            Phase::Creating | Phase::Pausing | Phase::Resuming | Phase::Killing => None,
        }
    }

    async fn time_up(&mut self) {
        match (self.phase, self.record.on_timeout) {
            (Phase::Paused, _) => self.go_deep().await,
            (_, OnTimeout::Kill) => {
                if let Err(error) = self.kill("timeout").await {
                    self.pause_again = Some(clock::later(clock::now(), PAUSE_AGAIN));
                    tracing::error!(sandbox = %self.record.id, error = &error as &dyn std::error::Error, "a sandbox whose time is up could not be killed");
                }
            }
            (_, OnTimeout::Pause) => match self.pause().await {
                Ok(()) => self.pause_again = None,
                Err(error) => {
                    self.pause_again = Some(clock::later(clock::now(), PAUSE_AGAIN));
                    tracing::error!(sandbox = %self.record.id, error = &error as &dyn std::error::Error, "a sandbox whose time is up could not be paused; it runs on");
                }
            },
        }
    }

    async fn obey(&mut self, command: Command) {
        // An answer that nobody waits for any more is dropped: the deed is done and visible all the same.
        match command {
            Command::Connect { timeout, reply } => {
                let done = self.connect(timeout).await;
                drop(reply.send(self.unless_gone(done)));
            }
            Command::Resume {
                timeout,
                auto_pause,
                reply,
            } => {
                let done = self.resume(timeout, auto_pause).await;
                drop(reply.send(self.unless_gone(done)));
            }
            Command::Wake { reply } => {
                let done = self.wake_for_traffic().await;
                drop(reply.send(self.unless_gone(done)));
            }
            Command::Pause { reply } => {
                let done = self.pause().await;
                drop(reply.send(self.unless_gone(done)));
            }
            Command::Kill { reply } => drop(reply.send(self.kill_on_request().await)),
            Command::SetTimeout { timeout, reply } => drop(reply.send(self.set_timeout(timeout).await)),
            Command::Refresh { timeout, reply } => drop(reply.send(self.extend(timeout).await)),
            Command::GoDeep => self.go_deep().await,
            Command::SleepDeeply { reply } => {
                self.go_deep().await;
                drop(reply.send(Ok(())));
            }
        }
    }

    /// What failed because the sandbox is gone, or is about to be killed, is not found.
    fn unless_gone<T>(&self, done: Result<T, ControlError>) -> Result<T, ControlError> {
        if self.phase == Phase::Killing || self.cut.is_cancelled() {
            done.map_err(|_| ControlError::NotFound(self.record.id.clone()))
        } else {
            done
        }
    }

    async fn connect(&mut self, timeout: Duration) -> Result<Connected, ControlError> {
        self.check_timeout(timeout)?;
        let resumed = self.phase == Phase::Paused;
        if resumed {
            self.wake(timeout).await?;
        } else {
            self.extend(timeout).await?;
        }
        Ok(Connected {
            sandbox: self.sandbox(),
            resumed,
        })
    }

    async fn resume(&mut self, timeout: Duration, auto_pause: Option<bool>) -> Result<Sandbox, ControlError> {
        self.check_timeout(timeout)?;
        if self.phase == Phase::Running {
            return Err(ControlError::AlreadyRunning(self.record.id.clone()));
        }
        let before = self.record.on_timeout;
        if let Some(auto_pause) = auto_pause {
            self.record.on_timeout = if auto_pause { OnTimeout::Pause } else { OnTimeout::Kill };
        }
        if let Err(error) = self.wake(timeout).await {
            self.record.on_timeout = before;
            self.show();
            return Err(error);
        }
        Ok(self.sandbox())
    }

    fn check_timeout(&self, timeout: Duration) -> Result<(), ControlError> {
        if timeout > self.record.max_run {
            Err(ControlError::TimeoutTooLong(self.record.max_run))
        } else {
            Ok(())
        }
    }

    async fn set_timeout(&mut self, timeout: Duration) -> Result<(), ControlError> {
        if self.phase != Phase::Running {
            return Err(ControlError::NotRunning(self.record.id.clone()));
        }
        let now = clock::now();
        let last = clock::later(self.record.started_at, self.record.max_run);
        if last <= now {
            return Err(ControlError::MaxRunReached);
        }
        self.move_end(clock::later(now, timeout).min(last)).await
    }

    /// Moves the end to now + `timeout` if that is later than it is.
    async fn extend(&mut self, timeout: Duration) -> Result<(), ControlError> {
        if self.phase != Phase::Running {
            return Err(ControlError::NotRunning(self.record.id.clone()));
        }
        let last = clock::later(self.record.started_at, self.record.max_run);
        let end = clock::later(clock::now(), timeout).min(last);
        if end > self.record.end_at {
            self.move_end(end).await
        } else {
            Ok(())
        }
    }

    async fn move_end(&mut self, end: Timestamp) -> Result<(), ControlError> {
        let mut record = self.record.clone();
        record.end_at = end;
        self.node.store.save(&record, &[events::updated(&record)]).await?;
        self.record = record;
        self.pause_again = None;
        self.show();
        Ok(())
    }

    /// Enters a phase and shows it.
    pub(crate) fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.show();
    }

    /// Begins a run on the record's instance: traffic may come from now on.
    pub(crate) fn begin_run(&mut self) {
        self.pause_again = None;
        self.deep_at = None;
        self.run += 1;
        self.carrier = self.record.instance.clone().map(|instance| Carrier {
            instance,
            run: self.run,
            ended: RunEnd::default(),
        });
        self.enter(Phase::Running);
    }

    /// Ends the run towards the outside: no new traffic, and open streams are cut.
    pub(crate) fn end_run(&mut self, phase: Phase) {
        let carrier = self.carrier.take();
        self.enter(phase);
        if let Some(carrier) = carrier {
            if phase == Phase::Pausing {
                carrier.ended.pause();
            } else {
                carrier.ended.cancel();
            }
        }
    }

    pub(crate) fn sandbox(&self) -> Sandbox {
        Sandbox {
            record: self.record.clone(),
            phase: self.phase,
        }
    }

    pub(crate) fn show(&self) {
        self.view.send_replace(View {
            sandbox: self.sandbox(),
            carrier: self.carrier.clone(),
        });
    }
}
