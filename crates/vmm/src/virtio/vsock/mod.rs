//! The socket device (virtio 1.2, section 5.10): connections between programs in the guest and Unix sockets on the host.
//!
//! A restored guest believes in connections that no longer exist. The device therefore begins with a transport reset: an
//! event that makes the guest's driver end all of them. Until the driver has acknowledged it (it puts a new buffer into
//! the event queue) the device sends nothing, or a new connection would be ended with the old ones. What the guest sends
//! in that time belongs to old connections and is dropped, except for requests to open new ones.

pub mod connection;
pub mod host;
pub mod packet;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use self::connection::{Connection, Verdict};
use self::host::{Event, Host, Token};
use self::packet::{HEADER, HOST_CID, Header, Operation, Ports, TYPE_STREAM};
use super::device::{Context, DeviceError, DeviceKind, DeviceMetrics, VirtioDevice};
use super::queue::Chain;
use super::state::{DeviceState, RestoreError};
use crate::events::{EventSet, Watch};
use crate::memory::GuestMemory;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const EVENT: usize = 2;

/// The most connections at a time.
pub const MAX_CONNECTIONS: usize = 1024;

/// The most answers to packets of no connection that wait for room in the guest. Beyond, its packets wait too.
const MAX_RESETS: usize = 256;

/// The host's ports of connections that the host makes begin here, as is usual for Unix socket backends.
const FIRST_PORT: u32 = 1 << 30;

/// The id of a transport reset (section 5.10.6.7).
const EVENT_TRANSPORT_RESET: u32 = 0;

/// What a socket device did so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VsockMetrics {
    /// Connections that the host asked for.
    pub host_connections: u64,
    /// Connections that the guest made to a socket of the host.
    pub guest_connections: u64,
    /// Connections of the guest that nobody on the host takes, or too many of either side.
    pub refused: u64,
    /// Packets to the guest.
    pub received_packets: u64,
    /// Bytes of data to the guest.
    pub received_bytes: u64,
    /// Packets of the guest.
    pub sent_packets: u64,
    /// Bytes of data of the guest.
    pub sent_bytes: u64,
    /// Connections that were ended with a RST to the guest.
    pub resets: u64,
    /// Packets of the guest that make no sense, and buffers without room for a header.
    pub malformed: u64,
}

/// A socket device in a snapshot. Connections are not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockState {
    /// The guest's context id.
    pub cid: u64,
    /// The next port for a connection of the host: the guest remembers those of the connections before.
    pub next_port: u32,
}

/// How far the guest is with the end of its old connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    /// There are none.
    Open,
    /// It is to be told.
    ResetDue,
    /// It was told, when it had made this many event buffers available, wrapping.
    ResetSent(u16),
}

/// A socket device.
#[derive(Debug)]
pub struct Vsock {
    cid: u64,
    host: Host,
    next_port: u32,
    transport: Transport,
    connections: BTreeMap<Token, Connection>,
    tokens: BTreeMap<Ports, Token>,
    /// Connections that may have something for the guest, in the order of their turns.
    turns: VecDeque<Token>,
    /// Ports of no connection that the guest is to be told of.
    resets: VecDeque<Ports>,
    /// Event buffers of the guest.
    events: VecDeque<Chain>,
    metrics: VsockMetrics,
}

