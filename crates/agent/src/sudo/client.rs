//! The program `sudo`.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use super::args::{self, Action, Arguments};
use super::command::{self, Caller};
use super::protocol::{Control, Event, Raw, Request, Start, to_line};
use super::relay::{self, Relay};
use super::{signals, socket_path};
use crate::config::Config;
use crate::users::{Accounts, UserDatabase};

/// Makes the program die of a signal. Only after an exec are all signals deadly again.
const DIE_OF: &str = "--die-of-signal";

const USAGE: &str = "usage: sudo [-EHinsbSv] [-u user] [-g group] [-D directory] [VAR=value] [--] command [arguments]\n";

/// How a session ended.
enum End {
    Code(u8),
    Signal(i32),
}

/// Runs sudo with the arguments after its name.
pub(crate) fn run(arguments: Vec<OsString>) -> ExitCode {
    if let [first, signal] = arguments.as_slice()
        && first == DIE_OF
    {
        return die_of(signal);
    }
    match session(arguments) {
        Ok(End::Code(code)) => ExitCode::from(code),
        Ok(End::Signal(signal)) => {
            // Returns only when it fails.
            let _ = Command::new("/proc/self/exe")
                .arg0(super::NAME)
                .args([DIE_OF, &signal.to_string()])
                .exec();
            ExitCode::from(u8::try_from(128 + signal).unwrap_or(1))
        }
        Err(message) => {
            let _ = writeln!(io::stderr(), "sudo: {message}");
            ExitCode::FAILURE
        }
    }
}

fn die_of(signal: &OsStr) -> ExitCode {
    let number: i32 = signal.to_str().and_then(|text| text.parse().ok()).unwrap_or(0);
    if let Some(signal) = Signal::from_named_raw(number) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
    }
    ExitCode::from(u8::try_from(128 + number).unwrap_or(1))
}

fn session(arguments: Vec<OsString>) -> Result<End, String> {
    let arguments = match args::parse(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = io::stderr().write_all(format!("sudo: {error}\n{USAGE}").as_bytes());
            return Ok(End::Code(1));
        }
    };
    let config = Config::read(std::iter::empty(), |name| std::env::var(name).ok()).map_err(|error| error.to_string())?;
    let accounts = UserDatabase::new(&config.etc).accounts();
    let root = rustix::process::geteuid().is_root();
    match arguments.action {
        Action::Version => say("Sudo of the sandbox's agent, version 1.9 compatible\n"),
        Action::Help => say(USAGE),
        Action::Forget => Ok(End::Code(0)),
        Action::Validate | Action::List if root => say(&listing(&arguments, &accounts)),
        Action::Validate | Action::List => in_runtime(check(&config, &arguments, &accounts)),
        Action::Run => {
            let start = command::resolve(&arguments, &caller()?, &accounts).map_err(|error| error.to_string())?;
            if root && !arguments.background {
                Err(become_command(&start))
            } else {
                in_runtime(run_by_agent(&config, start))
            }
        }
    }
}

fn say(text: &str) -> Result<End, String> {
    io::stdout().write_all(text.as_bytes()).map_err(|error| error.to_string())?;
    Ok(End::Code(0))
}

fn caller() -> Result<Caller, String> {
    Ok(Caller {
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        environment: std::env::vars_os().collect(),
        cwd: std::env::current_dir().map_err(|error| format!("cannot tell the current directory: {error}"))?,
    })
}

fn listing(arguments: &Arguments, accounts: &Accounts) -> String {
    if arguments.action == Action::Validate {
        return String::new();
    }
    let user = accounts.user_name(rustix::process::getuid().as_raw());
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("User {user} may run the following commands on {host}:\n    (ALL : ALL) NOPASSWD: ALL\n")
}

/// For root there is nobody to ask: the command takes the place of this process.
fn become_command(start: &Start) -> String {
    use rustix::process::{Gid, Uid};
    let string = |raw: &Raw| OsString::from_vec(raw.0.clone());
    let groups: Vec<Gid> = start.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    let (uid, gid) = (Uid::from_raw(start.uid), Gid::from_raw(start.gid));
    let changed = rustix::thread::set_thread_groups(&groups)
        .and_then(|()| rustix::thread::set_thread_res_gid(gid, gid, gid))
        .and_then(|()| rustix::thread::set_thread_res_uid(uid, uid, uid));
    if let Err(error) = changed {
        return format!("unable to change identity: {error}");
    }
    let program = string(&start.program);
    let environment = start.envs.iter().filter_map(|raw| {
        let equals = raw.0.iter().position(|byte| *byte == b'=')?;
        let (name, value) = raw.0.split_at(equals);
        Some((
            OsStr::from_bytes(name).to_owned(),
            OsStr::from_bytes(value.get(1..)?).to_owned(),
        ))
    });
    let mut command = Command::new(&program);
    command.env_clear().envs(environment).current_dir(string(&start.cwd));
    if let Some((zeroth, rest)) = start.args.split_first() {
        command.arg0(string(zeroth)).args(rest.iter().map(string));
    }
    let error = command.exec();
    format!("unable to execute {}: {error}", program.display())
}

