//! A session channel: a shell, a command, or the SFTP server, as a process in the sandbox.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dormouse_agent_client::{Command, Error as AgentError, EventStream, Input, Kind};
use dormouse_agent_proto::oneof::{Output, ProcessEventKind};
use dormouse_agent_proto::rpc::process::process_event::EndEvent;
use dormouse_control::Control;
use dormouse_store::TeamId;
use russh::Sig;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::farewell::farewell;
use crate::inbox::Receiver;
use crate::login::{Login, NoLogin};
use crate::outbox::Outbox;
use crate::sandbox::OpenSandbox;
use crate::signals;

/// The agent's program, which is its SFTP server as well.
const AGENT: &str = "/usr/lib/dormouse/agent";

/// How long after a broken connection the news of the sandbox's end may come.
const NEWS: Duration = Duration::from_secs(5);

/// How long a client may take to read our last words.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What a client wants to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Shell,
    Command(String),
    Sftp,
}

/// A terminal as the client described it.
#[derive(Clone, Debug)]
pub(crate) struct Terminal {
    pub(crate) term: String,
    pub(crate) size: watch::Receiver<(u32, u32)>,
}

/// Everything that a session needs to run.
pub(crate) struct Session {
    pub(crate) control: Arc<Control>,
    pub(crate) teams: Arc<[TeamId]>,
    pub(crate) login: Result<Login, NoLogin>,
    pub(crate) program: Program,
    pub(crate) terminal: Option<Terminal>,
    pub(crate) variables: Vec<(String, String)>,
    pub(crate) inbox: Receiver,
    pub(crate) outbox: Outbox,
    pub(crate) signals: mpsc::Receiver<Sig>,
    /// The client has closed the channel, or is gone.
    pub(crate) closed: CancellationToken,
}

/// How a process that was followed ended.
enum Followed {
    Exit(EndEvent),
    /// The client cannot be reached.
    Disconnected,
    Failed(AgentError),
}

impl Session {
    /// Runs it to its end; the channel is closed then.
    pub(crate) async fn run(mut self) {
        let closed = self.closed.clone();
        let started = tokio::select! {
            biased;
            () = closed.cancelled() => return,
            started = self.start() => started,
        };
        let terminal = self.terminal.is_some();
        match started {
            Ok((sandbox, process)) => self.follow(sandbox, process).await,
            Err(message) => say(&self.outbox, terminal, &message).await,
        }
    }

    async fn start(&mut self) -> Result<(OpenSandbox, Process), String> {
        let login = self.login.as_ref().map_err(ToString::to_string)?;
        let sandbox = OpenSandbox::open(&self.control, &self.teams, login)
            .await
            .map_err(|error| chain(&error))?;
        let mut process = self.start_in(&sandbox, "/bin/bash").await;
        if self.program != Program::Sftp
            && matches!(&process, Err(AgentError::Call { message, .. }) if message.contains("/bin/bash"))
        {
            // Small images have no bash.
            process = self.start_in(&sandbox, "/bin/sh").await;
        }
        match process {
            Ok(process) => Ok((sandbox, process)),
            Err(_) if sandbox.route.ended.is_cancelled() => Err(farewell(&sandbox)),
            Err(AgentError::Call { message, .. } | AgentError::Refused { message, .. }) => Err(message),
            Err(error) => Err(chain(&error)),
        }
    }

    async fn start_in(&self, sandbox: &OpenSandbox, shell: &str) -> Result<Process, AgentError> {
        let mut command = match &self.program {
            Program::Shell if self.terminal.is_some() => Command::new(shell, ["-i", "-l"]),
            Program::Shell => Command::new(shell, ["-l"]),
            Program::Command(text) => Command::new(shell, ["-l", "-c", text]),
            Program::Sftp => Command::new(AGENT, ["sftp-server"]),
        };
        command = command.env("SHELL", shell).env("LANG", "C.UTF-8");
        let kind = match &self.terminal {
            None => {
                command = command.with_stdin();
                Kind::Stdin
            }
            Some(terminal) => {
                let (cols, rows) = *terminal.size.borrow();
                command = command.pty(cols, rows).env("TERM", &terminal.term);
                Kind::Pty
            }
        };
        for (name, value) in &self.variables {
            command = command.env(name, value);
        }
        let mut events = command.start(dial(sandbox).await?, sandbox.caller()).await?;
        let pid = loop {
            match events.next().await?.and_then(|event| event.event) {
                Some(ProcessEventKind::Start(start)) => break start.pid,
                Some(_) => {}
                None => return Err(AgentError::Nonsense("the process has not started and not failed")),
            }
        };
        let input = dormouse_agent_client::stream_input(dial(sandbox).await?, sandbox.caller(), pid, kind)?;
        Ok(Process {
            pid,
            kind,
            events,
            input,
        })
    }

