//! One connection between a port of the guest and a Unix socket of the host.
//!
//! ```text
//!   host connects:    Requesting ── RESPONSE ──► Open
//!   guest connects:   Accepted ── RESPONSE sent ──► Open
//!   Open ── both directions are shut down, by either side ──► gone, with a RST
//! ```
//!
//! Data to the guest is read from the Unix socket right into the guest's buffer, as much as the guest has announced room
//! for. Data to the host is written right from guest memory; what the socket does not take at once is kept, and the guest
//! is told of the room that is left.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::num::Wrapping;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

use super::packet::{Header, Operation, Ports, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use crate::memory::GuestMemory;
use crate::virtio::buffer::Buffer;

/// Bytes from the guest that are kept for a host that does not read.
pub const BUFFER_SIZE: u32 = 128 * 1024;

/// The guest is told of new room when it believes that there is less than this.
const LOW_CREDIT: u32 = BUFFER_SIZE / 2;

/// The most data in one packet to the guest. Linux takes no more.
const MAX_DATA: usize = 64 * 1024;

const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The host has connected; the guest is asked, or about to be.
    Requesting { asked: bool },
    /// The guest has connected and is to be told so.
    Accepted,
    /// Data may flow.
    Open,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Keep,
    /// It is over, and the guest knows.
    Forget,
    /// It is over, and the guest is to be told with a RST.
    Reset,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    /// The two ports.
    pub ports: Ports,
    /// Whether it waits for its turn to send to the guest.
    pub queued: bool,
    stream: UnixStream,
    state: State,
    /// The socket may have something to read.
    readable: bool,
    /// The host's end is closed, both ways.
    hung_up: bool,
    /// What the host will not do any more, and what the guest has been told of that.
    host_shutdown: u32,
    told_shutdown: u32,
    /// What the guest will not do any more.
    guest_shutdown: u32,
    /// Whether the socket was told that the guest sends no more. Telling it again would wake whoever waits for it: us.
    write_ended: bool,
    /// Bytes of the guest that the socket did not take yet. The first `own` of them are not the guest's.
    backlog: VecDeque<u8>,
    own: usize,
    /// Room of the guest: all of it, and the bytes sent and passed on so far.
    guest_buffer: u32,
    guest_forwarded: Wrapping<u32>,
    sent: Wrapping<u32>,
    credit_asked: bool,
    /// Our room: the bytes received and passed on so far, and what the guest was told of the latter.
    received: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    told_forwarded: Wrapping<u32>,
    credit_due: bool,
}

impl Connection {
    /// A connection that the host makes to `ports.guest`.
    pub fn requested(ports: Ports, stream: UnixStream) -> Self {
        Self::new(ports, stream, State::Requesting { asked: false })
    }

    /// A connection that the guest made with the packet `request`, on a socket that is connected already.
    pub fn accepted(request: &Header, stream: UnixStream) -> Self {
        let mut connection = Self::new(request.ports(), stream, State::Accepted);
        connection.note_credit(request);
        connection
    }

    fn new(ports: Ports, stream: UnixStream, state: State) -> Self {
        Self {
            ports,
            queued: false,
            stream,
            state,
            readable: true,
            hung_up: false,
            host_shutdown: 0,
            told_shutdown: 0,
            guest_shutdown: 0,
            write_ended: false,
            backlog: VecDeque::new(),
            own: 0,
            guest_buffer: 0,
            guest_forwarded: Wrapping(0),
            sent: Wrapping(0),
            credit_asked: false,
            received: Wrapping(0),
            forwarded: Wrapping(0),
            told_forwarded: Wrapping(0),
            credit_due: false,
        }
    }

    /// The socket.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Whether it only waits for the slower side to notice its end.
    pub fn is_closing(&self) -> bool {
        self.told_shutdown == SHUTDOWN_BOTH || self.guest_shutdown == SHUTDOWN_BOTH
    }

    /// Whether there is something to tell the guest, as far as is known without trying.
    pub fn wants_to_send(&self) -> bool {
        match self.state {
            State::Requesting { asked } => !asked,
            State::Accepted => true,
            State::Open => {
                self.credit_due
                    || self.told_shutdown != self.host_shutdown
                    || (self.may_read() && (self.credit() > 0 || !self.credit_asked))
            }
        }
    }

    /// The socket has something to read, or its other end was closed.
    pub fn host_readable(&mut self, hung_up: bool) {
        self.readable = true;
        if hung_up {
            self.hung_up = true;
            if self.host_shutdown != 0 {
                self.host_shutdown = SHUTDOWN_BOTH;
            }
        }
    }