fn in_runtime(work: impl Future<Output = Result<End, String>>) -> Result<End, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(work)
}

async fn check(config: &Config, arguments: &Arguments, accounts: &Accounts) -> Result<End, String> {
    let mut agent = Connection::open(config, &Request::Check, &[])?;
    match agent.event().await? {
        Event::Allowed => say(&listing(arguments, accounts)),
        other => Err(refusal(other)),
    }
}

async fn run_by_agent(config: &Config, mut start: Start) -> Result<End, String> {
    let (relay, descriptors, terminal) = relay::connect().map_err(|error| format!("cannot use the terminal: {error}"))?;
    start.terminal = terminal;
    let detached = start.detached;
    let signals = signals::listen().map_err(|error| format!("cannot handle signals: {error}"))?;
    let mut agent = Connection::open(config, &Request::Start(start), &descriptors)?;
    // The command's terminal must have no other holder than the command, or its end would go unnoticed.
    drop(descriptors);
    match agent.event().await? {
        Event::Started if detached => Ok(End::Code(0)),
        Event::Started => see_through(agent, relay, signals).await,
        other => Err(refusal(other)),
    }
}

fn refusal(event: Event) -> String {
    match event {
        Event::Refused { name } => format!("{name} is not in the sudoers file."),
        Event::Failed { message } => message,
        other => format!("the agent answers {other:?}"),
    }
}

/// Passes signals and terminal bytes until the command ends.
async fn see_through(
    mut agent: Connection,
    relay: Option<Relay>,
    mut signals: mpsc::UnboundedReceiver<i32>,
) -> Result<End, String> {
    let relay = relay.as_ref();
    let mut carrying = std::pin::pin!(async {
        if let Some(relay) = relay {
            relay.run().await;
        }
    });
    let mut carried = false;
    let end = loop {
        let event = tokio::select! {
            event = agent.event() => event?,
            Some(signal) = signals.recv() => {
                pass_on(signal, &mut agent, relay).await?;
                continue;
            }
            () = &mut carrying, if !carried => {
                carried = true;
                continue;
            }
        };
        match event {
            Event::Exited(code) => break End::Code(u8::try_from(code & 0xff).unwrap_or(1)),
            Event::Killed(signal) => break End::Signal(signal),
            other => return Err(refusal(other)),
        }
    };
    relay.iter().for_each(|relay| relay.end());
    if !carried {
        carrying.await;
    }
    Ok(end)
}

async fn pass_on(signal: i32, agent: &mut Connection, relay: Option<&Relay>) -> Result<(), String> {
    match (signal, relay) {
        (libc::SIGWINCH | libc::SIGCONT, Some(relay)) => {
            relay.enter();
            if !relay.follow_size() {
                agent.send(Control::Resized).await?;
            }
            if signal == libc::SIGCONT {
                agent.send(Control::Continue).await?;
            }
        }
        (libc::SIGWINCH, None) => {}
        (libc::SIGCONT, None) => agent.send(Control::Continue).await?,
        // In raw mode the key has gone to the command's terminal, which makes the signal. That the caller's makes one
        // as well is an error of gVisor's.
        (libc::SIGINT | libc::SIGQUIT | libc::SIGTSTP, Some(relay)) if relay.is_raw() => {}
        (libc::SIGTSTP, _) => {
            // What would happen if it were not handled.
            let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::STOP);
        }
        (signal, _) => agent.send(Control::Signal(signal)).await?,
    }
    Ok(())
}

/// The way to the agent.
struct Connection {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Connection {
    /// Connects and sends the first message with its descriptors. Blocks, briefly: there is nothing else to do yet.
    fn open(config: &Config, request: &Request, descriptors: &[OwnedFd]) -> Result<Self, String> {
        let unreachable = |error: io::Error| format!("the sandbox's agent does not answer: {error}");
        let stream = StdUnixStream::connect(socket_path(&config.run)).map_err(unreachable)?;
        send_first(&stream, &to_line(request), descriptors).map_err(unreachable)?;
        stream.set_nonblocking(true).map_err(unreachable)?;
        let (reader, writer) = UnixStream::from_std(stream).map_err(unreachable)?.into_split();
        Ok(Self {
            lines: BufReader::new(reader).lines(),
            writer,
        })
    }

    async fn event(&mut self) -> Result<Event, String> {
        match self.lines.next_line().await {
            Ok(Some(line)) => serde_json::from_str(&line).map_err(|_| "the agent speaks another version".to_owned()),
            Ok(None) => Err("the sandbox's agent has hung up".to_owned()),
            Err(error) => Err(format!("the sandbox's agent does not answer: {error}")),
        }
    }

    async fn send(&mut self, control: Control) -> Result<(), String> {
        let sent = self.writer.write_all(&to_line(&control)).await;
        sent.map_err(|error| format!("the sandbox's agent does not answer: {error}"))
    }
}

fn send_first(stream: &StdUnixStream, line: &[u8], descriptors: &[OwnedFd]) -> io::Result<()> {
    let borrowed: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&borrowed));
    }
    let sent = sendmsg(stream, &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL)?;
    let mut stream = stream;
    stream.write_all(line.get(sent..).unwrap_or_default())
}
