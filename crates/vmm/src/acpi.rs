//! The tables by which Linux finds CPUs and devices (ACPI 6.5, hardware-reduced).

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryError};

use crate::layout;
use crate::legacy::power;
use crate::memory::GuestMemory;

const OEM: [u8; 6] = *b"DORMOU";
const TABLE: [u8; 8] = *b"DORMOUSE";

/// What the tables tell.
#[derive(Debug, Clone, Copy)]
pub struct Acpi {
    /// Number of vCPUs; their APIC ids count from 0.
    pub vcpus: u8,
    /// Number of virtio devices, in the slots from the first.
    pub virtio: usize,
}

impl Acpi {
    /// Writes the tables into `memory`.
    ///
    /// # Errors
    /// When memory is too small for them.
    pub fn write(self, memory: &GuestMemory) -> Result<(), GuestMemoryError> {
        let mut next = layout::ACPI_TABLES;
        let mut place = |table: &[u8]| {
            let address = next;
            next = (next + table.len() as u64).next_multiple_of(16);
            assert!(next <= layout::GENERATION_ID, "the tables of a full machine fit by far");
            memory.write_slice(table, GuestAddress(address)).map(|()| address)
        };
        let dsdt = place(self.dsdt().as_slice())?;
        let fadt = place(&fadt(dsdt))?;
        let madt = place(&self.madt())?;
        let mut xsdt = XSDT::new(OEM, TABLE, 1);
        xsdt.add_entry(fadt);
        xsdt.add_entry(madt);
        let xsdt = place(&bytes(&xsdt))?;
        memory.write_slice(&bytes(&Rsdp::new(OEM, xsdt)), GuestAddress(layout::RSDP))
    }

    fn madt(self) -> Vec<u8> {
        let mut madt = MADT::new(OEM, TABLE, 1, LocalInterruptController::Address(layout::LOCAL_APIC));
        for id in 0..self.vcpus {
            madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
        }
        madt.add_structure(IoApic::new(self.vcpus, layout::IO_APIC, 0));
        bytes(&madt)
    }

    fn dsdt(self) -> Sdt {
        let mut code = Vec::new();
        serial(&mut code);
        for slot in 0..self.virtio {
            virtio(slot, &mut code);
        }
        generation(&mut code);
        // Sleep type 5 switches the machine off (see the sleep registers in the FADT).
        aml::Name::new("_S5_".into(), &aml::Package::new(vec![&5u8])).to_aml_bytes(&mut code);
        let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, 1);
        dsdt.append_slice(&code);
        dsdt
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn fadt(dsdt: u64) -> Vec<u8> {
    // No VGA, no CMOS clock: Linux need not look for them. There is no 8042 but for its reset.
    const NO_VGA: u16 = 1 << 2;
    const NO_CMOS_CLOCK: u16 = 1 << 5;
    let port = |port: u16| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(port));
    let mut fadt = FADTBuilder::new(OEM, TABLE, 1)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = (NO_VGA | NO_CMOS_CLOCK).into();
    fadt.reset_reg = port(power::RESET_PORT);
    fadt.reset_value = power::RESET;
    fadt.sleep_control_reg = port(layout::SLEEP_PORT);
    fadt.sleep_status_reg = port(layout::SLEEP_PORT + 1);
    bytes(&fadt.finalize())
}

/// An edge-triggered interrupt of one device.
fn interrupt(line: u32) -> aml::Interrupt {
    aml::Interrupt::new(true, true, false, false, line)
}

/// The serial line. Without legacy interrupt controllers Linux learns its interrupt only here.
fn serial(code: &mut Vec<u8>) {
    let ports = aml::IO::new(layout::SERIAL_PORT, layout::SERIAL_PORT, 1, 8);
    let line = interrupt(layout::SERIAL_LINE);
    aml::Device::new(
        "_SB_.COM1".into(),
        vec![
            &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0501")),
            &aml::Name::new("_UID".into(), &0u8),
            &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&ports, &line])),
        ],
    )
    .to_aml_bytes(code);
}

