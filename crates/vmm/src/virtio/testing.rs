//! A guest for tests and fuzzing: its memory, its end of the queues, and a driver that can also misbehave.
//!
//! It talks to the device through the registers and rings that a real driver uses, and it plays the device thread: events
//! are delivered when the test asks for it, on the test's own thread.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use virtio_bindings::virtio_mmio as reg;
use vm_memory::{Bytes as _, GuestAddress};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent};

use super::core::{Shared, Virtio};
use super::device::VirtioDevice;
use super::mmio::MmioTransport;
use super::state::RestoreError;
use crate::bus::BusDevice as _;
use crate::events::EventHandler as _;
use crate::interrupt::Interrupt;
use crate::memory::{self, GuestMemory};

/// Bytes of memory of the guest.
pub const MEMORY: u64 = 8 << 20;

/// Descriptors in each queue, unless the device offers fewer.
pub const QUEUE_SIZE: u16 = 64;

/// How long a test waits for the device before it fails.
const PATIENCE_MS: i32 = 60_000;

/// The descriptor goes on with the one named next.
pub const NEXT: u16 = 1;
/// The device may write.
pub const WRITE: u16 = 2;
/// The descriptor names a table of descriptors.
pub const INDIRECT: u16 = 4;

/// The status of a device that the driver runs.
pub const STATUS_RUNNING: u32 = 1 | 2 | 4 | 8;
/// The bit of the status register by which a device asks for a reset.
pub const STATUS_NEEDS_RESET: u32 = 64;

/// A part of a request.
#[derive(Debug, Clone, Copy)]
pub enum Part<'a> {
    /// Bytes for the device.
    Out(&'a [u8]),
    /// Room for that many bytes from the device.
    In(u32),
}

/// A request on its way.
#[derive(Debug, Clone)]
pub struct Posted {
    /// The first descriptor.
    pub head: u16,
    /// Where each part lies.
    pub parts: Vec<GuestAddress>,
}

#[derive(Debug, Default)]
struct Line(AtomicUsize);

impl Interrupt for Line {
    fn trigger(&self) -> io::Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

#[derive(Debug, Clone)]
struct DriverQueue {
    size: u16,
    descriptors: u64,
    available: u64,
    used: u64,
    free: VecDeque<u16>,
    chains: BTreeMap<u16, Vec<u16>>,
    next_available: u16,
    next_used: u16,
}

/// The guest of a device under test.
#[derive(Debug)]
pub struct Guest<D: VirtioDevice> {
    /// The guest's memory.
    pub memory: GuestMemory,
    /// The device under test.
    pub device: Shared<D>,
    transport: MmioTransport,
    line: Arc<Line>,
    epoll: Epoll,
    queues: Vec<DriverQueue>,
    heap: u64,
}

impl<D: VirtioDevice + 'static> Guest<D> {
    /// A guest that has not looked at the device yet.
    pub fn new(device: D) -> Self {
        Self::with_memory(device, memory::allocate(MEMORY).expect("memory for a test"))
    }

    /// As [`new`](Self::new), with memory of the test's making, at least [`MEMORY`] bytes from address zero.
    pub fn with_memory(device: D, memory: GuestMemory) -> Self {
        let line = Arc::new(Line::default());
        let device = Virtio::shared(device, memory.clone(), line.clone()).expect("files for a test");
        let transport = MmioTransport::new(device.clone()).expect("files for a test");
        let epoll = Epoll::new().expect("an epoll file for a test");
        for watch in device.lock().expect("no panic before").watches() {
            let event = EpollEvent::new(watch.events, u64::from(watch.token));
            epoll
                .ctl(ControlOperation::Add, watch.fd, event)
                .expect("a file that can be watched");
        }
        Self {
            memory,
            device,
            transport,
            line,
            epoll,
            queues: Vec::new(),
            heap: MEMORY / 2,
        }
    }

    /// A guest whose driver runs the device with all the features that are offered.
    pub fn running(device: D) -> Self {
        let mut guest = Self::new(device);
        guest.start(u64::MAX);
        guest
    }

