//! The agent's side of sudo: starts commands for those who may ask.

use std::fs;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;

use super::protocol::{Control, Event, LONGEST_LINE, Raw, Request, Start, to_line};
use super::socket_path;
use crate::agent::Agent;
use crate::process::launch::{above_stdio, c_string};
use crate::process::window;
use crate::process::{Exit, Plan, spawn};

/// The first user of an image, whom E2B promises a sudo without password.
const FIRST_USER: u32 = 1000;
/// Groups whose members are administrators, on the distributions that there are.
const ADMINISTRATORS: [&str; 3] = ["sudo", "wheel", "admin"];
/// What a command gets to end by itself when its client is gone.
const GRACE: Duration = Duration::from_secs(2);

/// Serves clients until the listener fails.
pub(crate) async fn serve(agent: Arc<Agent>) -> io::Result<()> {
    let path = socket_path(&agent.config.run);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    // Left by an agent before us; there is only one at a time.
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    loop {
        let (stream, _) = listener.accept().await?;
        let agent = Arc::clone(&agent);
        tokio::spawn(async move {
            // A client that breaks off has nobody to be told.
            let _ = attend(&agent, stream).await;
        });
    }
}

async fn attend(agent: &Agent, mut stream: UnixStream) -> io::Result<()> {
    let caller = rustix::net::sockopt::socket_peercred(&stream)?.uid.as_raw();
    let (request, descriptors) = receive(&stream).await?;
    if let Err(name) = may_use(agent, caller) {
        return stream.write_all(&to_line(&Event::Refused { name })).await;
    }
    let start = match request {
        Request::Check => return stream.write_all(&to_line(&Event::Allowed)).await,
        Request::Start(start) => start,
    };
    let detached = start.detached;
    match launch(agent, start, descriptors).await {
        Ok(command) => {
            stream.write_all(&to_line(&Event::Started)).await?;
            if detached { Ok(()) } else { command.follow(stream).await }
        }
        Err(message) => stream.write_all(&to_line(&Event::Failed { message })).await,
    }
}

/// The error is the name of who may not.
fn may_use(agent: &Agent, uid: u32) -> Result<(), String> {
    let accounts = agent.users.accounts();
    let administrators: Vec<u32> = ADMINISTRATORS.iter().filter_map(|name| accounts.group_id(name)).collect();
    let groups = accounts
        .user_by_id(uid)
        .map(|user| accounts.groups_of(user))
        .unwrap_or_default();
    let member = groups.iter().any(|group| administrators.contains(group));
    if uid == 0 || uid == FIRST_USER || member {
        Ok(())
    } else {
        Err(accounts.user_name(uid))
    }
}

/// Reads the client's first message, and the descriptors that come with it.
async fn receive(stream: &UnixStream) -> io::Result<(Request, Vec<OwnedFd>)> {
    let mut line = Vec::new();
    let mut descriptors = Vec::new();
    while line.last() != Some(&b'\n') {
        let received = stream.async_io(Interest::READABLE, || receive_some(stream, &mut line, &mut descriptors));
        if received.await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.len() > LONGEST_LINE {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok((serde_json::from_slice(&line)?, descriptors))
}

fn receive_some(stream: &UnixStream, line: &mut Vec<u8>, descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut bytes = [0; 16 << 10];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg(stream, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    line.extend_from_slice(bytes.get(..message.bytes).unwrap_or_default());
    Ok(message.bytes)
}

/// A command that runs.
struct Command {
    pid: Pid,
    exit: oneshot::Receiver<Exit>,
}

async fn launch(agent: &Agent, start: Start, descriptors: Vec<OwnedFd>) -> Result<Command, String> {
    let plan = plan(start, descriptors)?;
    let reaper = agent.reaper.clone();
    let started = tokio::task::spawn_blocking(move || reaper.adopt(|| spawn(&plan)));
    match started.await {
        Ok(Ok((pid, exit))) => Ok(Command { pid, exit }),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the agent is going down".to_owned()),
    }
}

fn plan(start: Start, descriptors: Vec<OwnedFd>) -> Result<Plan, String> {
    let string = |raw: &Raw| c_string(&raw.0).map_err(|error| error.to_string());
    let stdio: Vec<OwnedFd> = descriptors
        .into_iter()
        .map(above_stdio)
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    Ok(Plan {
        program: string(&start.program)?,
        args: start.args.iter().map(string).collect::<Result<_, _>>()?,
        envs: start.envs.iter().map(string).collect::<Result<_, _>>()?,
        cwd: string(&start.cwd)?,
        uid: start.uid,
        gid: start.gid,
        groups: start.groups,
        stdio: stdio.try_into().map_err(|_| "standard descriptors are missing".to_owned())?,
        controlling_terminal: start.terminal,
    })
}

impl Command {
    /// Tells the client what happens to the command, and does what the client says, until one of them is gone.
    async fn follow(mut self, stream: UnixStream) -> io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut lines = BufReader::new(reader).lines();
        loop {
            let event = tokio::select! {
                exit = &mut self.exit => match exit {
                    Ok(Exit::Signal(signal)) => Event::Killed(signal),
                    Ok(Exit::Code(code)) => Event::Exited(code),
                    Err(_) => Event::Exited(-1),
                },
                line = lines.next_line() => match line {
                    Ok(Some(line)) => {
                        if let Ok(control) = serde_json::from_str(&line) {
                            self.control(control);
                        }
                        continue;
                    }
                    Ok(None) | Err(_) => {
                        self.end().await;
                        return Ok(());
                    }
                },
            };
            return writer.write_all(&to_line(&event)).await;
        }
    }

    fn control(&self, control: Control) {
        // The command may have ended meanwhile; then there is nothing to signal.
        let _ = match control {
            Control::Signal(number) => match Signal::from_named_raw(number) {
                Some(signal) => rustix::process::kill_process(self.pid, signal),
                None => Ok(()),
            },
            Control::Resized => {
                window::tell_session(self.pid);
                Ok(())
            }
            Control::Continue => rustix::process::kill_process_group(self.pid, Signal::CONT),
        };
    }

    /// Ends a command whose client was killed, as sudo's own monitor does.
    async fn end(self) {
        for signal in [Signal::HUP, Signal::CONT, Signal::TERM] {
            let _ = rustix::process::kill_process_group(self.pid, signal);
        }
        if tokio::time::timeout(GRACE, self.exit).await.is_err() {
            let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        }
    }
}
