//! The host's side of the socket device: Unix sockets.
//!
//! A program on the host connects to the device's socket, writes `CONNECT <port>\n`, and reads `OK <port>\n` when the
//! guest has accepted; from then on it talks to the guest's program. A connection that the guest makes to port N goes to
//! the socket whose path is the device's with `_N` after it.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, socket_with};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// `CONNECT`, a space, ten digits and a newline are 19 bytes.
const MAX_GREETING: usize = 32;

/// Programs that have connected but not said what they want.
const MAX_GREETERS: usize = 64;

/// Epoll data of the listener. Streams have their token.
const LISTENER: u64 = 0;

/// What an open stream is known by.
pub type Token = u64;

/// Something that happened on the host.
#[derive(Debug)]
pub enum Event {
    /// A program wants to connect to a port of the guest.
    Connect(Token, UnixStream, u32),
    /// A connected stream is ready.
    Ready(Token, EventSet),
}

/// The Unix sockets.
#[derive(Debug)]
pub struct Host {
    listener: UnixListener,
    path: PathBuf,
    epoll: Epoll,
    /// Programs that have not said yet what they want.
    greeters: BTreeMap<Token, UnixStream>,
    next_token: Token,
}

impl Host {
    /// Listens at `path`, where nothing may be yet.
    pub fn bind(path: PathBuf) -> io::Result<Self> {
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        let host = Self {
            epoll: Epoll::new()?,
            listener,
            path,
            greeters: BTreeMap::new(),
            next_token: LISTENER + 1,
        };
        let event = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, LISTENER);
        host.epoll.ctl(ControlOperation::Add, host.listener.as_raw_fd(), event)?;
        Ok(host)
    }

    /// The file that becomes ready when [`events`](Self::events) has something.
    pub fn fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Connects to where the guest's `port` leads.
    pub fn connect(&mut self, port: u32) -> io::Result<(Token, UnixStream)> {
        let mut path = self.path.clone().into_os_string();
        path.push(format!("_{port}"));
        let address = SocketAddrUnix::new(path)?;
        // Not blocking: a program that does not accept would hold up all devices.
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &address)?;
        let stream = UnixStream::from(socket);
        let token = self.watch(&stream)?;
        Ok((token, stream))
    }

    /// What happened since the last time. Call it until it returns `None`.
    pub fn events(&mut self) -> Option<Vec<Event>> {
        let mut ready = [EpollEvent::default(); 64];
        let count = self.epoll.wait(0, &mut ready).ok().filter(|count| *count > 0)?;
        let mut events = Vec::with_capacity(count);
        for event in &ready[..count] {
            match event.data() {
                LISTENER => self.accept(&mut events),
                token if self.greeters.contains_key(&token) => self.greet(token, &mut events),
                token => events.push(Event::Ready(token, event.event_set())),
            }
        }
        Some(events)
    }

    fn accept(&mut self, events: &mut Vec<Event>) {
        // Ends with `WouldBlock`. When there are no more files, programs wait for the next one that comes.
        while let Ok((stream, _)) = self.listener.accept() {
            let watched = stream.set_nonblocking(true).and_then(|()| self.watch(&stream));
            let Ok(token) = watched else { continue };
            if self.greeters.len() >= MAX_GREETERS {
                self.greeters.pop_first();
            }
            self.greeters.insert(token, stream);
            // It may have written before it was watched.
            self.greet(token, events);
        }
    }

    fn greet(&mut self, token: Token, events: &mut Vec<Event>) {
        let Some(stream) = self.greeters.get_mut(&token) else { return };
        let port = match read_greeting(stream) {
            Ok(None) => return,
            Ok(port) => port,
            Err(_) => None,
        };
        let stream = self.greeters.remove(&token);
        if let (Some(stream), Some(port)) = (stream, port) {
            events.push(Event::Connect(token, stream, port));
        }
    }

    fn watch(&mut self, stream: &UnixStream) -> io::Result<Token> {
        let token = self.next_token;
        self.next_token += 1;
        let events = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        self.epoll
            .ctl(ControlOperation::Add, stream.as_raw_fd(), EpollEvent::new(events, token))?;
        Ok(token)
    }
}

/// Reads the line that a connection begins with, and not a byte of what comes after it. `None` when it is not complete.
fn read_greeting(stream: &mut UnixStream) -> io::Result<Option<u32>> {
    let mut bytes = [0; MAX_GREETING];
    let seen = match recv(stream.as_fd(), &mut bytes[..], RecvFlags::PEEK) {
        Ok((_, 0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Ok((_, seen)) => seen.min(MAX_GREETING),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let Some(end) = bytes[..seen].iter().position(|byte| *byte == b'\n') else {
        return if seen < MAX_GREETING {
            Ok(None)
        } else {
            Err(io::ErrorKind::InvalidData.into())
        };
    };
    let port = parse_greeting(&bytes[..end]).ok_or(io::ErrorKind::InvalidData)?;
    stream.read_exact(&mut bytes[..=end])?;
    Ok(Some(port))
}

fn parse_greeting(line: &[u8]) -> Option<u32> {
    let line = std::str::from_utf8(line).ok()?;
    let (word, port) = line.trim_end_matches('\r').split_once(' ')?;
    // A sign would be accepted by `parse`.
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    if word.eq_ignore_ascii_case("connect") && digits {
        port.parse().ok()
    } else {
        None
    }
}
