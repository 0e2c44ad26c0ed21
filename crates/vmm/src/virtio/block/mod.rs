//! The block device (virtio 1.2, section 5.2): a disk of the guest.
//!
//! The device thread takes requests out of the queue and checks them; threads of an [`IoPool`] do the I/O between the
//! disk and guest memory without a copy; the device thread gives the answers back. The guest sees a disk with a write
//! cache: what it wrote is durable after a flush.

pub mod disk;
pub mod layer;
pub mod layered;
pub mod pool;
pub mod request;

use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::{io, mem};

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_blk as abi;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub use self::disk::{Disk, RawDisk};
pub use self::layer::{Layer, LayerError};
pub use self::layered::LayeredDisk;
pub use self::pool::IoPool;
use self::request::{ID_LENGTH, MAX_RANGE_SECTORS, MAX_RANGES, Operation, Request, SECTOR, Status};
use super::buffer::Buffer;
use super::device::{Context, DeviceError, DeviceKind, DeviceMetrics, VirtioDevice};
use super::state::{DeviceState, RestoreError};
use crate::events::{EventSet, Watch};
use crate::memory::GuestMemory;

const QUEUE: usize = 0;
const QUEUE_SIZE: u16 = 256;

/// Pieces of data that a request may have: its chain has a header and a status besides.
const MAX_SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;

/// What a block device did so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BlockMetrics {
    /// Requests to read that were done.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Requests to write that were done.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Requests to discard that were done.
    pub discards: u64,
    /// Bytes discarded.
    pub discarded_bytes: u64,
    /// Requests to write zeros that were done.
    pub zeroes: u64,
    /// Requests that the disk failed to do.
    pub disk_errors: u64,
    /// Requests that made no sense or are not supported.
    pub refused: u64,
}

/// A block device in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockState {
    /// Size of the disk in bytes.
    pub size: u64,
    /// Whether the guest cannot write to it.
    pub read_only: bool,
}

/// A request that was done.
#[derive(Debug)]
struct Done {
    head: u16,
    /// Bytes of the answer.
    written: u32,
    ok: bool,
    counted: Counted,
    length: u64,
}

impl Done {
    /// A request that nothing has been done about yet.
    fn new(head: u16, operation: &Operation) -> Self {
        Self {
            head,
            written: 0,
            ok: false,
            counted: match operation {
                Operation::Read(..) => Counted::Read,
                Operation::Write(..) => Counted::Write,
                Operation::Flush => Counted::Flush,
                Operation::Discard(_) => Counted::Discard,
                Operation::WriteZeroes(_) => Counted::Zeroes,
                Operation::GetId(_) => Counted::Other,
            },
            length: operation.length(),
        }
    }
}

/// What is counted of a request.
#[derive(Debug, Clone, Copy)]
enum Counted {
    Read,
    Write,
    Flush,
    Discard,
    Zeroes,
    Other,
}

/// Requests on their way back from the threads.
#[derive(Debug)]
struct Completions {
    done: Mutex<Vec<Done>>,
    changed: Condvar,
    event: EventFd,
}

/// A disk of the guest.
#[derive(Debug)]
pub struct Block {
    disk: Arc<dyn Disk>,
    name: [u8; ID_LENGTH],
    pool: Arc<IoPool>,
    completions: Arc<Completions>,
    in_flight: usize,
    /// Set while the driver runs the device.
    memory: Option<Arc<GuestMemory>>,
    metrics: BlockMetrics,
}

impl Block {
    /// A device for `disk`, whose I/O `pool` does. The guest sees the first twenty bytes of `name` as the serial number.
    ///
    /// # Errors
    /// When no event file can be had.
    pub fn new(disk: Arc<dyn Disk>, name: &str, pool: Arc<IoPool>) -> io::Result<Self> {
        let mut padded = [0; ID_LENGTH];
        let length = name.len().min(ID_LENGTH);
        padded[..length].copy_from_slice(&name.as_bytes()[..length]);
        Ok(Self {
            disk,
            name: padded,
            pool,
            completions: Arc::new(Completions {
                done: Mutex::default(),
                changed: Condvar::new(),
                event: EventFd::new(EFD_NONBLOCK)?,
            }),
            in_flight: 0,
            memory: None,
            metrics: BlockMetrics::default(),
        })
    }