/// The virtio device in `slot`: `LNRO0005` is what Linux' virtio-mmio driver looks for.
fn virtio(slot: usize, code: &mut Vec<u8>) {
    let (base, line) = layout::virtio(slot);
    let registers = aml::Memory32Fixed::new(true, base as u32, layout::VIRTIO_STRIDE as u32);
    let line = interrupt(line);
    aml::Device::new(
        format!("_SB_.V{slot:03}").as_str().into(),
        vec![
            &aml::Name::new("_HID".into(), &"LNRO0005"),
            &aml::Name::new("_UID".into(), &(slot as u8)),
            // Coherent: devices see the caches.
            &aml::Name::new("_CCA".into(), &aml::ONE),
            &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&registers, &line])),
        ],
    )
    .to_aml_bytes(code);
}

/// The generation id and the device that tells of its changes (Linux' `vmgenid` driver, ACPI's generic event device).
fn generation(code: &mut Vec<u8>) {
    let (low, high) = (layout::GENERATION_ID as u32, 0u8);
    aml::Device::new(
        "_SB_.VGEN".into(),
        vec![
            &aml::Name::new("_HID".into(), &"DRMS0001"),
            &aml::Name::new("_CID".into(), &"VMGENCTR"),
            &aml::Name::new("_DDN".into(), &"VM_Gen_Counter"),
            &aml::Name::new("ADDR".into(), &aml::Package::new(vec![&low, &high])),
        ],
    )
    .to_aml_bytes(code);
    let line = interrupt(layout::EVENT_LINE);
    let generation = aml::Path::new("\\_SB_.VGEN");
    let changed = aml::Notify::new(&generation, &0x80u8);
    aml::Device::new(
        "_SB_.GED_".into(),
        vec![
            &aml::Name::new("_HID".into(), &"ACPI0013"),
            &aml::Name::new("_UID".into(), &0u8),
            &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&line])),
            &aml::Method::new("_EVT".into(), 1, true, vec![&changed]),
        ],
    )
    .to_aml_bytes(code);
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::memory;

    const FULL: Acpi = Acpi {
        vcpus: 8,
        virtio: layout::MAX_VIRTIO,
    };

    fn table(memory: &GuestMemory, address: u64) -> Vec<u8> {
        let length: u32 = memory.read_obj(GuestAddress(address + 4)).unwrap();
        let mut table = vec![0; length as usize];
        memory.read_slice(&mut table, GuestAddress(address)).unwrap();
        table
    }

    fn number(table: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(table[offset..offset + 8].try_into().unwrap())
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn every_table_is_found_from_the_root_pointer_and_sums_to_zero() {
        let memory = memory::allocate(2 << 20).unwrap();
        FULL.write(&memory).unwrap();
        let mut rsdp = [0; 36];
        memory.read_slice(&mut rsdp, GuestAddress(layout::RSDP)).unwrap();
        assert_eq!((&rsdp[..8], sum(&rsdp[..20]), sum(&rsdp)), (b"RSD PTR ".as_slice(), 0, 0));
        let xsdt = table(&memory, number(&rsdp, 24));
        let fadt = table(&memory, number(&xsdt, 36));
        let madt = table(&memory, number(&xsdt, 44));
        let dsdt = table(&memory, number(&fadt, 140));
        for (table, signature) in [(&xsdt, b"XSDT"), (&fadt, b"FACP"), (&madt, b"APIC"), (&dsdt, b"DSDT")] {
            assert_eq!(&table[..4], signature);
            assert_eq!(sum(table), 0, "{}", String::from_utf8_lossy(signature));
        }
        // 8 local APICs of 8 bytes, one I/O APIC of 12.
        assert_eq!(madt.len(), 44 + 8 * 8 + 12);
    }

    #[test]
    fn the_reference_compiler_reads_the_tables() {
        if Command::new("iasl").arg("-v").output().is_err() {
            eprintln!("skipped: iasl is not installed");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dsdt.aml");
        std::fs::write(&path, FULL.dsdt().as_slice()).unwrap();
        let output = Command::new("iasl").arg("-d").arg(&path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let source = path.with_extension("dsl");
        let text = std::fs::read_to_string(&source).unwrap();
        for part in ["LNRO0005", "PNP0501", "VMGENCTR", "Notify (\\_SB.VGEN, 0x80)", "_S5"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let output = Command::new("iasl").arg("-f").arg(&source).output().unwrap();
        let log = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(log.contains(" 0 Errors, 0 Warnings"), "{log}");
    }
}
