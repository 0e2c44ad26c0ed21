//! Where things are in the guest's address space.
//!
//! ```text
//!  0x0000_0500  descriptor tables           0x0009_fc00  end of low memory that Linux may use
//!  0x0000_7000  zero page                   0x000e_0000  ACPI: root pointer, tables
//!  0x0000_9000  page tables                 0x000f_0000  generation id of the machine
//!  0x0002_0000  command line                0x0010_0000  kernel; the initramfs is at the end of low memory
//!  0xd000_0000  virtio devices, 4 KiB each  0xfec0_0000  I/O APIC      0xfee0_0000  local APICs
//! ```

/// Global descriptor table.
pub const GDT: u64 = 0x500;
/// Interrupt descriptor table, empty.
pub const IDT: u64 = 0x540;
/// Top of the first stack; the kernel sets up its own.
pub const STACK: u64 = 0x8ff0;
/// Linux's boot parameters.
pub const ZERO_PAGE: u64 = 0x7000;
/// Top-level page table; the lower levels follow.
pub const PAGE_TABLES: u64 = 0x9000;
/// The kernel's command line.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// Most bytes of a command line, with the NUL (as on x86 Linux).
pub const COMMAND_LINE_SIZE: usize = 2048;
/// End of the memory below 1 MiB that Linux may use.
pub const LOW_MEMORY_END: u64 = 0x9_fc00;
/// ACPI's root pointer.
pub const RSDP: u64 = 0xe_0000;
/// ACPI's tables, up to [`GENERATION_ID`].
pub const ACPI_TABLES: u64 = 0xe_0040;
/// The machine's generation id (see [`crate::legacy::generation`]).
pub const GENERATION_ID: u64 = 0xf_0000;
/// End of what is reserved below 1 MiB.
pub const RESERVED_END: u64 = 0x10_0000;
/// Where the kernel is loaded.
pub const KERNEL: u64 = 0x10_0000;

/// Registers of the first virtio device.
pub const VIRTIO: u64 = 0xd000_0000;
/// Distance between the registers of two virtio devices, in bytes.
pub const VIRTIO_STRIDE: u64 = 0x1000;
/// Interrupt line of the first virtio device; the others follow.
pub const VIRTIO_LINE: u32 = 5;
/// Most virtio devices of a machine.
pub const MAX_VIRTIO: usize = 16;

/// The I/O APIC, where KVM has it.
pub const IO_APIC: u32 = 0xfec0_0000;
/// The local APICs, where KVM has them.
pub const LOCAL_APIC: u32 = 0xfee0_0000;

/// First port of the serial line.
pub const SERIAL_PORT: u16 = 0x3f8;
/// Interrupt line of the serial line.
pub const SERIAL_LINE: u32 = 4;
/// Port of ACPI's sleep registers.
pub const SLEEP_PORT: u16 = 0x600;
/// Interrupt line of ACPI events.
pub const EVENT_LINE: u32 = 23;

/// Address and interrupt line of the virtio device in `slot`.
pub fn virtio(slot: usize) -> (u64, u32) {
    (VIRTIO + slot as u64 * VIRTIO_STRIDE, VIRTIO_LINE + slot as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_a_full_machine_have_lines_of_their_own_below_that_of_events() {
        let (address, line) = virtio(MAX_VIRTIO - 1);
        assert!(line < EVENT_LINE && VIRTIO_LINE > SERIAL_LINE);
        assert!(address + VIRTIO_STRIDE < u64::from(IO_APIC));
    }
}