    /// Takes requests out of the queue for as long as there is room. A driver that makes more requests than its queue
    /// holds waits.
    fn take_requests(&mut self, context: &mut Context<'_>) -> Result<(), DeviceError> {
        let Some(memory) = self.memory.clone() else { return Ok(()) };
        let limit = usize::from(context.queues[QUEUE].size());
        let write_through = !context.has_feature(abi::VIRTIO_BLK_F_FLUSH);
        // One round of the queue at most: the device thread serves other devices too.
        for _ in 0..limit {
            if self.in_flight >= limit {
                return Ok(());
            }
            let Some(chain) = context.pop(QUEUE)? else { return Ok(()) };
            let Some(request) = Request::parse(&memory, &chain, self.disk.size(), self.disk.is_read_only()) else {
                self.metrics.refused += 1;
                context.push(QUEUE, chain.head, 0)?;
                continue;
            };
            match request.operation {
                Ok(operation) => {
                    let job = Job {
                        disk: self.disk.clone(),
                        memory: memory.clone(),
                        name: self.name,
                        write_through,
                        completions: self.completions.clone(),
                        room: request.status,
                        status: Status::IoError,
                        length: 0,
                        done: Done::new(chain.head, &operation),
                    };
                    self.in_flight += 1;
                    self.pool.submit(move || job.run(&operation));
                }
                Err(status) => {
                    self.metrics.refused += 1;
                    let written = answer(&memory, &request.status, status, 0);
                    context.push(QUEUE, chain.head, written)?;
                }
            }
        }
        context.queues[QUEUE].kick();
        Ok(())
    }

    /// Gives back what the threads have done.
    fn complete_all(&mut self, context: &mut Context<'_>) -> Result<(), DeviceError> {
        let done = mem::take(&mut *self.completions.lock());
        self.in_flight -= done.len();
        for done in done {
            self.count(&done);
            context.push(QUEUE, done.head, done.written)?;
        }
        Ok(())
    }

    fn count(&mut self, done: &Done) {
        let metrics = &mut self.metrics;
        if !done.ok {
            metrics.disk_errors += 1;
            return;
        }
        match done.counted {
            Counted::Read => {
                metrics.reads += 1;
                metrics.read_bytes += done.length;
            }
            Counted::Write => {
                metrics.writes += 1;
                metrics.written_bytes += done.length;
            }
            Counted::Flush => metrics.flushes += 1,
            Counted::Discard => {
                metrics.discards += 1;
                metrics.discarded_bytes += done.length;
            }
            Counted::Zeroes => metrics.zeroes += 1,
            Counted::Other => {}
        }
    }

    fn state(&self) -> BlockState {
        BlockState {
            size: self.disk.size(),
            read_only: self.disk.is_read_only(),
        }
    }