    async fn follow(self, sandbox: OpenSandbox, process: Process) {
        let Process {
            pid,
            kind,
            mut events,
            input,
        } = process;
        let terminal = self.terminal.is_some();
        let ended = sandbox.route.ended.clone();
        let size = self.terminal.map(|terminal| terminal.size);
        let side = async {
            tokio::join!(
                feed(&sandbox, pid, kind, input, self.inbox),
                resize(&sandbox, pid, size),
                signal(&sandbox, pid, self.signals),
            );
            std::future::pending().await
        };
        let followed = tokio::select! {
            biased;
            () = self.closed.cancelled() => Followed::Disconnected,
            followed = copy(&mut events, &self.outbox) => followed,
            () = ended.cancelled() => return say(&self.outbox, terminal, &farewell(&sandbox)).await,
            never = side => never,
        };
        match followed {
            Followed::Exit(end) => match signals::of_status(&end.status) {
                Some(signal) => self.outbox.exit_signal(signal).await,
                None => self.outbox.exit(end.exit_code.cast_unsigned()).await,
            },
            // As a terminal's programs are told that it was hung up.
            Followed::Disconnected => kill(&sandbox, pid, &Sig::HUP).await,
            Followed::Failed(error) => {
                let told = tokio::time::timeout(NEWS, ended.cancelled()).await;
                let message = if told.is_ok() { farewell(&sandbox) } else { chain(&error) };
                say(&self.outbox, terminal, &message).await;
            }
        }
    }
}

/// A process in the sandbox.
struct Process {
    pid: u32,
    kind: Kind,
    events: EventStream,
    input: Input,
}

async fn dial(sandbox: &OpenSandbox) -> Result<dormouse_engine::Connection, AgentError> {
    let failed = |error| AgentError::Connect(std::io::Error::other(error));
    sandbox.dial_agent().await.map_err(failed)
}

/// Output to the client, until the process ends.
async fn copy(events: &mut EventStream, outbox: &Outbox) -> Followed {
    loop {
        let event = match events.next().await {
            Ok(Some(event)) => event.event,
            Ok(None) => return Followed::Failed(AgentError::Nonsense("the process's end was not reported")),
            Err(error) => return Followed::Failed(error),
        };
        let sent = match event {
            Some(ProcessEventKind::Data(data)) => match data.output {
                Some(Output::Stdout(bytes) | Output::Pty(bytes)) => outbox.send(bytes_of(bytes)).await,
                Some(Output::Stderr(bytes)) => outbox.send_error(bytes_of(bytes)).await,
                None => Ok(()),
            },
            Some(ProcessEventKind::End(end)) => return Followed::Exit(*end),
            _ => Ok(()),
        };
        if sent.is_err() {
            return Followed::Disconnected;
        }
    }
}

fn bytes_of(bytes: impl Into<Bytes>) -> Bytes {
    bytes.into()
}

/// Input to the process. A client's end of input is the process's; a terminal has none (people type Ctrl-D).
async fn feed(sandbox: &OpenSandbox, pid: u32, kind: Kind, mut input: Input, mut inbox: Receiver) {
    while let Some(bytes) = inbox.next().await {
        if input.write(bytes).await.is_err() {
            // It has closed its side; dropping the inbox lets the client send into the void.
            return;
        }
    }
    if input.finish().await.is_err() || kind == Kind::Pty {
        return;
    }
    if let Ok(agent) = sandbox.dial_agent().await {
        let _ = dormouse_agent_client::close_stdin(agent, sandbox.caller(), pid).await;
    }
}

async fn resize(sandbox: &OpenSandbox, pid: u32, size: Option<watch::Receiver<(u32, u32)>>) {
    let Some(mut size) = size else { return };
    // Once at the beginning: it may have changed while the sandbox woke.
    size.mark_changed();
    while size.changed().await.is_ok() {
        let (cols, rows) = *size.borrow_and_update();
        if let Ok(agent) = sandbox.dial_agent().await {
            let _ = dormouse_agent_client::resize(agent, sandbox.caller(), pid, cols, rows).await;
        }
    }
}

async fn signal(sandbox: &OpenSandbox, pid: u32, mut signals: mpsc::Receiver<Sig>) {
    while let Some(signal) = signals.recv().await {
        kill(sandbox, pid, &signal).await;
    }
}

/// Signals the process and what is in its process group; the agent gives every process a session of its own.
async fn kill(sandbox: &OpenSandbox, pid: u32, signal: &Sig) {
    let Some(name) = signals::shell_name(signal) else { return };
    let script = format!("kill -s {name} -- -{pid}");
    let killed = async {
        let mut events = Command::new("/bin/sh", ["-c", &script])
            .start(dial(sandbox).await?, sandbox.caller())
            .await?;
        while events.next().await?.is_some() {}
        Ok::<_, AgentError>(())
    };
    tokio::select! {
        () = sandbox.route.ended.cancelled() => {}
        killed = killed => if let Err(error) = killed {
            tracing::debug!(error = &error as &dyn std::error::Error, "a signal was not delivered");
        },
    }
}

async fn say(outbox: &Outbox, terminal: bool, message: &str) {
    // A client that reads nothing is not waited for.
    let _ = tokio::time::timeout(LAST_WORDS, outbox.fail(terminal, message)).await;
    outbox.close().await;
}

/// An error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
