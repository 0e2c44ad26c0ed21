//! The virtual machine monitor: one process runs one Linux guest on KVM (x86_64).
//!
//! The machine is small on purpose: in-kernel interrupt controllers, a serial port, virtio devices on the MMIO
//! transport announced through ACPI, and nothing that a cloud kernel does not need.
//!
//! Threads: the main thread owns the machine and serves the control socket, one device thread runs the event loop of
//! all devices ([`events`]), and each vCPU has a thread of its own.
//!
//! Unsafe code is allowed in this crate: it maps guest memory and talks to KVM. Each block states why it is sound.

pub mod acpi;
pub mod boot;
pub mod bus;
pub mod events;
pub mod initramfs;
pub mod interrupt;
pub mod kvm;
pub mod layout;
pub mod legacy;
pub mod machine;
pub mod memory;
pub mod snapshot;
pub mod virtio;
