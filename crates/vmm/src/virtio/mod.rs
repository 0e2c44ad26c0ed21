//! Virtio devices on the MMIO transport (virtio 1.2, section 4.2).
