//! The first vCPU's registers: 64-bit mode with the first 4 GiB mapped one to one (the kernel's
//! `Documentation/arch/x86/boot.rst`, "64-bit Boot Protocol").

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryError};

use crate::layout;
use crate::memory::GuestMemory;

/// Protection enabled, math coprocessor is on the chip, native errors, paging.
const CR0: u64 = 1 | 1 << 4 | 1 << 5 | 1 << 31;
/// Physical address extension.
const CR4: u64 = 1 << 5;
/// Long mode enabled and active.
const EFER: u64 = 1 << 8 | 1 << 10;
/// Present and writable.
const TABLE: u64 = 3;
/// Present, writable, 2 MiB.
const LARGE_PAGE: u64 = 0x83;
const GIB: u64 = 1 << 30;
const MAPPED: u64 = 4;

/// Flat segments as boot.rst wants them: `__BOOT_CS` is 0x10 and `__BOOT_DS` is 0x18.
const CODE: kvm_segment = segment(0x10, 0xb, 1);
const DATA: kvm_segment = segment(0x18, 0x3, 0);
const TASK: kvm_segment = kvm_segment {
    limit: 0xffff,
    s: 0,
    g: 0,
    db: 0,
    ..segment(0x20, 0xb, 0)
};

const fn segment(selector: u16, kind: u8, long: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: 1 - long,
        s: 1,
        l: long,
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

/// The descriptor of a segment as it is in the table in memory.
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 { segment.limit >> 12 } else { segment.limit });
    let flags = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7
        | u64::from(segment.avl) << 12
        | u64::from(segment.l) << 13
        | u64::from(segment.db) << 14
        | u64::from(segment.g) << 15;
    (segment.base & 0xff00_0000) << 32
        | flags << 40
        | (limit & 0xf_0000) << 32
        | (segment.base & 0xff_ffff) << 16
        | limit & 0xffff
}

/// Writes descriptor and page tables and returns the registers to enter 64-bit code at `entry` with.
/// `special` are the vCPU's special registers as KVM made them.
///
/// # Errors
/// When memory is too small for the tables.
pub fn long_mode(memory: &GuestMemory, entry: u64, mut special: kvm_sregs) -> Result<(kvm_regs, kvm_sregs), GuestMemoryError> {
    // The task's descriptor has 16 bytes in 64-bit mode; its upper half is zero.
    let table = [0, 0, descriptor(&CODE), descriptor(&DATA), descriptor(&TASK), 0];
    memory.write_obj(table, GuestAddress(layout::GDT))?;
    memory.write_obj(0u64, GuestAddress(layout::IDT))?;

    let (directory_pointers, directories) = (layout::PAGE_TABLES + 0x1000, layout::PAGE_TABLES + 0x2000);
    memory.write_obj(directory_pointers | TABLE, GuestAddress(layout::PAGE_TABLES))?;
    for gib in 0..MAPPED {
        let directory = directories + gib * 0x1000;
        memory.write_obj(directory | TABLE, GuestAddress(directory_pointers + gib * 8))?;
        for page in 0..512 {
            memory.write_obj((gib * GIB + (page << 21)) | LARGE_PAGE, GuestAddress(directory + page * 8))?;
        }
    }

    special.cs = CODE;
    (special.ds, special.es, special.fs, special.gs, special.ss) = (DATA, DATA, DATA, DATA, DATA);
    special.tr = TASK;
    special.gdt = kvm_dtable {
        base: layout::GDT,
        limit: 47,
        ..Default::default()
    };
    special.idt = kvm_dtable {
        base: layout::IDT,
        limit: 7,
        ..Default::default()
    };
    special.cr0 = CR0;
    special.cr3 = layout::PAGE_TABLES;
    special.cr4 |= CR4;
    special.efer |= EFER;
    let regs = kvm_regs {
        rflags: 2,
        rip: entry,
        rsp: layout::STACK,
        rbp: layout::STACK,
        rsi: layout::ZERO_PAGE,
        ..Default::default()
    };
    Ok((regs, special))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;

    #[test]
    fn descriptors_have_their_bits_where_the_cpu_reads_them() {
        assert_eq!(descriptor(&CODE), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&DATA), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(&TASK), 0x0000_8b00_0000_ffff);
    }

    #[test]
    fn the_first_four_gibibytes_are_mapped_one_to_one() {
        let memory = memory::allocate(1 << 20).unwrap();
        let (regs, special) = long_mode(&memory, 0x1234, kvm_sregs::default()).unwrap();
        assert_eq!((regs.rip, regs.rsi), (0x1234, layout::ZERO_PAGE));
        let read = |address: u64| memory.read_obj::<u64>(GuestAddress(address)).unwrap();
        for address in [0u64, 0x20_0000, 0x1234_5678, 0xffff_ffff] {
            let pointers = read(special.cr3) & !0xfff;
            let directory = read(pointers + (address >> 30) * 8) & !0xfff;
            assert_eq!(read(directory + (address >> 21 & 511) * 8), address & !0x1f_ffff | LARGE_PAGE);
        }
    }
}
