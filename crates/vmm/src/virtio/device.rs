//! What a type of virtio device is to the rest: a pure model that is called with its queues.

use std::fmt::Debug;
use std::io;

use serde::Serialize;

use super::queue::{QueueError, VirtQueue};
use super::state::{DeviceState, RestoreError};
use super::{balloon::BalloonMetrics, block::BlockMetrics, net::NetMetrics, rng::RngMetrics, vsock::VsockMetrics};
use crate::events::{EventSet, Watch};
use crate::memory::GuestMemory;

/// The types of devices that there are (virtio 1.2, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u32)]
pub enum DeviceKind {
    /// Network card.
    Net = 1,
    /// Block device.
    Block = 2,
    /// Entropy source.
    Rng = 4,
    /// Memory balloon.
    Balloon = 5,
    /// Socket device.
    Vsock = 19,
}

impl DeviceKind {
    /// The name in messages and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Block => "block",
            Self::Rng => "rng",
            Self::Balloon => "balloon",
            Self::Vsock => "vsock",
        }
    }
}

/// What a device cannot go on from. The driver sees `DEVICE_NEEDS_RESET`.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The driver broke a queue.
    #[error("queue {index}")]
    Queue {
        /// The queue.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: QueueError,
    },
    /// The host cannot do what the device is for.
    #[error("{what}")]
    Host {
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The driver said that it is ready before a queue that it needs was set up.
    #[error("queue {0} is not set up, or not in the guest's memory")]
    NotReady(usize),
}

/// A running device's way to its guest.
#[derive(Debug)]
pub struct Context<'a> {
    /// The guest's memory.
    pub memory: &'a GuestMemory,
    /// The device's queues.
    pub queues: &'a mut [VirtQueue],
    /// The features that the driver accepted.
    pub features: u64,
    /// Set by a device that changed its configuration: the driver is interrupted.
    pub config_changed: bool,
}

impl Context<'_> {
    /// Whether the driver accepted the feature with this number.
    pub fn has_feature(&self, number: u32) -> bool {
        self.features & (1 << number) != 0
    }

    /// Takes the next chain of a queue. See [`VirtQueue::pop`].
    ///
    /// # Errors
    /// When the driver broke the queue.
    pub fn pop(&mut self, index: usize) -> Result<Option<super::queue::Chain>, DeviceError> {
        let popped = self.queues[index].pop(self.memory);
        popped.map_err(|source| DeviceError::Queue { index, source })
    }

    /// Gives a chain back. See [`VirtQueue::push`].
    ///
    /// # Errors
    /// When the driver broke the queue.
    pub fn push(&mut self, index: usize, head: u16, written: u32) -> Result<(), DeviceError> {
        let pushed = self.queues[index].push(self.memory, head, written);
        pushed.map_err(|source| DeviceError::Queue { index, source })
    }
}

/// A type of device.
///
/// It is called with its lock held, on the device thread, or on a vCPU's thread when the driver writes registers. The
/// queue methods are only called between [`activate`](Self::activate) and [`reset`](Self::reset). After a method
/// returns, the driver is interrupted if chains were pushed: devices never do that themselves.
pub trait VirtioDevice: Send + Debug {
    /// The type of the device.
    fn kind(&self) -> DeviceKind;

    /// The features that this type has and that are offered, by bit. Those of the transport and the rings are added.
    fn features(&self) -> u64;

    /// The largest size of each queue.
    fn queue_sizes(&self) -> &'static [u16];

    /// The device's configuration space. Beyond its end the driver reads zeros.
    fn config(&self) -> Vec<u8>;

    /// The driver writes `data` at `offset` of the configuration space.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// The driver is ready, or the guest was restored in that state.
    ///
    /// # Errors
    /// When the host cannot do what was negotiated.
    fn activate(&mut self, context: &mut Context<'_>) -> Result<(), DeviceError>;

    /// The driver has put chains into a queue, or may have.
    ///
    /// # Errors
    /// When the driver broke the queue, or the host failed for good.
    fn notified(&mut self, queue: usize, context: &mut Context<'_>) -> Result<(), DeviceError>;

    /// The device's own files to watch, edge triggered: a file that became ready while the device was not running is
    /// not reported again, so look at it in [`activate`](Self::activate).
    fn watches(&self) -> Vec<Watch> {
        Vec::new()
    }

    /// One of the device's own files is ready.
    ///
    /// # Errors
    /// When the driver broke a queue, or the host failed for good.
    fn ready(&mut self, _token: u32, _events: EventSet, _context: &mut Context<'_>) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Back to the state before [`activate`](Self::activate). When this returns, nothing of the device touches guest
    /// memory any more.
    fn reset(&mut self);

    /// Before a save: finish what is under way and give back what was taken from queues but not used. The device is
    /// not called until the save is over.
    ///
    /// # Errors
    /// When the driver broke a queue, or the host failed for good.
    fn quiesce(&mut self, _context: &mut Context<'_>) -> Result<(), DeviceError> {
        Ok(())
    }

    /// The device's own state. What the device keeps in files of the host is written to them.
    ///
    /// # Errors
    /// When the host cannot: there is no snapshot without it.
    fn save(&mut self) -> io::Result<DeviceState>;

    /// Takes over a saved state. Called once, on a new device, before it is activated.
    ///
    /// # Errors
    /// When the state is of another device.
    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError>;

    /// What the device did so far.
    fn metrics(&self) -> DeviceMetrics;
}

/// What a device did so far. Counters start at zero with the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum DeviceMetrics {
    /// Of a network card.
    Net(NetMetrics),
    /// Of a disk.
    Block(BlockMetrics),
    /// Of an entropy source.
    Rng(RngMetrics),
    /// Of a balloon.
    Balloon(BalloonMetrics),
    /// Of a socket device.
    Vsock(VsockMetrics),
}
