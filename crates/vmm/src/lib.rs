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
pub mod config;
pub mod control;
pub mod events;
pub mod initramfs;
pub mod interrupt;
pub mod jail;
pub mod kvm;
pub mod layout;
pub mod legacy;
pub mod machine;
pub mod memory;
pub mod process;
pub mod snapshot;
pub mod virtio;

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
