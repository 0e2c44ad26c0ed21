//! How the rest of control speaks with a driver: commands, their queue, and the view.

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

use dormouse_engine::InstanceId;
use dormouse_store::SandboxId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::model::{Phase, Sandbox};
use crate::{Connected, ControlError, RunEnd};

/// Commands on their way to a driver. It takes them in at any time, so that this is no limit on how many wait.
const QUEUE: usize = 64;

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

impl Command {
    /// Answers what is refused while the sandbox is on its way to sleep; gives back what waits for it to be there (contract 4.2).
    fn refuse_while_pausing(self, id: &SandboxId) -> Option<Self> {
        let busy = || ControlError::Busy {
            id: id.clone(),
            doing: "pausing",
        };
        // Nobody may wait for the answer any more.
        match self {
            Self::Pause { reply } => drop(reply.send(Err(ControlError::AlreadyPaused(id.clone())))),
            Self::SetTimeout { reply, .. } | Self::Refresh { reply, .. } => drop(reply.send(Err(busy()))),
            other => return Some(other),
        }
        None
    }
}

/// The instance that carries a sandbox, as traffic sees it.
#[derive(Clone, Debug)]
pub(crate) struct Carrier {
    pub(crate) instance: InstanceId,
    pub(crate) run: u64,
    pub(crate) ended: RunEnd,
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
    /// A handle, and the inbox that it fills.
    pub(crate) fn new(view: watch::Receiver<View>, shutdown: CancellationToken) -> (Self, Inbox) {
        let (commands, receiver) = mpsc::channel(QUEUE);
        let inbox = Inbox {
            receiver,
            waiting: VecDeque::new(),
        };
        let handle = Self {
            commands,
            view,
            shutdown,
        };
        (handle, inbox)
    }

    /// A look at the sandbox without copying it.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.view.borrow())
    }

    /// Sends a command and waits for its answer.
    pub(crate) async fn ask<T>(&self, id: &SandboxId, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, ControlError> {
        let (reply, answer) = oneshot::channel();
        // A driver that is gone took its sandbox along, unless it went because the daemon goes: then the sandbox is as it was. One that
        // is there and does not answer has failed.
        let lost = || {
            if self.shutdown.is_cancelled() {
                ControlError::ShuttingDown
            } else if self.commands.is_closed() {
                ControlError::NotFound(id.clone())
            } else {
                ControlError::Interrupted(id.clone())
            }
        };
        self.commands.send(command(reply)).await.map_err(|_| lost())?;
        answer.await.map_err(|_| lost())?
    }

    /// Sends a command that has no answer; waits for room in the queue.
    pub(crate) async fn tell(&self, command: Command) {
        // A driver that is gone needs to be told nothing.
        let _ = self.commands.send(command).await;
    }
}

/// The commands that a driver has not obeyed yet.
#[derive(Debug)]
pub(crate) struct Inbox {
    /// Before `waiting`, so that who loses an answer there finds the driver gone.
    receiver: mpsc::Receiver<Command>,
    waiting: VecDeque<Command>,
}

impl Inbox {
    /// The next command. `None` when nobody can send one any more.
    pub(crate) async fn next(&mut self) -> Option<Command> {
        match self.waiting.pop_front() {
            Some(command) => Some(command),
            None => self.receiver.recv().await,
        }
    }

    /// Finishes a deed, and takes commands in meanwhile: those that the phase refuses are answered at once, a kill cuts the deed short
    /// and goes before all others, the rest waits.
    pub(crate) async fn attend(&mut self, deed: impl Future<Output = ()>, view: &watch::Receiver<View>, cut: &CancellationToken) {
        let mut deed = pin!(deed);
        loop {
            let command = tokio::select! {
                biased;
                () = &mut deed => return,
                Some(command) = self.receiver.recv() => command,
            };
            if matches!(command, Command::Kill { .. }) {
                cut.cancel();
                self.waiting.push_front(command);
                continue;
            }
            let (id, pausing) = {
                let view = view.borrow();
                (view.sandbox.record.id.clone(), view.sandbox.phase == Phase::Pausing)
            };
            let left = if pausing {
                command.refuse_while_pausing(&id)
            } else {
                Some(command)
            };
            self.waiting.extend(left);
        }
    }
}
