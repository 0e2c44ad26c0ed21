//! Which pages of guest memory a machine has for itself, by the kernel's page map
//! (`Documentation/admin-guide/mm/pagemap.rst`).
//!
//! Memory is mapped privately, so the first write to a page makes a copy of it. A page that is there, or in swap, and
//! is not of a file, is such a copy. This costs nothing while the guest runs; neither KVM's dirty log nor write
//! protection is needed. Pages that were given back are the exception: they are gone from the page map, and are known
//! from the bitmap that [`crate::memory::discard`] marks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use vm_memory::bitmap::Bitmap as _;
use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _};

use crate::memory::{GuestMemory, PAGE_SIZE};

const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;

/// Ranges of pages, counted over all regions of memory without the gap, ascending and apart.
pub type Changes = Vec<std::ops::Range<u64>>;

/// The kernel's map of this process's pages. Opened before the jail takes `/proc` away.
#[derive(Debug)]
pub struct PageMap(File);

impl PageMap {
    /// Opens the map.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub fn open() -> io::Result<Self> {
        File::open("/proc/self/pagemap").map(Self)
    }

    /// The pages that `memory` has for itself or that were given back.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn changed(&self, memory: &GuestMemory) -> io::Result<Changes> {
        let mut changes = Changes::new();
        let mut first = 0;
        let mut entries = vec![0; 8 << 15];
        for region in memory.iter() {
            let pages = region.len() / PAGE_SIZE;
            let virtual_page = region.as_ptr() as u64 / PAGE_SIZE;
            let bitmap = region.bitmap();
            let mut page = 0;
            while page < pages {
                let count = (pages - page).min(entries.len() as u64 / 8);
                let part = &mut entries[..count as usize * 8];
                self.0.read_exact_at(part, (virtual_page + page) * 8)?;
                for (offset, entry) in (0u64..).zip(part.chunks_exact(8)) {
                    let entry = u64::from_le_bytes(entry.try_into().map_err(io::Error::other)?);
                    let own = entry & (PRESENT | SWAPPED) != 0 && entry & OF_FILE == 0;
                    if own || bitmap.dirty_at(((page + offset) * PAGE_SIZE) as usize) {
                        push(&mut changes, first + page + offset);
                    }
                }
                page += count;
            }
            first += pages;
        }
        Ok(changes)
    }
}

/// All pages.
pub fn everything(memory: &GuestMemory) -> Changes {
    std::iter::once(0..crate::memory::size(memory) / PAGE_SIZE).collect()
}

/// Adds a page that is not below those of `changes`.
fn push(changes: &mut Changes, page: u64) {
    match changes.last_mut() {
        Some(last) if last.end == page => last.end += 1,
        _ => changes.push(page..page + 1),
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes as _, GuestAddress};

    use super::*;
    use crate::memory;

    #[test]
    fn pages_that_were_written_or_given_back_are_changed_and_no_others() {
        let memory = memory::allocate(64 * PAGE_SIZE).unwrap();
        // Written around the bitmap, as KVM does.
        let pointer = memory.get_host_address(GuestAddress(9 * PAGE_SIZE)).unwrap();
        // SAFETY: the page is inside the memory, which nothing else accesses.
        unsafe { pointer.write(1) };
        memory.write_slice(&[1; 5000], GuestAddress(20 * PAGE_SIZE)).unwrap();
        memory::discard(&memory, GuestAddress(40 * PAGE_SIZE), 2 * PAGE_SIZE).unwrap();
        let changes = PageMap::open().unwrap().changed(&memory).unwrap();
        assert_eq!(changes, [9..10, 20..22, 40..42]);
    }
}
