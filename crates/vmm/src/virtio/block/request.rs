//! Block requests (virtio 1.2, section 5.2.6), as the driver writes them.
//!
//! A request is a header, data, and one byte for the answer. The driver may cut it into descriptors as it likes, so the
//! header is the first sixteen readable bytes and the answer goes into the last writable one, wherever those lie.

use virtio_bindings::virtio_blk as abi;

use crate::memory::GuestMemory;
use crate::virtio::buffer::Buffer;
use crate::virtio::queue::Chain;

/// Unit of positions and lengths in requests, in bytes, whatever the disk's blocks are.
pub const SECTOR: u64 = 512;

/// The most ranges in one request to discard or to zero.
pub const MAX_RANGES: usize = 64;

/// The most sectors in one such range: 1 GiB.
pub const MAX_RANGE_SECTORS: u32 = 1 << 21;

/// Length of a disk's name, padded with zeros.
pub const ID_LENGTH: usize = abi::VIRTIO_BLK_ID_BYTES as usize;

const HEADER: usize = 16;
const RANGE: usize = 16;

/// The answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Not possible, or the disk failed.
    IoError = 1,
    /// No such request.
    Unsupported = 2,
}

/// A part of the disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
    /// For zeroing: the space may be given back.
    pub unmap: bool,
}

/// What the driver asks for. Positions are inside the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Fill the buffer from the disk.
    Read(u64, Buffer),
    /// Write the buffer to the disk.
    Write(u64, Buffer),
    /// Make everything that was answered durable.
    Flush,
    /// The ranges are not needed any more.
    Discard(Vec<Range>),
    /// The ranges shall read as zeros.
    WriteZeroes(Vec<Range>),
    /// Fill the buffer with the disk's name.
    GetId(Buffer),
}

/// A request, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What to do, or the answer to a request that cannot be done.
    pub operation: Result<Operation, Status>,
    /// The byte for the answer.
    pub status: Buffer,
}

impl Request {
    /// Reads the request in `chain` to a disk of `size` bytes. `None` when there is no room for an answer.
    pub fn parse(memory: &GuestMemory, chain: &Chain, size: u64, read_only: bool) -> Option<Self> {
        let room = chain.writable.len().checked_sub(1)?;
        let operation = Operation::parse(memory, chain, room, size).and_then(|operation| match operation {
            Operation::Write(..) | Operation::Discard(_) | Operation::WriteZeroes(_) if read_only => Err(Status::IoError),
            operation => Ok(operation),
        });
        Some(Self {
            operation,
            status: chain.writable.after(room),
        })
    }
}

impl Operation {
    fn parse(memory: &GuestMemory, chain: &Chain, room: usize, size: u64) -> Result<Self, Status> {
        let mut header = [0; HEADER];
        if chain.readable.read(memory, &mut header).map_err(|_| Status::IoError)? < HEADER {
            return Err(Status::IoError);
        }
        let [kind @ .., _, _, _, _, _, _, _, _, _, _, _, _] = header;
        let [.., s0, s1, s2, s3, s4, s5, s6, s7] = header;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let input = || chain.writable.slice(0, room);
        let output = || chain.readable.after(HEADER);
        let within = |data: Buffer| {
            let whole = (data.len() as u64).is_multiple_of(SECTOR);
            let offset = range_within(sector, data.len() as u64, size).filter(|_| whole);
            offset.map(|offset| (offset, data)).ok_or(Status::IoError)
        };
        match u32::from_le_bytes(kind) {
            abi::VIRTIO_BLK_T_IN => within(input()).map(|(offset, data)| Self::Read(offset, data)),
            abi::VIRTIO_BLK_T_OUT => within(output()).map(|(offset, data)| Self::Write(offset, data)),
            abi::VIRTIO_BLK_T_FLUSH => Ok(Self::Flush),
            abi::VIRTIO_BLK_T_DISCARD => ranges(memory, &output(), size, 0).map(Self::Discard),
            abi::VIRTIO_BLK_T_WRITE_ZEROES => {
                ranges(memory, &output(), size, abi::VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP).map(Self::WriteZeroes)
            }
            abi::VIRTIO_BLK_T_GET_ID if room >= ID_LENGTH => Ok(Self::GetId(chain.writable.slice(0, ID_LENGTH))),
            abi::VIRTIO_BLK_T_GET_ID => Err(Status::IoError),
            _ => Err(Status::Unsupported),
        }
    }

    /// Bytes of data that the request moves.
    pub fn length(&self) -> u64 {
        match self {
            Self::Read(_, data) | Self::Write(_, data) | Self::GetId(data) => data.len() as u64,
            Self::Discard(ranges) | Self::WriteZeroes(ranges) => ranges.iter().map(|range| range.length).sum(),
            Self::Flush => 0,
        }
    }
}

/// The offset in bytes of a range that lies in the disk.
fn range_within(sector: u64, length: u64, size: u64) -> Option<u64> {
    let offset = sector.checked_mul(SECTOR)?;
    (offset.checked_add(length)? <= size).then_some(offset)
}

fn ranges(memory: &GuestMemory, data: &Buffer, size: u64, flags_allowed: u32) -> Result<Vec<Range>, Status> {
    if data.is_empty() || data.len() > MAX_RANGES * RANGE || !data.len().is_multiple_of(RANGE) {
        return Err(Status::IoError);
    }
    let mut bytes = vec![0; data.len()];
    data.read(memory, &mut bytes).map_err(|_| Status::IoError)?;
    let (entries, _) = bytes.as_chunks::<RANGE>();
    let parse = |entry: &[u8; RANGE]| {
        let [s0, s1, s2, s3, s4, s5, s6, s7, c0, c1, c2, c3, f0, f1, f2, f3] = *entry;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let count = u32::from_le_bytes([c0, c1, c2, c3]);
        let flags = u32::from_le_bytes([f0, f1, f2, f3]);
        if flags & !flags_allowed != 0 {
            // Section 5.2.6.2 asks for this answer.
            return Err(Status::Unsupported);
        }
        if count > MAX_RANGE_SECTORS {
            return Err(Status::IoError);
        }
        let length = u64::from(count) * SECTOR;
        let offset = range_within(sector, length, size).ok_or(Status::IoError)?;
        let unmap = flags & abi::VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0;
        Ok(Range { offset, length, unmap })
    };
    entries.iter().map(parse).collect()
}
