//! Virtio devices on the MMIO transport (virtio 1.2).
//!
//! A device is a model that knows its type only ([`VirtioDevice`]). [`Virtio`] adds what all devices share: status,
//! features, queues, interrupts, saving. [`MmioTransport`] is the register space that the guest's driver talks to.
//!
//! Whatever the guest writes, no device panics, and none touches memory outside of the guest's. A request that makes no
//! sense is answered with the type's own error. A driver that breaks a queue itself (a chain with a loop, rings outside of
//! memory) finds `DEVICE_NEEDS_RESET` in the status register, and the device rests until it is reset.

pub mod balloon;
pub mod block;
pub mod buffer;
mod core;
pub mod device;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod mmio;
pub mod net;
pub mod queue;
pub mod rng;
pub mod state;
#[cfg(any(test, fuzzing, feature = "testing"))]
pub mod testing;
pub mod vsock;

pub use self::core::{Shared, Virtio, VirtioMetrics};
pub use device::{DeviceKind, VirtioDevice};
pub use mmio::MmioTransport;
pub use state::{DeviceState, RestoreError, VirtioState};

#[cfg(test)]
mod core_tests;