    /// Does what a driver does to start a device, with those of `features` that are offered.
    pub fn start(&mut self, features: u64) {
        self.set_register(reg::VIRTIO_MMIO_STATUS, 0);
        self.set_register(reg::VIRTIO_MMIO_STATUS, 1);
        self.set_register(reg::VIRTIO_MMIO_STATUS, 1 | 2);
        let accepted = features & self.offered();
        for (half, bits) in [(0, accepted as u32), (1, (accepted >> 32) as u32)] {
            self.set_register(reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
            self.set_register(reg::VIRTIO_MMIO_DRIVER_FEATURES, bits);
        }
        self.set_register(reg::VIRTIO_MMIO_STATUS, 1 | 2 | 8);
        self.set_up_queues();
        self.set_register(reg::VIRTIO_MMIO_STATUS, STATUS_RUNNING);
    }

    /// The features that the device offers.
    pub fn offered(&mut self) -> u64 {
        self.set_register(reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
        let low = u64::from(self.register(reg::VIRTIO_MMIO_DEVICE_FEATURES));
        self.set_register(reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
        low | u64::from(self.register(reg::VIRTIO_MMIO_DEVICE_FEATURES)) << 32
    }

    fn set_up_queues(&mut self) {
        self.queues.clear();
        for index in 0u32.. {
            self.set_register(reg::VIRTIO_MMIO_QUEUE_SEL, index);
            let size = QUEUE_SIZE.min(self.register(reg::VIRTIO_MMIO_QUEUE_NUM_MAX) as u16);
            if size == 0 {
                break;
            }
            let base = 0x1_0000 + u64::from(index) * 0x1_0000;
            let queue = DriverQueue {
                size,
                descriptors: base,
                available: base + 0x4000,
                used: base + 0x8000,
                free: (0..size).collect(),
                chains: BTreeMap::new(),
                next_available: 0,
                next_used: 0,
            };
            self.memory
                .write_slice(&[0; 0xc000], GuestAddress(base))
                .expect("rings in memory");
            for (register, value) in [
                (reg::VIRTIO_MMIO_QUEUE_NUM, u64::from(size)),
                (reg::VIRTIO_MMIO_QUEUE_DESC_LOW, queue.descriptors),
                (reg::VIRTIO_MMIO_QUEUE_DESC_HIGH, 0),
                (reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW, queue.available),
                (reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH, 0),
                (reg::VIRTIO_MMIO_QUEUE_USED_LOW, queue.used),
                (reg::VIRTIO_MMIO_QUEUE_USED_HIGH, 0),
                (reg::VIRTIO_MMIO_QUEUE_READY, 1),
            ] {
                self.set_register(register, value as u32);
            }
            self.queues.push(queue);
        }
    }

    /// Reads a register.
    pub fn register(&mut self, offset: u32) -> u32 {
        let mut data = [0; 4];
        self.transport.read(u64::from(offset), &mut data);
        u32::from_le_bytes(data)
    }

    /// Writes a register.
    pub fn set_register(&mut self, offset: u32, value: u32) {
        self.transport.write(u64::from(offset), &value.to_le_bytes());
    }

    /// The device status.
    pub fn status(&mut self) -> u32 {
        self.register(reg::VIRTIO_MMIO_STATUS)
    }

    /// Bytes of the configuration space.
    pub fn config<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.transport.read(u64::from(reg::VIRTIO_MMIO_CONFIG) + offset, &mut data);
        data
    }

    /// Writes to the configuration space.
    pub fn set_config(&mut self, offset: u64, data: &[u8]) {
        self.transport.write(u64::from(reg::VIRTIO_MMIO_CONFIG) + offset, data);
    }

    /// How often the device interrupted so far.
    pub fn interrupts(&self) -> usize {
        self.line.0.load(Ordering::SeqCst)
    }

    /// Takes memory that no other part of the guest uses.
    ///
    /// # Panics
    /// When the test uses more than half of the guest's memory: it starts over at the middle.
    pub fn allocate(&mut self, length: u64) -> GuestAddress {
        if self.heap + length > MEMORY {
            self.heap = MEMORY / 2;
        }
        assert!(self.heap + length <= MEMORY, "{length} bytes are more than a test guest has");
        let address = self.heap;
        // Odd distances: nothing may depend on how buffers are aligned.
        self.heap += length + 3;
        GuestAddress(address)
    }

    /// Puts a request into a queue without telling the device.
    ///
    /// # Panics
    /// When the queue has too few free descriptors.
    pub fn post(&mut self, queue: usize, parts: &[Part<'_>]) -> Posted {
        let addresses = parts.iter().map(|part| match part {
            Part::Out(bytes) => {
                let address = self.allocate(bytes.len() as u64);
                self.memory.write_slice(bytes, address).expect("allocated memory");
                address
            }
            Part::In(length) => self.allocate(u64::from(*length)),
        });
        let addresses: Vec<_> = addresses.collect();
        let free = &mut self.queues[queue].free;
        assert!(parts.len() <= free.len(), "too few free descriptors in queue {queue}");
        let chain: Vec<u16> = free.drain(..parts.len()).collect();
        for (index, part) in parts.iter().enumerate() {
            let (length, flags) = match part {
                Part::Out(bytes) => (bytes.len() as u32, 0),
                Part::In(length) => (*length, WRITE),
            };
            let next = chain.get(index + 1).copied();
            let flags = flags | if next.is_some() { NEXT } else { 0 };
            self.set_descriptor(queue, chain[index], (addresses[index].0, length, flags, next.unwrap_or(0)));
        }
        let head = chain[0];
        self.queues[queue].chains.insert(head, chain);
        self.make_available(queue, head);
        Posted { head, parts: addresses }
    }

    /// Writes a descriptor, as (address, length, flags, next), whatever it says.
    pub fn set_descriptor(&mut self, queue: usize, index: u16, descriptor: (u64, u32, u16, u16)) {
        let table = self.queues[queue].descriptors;
        self.write_descriptor(table + 16 * u64::from(index), descriptor);
    }

    /// Writes a descriptor to an address, for indirect tables.
    pub fn write_descriptor(&self, address: u64, (target, length, flags, next): (u64, u32, u16, u16)) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&target.to_le_bytes());
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        self.memory
            .write_slice(&bytes, GuestAddress(address))
            .expect("a table in memory");
    }

    /// Puts the chain that starts at `head` into the available ring.
    pub fn make_available(&mut self, queue: usize, head: u16) {
        let rings = &mut self.queues[queue];
        let slot = u64::from(rings.next_available % rings.size);
        rings.next_available = rings.next_available.wrapping_add(1);
        let (ring, index) = (rings.available, rings.next_available);
        self.memory
            .write_obj(head, GuestAddress(ring + 4 + 2 * slot))
            .expect("rings in memory");
        self.set_available_index(queue, index);
    }

    /// Sets the index of the available ring, whatever it says.
    pub fn set_available_index(&mut self, queue: usize, index: u16) {
        self.queues[queue].next_available = index;
        let address = GuestAddress(self.queues[queue].available + 2);
        self.memory.store(index, address, Ordering::Release).expect("rings in memory");
    }

    /// Tells the device of new requests and lets it work on what it can do at once.
    pub fn notify(&mut self, queue: usize) {
        self.set_register(reg::VIRTIO_MMIO_QUEUE_NOTIFY, queue as u32);
        self.run();
    }

    /// Delivers events to the device until there are none.
    pub fn run(&mut self) {
        while self.deliver(0) > 0 {}
    }

    /// Waits until the device gives a request back, and returns its head and the bytes written.
    ///
    /// # Panics
    /// When the device does nothing for a minute.
    pub fn wait_used(&mut self, queue: usize) -> (u16, u32) {
        self.wait(|guest| guest.used(queue))
    }

    /// Delivers events until `done` has an answer.
    ///
    /// # Panics
    /// When nothing happens for a minute.
    pub fn wait<T>(&mut self, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        loop {
            if let Some(answer) = done(self) {
                return answer;
            }
            self.wait_event();
        }
    }

    /// Waits for an event and delivers it.
    ///
    /// # Panics
    /// When nothing happens for a minute.
    pub fn wait_event(&mut self) {
        assert!(self.deliver(PATIENCE_MS) > 0, "the device does nothing");
    }

    fn deliver(&mut self, timeout_ms: i32) -> usize {
        let mut events = [EpollEvent::default(); 16];
        let count = self.epoll.wait(timeout_ms, &mut events).expect("epoll of a test");
        for event in &events[..count] {
            let mut device = self.device.lock().expect("no panic before");
            device.ready(event.data() as u32, event.event_set());
        }
        count
    }

    /// Takes the next request that the device gave back, as its head and the bytes written.
    pub fn used(&mut self, queue: usize) -> Option<(u16, u32)> {
        let rings = &mut self.queues[queue];
        let index: u16 = self
            .memory
            .load(GuestAddress(rings.used + 2), Ordering::Acquire)
            .expect("rings in memory");
        if index == rings.next_used {
            return None;
        }
        let slot = u64::from(rings.next_used % rings.size);
        let entry: [u32; 2] = self
            .memory
            .read_obj(GuestAddress(rings.used + 4 + 8 * slot))
            .expect("rings in memory");
        rings.next_used = rings.next_used.wrapping_add(1);
        // The driver wants an interrupt for the next one too.
        let used_event = GuestAddress(rings.available + 4 + 2 * u64::from(rings.size));
        self.memory.write_obj(rings.next_used, used_event).expect("rings in memory");
        let head = entry[0] as u16;
        rings.free.extend(rings.chains.remove(&head).unwrap_or_default());
        Some((head, entry[1]))
    }

    /// Bytes of guest memory.
    pub fn read(&self, address: GuestAddress, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, address).expect("an address in memory");
        bytes
    }

    /// The first bytes of a request that the device has given back: of the buffer that its first descriptor names.
    pub fn buffer(&self, queue: usize, head: u16, length: usize) -> Vec<u8> {
        let descriptor = GuestAddress(self.queues[queue].descriptors + 16 * u64::from(head));
        let address: u64 = self.memory.read_obj(descriptor).expect("a table in memory");
        self.read(GuestAddress(address), length)
    }

    /// Saves the device and goes on with `device` in its place, as a restored guest does. Memory is kept.
    ///
    /// # Errors
    /// When the new device does not take the state.
    pub fn restored_with(self, device: D) -> Result<Self, RestoreError> {
        let state = self
            .device
            .lock()
            .expect("no panic before")
            .save()
            .expect("a disk that can be written");
        let guest = Self {
            queues: self.queues.clone(),
            heap: self.heap,
            ..Self::with_memory(device, self.memory.clone())
        };
        {
            let mut device = guest.device.lock().expect("no panic before");
            device.restore(&state)?;
            device.resume();
        }
        Ok(guest)
    }
}
