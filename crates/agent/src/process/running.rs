//! One process from its start to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dormouse_agent_proto::rpc::process::{ProcessConfig, ProcessInfo};
use rustix::process::{Pid, Signal};
use tokio::sync::{Mutex, oneshot, watch};

use super::exit::Ending;
use super::input::{Input, InputError};
use super::launch::Ends;
use super::output::{Followers, Source, pump};
use super::reaper::Exit;
use super::window;
use crate::readiness::{Watched, watched};

/// A process that was started through the agent.
#[derive(Debug)]
pub(crate) struct Running {
    pid: Pid,
    config: ProcessConfig,
    tag: Option<String>,
    pub(crate) input: Input,
    pub(crate) followers: Followers,
    exited: AtomicBool,
}

/// The agent's ends of a process's output.
#[derive(Debug)]
pub(crate) struct Outputs {
    streams: Vec<(Source, Arc<Watched>)>,
}

impl Running {
    /// Takes charge of a new process.
    pub(crate) fn new(pid: Pid, config: ProcessConfig, tag: Option<String>, ends: Ends) -> std::io::Result<(Self, Outputs)> {
        let asynchronous = |fd| Ok::<_, std::io::Error>(Arc::new(watched(fd)?));
        let (input, streams) = match ends {
            Ends::Pipes { stdin, stdout, stderr } => (
                Input::Pipe(Mutex::new(stdin.map(watched).transpose()?)),
                vec![
                    (Source::Stdout, asynchronous(stdout)?),
                    (Source::Stderr, asynchronous(stderr)?),
                ],
            ),
            Ends::Terminal { master } => {
                let master = asynchronous(master)?;
                let streams = vec![(Source::Terminal, Arc::clone(&master))];
                (
                    Input::Terminal {
                        master,
                        turn: Mutex::new(()),
                    },
                    streams,
                )
            }
        };
        let followers = Followers::default();
        let process = Self {
            pid,
            config,
            tag,
            input,
            followers,
            exited: AtomicBool::new(false),
        };
        Ok((process, Outputs { streams }))
    }

    /// Its process id, as clients write it.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// The name that its starter gave it.
    pub(crate) fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Whether it has ended. Output of its descendants may still come.
    pub(crate) fn has_exited(&self) -> bool {
        self.exited.load(Ordering::Acquire)
    }

    /// How `List` shows it.
    pub(crate) fn info(&self) -> ProcessInfo {
        ProcessInfo {
            config: self.config.clone().into(),
            pid: self.pid(),
            tag: self.tag.clone(),
            ..ProcessInfo::default()
        }
    }

    /// Signals the process alone, not its children. False when it has ended.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        !self.has_exited() && rustix::process::kill_process(self.pid, signal).is_ok()
    }

    /// Changes the size of its terminal.
    pub(crate) fn resize(&self, cols: u16, rows: u16) -> Result<(), InputError> {
        if !self.input.resize(cols, rows)? {
            let leader = self.pid;
            // Looks at every process there is, which is not for the thread that serves. Nobody waits for it.
            drop(tokio::task::spawn_blocking(move || window::tell_session(leader)));
        }
        Ok(())
    }

    /// Carries output to followers until there is no more, and returns how the process ended.
    ///
    /// After a normal end it waits for all who hold the pipes, because `command &` goes on writing to them. A process
    /// that was killed, or that sat at a terminal, is done once its output is quiet.
    pub(crate) async fn run(&self, outputs: Outputs, exit: oneshot::Receiver<Exit>) -> Ending {
        let (close, closing) = watch::channel(false);
        let pumps = outputs
            .streams
            .iter()
            .map(|(source, fd)| pump(fd, *source, &self.followers, closing.clone()));
        let exit = async {
            let exit = exit.await.unwrap_or(Exit::Code(-1));
            self.exited.store(true, Ordering::Release);
            let lingering = matches!((exit, &self.input), (Exit::Code(_), Input::Pipe(_)));
            if !lingering {
                close.send_replace(true);
            }
            exit
        };
        let (exit, _) = tokio::join!(exit, futures::future::join_all(pumps));
        exit.into()
    }
}