    /// The socket takes data again.
    pub fn host_writable(&mut self) -> Verdict {
        let mut written = 0;
        while !self.backlog.is_empty() {
            let (front, _) = self.backlog.as_slices();
            match self.stream.write(front) {
                Ok(count) => {
                    self.backlog.drain(..count);
                    written += count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Verdict::Reset,
            }
        }
        let own = written.min(self.own);
        self.own -= own;
        self.pass_on(written - own);
        self.finish()
    }

    /// The guest sent a packet.
    pub fn receive(&mut self, memory: &GuestMemory, header: &Header, data: &Buffer) -> Verdict {
        self.note_credit(header);
        match (header.operation, self.state) {
            (Some(Operation::Response), State::Requesting { asked: true }) => {
                self.state = State::Open;
                let greeting = format!("OK {}\n", self.ports.host);
                self.own = greeting.len();
                self.backlog.extend(greeting.as_bytes());
                self.host_writable()
            }
            (Some(Operation::Reset), _) => Verdict::Forget,
            (Some(Operation::Shutdown), State::Open | State::Accepted) => {
                self.guest_shutdown |= header.flags & SHUTDOWN_BOTH;
                self.finish()
            }
            (Some(Operation::Data), State::Open) => self.receive_data(memory, data),
            (Some(Operation::CreditUpdate), State::Open | State::Accepted) => Verdict::Keep,
            (Some(Operation::CreditRequest), State::Open | State::Accepted) => {
                self.credit_due = true;
                Verdict::Keep
            }
            // Nothing that a sound guest does in this state.
            _ => Verdict::Reset,
        }
    }

    /// Makes the next packet for the guest, with `room` for its data. `None` when there is nothing to send after all.
    ///
    /// # Errors
    /// The connection's end, when the socket failed.
    pub fn next_packet(&mut self, cid: u64, memory: &GuestMemory, room: &Buffer) -> Result<Option<Header>, Verdict> {
        let mut header = Header::to_guest(cid, self.ports, Operation::CreditUpdate);
        match self.state {
            State::Requesting { asked: true } => return Ok(None),
            State::Requesting { asked: false } => {
                self.state = State::Requesting { asked: true };
                header.operation = Some(Operation::Request);
            }
            State::Accepted => {
                self.state = State::Open;
                header.operation = Some(Operation::Response);
            }
            State::Open => {
                let read = self.read(memory, room)?;
                if read > 0 {
                    header.operation = Some(Operation::Data);
                    // At most MAX_DATA.
                    header.length = read as u32;
                    self.sent += header.length;
                } else if self.told_shutdown != self.host_shutdown {
                    self.told_shutdown = self.host_shutdown;
                    header.operation = Some(Operation::Shutdown);
                    header.flags = self.host_shutdown;
                } else if self.may_read() && self.credit() == 0 && !self.credit_asked {
                    self.credit_asked = true;
                    header.operation = Some(Operation::CreditRequest);
                } else if !self.credit_due {
                    return Ok(None);
                }
            }
        }
        // Every packet carries the credit.
        header.buffer_size = BUFFER_SIZE;
        header.forwarded = self.forwarded.0;
        self.told_forwarded = self.forwarded;
        self.credit_due = false;
        Ok(Some(header))
    }

    /// Reads from the host right into the guest's buffer.
    fn read(&mut self, memory: &GuestMemory, room: &Buffer) -> Result<usize, Verdict> {
        let limit = room.len().min(MAX_DATA).min(self.credit() as usize);
        if !self.may_read() || limit == 0 {
            return Ok(0);
        }
        match room.slice(0, limit).read_from(memory, self.stream.as_fd()) {
            Ok(0) => {
                self.readable = false;
                self.host_shutdown |= if self.hung_up { SHUTDOWN_BOTH } else { SHUTDOWN_SEND };
                Ok(0)
            }
            Ok(count) => Ok(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(0)
            }
            Err(_) => Err(Verdict::Reset),
        }
    }

    fn may_read(&self) -> bool {
        self.readable && self.host_shutdown & SHUTDOWN_SEND == 0 && self.guest_shutdown & SHUTDOWN_RECEIVE == 0
    }

    fn receive_data(&mut self, memory: &GuestMemory, data: &Buffer) -> Verdict {
        // A packet is shorter than 4 GiB.
        self.received += data.len() as u32;
        let broken = self.guest_shutdown & SHUTDOWN_SEND != 0 || (self.received - self.forwarded).0 > BUFFER_SIZE;
        // The sum would wrap for a packet that is larger than all the room.
        if broken || data.len() > BUFFER_SIZE as usize {
            return Verdict::Reset;
        }
        let mut written = 0;
        if self.backlog.is_empty() && !data.is_empty() {
            match data.write_to(memory, self.stream.as_fd()) {
                Ok(count) => written = count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Verdict::Reset,
            }
        }
        let rest = data.after(written);
        if !rest.is_empty() {
            let mut bytes = vec![0; rest.len()];
            if rest.read(memory, &mut bytes).is_err() {
                return Verdict::Reset;
            }
            self.backlog.extend(bytes);
        }
        self.pass_on(written);
        Verdict::Keep
    }

    fn pass_on(&mut self, count: usize) {
        // At most BUFFER_SIZE.
        self.forwarded += count as u32;
        let believed = BUFFER_SIZE - (self.received - self.told_forwarded).0.min(BUFFER_SIZE);
        if believed < LOW_CREDIT && self.forwarded != self.told_forwarded {
            self.credit_due = true;
        }
    }

    /// Ends what the guest has ended, once everything before it has been passed on.
    fn finish(&mut self) -> Verdict {
        if !self.backlog.is_empty() {
            return Verdict::Keep;
        }
        if self.guest_shutdown == SHUTDOWN_BOTH {
            return Verdict::Reset;
        }
        if self.guest_shutdown & SHUTDOWN_SEND != 0 && !self.write_ended {
            self.write_ended = true;
            // It may be closed already.
            let _ = self.stream.shutdown(std::net::Shutdown::Write);
        }
        Verdict::Keep
    }

    fn note_credit(&mut self, header: &Header) {
        self.guest_buffer = header.buffer_size;
        self.guest_forwarded = Wrapping(header.forwarded);
        self.credit_asked &= self.credit() == 0;
    }

    /// Bytes that the guest has room for. What it says of itself may be nonsense, and then is nothing.
    fn credit(&self) -> u32 {
        self.guest_buffer.saturating_sub((self.sent - self.guest_forwarded).0)
    }
}
