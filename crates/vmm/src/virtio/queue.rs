//! A virtqueue with its notification event, and the descriptor chains that come out of it.
//!
//! The rings are those of rust-vmm's `virtio-queue`. What is added here is a stricter reading of chains: that crate
//! ends a chain silently where a link is broken, which would let a device act on half of a request.

use std::io;

use virtio_queue::{Queue, QueueOwnedT as _, QueueT as _};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::buffer::Buffer;
use super::state::QueueState;
use crate::memory::GuestMemory;

/// The most descriptors that a chain may have. Linux never makes a chain longer than its queue.
pub const MAX_CHAIN: usize = 1024;

/// What a driver did to a queue that the device cannot go on from: it needs a reset.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The available index jumped, or a ring is not in the guest's memory.
    #[error("the rings are broken")]
    Rings(#[source] virtio_queue::Error),
    /// The driver made a chain available that starts at no descriptor of the queue.
    #[error("descriptor {0} is not in the queue")]
    Head(u16),
    /// A chain has a link to nowhere, a loop, or an unreadable or malformed indirect table.
    #[error("the descriptor chain at {0} is broken")]
    Broken(u16),
    /// A chain has more than [`MAX_CHAIN`] descriptors.
    #[error("the descriptor chain at {0} has more than {MAX_CHAIN} descriptors")]
    TooLong(u16),
    /// A device-readable descriptor follows a device-writable one (virtio 1.2, section 2.7.4.2).
    #[error("the descriptor chain at {0} has a readable descriptor after a writable one")]
    Order(u16),
}

/// A request of the driver: what the device may read and what it may write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The descriptor that the chain starts at. It names the chain when it is given back.
    pub head: u16,
    /// What the driver says.
    pub readable: Buffer,
    /// Room for the answer.
    pub writable: Buffer,
}

/// A queue of a device. Its rings lie in guest memory; this is the device's end of it.
#[derive(Debug)]
pub struct VirtQueue {
    rings: Queue,
    event: EventFd,
    used: bool,
}

impl VirtQueue {
    /// A queue that the driver has not set up yet, of at most `max_size` descriptors, a power of two.
    ///
    /// # Errors
    /// When `max_size` is no power of two, or no event file can be had.
    pub fn new(max_size: u16) -> io::Result<Self> {
        Ok(Self {
            rings: Queue::new(max_size).map_err(io::Error::other)?,
            event: EventFd::new(EFD_NONBLOCK)?,
            used: false,
        })
    }

    /// The file that tells the device of new buffers in the queue. KVM writes it (`KVM_IOEVENTFD`).
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// Makes the device look at the queue again.
    pub fn kick(&self) {
        // The counter of an event file cannot overflow here, and a closed file is of no more use to anybody.
        let _ = self.event.write(1);
    }

    /// Takes the next available chain. When there is none, the driver's next one will be notified.
    ///
    /// # Errors
    /// [`QueueError`] when the driver broke the queue: the device needs a reset.
    pub fn pop(&mut self, memory: &GuestMemory) -> Result<Option<Chain>, QueueError> {
        // Twice: notifications are switched on only when the queue is empty, and a chain may have come in between.
        for _ in 0..2 {
            let popped = self.rings.iter(memory).map_err(QueueError::Rings)?.next();
            if let Some(chain) = popped {
                return self.parse(chain).map(Some);
            }
            if !self.rings.enable_notification(memory).map_err(QueueError::Rings)? {
                return Ok(None);
            }
        }
        Err(QueueError::Rings(virtio_queue::Error::InvalidAvailRingIndex))
    }

    /// Puts the last `count` popped chains back, to be popped again. None of them may have been pushed.
    pub fn unpop(&mut self, count: usize) {
        for _ in 0..count {
            self.rings.go_to_previous_position();
        }
    }

    /// The number of chains taken so far, wrapping.
    pub fn next_available(&self) -> u16 {
        self.rings.next_avail()
    }

    /// Gives the chain at `head` back to the driver, with `written` bytes of answer in it.
    ///
    /// # Errors
    /// [`QueueError`] when the used ring cannot be written: the device needs a reset.
    pub fn push(&mut self, memory: &GuestMemory, head: u16, written: u32) -> Result<(), QueueError> {
        self.used = true;
        self.rings.add_used(memory, head, written).map_err(QueueError::Rings)
    }

    /// The most descriptors that the device offers.
    pub fn max_size(&self) -> u16 {
        self.rings.max_size()
    }

    /// The number of descriptors that the driver chose.
    pub fn size(&self) -> u16 {
        self.rings.size()
    }

    /// Whether the driver has set the queue up.
    pub fn is_ready(&self) -> bool {
        self.rings.ready()
    }

    /// Whether the driver is to be interrupted for what was pushed since the last time that this was asked.
    pub(super) fn take_interrupt(&mut self, memory: &GuestMemory) -> bool {
        // An unreadable ring was found by the push before.
        std::mem::take(&mut self.used) && self.rings.needs_notification(memory).unwrap_or(true)
    }

    /// Whether the rings lie in guest memory. The length of a queue was checked when it was set.
    pub(super) fn is_valid(&self, memory: &GuestMemory) -> bool {
        self.rings.is_valid(memory)
    }

    pub(super) fn rings(&mut self) -> &mut Queue {
        &mut self.rings
    }

    pub(super) fn reset(&mut self) {
        self.rings.reset();
        self.used = false;
    }

    pub(super) fn save(&self) -> QueueState {
        self.rings.state().into()
    }

    pub(super) fn restore(&mut self, state: &QueueState) -> Result<(), virtio_queue::Error> {
        let rings = Queue::try_from(virtio_queue::QueueState::from(*state))?;
        if rings.max_size() != self.rings.max_size() {
            return Err(virtio_queue::Error::InvalidMaxSize);
        }
        self.rings = rings;
        Ok(())
    }

    fn parse(&self, chain: virtio_queue::DescriptorChain<&GuestMemory>) -> Result<Chain, QueueError> {
        let head = chain.head_index();
        if head >= self.rings.size() {
            return Err(QueueError::Head(head));
        }
        let mut parsed = Chain {
            head,
            readable: Buffer::default(),
            writable: Buffer::default(),
        };
        let (mut count, mut complete) = (0, false);
        for descriptor in chain {
            count += 1;
            if count > MAX_CHAIN {
                return Err(QueueError::TooLong(head));
            }
            complete = !descriptor.has_next();
            if descriptor.is_write_only() {
                parsed.writable.push(descriptor.addr(), descriptor.len());
            } else if parsed.writable.is_empty() {
                parsed.readable.push(descriptor.addr(), descriptor.len());
            } else {
                return Err(QueueError::Order(head));
            }
        }
        if complete { Ok(parsed) } else { Err(QueueError::Broken(head)) }
    }
}
