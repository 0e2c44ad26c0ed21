//! Loads a bzImage, as distributions ship it, with an initramfs and a command line.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::{BzImage, KernelLoader as _};
use vm_memory::{ByteValued, Bytes as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryError, GuestMemoryRegion as _};

use crate::layout;
use crate::memory::{GAP_END, GuestMemory};

/// What to boot.
#[derive(Debug)]
pub struct Linux<'a> {
    /// A bzImage.
    pub kernel: &'a mut File,
    /// A cpio archive, packed or not.
    pub initramfs: &'a mut File,
    /// The kernel's command line.
    pub command_line: &'a str,
}

/// Why Linux cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The kernel's file cannot be used.
    #[error("cannot load the kernel (a bzImage is needed)")]
    Kernel(#[source] linux_loader::loader::Error),
    /// The kernel has no 64-bit entry.
    #[error("the kernel has no 64-bit entry point")]
    Not64Bit,
    /// The initramfs cannot be read.
    #[error("cannot read the initramfs")]
    ReadInitramfs(#[source] std::io::Error),
    /// Kernel and initramfs do not fit in memory.
    #[error("memory is too small: kernel and initramfs need {needed} bytes below 3 GiB")]
    TooSmall {
        /// Bytes needed.
        needed: u64,
    },
    /// The command line is too long.
    #[error("the command line has {0} bytes; it can have {max}", max = layout::COMMAND_LINE_SIZE - 1)]
    CommandLine(usize),
    /// Guest memory cannot be written.
    #[error("cannot write to the guest's memory")]
    Memory(#[from] GuestMemoryError),
}

/// Kinds of memory in the map (`E820_TYPE_*`).
const RAM: u32 = 1;
const RESERVED: u32 = 2;
/// `XLF_KERNEL_64`: there is an entry point 0x200 bytes into the kernel.
const KERNEL_64: u16 = 1;
const ENTRY_64: u64 = 0x200;
/// "Undefined" in the list of boot loaders: we have no number.
const LOADER: u8 = 0xff;

/// The boot parameters can be copied as bytes.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct ZeroPage(boot_params);

// SAFETY: the structure is made of integers only and packed, so it has no padding and every pattern of bits is valid.
unsafe impl ByteValued for ZeroPage {}

impl Linux<'_> {
    /// Loads everything into `memory` and returns the address of the kernel's entry.
    ///
    /// # Errors
    /// [`BootError`] says what is wrong with the files.
    pub fn load(&mut self, memory: &GuestMemory) -> Result<u64, BootError> {
        if self.command_line.len() >= layout::COMMAND_LINE_SIZE {
            return Err(BootError::CommandLine(self.command_line.len()));
        }
        let mut line = self.command_line.as_bytes().to_vec();
        line.push(0);
        memory.write_slice(&line, GuestAddress(layout::COMMAND_LINE))?;

        let start = GuestAddress(layout::KERNEL);
        let loaded = BzImage::load(memory, Some(start), self.kernel, Some(start)).map_err(BootError::Kernel)?;
        let mut header = loaded.setup_header.ok_or(BootError::Not64Bit)?;
        if { header.xloadflags } & KERNEL_64 == 0 {
            return Err(BootError::Not64Bit);
        }
        // The kernel unpacks itself to its preferred address and works there before it reads the memory map.
        let kernel_end = header.pref_address.max(layout::KERNEL) + u64::from(header.init_size);
        let (initramfs, size) = self.load_initramfs(memory, kernel_end, u64::from(header.initrd_addr_max))?;
        header.type_of_loader = LOADER;
        header.cmd_line_ptr = layout::COMMAND_LINE as u32;
        header.ramdisk_image = initramfs as u32;
        header.ramdisk_size = size as u32;

        let mut zero_page = ZeroPage(boot_params {
            hdr: header,
            acpi_rsdp_addr: layout::RSDP,
            ..Default::default()
        });
        let map = memory_map(memory);
        zero_page.0.e820_entries = map.len() as u8;
        zero_page.0.e820_table[..map.len()].copy_from_slice(&map);
        memory.write_obj(zero_page, GuestAddress(layout::ZERO_PAGE))?;
        Ok(layout::KERNEL + ENTRY_64)
    }

    /// Puts the initramfs as high as possible in low memory.
    fn load_initramfs(&mut self, memory: &GuestMemory, kernel_end: u64, max: u64) -> Result<(u64, u64), BootError> {
        let size = self.initramfs.seek(SeekFrom::End(0)).map_err(BootError::ReadInitramfs)?;
        self.initramfs.seek(SeekFrom::Start(0)).map_err(BootError::ReadInitramfs)?;
        let end = low_end(memory).min(max + 1);
        let needed = kernel_end.saturating_add(size).saturating_add(0x1000);
        if needed > end {
            return Err(BootError::TooSmall { needed });
        }
        let address = (end - size) & !0xfff;
        memory.read_exact_volatile_from(GuestAddress(address), self.initramfs, size as usize)?;
        Ok((address, size))
    }
}

/// End of the memory below the gap.
fn low_end(memory: &GuestMemory) -> u64 {
    memory.iter().next().map_or(0, |region| region.len())
}

/// The map of memory that Linux gets. What is not in it is free for devices.
fn memory_map(memory: &GuestMemory) -> Vec<boot_e820_entry> {
    let entry = |start, end, kind| boot_e820_entry {
        addr: start,
        size: end - start,
        r#type: kind,
    };
    let mut map = vec![
        entry(0, layout::LOW_MEMORY_END, RAM),
        entry(layout::RSDP, layout::RESERVED_END, RESERVED),
        entry(layout::KERNEL, low_end(memory), RAM),
    ];
    map.extend(
        memory
            .iter()
            .skip(1)
            .map(|region| entry(GAP_END, GAP_END + region.len(), RAM)),
    );
    map
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::memory::{self, GAP_START};

    fn plain(map: &[boot_e820_entry]) -> Vec<(u64, u64, u32)> {
        map.iter()
            .map(|entry| ({ entry.addr }, { entry.addr + entry.size }, { entry.r#type }))
            .collect()
    }

    #[test]
    fn the_map_spares_the_tables_and_the_gap() {
        let small = memory_map(&memory::allocate(256 << 20).unwrap());
        assert_eq!(
            plain(&small),
            [(0, 0x9_fc00, 1), (0xe_0000, 0x10_0000, 2), (0x10_0000, 256 << 20, 1)]
        );
        let large = memory_map(&memory::allocate(5 << 30).unwrap());
        assert_eq!(plain(&large)[2..], [(0x10_0000, GAP_START, 1), (GAP_END, 6 << 30, 1)]);
    }

    /// The smallest file that passes for a bzImage: header fields at their offsets in boot.rst.
    fn kernel(xloadflags: u16) -> File {
        let mut image = vec![0u8; 0x800];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
        image[0x211] = 1;
        image[0x214..0x218].copy_from_slice(&0x10_0000u32.to_le_bytes());
        image[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
        image[0x236..0x238].copy_from_slice(&xloadflags.to_le_bytes());
        image[0x258..0x260].copy_from_slice(&0x100_0000u64.to_le_bytes());
        image[0x260..0x264].copy_from_slice(&0x10_0000u32.to_le_bytes());
        image[0x400..].fill(0xcc);
        file(&image)
    }

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    fn load(memory_size: u64, mut kernel: File, initramfs: &[u8], line: &str) -> (GuestMemory, Result<u64, BootError>) {
        let memory = memory::allocate(memory_size).unwrap();
        let result = Linux {
            kernel: &mut kernel,
            initramfs: &mut file(initramfs),
            command_line: line,
        }
        .load(&memory);
        (memory, result)
    }

    #[test]
    fn kernel_initramfs_and_command_line_are_where_the_boot_parameters_say() {
        let (memory, entry) = load(64 << 20, kernel(KERNEL_64), b"archive", "console=ttyS0");
        assert_eq!(entry.unwrap(), 0x10_0200);
        let page: ZeroPage = memory.read_obj(GuestAddress(layout::ZERO_PAGE)).unwrap();
        let header = page.0.hdr;
        let mut archive = [0; 7];
        assert_eq!({ header.ramdisk_size }, 7);
        memory
            .read_slice(&mut archive, GuestAddress(u64::from(header.ramdisk_image)))
            .unwrap();
        assert_eq!(&archive, b"archive");
        let mut line = [0; 14];
        memory
            .read_slice(&mut line, GuestAddress(u64::from(header.cmd_line_ptr)))
            .unwrap();
        assert_eq!(&line, b"console=ttyS0\0");
        assert_eq!(memory.read_obj::<u8>(GuestAddress(layout::KERNEL)).unwrap(), 0xcc);
        assert_eq!({ page.0.acpi_rsdp_addr }, layout::RSDP);
        assert_eq!(page.0.e820_entries, 3);
    }

    #[test]
    fn what_cannot_boot_is_refused_with_the_reason() {
        assert!(matches!(load(64 << 20, kernel(0), b"", "").1, Err(BootError::Not64Bit)));
        assert!(matches!(
            load(64 << 20, file(b"no kernel"), b"", "").1,
            Err(BootError::Kernel(_))
        ));
        assert!(matches!(
            load(64 << 20, kernel(1), b"", &"x".repeat(2048)).1,
            Err(BootError::CommandLine(2048))
        ));
        assert!(matches!(
            load(17 << 20, kernel(1), b"12345", "").1,
            Err(BootError::TooSmall { .. })
        ));
    }
}
