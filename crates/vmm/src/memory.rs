//! Guest memory: where it lies in the guest's address space, how it is mapped, and which pages changed.
//!
//! Memory starts as private anonymous mappings. A restored machine lays private mappings of layer files over them, so
//! that clones share the page cache and a write makes a private copy. Which pages a machine changed can therefore be
//! read from the kernel's page map; the bitmap only marks what the page map cannot show: ranges that were discarded.

use std::io;

use vm_memory::bitmap::{AtomicBitmap, Bitmap as _};
use vm_memory::{
    GuestAddress, GuestMemoryBackend as _, GuestMemoryError, GuestMemoryMmap, GuestMemoryRegion as _, GuestRegionMmap, MmapRegion,
};

/// The memory of a guest.
pub type GuestMemory = GuestMemoryMmap<AtomicBitmap>;

/// Size of a page, in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// Where the hole for memory-mapped devices begins: 3 GiB. Memory that does not fit below it continues at 4 GiB.
pub const GAP_START: u64 = 3 << 30;

/// Where the hole for memory-mapped devices ends.
pub const GAP_END: u64 = 4 << 30;

/// Why guest memory cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The size is zero or not a multiple of a page.
    #[error("{0} bytes are no size for a guest's memory: it is a positive multiple of {PAGE_SIZE}")]
    Size(u64),
    /// Address space for the guest's memory cannot be had.
    #[error("cannot map the guest's memory")]
    Map(#[source] vm_memory::mmap::MmapRegionError),
    /// Regions overlap; the layout is wrong.
    #[error("cannot lay out the guest's memory")]
    Layout(#[source] vm_memory::GuestRegionCollectionError),
    /// A range is not in the guest's memory.
    #[error("{length:#x} bytes at {address:#x} are not in the guest's memory")]
    Outside {
        /// First address of the range.
        address: u64,
        /// Length of the range in bytes.
        length: u64,
    },
    /// An access failed.
    #[error("cannot access the guest's memory")]
    Access(#[from] GuestMemoryError),
    /// The kernel refused to change a mapping.
    #[error("cannot change the mapping of the guest's memory")]
    Remap(#[source] io::Error),
}

/// The regions of a guest with `size` bytes of memory, as (first address, bytes).
pub fn regions(size: u64) -> Vec<(u64, u64)> {
    let low = size.min(GAP_START);
    let mut regions = vec![(0, low)];
    if size > low {
        regions.push((GAP_END, size - low));
    }
    regions
}

/// Bytes of a guest's memory, in all regions.
pub fn size(memory: &GuestMemory) -> u64 {
    memory.iter().map(|region| region.len()).sum()
}

/// Reserves `size` bytes of zeroed guest memory. Nothing is allocated before it is touched.
///
/// # Errors
/// [`MemoryError`] when the size is no multiple of a page or the address space cannot be had.
pub fn allocate(size: u64) -> Result<GuestMemory, MemoryError> {
    if size == 0 || !size.is_multiple_of(PAGE_SIZE) {
        return Err(MemoryError::Size(size));
    }
    let mut mapped = Vec::new();
    for (start, length) in regions(size) {
        let length = usize::try_from(length).map_err(|_| MemoryError::Size(size))?;
        let region = MmapRegion::<AtomicBitmap>::new(length).map_err(MemoryError::Map)?;
        let region = GuestRegionMmap::new(region, GuestAddress(start)).ok_or(MemoryError::Size(size))?;
        mapped.push(region);
    }
    GuestMemory::from_regions(mapped).map_err(MemoryError::Layout)
}

/// Gives `length` bytes at `address` back to the host; the guest reads zeros there from now on.
///
/// Only whole pages inside the range are discarded. Fresh anonymous memory is mapped over them, because a page of a
/// layer file would come back with its old content after a mere `MADV_DONTNEED`.
///
/// # Errors
/// [`MemoryError::Outside`] when the range is not in one region of memory; [`MemoryError::Remap`] when the kernel
/// refuses.
pub fn discard(memory: &GuestMemory, address: GuestAddress, length: u64) -> Result<(), MemoryError> {
    let outside = || MemoryError::Outside {
        address: address.0,
        length,
    };
    let end = address.0.checked_add(length).ok_or_else(outside)?;
    let start = address.0.next_multiple_of(PAGE_SIZE);
    let end = end / PAGE_SIZE * PAGE_SIZE;
    if start >= end {
        return Ok(());
    }
    let region = memory.find_region(GuestAddress(start)).ok_or_else(outside)?;
    let offset = start - region.start_addr().0;
    if end - start > region.len() - offset {
        return Err(outside());
    }
    let (offset, bytes) = (offset as usize, (end - start) as usize);
    // SAFETY: `offset` was checked to be inside the mapping, so the pointer stays in it.
    let pointer = unsafe { region.as_ptr().add(offset) };
    // SAFETY: the range is inside a mapping that this process owns and that no Rust reference points into: guest
    // memory is only accessed through volatile copies.
    let mapped = unsafe {
        libc::mmap(
            pointer.cast(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        return Err(MemoryError::Remap(io::Error::last_os_error()));
    }
    region.bitmap().mark_dirty(offset, bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes as _;

    use super::*;

    #[test]
    fn memory_above_three_gibibytes_continues_after_the_gap() {
        assert_eq!(regions(1 << 20), [(0, 1 << 20)]);
        assert_eq!(regions(GAP_START), [(0, GAP_START)]);
        assert_eq!(regions(GAP_START + PAGE_SIZE), [(0, GAP_START), (GAP_END, PAGE_SIZE)]);
    }

    #[test]
    fn sizes_that_are_no_pages_are_refused() {
        assert!(matches!(allocate(0), Err(MemoryError::Size(0))));
        assert!(matches!(allocate(4097), Err(MemoryError::Size(4097))));
    }

    #[test]
    fn a_discarded_range_reads_zero_and_its_borders_stay() {
        let memory = allocate(16 * PAGE_SIZE).unwrap();
        memory.write_slice(&[7; 4 * 4096], GuestAddress(0)).unwrap();
        discard(&memory, GuestAddress(100), 3 * PAGE_SIZE).unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(4095)).unwrap(), 7);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(4096)).unwrap(), 0);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(3 * 4096 - 1)).unwrap(), 0);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(3 * 4096)).unwrap(), 7);
    }

    #[test]
    fn ranges_outside_of_memory_are_not_discarded() {
        let memory = allocate(16 * PAGE_SIZE).unwrap();
        for (address, length) in [
            (15 * PAGE_SIZE, 2 * PAGE_SIZE),
            (17 * PAGE_SIZE, PAGE_SIZE),
            (u64::MAX - 1, 2 * PAGE_SIZE),
        ] {
            assert!(matches!(
                discard(&memory, GuestAddress(address), length),
                Err(MemoryError::Outside { .. })
            ));
        }
    }
}
