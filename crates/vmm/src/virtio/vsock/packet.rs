//! Packets of the socket device (virtio 1.2, section 5.10.6): a header, and data after it.

use std::io;

use crate::memory::GuestMemory;
use crate::virtio::buffer::Buffer;

/// Length of a header in bytes.
pub const HEADER: usize = 44;

/// The context id of the host.
pub const HOST_CID: u64 = 2;

/// The only type of socket that there is here: a stream.
pub const TYPE_STREAM: u16 = 1;

/// In a shutdown: the sender receives no more.
pub const SHUTDOWN_RECEIVE: u32 = 1;

/// In a shutdown: the sender sends no more.
pub const SHUTDOWN_SEND: u32 = 2;

/// What a packet is for. The values are those of the specification; a guest may send others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Operation {
    /// Open a connection.
    Request = 1,
    /// The connection is open.
    Response = 2,
    /// There is no such connection, or no longer.
    Reset = 3,
    /// The sender will not send or receive any more.
    Shutdown = 4,
    /// Data.
    Data = 5,
    /// Room that the sender has.
    CreditUpdate = 6,
    /// Please tell what room you have.
    CreditRequest = 7,
}

impl Operation {
    fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

/// The two ports that a connection is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    /// The port on the host's side.
    pub host: u32,
    /// The port in the guest.
    pub guest: u32,
}

/// The header of a packet: `struct virtio_vsock_hdr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The sender.
    pub source_cid: u64,
    /// The receiver.
    pub destination_cid: u64,
    /// The sender's port.
    pub source_port: u32,
    /// The receiver's port.
    pub destination_port: u32,
    /// Bytes of data after the header.
    pub length: u32,
    /// The type of socket.
    pub kind: u16,
    /// What the packet is for. `None` stands for a number that means nothing.
    pub operation: Option<Operation>,
    /// What the operation says more.
    pub flags: u32,
    /// All the room that the sender has for data of this connection, in bytes.
    pub buffer_size: u32,
    /// Bytes of this connection that the sender passed on so far, wrapping.
    pub forwarded: u32,
}

impl Header {
    /// Reads a header.
    pub fn decode(bytes: &[u8; HEADER]) -> Self {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u32::from(half(at)) | u32::from(half(at + 2)) << 16;
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        Self {
            source_cid: long(0),
            destination_cid: long(8),
            source_port: word(16),
            destination_port: word(20),
            length: word(24),
            kind: half(28),
            operation: Operation::from_number(half(30)),
            flags: word(32),
            buffer_size: word(36),
            forwarded: word(40),
        }
    }

    /// Writes a header.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let operation = self.operation.map_or(0, |operation| operation as u16);
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&self.source_cid.to_le_bytes());
        put(&self.destination_cid.to_le_bytes());
        put(&self.source_port.to_le_bytes());
        put(&self.destination_port.to_le_bytes());
        put(&self.length.to_le_bytes());
        put(&self.kind.to_le_bytes());
        put(&operation.to_le_bytes());
        put(&self.flags.to_le_bytes());
        put(&self.buffer_size.to_le_bytes());
        put(&self.forwarded.to_le_bytes());
        bytes
    }

    /// A packet of the host to the guest `cid`, without data or credit.
    pub fn to_guest(cid: u64, ports: Ports, operation: Operation) -> Self {
        Self {
            source_cid: HOST_CID,
            destination_cid: cid,
            source_port: ports.host,
            destination_port: ports.guest,
            length: 0,
            kind: TYPE_STREAM,
            operation: Some(operation),
            flags: 0,
            buffer_size: 0,
            forwarded: 0,
        }
    }

    /// The connection that a packet of the guest speaks of.
    pub fn ports(&self) -> Ports {
        Ports {
            host: self.destination_port,
            guest: self.source_port,
        }
    }

    /// Reads a packet of the guest: its header and its data. `None` when it is shorter than it says.
    ///
    /// # Errors
    /// When the packet is not in the guest's memory.
    pub fn read(memory: &GuestMemory, packet: &Buffer) -> io::Result<Option<(Self, Buffer)>> {
        let mut bytes = [0; HEADER];
        if packet.read(memory, &mut bytes)? < HEADER {
            return Ok(None);
        }
        let header = Self::decode(&bytes);
        let data = packet.slice(HEADER, header.length as usize);
        Ok((data.len() == header.length as usize).then_some((header, data)))
    }
}
