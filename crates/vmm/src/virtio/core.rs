//! The part that all virtio devices share: status, features, queues, interrupts, saving and restoring.
//!
//! ```text
//!   vCPU threads ── register access ──► MmioTransport ─┐
//!                                                      ├─► Virtio<Block>, Virtio<Net>, …   (one lock each)
//!   device thread ── queue and file events ────────────┘
//! ```

use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use serde::Serialize;
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE as ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER as DRIVER, VIRTIO_CONFIG_S_DRIVER_OK as DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED as FAILED, VIRTIO_CONFIG_S_FEATURES_OK as FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET as NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::QueueT as _;

use super::device::{Context, DeviceError, DeviceKind, DeviceMetrics, VirtioDevice};
use super::queue::VirtQueue;
use super::state::{RestoreError, VirtioState};
use crate::events::{EventHandler, EventSet, Watch};
use crate::interrupt::Interrupt;
use crate::memory::GuestMemory;

/// What is offered for every device: virtio 1.x, and what makes its rings cheap.
const COMMON_FEATURES: u64 = 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;

/// Tokens of a device's own files begin here; those below are queues.
const DEVICE_TOKENS: u32 = 0x100;

/// A virtio device that the bus, the device thread and the machine hold together.
pub type Shared<D> = Arc<Mutex<Virtio<D>>>;

/// The interrupt line with its status register. Needs no lock: the guest acknowledges each interrupt.
#[derive(Debug)]
pub(super) struct InterruptStatus {
    pending: AtomicU32,
    line: Arc<dyn Interrupt>,
}

impl InterruptStatus {
    pub(super) fn pending(&self) -> u32 {
        self.pending.load(Ordering::SeqCst)
    }

    pub(super) fn acknowledge(&self, bits: u32) {
        self.pending.fetch_and(!bits, Ordering::SeqCst);
    }

    fn raise(&self, bits: u32) {
        self.pending.fetch_or(bits, Ordering::SeqCst);
        if let Err(error) = self.line.trigger() {
            tracing::error!(%error, "cannot interrupt the guest");
        }
    }
}

/// What happened to a device so far, whatever its type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VirtioMetrics {
    /// How often the driver started the device.
    pub activations: u64,
    /// How often the driver reset the device.
    pub resets: u64,
    /// How often the device had to ask for a reset, because the driver or the host failed.
    pub failures: u64,
    /// Interrupts for used buffers.
    pub queue_interrupts: u64,
    /// Interrupts for a change of the configuration.
    pub config_interrupts: u64,
    /// What this type of device counts.
    #[serde(flatten)]
    pub device: DeviceMetrics,
}

#[derive(Debug, Default)]
struct Counters {
    activations: u64,
    resets: u64,
    failures: u64,
    queue_interrupts: u64,
    config_interrupts: u64,
}

/// A device with what all virtio devices share.
#[derive(Debug)]
pub struct Virtio<D: VirtioDevice + ?Sized> {
    memory: GuestMemory,
    queues: Vec<VirtQueue>,
    interrupt: Arc<InterruptStatus>,
    counters: Counters,
    pub(super) status: u32,
    driver_features: u64,
    pub(super) generation: u32,
    pub(super) device_features_select: u32,
    pub(super) driver_features_select: u32,
    pub(super) queue_select: u32,
    device: D,
}

impl<D: VirtioDevice> Virtio<D> {
    /// Puts `device` into a guest with this memory. The device interrupts the guest through `line`.
    ///
    /// # Errors
    /// When event files for the queues cannot be had.
    pub fn new(device: D, memory: GuestMemory, line: Arc<dyn Interrupt>) -> io::Result<Self> {
        let queues = device.queue_sizes().iter().map(|size| VirtQueue::new(*size));
        Ok(Self {
            queues: queues.collect::<Result<_, _>>()?,
            memory,
            interrupt: Arc::new(InterruptStatus {
                pending: AtomicU32::new(0),
                line,
            }),
            counters: Counters::default(),
            status: 0,
            driver_features: 0,
            generation: 0,
            device_features_select: 0,
            driver_features_select: 0,
            queue_select: 0,
            device,
        })
    }

    /// As [`new`](Self::new), behind the lock that it will need.
    ///
    /// # Errors
    /// See [`new`](Self::new).
    pub fn shared(device: D, memory: GuestMemory, line: Arc<dyn Interrupt>) -> io::Result<Shared<D>> {
        Ok(Arc::new(Mutex::new(Self::new(device, memory, line)?)))
    }
}

impl<D: VirtioDevice + ?Sized> Virtio<D> {
    /// The type of the device.
    pub fn kind(&self) -> DeviceKind {
        self.device.kind()
    }