    /// Waits until the threads have done everything. What they did waits to be given back.
    fn drain(&self) {
        let mut done = self.completions.lock();
        while done.len() < self.in_flight {
            done = self.completions.changed.wait(done).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A request for a thread of the pool. However its work ends, it comes back.
struct Job {
    disk: Arc<dyn Disk>,
    memory: Arc<GuestMemory>,
    name: [u8; ID_LENGTH],
    write_through: bool,
    completions: Arc<Completions>,
    /// Where the answer goes.
    room: Buffer,
    status: Status,
    /// Bytes that the driver gets besides the answer.
    length: usize,
    done: Done,
}

impl Job {
    fn run(mut self, operation: &Operation) {
        match self.perform(operation) {
            Ok(length) => {
                self.status = Status::Ok;
                self.length = length;
            }
            Err(error) => tracing::debug!(%error, counted = ?self.done.counted, "a request to a disk failed"),
        }
    }

    /// Returns the number of bytes that the driver gets.
    fn perform(&self, operation: &Operation) -> io::Result<usize> {
        let (disk, memory) = (&self.disk, &self.memory);
        match operation {
            Operation::Read(offset, data) => return disk.read(memory, *offset, data).map(|()| data.len()),
            Operation::GetId(data) => return data.write(memory, &self.name),
            Operation::Flush => disk.flush()?,
            Operation::Write(offset, data) => disk.write(memory, *offset, data)?,
            Operation::Discard(ranges) => ranges.iter().try_for_each(|range| disk.discard(range.offset, range.length))?,
            Operation::WriteZeroes(ranges) => {
                ranges
                    .iter()
                    .try_for_each(|range| disk.write_zeroes(range.offset, range.length))?;
            }
        }
        // A driver that knows no flush relies on writes being durable (section 5.2.6.2).
        if self.write_through {
            disk.flush()?;
        }
        Ok(0)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let nothing = Done::new(0, &Operation::Flush);
        let mut done = mem::replace(&mut self.done, nothing);
        done.ok = self.status == Status::Ok;
        done.written = answer(&self.memory, &self.room, self.status, self.length);
        self.completions.lock().push(done);
        self.completions.changed.notify_all();
        // The counter of an event file cannot overflow here.
        let _ = self.completions.event.write(1);
    }
}

/// Writes the status byte after `data` bytes of answer, and returns the length of the whole answer.
fn answer(memory: &GuestMemory, room: &Buffer, status: Status, data: usize) -> u32 {
    match room.write(memory, &[status as u8]) {
        // A chain is shorter than 4 GiB.
        Ok(_) => u32::try_from(data + 1).unwrap_or(u32::MAX),
        Err(_) => 0,
    }
}

impl Completions {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Done>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VirtioDevice for Block {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn features(&self) -> u64 {
        let common = 1 << abi::VIRTIO_BLK_F_SEG_MAX | 1 << abi::VIRTIO_BLK_F_BLK_SIZE | 1 << abi::VIRTIO_BLK_F_TOPOLOGY;
        if self.disk.is_read_only() {
            return common | 1 << abi::VIRTIO_BLK_F_RO;
        }
        common | 1 << abi::VIRTIO_BLK_F_FLUSH | 1 << abi::VIRTIO_BLK_F_DISCARD | 1 << abi::VIRTIO_BLK_F_WRITE_ZEROES
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[QUEUE_SIZE]
    }

    fn config(&self) -> Vec<u8> {
        // struct virtio_blk_config, section 5.2.4.
        let block_sectors = (layer::BLOCK / SECTOR) as u32;
        let mut config = Vec::with_capacity(60);
        config.extend((self.disk.size() / SECTOR).to_le_bytes());
        config.extend(0u32.to_le_bytes()); // size_max, not offered
        config.extend(MAX_SEGMENTS.to_le_bytes());
        config.extend([0; 4]); // geometry, not offered
        config.extend((SECTOR as u32).to_le_bytes());
        config.extend([block_sectors.trailing_zeros() as u8, 0]); // physical_block_exp, alignment_offset
        config.extend((block_sectors as u16).to_le_bytes()); // min_io_size
        config.extend(block_sectors.to_le_bytes()); // opt_io_size
        config.extend([0, 0, 0, 0]); // writeback, unused, num_queues, not offered
        config.extend(MAX_RANGE_SECTORS.to_le_bytes());
        config.extend((MAX_RANGES as u32).to_le_bytes());
        config.extend(block_sectors.to_le_bytes()); // discard_sector_alignment
        config.extend(MAX_RANGE_SECTORS.to_le_bytes());
        config.extend((MAX_RANGES as u32).to_le_bytes());
        config.extend([1, 0, 0, 0]); // write_zeroes_may_unmap, unused
        config
    }

    fn activate(&mut self, context: &mut Context<'_>) -> Result<(), DeviceError> {
        self.memory = Some(Arc::new(context.memory.clone()));
        Ok(())
    }

    fn notified(&mut self, _queue: usize, context: &mut Context<'_>) -> Result<(), DeviceError> {
        self.take_requests(context)
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::readable(self.completions.event.as_raw_fd(), 0)]
    }

    fn ready(&mut self, _token: u32, _events: EventSet, context: &mut Context<'_>) -> Result<(), DeviceError> {
        let _ = self.completions.event.read();
        let was_full = self.in_flight >= usize::from(context.queues[QUEUE].size());
        self.complete_all(context)?;
        if was_full { self.take_requests(context) } else { Ok(()) }
    }

    fn reset(&mut self) {
        self.drain();
        self.completions.lock().clear();
        self.in_flight = 0;
        self.memory = None;
    }

    fn quiesce(&mut self, context: &mut Context<'_>) -> Result<(), DeviceError> {
        self.drain();
        self.complete_all(context)
    }

    fn save(&mut self) -> io::Result<DeviceState> {
        self.disk.settle()?;
        Ok(DeviceState::Block(self.state()))
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        let DeviceState::Block(saved) = state else {
            return Err(RestoreError::Kind("block"));
        };
        let own = self.state();
        if own != *saved {
            return Err(RestoreError::Differs(format!(
                "the guest's disk was {saved:?}, and this one is {own:?}"
            )));
        }
        Ok(())
    }

    fn metrics(&self) -> DeviceMetrics {
        DeviceMetrics::Block(self.metrics.clone())
    }
}

#[cfg(test)]
mod tests;
