//! What a snapshot holds of a virtio device: plain values, no files and no pointers.

use serde::{Deserialize, Serialize};

use super::balloon::BalloonState;
use super::block::BlockState;
use super::vsock::VsockState;

/// A virtqueue, as the driver set it up and as far as the device got in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueState {
    /// The most descriptors that the device offers.
    pub max_size: u16,
    /// The number of descriptors that the driver chose.
    pub size: u16,
    /// Whether the driver has set the queue up.
    pub ready: bool,
    /// Whether `VIRTIO_F_EVENT_IDX` was negotiated.
    pub event_idx: bool,
    /// The next entry of the available ring to look at.
    pub next_available: u16,
    /// The next entry of the used ring to write.
    pub next_used: u16,
    /// Guest address of the descriptor table.
    pub descriptors: u64,
    /// Guest address of the available ring.
    pub available: u64,
    /// Guest address of the used ring.
    pub used: u64,
}

impl From<virtio_queue::QueueState> for QueueState {
    fn from(state: virtio_queue::QueueState) -> Self {
        Self {
            max_size: state.max_size,
            size: state.size,
            ready: state.ready,
            event_idx: state.event_idx_enabled,
            next_available: state.next_avail,
            next_used: state.next_used,
            descriptors: state.desc_table,
            available: state.avail_ring,
            used: state.used_ring,
        }
    }
}

impl From<QueueState> for virtio_queue::QueueState {
    fn from(state: QueueState) -> Self {
        Self {
            max_size: state.max_size,
            next_avail: state.next_available,
            next_used: state.next_used,
            event_idx_enabled: state.event_idx,
            size: state.size,
            ready: state.ready,
            desc_table: state.descriptors,
            avail_ring: state.available,
            used_ring: state.used,
        }
    }
}

/// A virtio device with its transport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtioState {
    /// The device status register.
    pub status: u32,
    /// The features that the driver accepted.
    pub driver_features: u64,
    /// The interrupt status register.
    pub interrupt_status: u32,
    /// The configuration generation.
    pub generation: u32,
    /// The half of the device features that the driver looks at.
    pub device_features_select: u32,
    /// The half of the driver features that the driver writes.
    pub driver_features_select: u32,
    /// The queue that the driver sets up.
    pub queue_select: u32,
    /// The queues, in the order of the device's type.
    pub queues: Vec<QueueState>,
    /// What only this type of device has.
    pub device: DeviceState,
}

/// What only one type of device has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceState {
    /// A disk.
    Block(BlockState),
    /// A network card: everything is in its features and queues.
    Net,
    /// A socket device.
    Vsock(VsockState),
    /// A source of random numbers, which has no state.
    Rng,
    /// A balloon.
    Balloon(BalloonState),
}

/// Why a device cannot be restored from a state.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The state is of another type of device, or has another number of queues.
    #[error("the state is not that of a {0} device")]
    Kind(&'static str),
    /// The guest uses features that this device does not offer, such as an offload that the host lacks.
    #[error("the guest uses features {0:#x}, which this device does not offer")]
    Features(u64),
    /// A queue's state makes no sense.
    #[error("queue {index} of the state is not valid")]
    Queue {
        /// The queue.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: virtio_queue::Error,
    },
    /// The guest runs with a device that differs in size or the like.
    #[error("the device differs from the one that the guest runs with: {0}")]
    Differs(String),
    /// The device could not be started.
    #[error("the device cannot go on")]
    Activate(#[source] super::device::DeviceError),
}
