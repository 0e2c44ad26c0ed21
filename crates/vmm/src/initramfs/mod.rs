//! The initramfs that a guest starts from: a static init and the kernel modules that it loads.
//!
//! Kernels of distributions have virtio as modules, so something must load them before there is a root disk. The
//! archive holds `/init`, the modules under `/modules`, and `/modules/order`, a list of their file names in the order in
//! which they are loaded.

mod cpio;
mod modules;

use std::io::{self, Write};
use std::path::Path;

pub use cpio::Archive;
pub use modules::{Module, ModuleError, resolve};

/// What a guest of ours needs: the MMIO transport, disks, network, sockets, random numbers, balloon.
///
/// Where a kernel has one of them built in, there is nothing to load.
pub const MODULES: [&str; 7] = [
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "vmw_vsock_virtio_transport",
    "virtio_rng",
    "virtio_balloon",
    "overlay",
];

/// Writes an archive with `init` and `modules`, in the order given.
///
/// # Errors
/// When a file cannot be read or the archive not be written.
pub fn write(to: &mut dyn Write, init: &Path, modules: &[Module]) -> io::Result<()> {
    let mut archive = Archive::new(to);
    for directory in ["dev", "proc", "sys", "modules", "root"] {
        archive.directory(directory)?;
    }
    // The kernel opens it for the init's streams before any file system is mounted.
    archive.character_device("dev/console", 5, 1)?;
    archive.file("init", 0o755, &std::fs::read(init)?)?;
    let mut order = String::new();
    for module in modules {
        archive.file(&format!("modules/{}", module.file_name()), 0o644, &module.content)?;
        order.push_str(&module.file_name());
        order.push('\n');
    }
    archive.file("modules/order", 0o644, order.as_bytes())?;
    archive.finish()
}