    /// The device's own part, to look at.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Whether the driver has started the device and neither side gave up since.
    pub fn is_running(&self) -> bool {
        self.status & DRIVER_OK != 0 && self.status & (NEEDS_RESET | FAILED) == 0
    }

    /// Does something with the device on behalf of the host. `act` gets the device's queues while the driver runs it.
    ///
    /// # Errors
    /// Those of `act`. The driver of a running device then sees that it needs a reset.
    pub fn control<R>(
        &mut self,
        act: impl FnOnce(&mut D, Option<&mut Context<'_>>) -> Result<R, DeviceError>,
    ) -> Result<R, DeviceError> {
        if self.is_running() {
            self.call(|device, context| act(device, Some(context)))
        } else {
            act(&mut self.device, None)
        }
    }

    /// Brings the device to rest and returns its state. Call it with vCPUs and the device thread paused, and before
    /// guest memory is saved: requests under way finish into guest memory. The device goes on when the pause ends.
    ///
    /// A driver that broke its queues does not hinder this: the state then is that of a device that needs a reset.
    ///
    /// # Errors
    /// When the host cannot write what the device keeps in files.
    pub fn save(&mut self) -> io::Result<VirtioState> {
        if self.is_running() {
            // The failure is in the state.
            let _ = self.call(D::quiesce);
        }
        let device = self.device.save()?;
        Ok(VirtioState {
            status: self.status,
            driver_features: self.driver_features,
            interrupt_status: self.interrupt.pending(),
            generation: self.generation,
            device_features_select: self.device_features_select,
            driver_features_select: self.driver_features_select,
            queue_select: self.queue_select,
            queues: self.queues.iter().map(VirtQueue::save).collect(),
            device,
        })
    }

    /// Takes over the state of a saved device. Call it on a new device, when guest memory is in place; call
    /// [`resume`](Self::resume) when the interrupt controllers are.
    ///
    /// # Errors
    /// [`RestoreError`] when the state is of another device, or the host cannot do what the guest negotiated.
    pub fn restore(&mut self, state: &VirtioState) -> Result<(), RestoreError> {
        if state.queues.len() != self.queues.len() {
            return Err(RestoreError::Kind(self.kind().name()));
        }
        let unknown = state.driver_features & !self.features();
        if unknown != 0 {
            return Err(RestoreError::Features(unknown));
        }
        for (index, (queue, saved)) in self.queues.iter_mut().zip(&state.queues).enumerate() {
            queue.restore(saved).map_err(|source| RestoreError::Queue { index, source })?;
        }
        self.device.restore(&state.device)?;
        self.status = state.status;
        self.driver_features = state.driver_features;
        self.generation = state.generation;
        self.device_features_select = state.device_features_select;
        self.driver_features_select = state.driver_features_select;
        self.queue_select = state.queue_select;
        self.interrupt.pending.store(state.interrupt_status, Ordering::SeqCst);
        if self.is_running() {
            self.activate().map_err(RestoreError::Activate)?;
        }
        Ok(())
    }

    /// After a restore or a save: looks at every queue as if the driver had just notified it, and repeats an interrupt
    /// that the guest has not acknowledged. Either may have been lost on the way.
    pub fn resume(&self) {
        for queue in &self.queues {
            queue.kick();
        }
        if self.interrupt.pending() != 0 {
            self.interrupt.raise(0);
        }
    }

    /// What the device did so far.
    pub fn metrics(&self) -> VirtioMetrics {
        let Counters {
            activations,
            resets,
            failures,
            queue_interrupts,
            config_interrupts,
        } = self.counters;
        VirtioMetrics {
            activations,
            resets,
            failures,
            queue_interrupts,
            config_interrupts,
            device: self.device.metrics(),
        }
    }

    /// The features that the driver may choose from.
    pub(super) fn features(&self) -> u64 {
        self.device.features() | COMMON_FEATURES
    }

    pub(super) fn interrupt(&self) -> &Arc<InterruptStatus> {
        &self.interrupt
    }

    pub(super) fn queues(&self) -> &[VirtQueue] {
        &self.queues
    }

    /// The queue that the driver selected, to be set up: not before the features are agreed on, nor while it is in use.
    pub(super) fn selected_queue(&mut self) -> Option<&mut VirtQueue> {
        if self.status & FEATURES_OK == 0 || self.status & (DRIVER_OK | FAILED) != 0 {
            return None;
        }
        self.queues.get_mut(self.queue_select as usize)
    }

    /// The driver accepts the features `bits` in the half that it selected.
    pub(super) fn accept_features(&mut self, bits: u32) {
        if self.status & DRIVER == 0 || self.status & FEATURES_OK != 0 {
            return;
        }
        let (mask, bits) = match self.driver_features_select {
            0 => (0xffff_ffff, u64::from(bits)),
            1 => (0xffff_ffff << 32, u64::from(bits) << 32),
            _ => return,
        };
        self.driver_features = self.driver_features & !mask | bits;
    }

    /// The driver writes the status register (virtio 1.2, sections 2.1 and 3.1). It may only add bits, each after those
    /// that come before it; zero resets the device.
    pub(super) fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        if self.status & !value & !NEEDS_RESET != 0 {
            return;
        }
        self.status |= value & FAILED;
        let mut before = 0;
        for bit in [ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK] {
            if value & !self.status & bit != 0 {
                let refused = bit == FEATURES_OK && !self.features_acceptable();
                if self.status & before != before || self.status & FAILED != 0 || refused {
                    return;
                }
                self.status |= bit;
                if bit == DRIVER_OK {
                    // The failure is in the status register.
                    let _ = self.activate();
                }
            }
            before |= bit;
        }
    }

