//! The network card (virtio 1.2, section 5.1), on a TAP interface of the host.
//!
//! Frames go between the interface and guest memory without a copy. Checksums and segmentation are left to whoever is
//! able: a frame of up to 64 KiB passes the card as one.
//!
//! A frame is only read from the interface when the guest has room for the largest possible one. So the card never holds
//! a frame itself: what the guest has no room for waits in the interface's queue, and a snapshot has no frame in it.

mod tap;

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd as _;

use serde::Serialize;
use virtio_bindings::virtio_net as abi;

use self::tap::HEADER;
pub use self::tap::{Backend, Tap};
use super::buffer::Buffer;
use super::device::{Context, DeviceError, DeviceKind, DeviceMetrics, VirtioDevice};
use super::queue::Chain;
use super::state::{DeviceState, RestoreError};
use crate::events::{EventSet, Watch};
use crate::memory::GuestMemory;

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// An Ethernet header.
const ETHERNET: usize = 14;

/// The longest frame with its header: an IP packet of 64 KiB in an Ethernet frame with a VLAN tag.
const MAX_FRAME: usize = HEADER + ETHERNET + 4 + 65_535;

/// Offset of the number of buffers that a received frame takes, in its header.
const NUM_BUFFERS: usize = 10;

/// The most frames received in one go: the device thread serves other devices too.
const BATCH: usize = 256;

/// A hardware address.
pub type Mac = [u8; 6];

/// What a network card did so far. Sent and received are the guest's view.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NetMetrics {
    /// Frames that the guest received.
    pub received_frames: u64,
    /// Bytes of these frames.
    pub received_bytes: u64,
    /// Times that a frame could not be read from the interface.
    pub receive_errors: u64,
    /// Frames that the guest sent.
    pub sent_frames: u64,
    /// Bytes of these frames.
    pub sent_bytes: u64,
    /// Frames that the interface did not take.
    pub send_dropped: u64,
    /// Buffers of the guest that are no frames, or no room for any.
    pub malformed: u64,
}

/// A network card.
#[derive(Debug)]
pub struct Net {
    backend: Box<dyn Backend>,
    mac: Mac,
    mtu: Option<u16>,
    /// Room for frames that was taken out of the queue but not used yet.
    room: VecDeque<Chain>,
    room_bytes: usize,
    metrics: NetMetrics,
}

impl Net {
    /// A card with this hardware address. With an `mtu` the guest is told what the network takes.
    pub fn new(backend: Box<dyn Backend>, mac: Mac, mtu: Option<u16>) -> Self {
        Self {
            backend,
            mac,
            mtu,
            room: VecDeque::new(),
            room_bytes: 0,
            metrics: NetMetrics::default(),
        }
    }

    fn receive(&mut self, context: &mut Context<'_>) -> Result<(), DeviceError> {
        for _ in 0..BATCH {
            if !self.find_room(context)? {
                // The driver's next buffer is notified.
                return Ok(());
            }
            let mergeable = context.has_feature(abi::VIRTIO_NET_F_MRG_RXBUF);
            let mut room = Buffer::default();
            for chain in self.room.iter().take(if mergeable { usize::MAX } else { 1 }) {
                room.append(&chain.writable);
            }
            match room.read_from(context.memory, self.backend.as_fd()) {
                Ok(length) if length < HEADER => self.metrics.receive_errors += 1,
                Ok(length) => self.give(length, context)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => {
                    tracing::debug!(%error, "cannot read from the network interface");
                    self.metrics.receive_errors += 1;
                    return Ok(());
                }
            }
        }
        context.queues[RECEIVE].kick();
        Ok(())
    }

    /// Takes buffers out of the queue until the longest frame has room. Returns false when there are not enough.
    fn find_room(&mut self, context: &mut Context<'_>) -> Result<bool, DeviceError> {
        let large = [
            abi::VIRTIO_NET_F_GUEST_TSO4,
            abi::VIRTIO_NET_F_GUEST_TSO6,
            abi::VIRTIO_NET_F_GUEST_UFO,
        ];
        let large = large.iter().any(|feature| context.has_feature(*feature));
        let mtu = usize::from(self.mtu.unwrap_or(1500));
        let needed = match (context.has_feature(abi::VIRTIO_NET_F_MRG_RXBUF), large) {
            (false, _) => 1,
            (true, true) => MAX_FRAME,
            (true, false) => HEADER + ETHERNET + 4 + mtu,
        };
        let limit = usize::from(context.queues[RECEIVE].size());
        // A guest that gave all that its queue can hold will not give more.
        while self.room_bytes < needed && self.room.len() < limit {
            let Some(chain) = context.pop(RECEIVE)? else {
                return Ok(false);
            };
            if chain.writable.len() < HEADER {
                self.metrics.malformed += 1;
                context.push(RECEIVE, chain.head, 0)?;
                continue;
            }
            self.room_bytes += chain.writable.len();
            self.room.push_back(chain);
        }
        Ok(true)
    }

    /// Gives the guest a frame of `length` bytes that is in the first of its buffers.
    fn give(&mut self, length: usize, context: &mut Context<'_>) -> Result<(), DeviceError> {
        let mut left = length;
        let mut count = 0;
        for chain in &self.room {
            if left == 0 {
                break;
            }
            count += 1;
            left -= left.min(chain.writable.len());
        }
        if let Some(first) = self.room.front() {
            // The count is at most a queue's size. A buffer that was read into can also be written.
            let _ = first
                .writable
                .after(NUM_BUFFERS)
                .write(context.memory, &(count as u16).to_le_bytes());
        }
        let mut left = length;
        for chain in self.room.drain(..count) {
            let used = left.min(chain.writable.len());
            left -= used;
            self.room_bytes -= chain.writable.len();
            context.push(RECEIVE, chain.head, used as u32)?;
        }
        self.metrics.received_frames += 1;
        self.metrics.received_bytes += (length - HEADER) as u64;
        Ok(())
    }

