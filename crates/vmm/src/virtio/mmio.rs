//! The MMIO transport (virtio 1.2, section 4.2): registers that the driver finds a device by and sets it up with.

use std::sync::{Arc, MutexGuard, PoisonError};

use virtio_bindings::virtio_mmio as reg;
use virtio_queue::QueueT as _;
use vmm_sys_util::eventfd::EventFd;

use super::core::{InterruptStatus, Shared, Virtio};
use super::device::VirtioDevice;
use crate::bus::BusDevice;

/// Size of the register space of a device, in bytes.
pub const MMIO_SIZE: u64 = 0x1000;

/// Offset of the register that the driver notifies queues with. Its value is the number of the queue.
pub const QUEUE_NOTIFY: u64 = reg::VIRTIO_MMIO_QUEUE_NOTIFY as u64;

/// "virt", little endian.
const MAGIC: u32 = 0x7472_6976;
/// The version of the transport since virtio 1.0.
const VERSION: u32 = 2;
/// "DRMS": drivers do not look at it.
const VENDOR: u32 = u32::from_le_bytes(*b"DRMS");

/// The register space of a device, as the bus sees it.
#[derive(Debug)]
pub struct MmioTransport {
    device: Shared<dyn VirtioDevice>,
    interrupt: Arc<InterruptStatus>,
    notifiers: Vec<EventFd>,
}

impl MmioTransport {
    /// The registers of `device`.
    ///
    /// # Errors
    /// When the files of the queues cannot be duplicated.
    pub fn new(device: Shared<dyn VirtioDevice>) -> std::io::Result<Self> {
        let (interrupt, notifiers) = {
            let device = device.lock().unwrap_or_else(PoisonError::into_inner);
            let notifiers = device.queues().iter().map(|queue| queue.event().try_clone());
            (device.interrupt().clone(), notifiers.collect::<Result<_, _>>()?)
        };
        Ok(Self {
            device,
            interrupt,
            notifiers,
        })
    }

    /// One file for each queue, to be written when the driver writes the queue's number to [`QUEUE_NOTIFY`]. Where KVM
    /// is not told to do so (`KVM_IOEVENTFD`), the register does it.
    pub fn notifiers(&self) -> &[EventFd] {
        &self.notifiers
    }

    fn device(&self) -> MutexGuard<'_, Virtio<dyn VirtioDevice>> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, offset: u32) -> u32 {
        if offset == reg::VIRTIO_MMIO_INTERRUPT_STATUS {
            // Read at every interrupt: not to be held up by a device at work.
            return self.interrupt.pending();
        }
        let device = self.device();
        match offset {
            reg::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            reg::VIRTIO_MMIO_VERSION => VERSION,
            reg::VIRTIO_MMIO_DEVICE_ID => device.kind() as u32,
            reg::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            reg::VIRTIO_MMIO_DEVICE_FEATURES => match device.device_features_select {
                0 => device.features() as u32,
                1 => (device.features() >> 32) as u32,
                _ => 0,
            },
            reg::VIRTIO_MMIO_QUEUE_NUM_MAX => {
                let selected = device.queue_select as usize;
                device.queues().get(selected).map_or(0, |queue| u32::from(queue.max_size()))
            }
            reg::VIRTIO_MMIO_QUEUE_READY => {
                let selected = device.queue_select as usize;
                device.queues().get(selected).map_or(0, |queue| u32::from(queue.is_ready()))
            }
            reg::VIRTIO_MMIO_STATUS => device.status,
            // No device has shared memory: a length of all ones says so.
            reg::VIRTIO_MMIO_SHM_LEN_LOW
            | reg::VIRTIO_MMIO_SHM_LEN_HIGH
            | reg::VIRTIO_MMIO_SHM_BASE_LOW
            | reg::VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            reg::VIRTIO_MMIO_CONFIG_GENERATION => device.generation,
            _ => 0,
        }
    }

    fn set_register(&self, offset: u32, value: u32) {
        match offset {
            reg::VIRTIO_MMIO_QUEUE_NOTIFY => {
                if let Some(notifier) = self.notifiers.get(value as usize) {
                    let _ = notifier.write(1);
                }
                return;
            }
            reg::VIRTIO_MMIO_INTERRUPT_ACK => return self.interrupt.acknowledge(value),
            _ => {}
        }
        let mut device = self.device();
        match offset {
            reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL => device.device_features_select = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES => device.accept_features(value),
            reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL => device.driver_features_select = value,
            reg::VIRTIO_MMIO_QUEUE_SEL => device.queue_select = value,
            reg::VIRTIO_MMIO_STATUS => device.set_status(value),
            _ => {
                let Some(queue) = device.selected_queue() else { return };
                if offset == reg::VIRTIO_MMIO_QUEUE_READY {
                    queue.rings().set_ready(value & 1 != 0);
                } else if !queue.is_ready() {
                    set_queue_register(queue.rings(), offset, value);
                }
            }
        }
    }
}

/// Values that a queue cannot have are ignored, as the driver's write of a register cannot fail.
fn set_queue_register(queue: &mut virtio_queue::Queue, offset: u32, value: u32) {
    match offset {
        reg::VIRTIO_MMIO_QUEUE_NUM => {
            if let Ok(size) = u16::try_from(value) {
                queue.set_size(size);
            }
        }
        reg::VIRTIO_MMIO_QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
        reg::VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
        reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.set_avail_ring_address(Some(value), None),
        reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.set_avail_ring_address(None, Some(value)),
        reg::VIRTIO_MMIO_QUEUE_USED_LOW => queue.set_used_ring_address(Some(value), None),
        reg::VIRTIO_MMIO_QUEUE_USED_HIGH => queue.set_used_ring_address(None, Some(value)),
        _ => {}
    }
}

impl BusDevice for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(u64::from(reg::VIRTIO_MMIO_CONFIG)) {
            let config = self.device().device().config();
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(config.len());
            let count = data.len().min(config.len() - start);
            data[..count].copy_from_slice(&config[start..start + count]);
        } else if let (Ok(offset), 4) = (u32::try_from(offset), data.len()) {
            // Registers are read and written as aligned words only (section 4.2.2.2); others have none at the offset.
            data.copy_from_slice(&self.register(offset).to_le_bytes());
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(u64::from(reg::VIRTIO_MMIO_CONFIG)) {
            self.device().write_config(offset, data);
        } else if let (Ok(offset), Ok(value)) = (u32::try_from(offset), <[u8; 4]>::try_from(data)) {
            self.set_register(offset, u32::from_le_bytes(value));
        }
    }
}