    /// The driver writes to the configuration space.
    pub(super) fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.device.write_config(offset, data);
    }

    /// Features are acceptable when all of them were offered; a driver from before virtio 1.0 is not supported.
    fn features_acceptable(&self) -> bool {
        self.driver_features & !self.features() == 0 && self.driver_features & 1 << VIRTIO_F_VERSION_1 != 0
    }

    fn activate(&mut self) -> Result<(), DeviceError> {
        self.counters.activations += 1;
        let event_idx = self.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let mut invalid = None;
        for (index, queue) in self.queues.iter_mut().enumerate() {
            queue.rings().set_event_idx(event_idx);
            if queue.is_ready() && !queue.is_valid(&self.memory) {
                invalid = Some(index);
            }
        }
        if let Some(index) = invalid {
            let error = DeviceError::NotReady(index);
            self.fail(&error);
            return Err(error);
        }
        self.call(D::activate)
    }

    fn reset(&mut self) {
        self.counters.resets += 1;
        self.device.reset();
        for queue in &mut self.queues {
            queue.reset();
        }
        self.status = 0;
        self.driver_features = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.queue_select = 0;
        self.interrupt.acknowledge(u32::MAX);
    }

    /// Calls the device, and interrupts the driver for what came of it.
    fn call<R>(&mut self, act: impl FnOnce(&mut D, &mut Context<'_>) -> Result<R, DeviceError>) -> Result<R, DeviceError> {
        let mut context = Context {
            memory: &self.memory,
            queues: &mut self.queues,
            features: self.driver_features,
            config_changed: false,
        };
        let result = act(&mut self.device, &mut context);
        let config_changed = context.config_changed;
        let mut used = false;
        for queue in &mut self.queues {
            used |= queue.take_interrupt(&self.memory);
        }
        if used {
            self.counters.queue_interrupts += 1;
            self.interrupt.raise(VIRTIO_MMIO_INT_VRING);
        }
        if config_changed {
            self.change_config();
        }
        if let Err(error) = &result {
            self.fail(error);
        }
        result
    }

    fn change_config(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.counters.config_interrupts += 1;
        self.interrupt.raise(VIRTIO_MMIO_INT_CONFIG);
    }

    /// Stops the device until the driver resets it (virtio 1.2, section 2.1.2).
    fn fail(&mut self, error: &DeviceError) {
        self.counters.failures += 1;
        // A guest can do this as often as it likes, but it cannot fill the log with it.
        if self.counters.failures == 1 {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            tracing::warn!(kind = self.kind().name(), %error, cause, "a virtio device needs a reset");
        }
        self.status |= NEEDS_RESET;
        self.change_config();
    }
}

impl<D: VirtioDevice + ?Sized> EventHandler for Virtio<D> {
    fn watches(&self) -> Vec<Watch> {
        let queues = (0u32..).zip(&self.queues);
        let queues = queues.map(|(index, queue)| Watch::readable(queue.event().as_raw_fd(), index));
        let own = self.device.watches().into_iter().map(|watch| Watch {
            token: watch.token + DEVICE_TOKENS,
            events: watch.events | EventSet::EDGE_TRIGGERED,
            ..watch
        });
        queues.chain(own).collect()
    }

    fn ready(&mut self, token: u32, events: EventSet) {
        // Failures are in the status register.
        if let Some(token) = token.checked_sub(DEVICE_TOKENS) {
            if self.is_running() {
                let _ = self.call(|device, context| device.ready(token, events, context));
            }
        } else if let Some(queue) = self.queues.get(token as usize) {
            // Read even when nobody is interested, or it would stay ready.
            let _ = queue.event().read();
            if self.is_running() && queue.is_ready() {
                let _ = self.call(|device, context| device.notified(token as usize, context));
            }
        }
    }
}