    fn send(&mut self, context: &mut Context<'_>) -> Result<(), DeviceError> {
        for _ in 0..context.queues[TRANSMIT].size() {
            let Some(chain) = context.pop(TRANSMIT)? else { return Ok(()) };
            self.send_frame(context.memory, &chain.readable);
            context.push(TRANSMIT, chain.head, 0)?;
        }
        context.queues[TRANSMIT].kick();
        Ok(())
    }

    fn send_frame(&mut self, memory: &GuestMemory, frame: &Buffer) {
        if frame.len() < HEADER + ETHERNET || frame.len() > MAX_FRAME {
            self.metrics.malformed += 1;
            return;
        }
        // The kernel checks the header, and it copies the frame before it looks at it.
        match frame.write_to(memory, self.backend.as_fd()) {
            Ok(_) => {
                self.metrics.sent_frames += 1;
                self.metrics.sent_bytes += (frame.len() - HEADER) as u64;
            }
            // A network may lose frames: the interface is down, or its queue is full.
            Err(_) => self.metrics.send_dropped += 1,
        }
    }

    /// What the guest can take as it is, as the kernel calls it.
    fn offload(context: &Context<'_>) -> u32 {
        // Segments are only left to a guest that computes checksums (section 5.1.3.1).
        if !context.has_feature(abi::VIRTIO_NET_F_GUEST_CSUM) {
            return 0;
        }
        let flags = [
            (abi::VIRTIO_NET_F_GUEST_CSUM, libc::TUN_F_CSUM),
            (abi::VIRTIO_NET_F_GUEST_TSO4, libc::TUN_F_TSO4),
            (abi::VIRTIO_NET_F_GUEST_TSO6, libc::TUN_F_TSO6),
            (abi::VIRTIO_NET_F_GUEST_ECN, libc::TUN_F_TSO_ECN),
            (abi::VIRTIO_NET_F_GUEST_UFO, libc::TUN_F_UFO),
        ];
        let accepted = flags.iter().filter(|(feature, _)| context.has_feature(*feature));
        accepted.fold(0, |all, (_, flag)| all | flag)
    }
}

impl VirtioDevice for Net {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Net
    }

    fn features(&self) -> u64 {
        let features = [
            abi::VIRTIO_NET_F_CSUM,
            abi::VIRTIO_NET_F_GUEST_CSUM,
            abi::VIRTIO_NET_F_GUEST_TSO4,
            abi::VIRTIO_NET_F_GUEST_TSO6,
            abi::VIRTIO_NET_F_GUEST_ECN,
            abi::VIRTIO_NET_F_GUEST_UFO,
            abi::VIRTIO_NET_F_HOST_TSO4,
            abi::VIRTIO_NET_F_HOST_TSO6,
            abi::VIRTIO_NET_F_HOST_ECN,
            abi::VIRTIO_NET_F_HOST_UFO,
            abi::VIRTIO_NET_F_MRG_RXBUF,
            abi::VIRTIO_NET_F_MAC,
        ];
        let mtu = if self.mtu.is_some() { 1 << abi::VIRTIO_NET_F_MTU } else { 0 };
        features.iter().fold(mtu, |all, feature| all | 1 << feature)
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[256, 256]
    }

    fn config(&self) -> Vec<u8> {
        // struct virtio_net_config, section 5.1.4: mac, status, max_virtqueue_pairs, mtu.
        let mut config = self.mac.to_vec();
        config.extend([0; 4]);
        config.extend(self.mtu.unwrap_or(0).to_le_bytes());
        config
    }

    fn activate(&mut self, context: &mut Context<'_>) -> Result<(), DeviceError> {
        // Also after a restore: the interface is a new one then, and frames that the guest cannot take must not come.
        self.backend
            .set_offload(Self::offload(context))
            .map_err(|source| DeviceError::Host {
                what: "the network interface refuses the offloads that the guest takes",
                source,
            })
    }

    fn notified(&mut self, queue: usize, context: &mut Context<'_>) -> Result<(), DeviceError> {
        match queue {
            RECEIVE => self.receive(context),
            _ => self.send(context),
        }
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::readable(self.backend.as_fd().as_raw_fd(), 0)]
    }

    fn ready(&mut self, _token: u32, _events: EventSet, context: &mut Context<'_>) -> Result<(), DeviceError> {
        if context.queues[RECEIVE].is_ready() {
            self.receive(context)
        } else {
            Ok(())
        }
    }

    fn reset(&mut self) {
        self.room.clear();
        self.room_bytes = 0;
    }

    fn quiesce(&mut self, context: &mut Context<'_>) -> Result<(), DeviceError> {
        context.queues[RECEIVE].unpop(self.room.len());
        self.reset();
        Ok(())
    }

    fn save(&mut self) -> io::Result<DeviceState> {
        Ok(DeviceState::Net)
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        match state {
            DeviceState::Net => Ok(()),
            _ => Err(RestoreError::Kind("net")),
        }
    }

    fn metrics(&self) -> DeviceMetrics {
        DeviceMetrics::Net(self.metrics.clone())
    }
}

#[cfg(test)]
mod tests;
