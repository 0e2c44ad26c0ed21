//! The devices that are not virtio: serial line, reset and power, generation id.

pub mod generation;
pub mod power;
pub mod serial;
