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
//! Commands are taken one at a time and each is finished before the next: a connect that arrives during a pause waits for the pause and
//! then wakes the sandbox, and of five pauses the first does it and four find the sandbox paused. What others see of the sandbox is a
//! [`View`] that the driver publishes; they never touch its state.
//!
//! This module holds the task, its commands and its timer. The transitions are in `pause`, `wake` and `end`.

use std::sync::Arc;
use std::time::Duration;

use dormouse_engine::{ExitReason, InstanceId};
use dormouse_store::{OnTimeout, SandboxId, SandboxRecord};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::model::{Phase, Sandbox};
use crate::node::Node;
use crate::{Connected, ControlError, clock, events};

/// Commands waiting for a driver. More than this many callers wait for room in the queue.
const QUEUE: usize = 64;

/// After a failed pause at the end of a sandbox's time the driver tries again after this long; the sandbox runs on meanwhile.
const PAUSE_AGAIN: Duration = Duration::from_secs(15);

type Reply<T> = oneshot::Sender<Result<T, ControlError>>;

/// What a driver can be asked.
#[derive(Debug)]
pub(crate) enum Command {
    /// Wake it if it sleeps; extend its time.
    Connect {
        timeout: Duration,
        reply: Reply<Connected>,
    },
    /// Wake it; refused when it runs.
    Resume {
        timeout: Duration,
        auto_pause: Option<bool>,
        reply: Reply<Sandbox>,
    },
    /// Traffic wants it awake.
    Wake {
        reply: Reply<()>,
    },
    Pause {
        reply: Reply<()>,
    },
    Kill {
        reply: Reply<()>,
    },
    /// End at now + timeout.
    SetTimeout {
        timeout: Duration,
        reply: Reply<()>,
    },
    /// End at now + timeout if that is later.
    Refresh {
        timeout: Duration,
        reply: Reply<()>,
    },
    /// Light sleep becomes deep sleep: the memory is needed elsewhere.
    GoDeep,
    /// The same, for somebody who waits for it.
    SleepDeeply {
        reply: Reply<()>,
    },
}

/// The instance that carries a sandbox, as traffic sees it.
#[derive(Clone, Debug)]
pub(crate) struct Carrier {
    pub(crate) instance: InstanceId,
    pub(crate) run: u64,
    pub(crate) ended: CancellationToken,
}

/// What a driver shows.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) sandbox: Sandbox,
    /// Set exactly while the sandbox runs.
    pub(crate) carrier: Option<Carrier>,
}

/// How to reach a driver. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<View>,
    shutdown: CancellationToken,
}

impl Handle {
    /// A look at the sandbox without copying it.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.view.borrow())
    }

    /// Sends a command and waits for its answer.
    pub(crate) async fn ask<T>(&self, id: &SandboxId, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, ControlError> {
        let (reply, answer) = oneshot::channel();
        // A driver that is gone took its sandbox along, unless it went because the daemon goes: then the sandbox is as it was.
        let gone = || {
            if self.shutdown.is_cancelled() {
                ControlError::ShuttingDown
            } else {
                ControlError::NotFound(id.clone())
            }
        };
        self.commands.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Sends a command that has no answer; waits for room in the queue.
    pub(crate) async fn tell(&self, command: Command) {
        // A driver that is gone needs to be told nothing.
        let _ = self.commands.send(command).await;
    }
}

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
    view: watch::Sender<View>,
}

/// What the task waits for.
enum Woken {
    Command(Command),
    Died(ExitReason),
    TimeUp,
    Stop,
}

impl Driver {
    /// Makes the driver of a sandbox and registers it. The caller spawns [`run`](Self::run).
    pub(crate) fn register(
        node: &Arc<Node>,
        record: SandboxRecord,
        phase: Phase,
        permit: Option<OwnedSemaphorePermit>,
    ) -> (Self, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(QUEUE);
        let (view, watcher) = watch::channel(View {
            sandbox: Sandbox {
                record: record.clone(),
                phase,
            },
            carrier: None,
        });
        let handle = Handle {
            commands,
            view: watcher,
            shutdown: node.shutdown.clone(),
        };
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
            view,
        };
        (driver, receiver)
    }

    /// The task: until the sandbox is gone, or the daemon stops.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut exit = self.watch_instance();
        loop {
            let watched = self.record.instance.clone();
            let woken = tokio::select! {
                biased;
                // A command in progress is finished; the next one is the next daemon's.
                () = self.node.shutdown.cancelled() => Woken::Stop,
                reason = &mut exit => Woken::Died(reason),
                Some(command) = commands.recv() => Woken::Command(command),
                () = clock::sleep_until(self.deadline()) => Woken::TimeUp,
            };
            match woken {
                Woken::Stop => return,
                Woken::Died(reason) => self.instance_died(&reason).await,
                Woken::Command(command) => self.obey(command).await,
                Woken::TimeUp => self.time_up().await,
            }
            if self.phase == Phase::Killing {
                return;
            }
            // What follows an answer, before the next command.
            self.give_up_snapshot().await;
            self.settle_into_sleep().await;
            if self.record.instance != watched {
                exit = self.watch_instance();
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
            Command::Connect { timeout, reply } => drop(reply.send(self.connect(timeout).await)),
            Command::Resume {
                timeout,
                auto_pause,
                reply,
            } => drop(reply.send(self.resume(timeout, auto_pause).await)),
            Command::Wake { reply } => drop(reply.send(self.wake_for_traffic().await)),
            Command::Pause { reply } => drop(reply.send(self.pause().await)),
            Command::Kill { reply } => drop(reply.send(self.kill("request").await)),
            Command::SetTimeout { timeout, reply } => drop(reply.send(self.set_timeout(timeout).await)),
            Command::Refresh { timeout, reply } => drop(reply.send(self.extend(timeout).await)),
            Command::GoDeep => self.go_deep().await,
            Command::SleepDeeply { reply } => {
                self.go_deep().await;
                drop(reply.send(Ok(())));
            }
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
            ended: CancellationToken::new(),
        });
        self.enter(Phase::Running);
    }

    /// Ends the run towards the outside: no new traffic, and open streams are cut.
    pub(crate) fn end_run(&mut self, phase: Phase) {
        let carrier = self.carrier.take();
        self.enter(phase);
        if let Some(carrier) = carrier {
            carrier.ended.cancel();
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
