//! The main loop: connections of the control socket, and the machine's end.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixListener;
use std::time::Instant;

use super::protocol::{ErrorCode, Event, Greeting, Operation, Outcome, PROTOCOL, Reply, Request, Response, Status};
use super::socket::Connection;
use crate::machine::{Machine, StopReason};
use crate::memory;
use crate::snapshot::{self, Kind, Origin, PageMap, SnapshotError};
use crate::virtio::Shared;
use crate::virtio::balloon::Balloon;

/// Most connections at a time; further ones wait.
const MAX_CONNECTIONS: usize = 8;

/// A machine and what steers it.
#[derive(Debug)]
pub struct Server {
    /// The machine.
    pub machine: Machine,
    /// What it was restored from.
    pub origin: Option<Origin>,
    /// The kernel's map of this process's pages.
    pub page_map: PageMap,
    /// The machine's balloon.
    pub balloon: Option<Shared<Balloon>>,
}

/// Why the loop ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// A client wanted it.
    Quit,
    /// The machine stopped by itself.
    Stopped(StopReason),
}

type Answer = Result<Reply, (ErrorCode, String)>;

impl Server {
    /// Serves `listener` until a client wants the process to end or the machine stops.
    ///
    /// # Errors
    /// When the listener fails. Errors of a connection end that connection.
    pub fn run(&mut self, listener: &UnixListener) -> io::Result<End> {
        listener.set_nonblocking(true)?;
        let mut connections: Vec<Connection> = Vec::new();
        loop {
            let mut polls = vec![poll(self.machine.stopped().as_raw_fd())];
            if connections.len() < MAX_CONNECTIONS {
                polls.push(poll(listener.as_raw_fd()));
            } else {
                polls.push(poll(-1));
            }
            polls.extend(connections.iter().map(|connection| poll(connection.as_raw_fd())));
            // SAFETY: the pointer and the number are those of the vector.
            let ready = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, -1) };
            if ready < 0 {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            }
            let mut index = 2;
            let mut quit = false;
            connections.retain_mut(|connection| {
                let is_ready = polls[index].revents != 0;
                index += 1;
                !is_ready || self.serve(connection, &mut quit).is_ok_and(|open| open)
            });
            if quit {
                return Ok(End::Quit);
            }
            if polls[0].revents != 0
                && let Some(reason) = self.machine.stop_reason()
            {
                for connection in &mut connections {
                    // Whoever has gone need not hear it.
                    let _ = connection.send(&Event::Stopped(reason.clone()));
                }
                return Ok(End::Stopped(reason));
            }
            if polls[1].revents != 0 {
                connections.extend(accept(listener)?);
            }
        }
    }

    /// Serves what is there. False at the end of the connection.
    fn serve(&mut self, connection: &mut Connection, quit: &mut bool) -> io::Result<bool> {
        let lines = match connection.receive() {
            Ok(Some(lines)) => lines,
            Ok(None) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        };
        for line in lines {
            let (id, answer) = match serde_json::from_str::<Request>(&line) {
                Ok(request) => {
                    *quit |= request.operation == Operation::Quit;
                    (request.id, self.act(&request.operation, connection))
                }
                Err(error) => (
                    0,
                    Err((ErrorCode::BadRequest, format!("the request cannot be read: {error}"))),
                ),
            };
            let outcome = match answer {
                Ok(reply) => Outcome::Ok(reply),
                Err((code, message)) => Outcome::Error { code, message },
            };
            connection.send(&Response { id, outcome })?;
        }
        Ok(true)
    }

    fn act(&mut self, operation: &Operation, connection: &mut Connection) -> Answer {
        match *operation {
            Operation::Status => return Ok(Reply::Status(self.status())),
            Operation::Pause => self.machine.pause().map_err(failed)?,
            Operation::Resume => self.machine.resume(),
            Operation::Snapshot { kind } => return self.snapshot(kind, connection),
            Operation::Balloon { target } => self.set_balloon(target)?,
            Operation::Metrics => {
                return Ok(Reply::Metrics {
                    devices: self.machine.metrics(),
                });
            }
            Operation::Quit => {}
        }
        Ok(Reply::Done {})
    }

    fn status(&self) -> Status {
        Status {
            paused: self.machine.is_paused(),
            vcpus: self.machine.vcpus(),
            memory: memory::size(self.machine.memory()),
            origin: self.origin.as_ref().map(|origin| origin.layer.to_string()),
        }
    }

    fn snapshot(&mut self, kind: Kind, connection: &mut Connection) -> Answer {
        let Some([mut state, memory]) = connection.take_files() else {
            return Err((
                ErrorCode::BadRequest,
                "a snapshot comes with two files, for the state and for memory".to_owned(),
            ));
        };
        let was_paused = self.machine.is_paused();
        let started = Instant::now();
        self.machine.pause().map_err(failed)?;
        let saved = snapshot::save(&self.machine, kind, self.origin.as_ref(), &self.page_map, &mut state, &memory);
        if !was_paused {
            self.machine.resume();
        }
        let paused_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        match saved {
            Ok(saved) => Ok(Reply::Snapshot { saved, paused_us }),
            Err(error @ (SnapshotError::NoParent | SnapshotError::NotEmpty(_))) => Err((ErrorCode::Conflict, error.to_string())),
            Err(error) => Err(failed(error)),
        }
    }

    fn set_balloon(&self, target: u64) -> Result<(), (ErrorCode, String)> {
        let Some(balloon) = &self.balloon else {
            return Err((ErrorCode::Conflict, "the machine has no balloon".to_owned()));
        };
        let mut balloon = balloon.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        balloon
            .control(|balloon, context| {
                balloon.set_target(target, context);
                Ok(())
            })
            .map_err(failed)
    }
}

fn poll(fd: i32) -> libc::pollfd {
    libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    }
}

/// A new connection, greeted; none if it has gone again.
fn accept(listener: &UnixListener) -> io::Result<Option<Connection>> {
    match listener.accept() {
        Ok((stream, _)) => {
            let mut connection = Connection::new(stream);
            let greeting = Greeting {
                protocol: PROTOCOL,
                version: env!("CARGO_PKG_VERSION").to_owned(),
            };
            Ok(connection.send(&greeting).is_ok().then_some(connection))
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) => Ok(None),
        Err(error) => Err(error),
    }
}

/// An error with its causes, in one line.
fn failed(error: impl std::error::Error) -> (ErrorCode, String) {
    (ErrorCode::Failed, crate::chain(&error))
}