impl Vsock {
    /// A device for the guest `cid` that listens at `path` for programs of the host, where nothing may be yet.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn bind(cid: u64, path: PathBuf) -> io::Result<Self> {
        Ok(Self {
            cid,
            host: Host::bind(path)?,
            next_port: FIRST_PORT,
            transport: Transport::Open,
            connections: BTreeMap::new(),
            tokens: BTreeMap::new(),
            turns: VecDeque::new(),
            resets: VecDeque::new(),
            events: VecDeque::new(),
            metrics: VsockMetrics::default(),
        })
    }

    /// Takes the guest's packets for as long as their answers have room.
    fn transmit(&mut self, context: &mut Context<'_>) -> Result<(), DeviceError> {
        for _ in 0..context.queues[TRANSMIT].size() {
            if self.resets.len() >= MAX_RESETS {
                // Goes on when the guest has taken some of them.
                return Ok(());
            }
            let Some(chain) = context.pop(TRANSMIT)? else { return Ok(()) };
            self.metrics.sent_packets += 1;
            match Header::read(context.memory, &chain.readable) {
                Ok(Some((header, data))) => self.handle(context.memory, &header, &data),
                Ok(None) | Err(_) => self.metrics.malformed += 1,
            }
            context.push(TRANSMIT, chain.head, 0)?;
        }
        context.queues[TRANSMIT].kick();
        Ok(())
    }

    fn handle(&mut self, memory: &GuestMemory, header: &Header, data: &super::buffer::Buffer) {
        let ports = header.ports();
        let is_request = header.operation == Some(Operation::Request);
        if self.transport != Transport::Open && !is_request {
            return;
        }
        if header.source_cid != self.cid {
            self.metrics.malformed += 1;
            return;
        }
        if header.destination_cid != HOST_CID || header.kind != TYPE_STREAM {
            return self.refuse(header);
        }
        let token = self.tokens.get(&ports).copied();
        if is_request {
            // The guest uses the ports again: it knows that the old connection is over.
            if let Some(token) = token {
                self.forget(token);
            }
            return self.accept(header);
        }
        let Some(token) = token else { return self.refuse(header) };
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        if header.operation == Some(Operation::Data) {
            self.metrics.sent_bytes += data.len() as u64;
        }
        let verdict = connection.receive(memory, header, data);
        self.conclude(token, verdict);
    }

    /// The guest wants to connect to the host.
    fn accept(&mut self, request: &Header) {
        let connected = if self.make_room() {
            self.host.connect(request.destination_port).ok()
        } else {
            None
        };
        match connected {
            Some((token, stream)) => {
                self.metrics.guest_connections += 1;
                self.insert(token, Connection::accepted(request, stream));
            }
            None => {
                self.metrics.refused += 1;
                self.refuse(request);
            }
        }
    }

    /// A program of the host wants to connect to the guest.
    fn request(&mut self, token: Token, stream: std::os::unix::net::UnixStream, guest: u32) {
        if !self.make_room() {
            self.metrics.refused += 1;
            return;
        }
        let ports = loop {
            let ports = Ports {
                host: self.next_port,
                guest,
            };
            // The last number means "any port".
            self.next_port = self
                .next_port
                .checked_add(1)
                .filter(|port| *port != u32::MAX)
                .unwrap_or(FIRST_PORT);
            if !self.tokens.contains_key(&ports) {
                break ports;
            }
        };
        self.metrics.host_connections += 1;
        self.insert(token, Connection::requested(ports, stream));
    }

    /// Answers a packet of no connection. A RST is never answered: two sides would go on for ever.
    fn refuse(&mut self, header: &Header) {
        if header.operation != Some(Operation::Reset) {
            self.reset_ports(header.ports());
        }
    }

    fn reset_ports(&mut self, ports: Ports) {
        self.metrics.resets += 1;
        self.resets.push_back(ports);
    }

    fn insert(&mut self, token: Token, connection: Connection) {
        self.tokens.insert(connection.ports, token);
        self.connections.insert(token, connection);
        self.take_turn(token);
    }

    fn forget(&mut self, token: Token) {
        if let Some(connection) = self.connections.remove(&token) {
            self.tokens.remove(&connection.ports);
            if connection.queued {
                self.turns.retain(|turn| *turn != token);
            }
        }
    }

    /// Makes room for one more connection, at the cost of one that is only waiting for its end.
    fn make_room(&mut self) -> bool {
        if self.connections.len() < MAX_CONNECTIONS {
            return true;
        }
        let closing = self.connections.iter().find(|(_, connection)| connection.is_closing());
        let Some((token, ports)) = closing.map(|(token, connection)| (*token, connection.ports)) else {
            return false;
        };
        self.forget(token);
        self.reset_ports(ports);
        true
    }

    fn conclude(&mut self, token: Token, verdict: Verdict) {
        match verdict {
            Verdict::Keep => self.take_turn(token),
            Verdict::Forget => self.forget(token),
            Verdict::Reset => {
                if let Some(connection) = self.connections.get(&token) {
                    let ports = connection.ports;
                    self.forget(token);
                    self.reset_ports(ports);
                }
            }
        }
    }

    fn take_turn(&mut self, token: Token) {
        if let Some(connection) = self.connections.get_mut(&token)
            && !connection.queued
            && connection.wants_to_send()
        {
            connection.queued = true;
            self.turns.push_back(token);
        }
    }

    /// Sends what there is to the guest, for as long as it has room.
    fn receive(&mut self, context: &mut Context<'_>) -> Result<(), DeviceError> {
        if self.transport != Transport::Open {
            return Ok(());
        }
        for _ in 0..context.queues[RECEIVE].size() {
            if self.resets.is_empty() && self.turns.is_empty() {
                return Ok(());
            }
            let Some(chain) = context.pop(RECEIVE)? else { return Ok(()) };
            if chain.writable.len() < HEADER {
                self.metrics.malformed += 1;
                context.push(RECEIVE, chain.head, 0)?;
                continue;
            }
            let Some(header) = self.next_packet(context.memory, &chain) else {
                context.queues[RECEIVE].unpop(1);
                return Ok(());
            };
            let written = match chain.writable.write(context.memory, &header.encode()) {
                Ok(_) => HEADER as u32 + header.length,
                Err(_) => 0,
            };
            self.metrics.received_packets += 1;
            self.metrics.received_bytes += u64::from(header.length);
            context.push(RECEIVE, chain.head, written)?;
        }
        context.queues[RECEIVE].kick();
        Ok(())
    }

    fn next_packet(&mut self, memory: &GuestMemory, chain: &Chain) -> Option<Header> {
        let room = chain.writable.after(HEADER);
        loop {
            if let Some(ports) = self.resets.pop_front() {
                return Some(Header::to_guest(self.cid, ports, Operation::Reset));
            }
            let token = self.turns.pop_front()?;
            let connection = self.connections.get_mut(&token)?;
            connection.queued = false;
            match connection.next_packet(self.cid, memory, &room) {
                Ok(None) => {}
                Ok(Some(header)) => {
                    self.take_turn(token);
                    return Some(header);
                }
                Err(verdict) => self.conclude(token, verdict),
            }
        }
    }

    /// Looks at what happened on the host.
    fn host_events(&mut self) {
        while let Some(events) = self.host.events() {
            for event in events {
                match event {
                    Event::Connect(token, stream, port) => self.request(token, stream, port),
                    Event::Ready(token, events) => self.stream_ready(token, events),
                }
            }
        }
    }

    fn stream_ready(&mut self, token: Token, events: EventSet) {
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        let hung_up = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
        if hung_up || events.intersects(EventSet::IN | EventSet::READ_HANG_UP) {
            connection.host_readable(hung_up);
        }
        let verdict = if events.contains(EventSet::OUT) {
            connection.host_writable()
        } else {
            Verdict::Keep
        };
        self.conclude(token, verdict);
    }

    /// Takes event buffers, and goes on with a transport reset.
    fn event_buffers(&mut self, context: &mut Context<'_>) -> Result<(), DeviceError> {
        // The driver is notified of new ones only after all that there are have been taken.
        let limit = usize::from(context.queues[EVENT].size());
        while self.events.len() < limit {
            let Some(chain) = context.pop(EVENT)? else { break };
            self.events.push_back(chain);
        }
        let seen = context.queues[EVENT].next_available();
        match self.transport {
            Transport::ResetSent(before) if before != seen => {
                // What the guest sent before it reset its sockets belongs to them.
                self.transmit(context)?;
                self.transport = Transport::Open;
            }
            Transport::ResetDue => {
                if let Some(chain) = self.events.pop_front() {
                    let id = EVENT_TRANSPORT_RESET.to_le_bytes();
                    let written = chain.writable.write(context.memory, &id).unwrap_or(0);
                    context.push(EVENT, chain.head, written as u32)?;
                    self.transport = Transport::ResetSent(seen);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn disconnect(&mut self) {
        self.connections.clear();
        self.tokens.clear();
        self.turns.clear();
        self.resets.clear();
    }
}

impl VirtioDevice for Vsock {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Vsock
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[256, 256, 64]
    }

    fn config(&self) -> Vec<u8> {
        self.cid.to_le_bytes().to_vec()
    }

    fn activate(&mut self, _context: &mut Context<'_>) -> Result<(), DeviceError> {
        // Programs that connected before wait to be told to the guest when it gives buffers.
        self.host_events();
        Ok(())
    }

    fn notified(&mut self, queue: usize, context: &mut Context<'_>) -> Result<(), DeviceError> {
        match queue {
            TRANSMIT => self.transmit(context)?,
            EVENT => self.event_buffers(context)?,
            _ => {}
        }
        let held_up = self.resets.len() >= MAX_RESETS;
        if context.queues[RECEIVE].is_ready() {
            self.receive(context)?;
        }
        if held_up && self.resets.len() < MAX_RESETS {
            context.queues[TRANSMIT].kick();
        }
        Ok(())
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::readable(self.host.fd(), 0)]
    }

    fn ready(&mut self, _token: u32, _events: EventSet, context: &mut Context<'_>) -> Result<(), DeviceError> {
        self.host_events();
        self.notified(RECEIVE, context)
    }

    fn reset(&mut self) {
        self.disconnect();
        self.events.clear();
        self.transport = Transport::Open;
    }

    fn quiesce(&mut self, context: &mut Context<'_>) -> Result<(), DeviceError> {
        context.queues[EVENT].unpop(self.events.len());
        self.events.clear();
        Ok(())
    }

    fn save(&mut self) -> io::Result<DeviceState> {
        Ok(DeviceState::Vsock(VsockState {
            cid: self.cid,
            next_port: self.next_port,
        }))
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        let DeviceState::Vsock(state) = state else {
            return Err(RestoreError::Kind("vsock"));
        };
        self.cid = state.cid;
        self.next_port = state.next_port.max(FIRST_PORT);
        self.transport = Transport::ResetDue;
        Ok(())
    }

    fn metrics(&self) -> DeviceMetrics {
        DeviceMetrics::Vsock(self.metrics.clone())
    }
}

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod tests;
