//! Memory files: written sparse, mapped privately.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

use serde::{Deserialize, Serialize};
use vm_memory::{Bytes as _, GuestMemoryBackend as _, GuestMemoryRegion as _, MemoryRegionAddress};

use super::pages::Changes;
use crate::memory::{self, GuestMemory, MemoryError, PAGE_SIZE};

/// Pages that a layer has, counted over all regions of memory without the gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The first page.
    pub start: u32,
    /// How many.
    pub count: u32,
    /// Whether they are zero, and not in the file.
    pub zero: bool,
}

/// Runs shorter than this are copied into memory of the machine's own instead of being mapped: a mapping costs the
/// kernel more than the copy, and their number is limited (`vm.max_map_count`).
const MIN_MAPPED_PAGES: u32 = 32;
/// How much is read from the guest at once.
const CHUNK_PAGES: u64 = 64;

/// Writes the pages of `changes` to `file`, which gets the size of the memory, and lists them.
///
/// # Errors
/// When the file cannot be written.
pub fn write(memory: &GuestMemory, changes: &Changes, file: &File) -> io::Result<Vec<Run>> {
    // The whole size at once: pages at the end may not be written at all.
    file.set_len(memory::size(memory))?;
    let mut runs = Vec::new();
    let mut buffer = vec![0; (CHUNK_PAGES * PAGE_SIZE) as usize];
    for change in changes {
        let mut page = change.start;
        while page < change.end {
            let (region, offset, left) = locate(memory, page).ok_or_else(|| io::Error::other("a page outside of memory"))?;
            let count = (change.end - page).min(CHUNK_PAGES).min(left);
            let chunk = &mut buffer[..(count * PAGE_SIZE) as usize];
            region
                .read_slice(chunk, MemoryRegionAddress(offset))
                .map_err(io::Error::other)?;
            write_chunk(chunk, page, file, &mut runs)?;
            page += count;
        }
    }
    Ok(runs)
}

/// Writes the parts of `chunk` that are not zero.
fn write_chunk(chunk: &[u8], first: u64, file: &File, runs: &mut Vec<Run>) -> io::Result<()> {
    let zero = |page: &[u8]| page.iter().all(|byte| *byte == 0);
    let pages: Vec<bool> = chunk.chunks_exact(PAGE_SIZE as usize).map(zero).collect();
    let mut start = 0;
    for part in pages.chunk_by(|a, b| a == b) {
        let bytes = start * PAGE_SIZE as usize..(start + part.len()) * PAGE_SIZE as usize;
        let page = first + start as u64;
        if !part[0] {
            file.write_all_at(&chunk[bytes], page * PAGE_SIZE)?;
        }
        push(
            runs,
            Run {
                start: u32::try_from(page).map_err(io::Error::other)?,
                count: part.len() as u32,
                zero: part[0],
            },
        );
        start += part.len();
    }
    Ok(())
}

fn push(runs: &mut Vec<Run>, run: Run) {
    match runs.last_mut() {
        Some(last) if last.start + last.count == run.start && last.zero == run.zero => last.count += run.count,
        _ => runs.push(run),
    }
}

/// The region of a page, its offset there in bytes, and the pages from there to the end of the region.
fn locate(
    memory: &GuestMemory,
    mut page: u64,
) -> Option<(&vm_memory::GuestRegionMmap<vm_memory::bitmap::AtomicBitmap>, u64, u64)> {
    for region in memory.iter() {
        let pages = region.len() / PAGE_SIZE;
        if page < pages {
            return Some((region, page * PAGE_SIZE, pages - page));
        }
        page -= pages;
    }
    None
}

/// Lays the layers of a chain, from the first to the last, into fresh `memory`.
///
/// # Errors
/// When a run is outside of memory or a file cannot be mapped.
pub fn map(memory: &GuestMemory, layers: &[(&[Run], &File)]) -> Result<(), MemoryError> {
    let total = memory::size(memory) / PAGE_SIZE;
    // For each page the layer that has it, counted from 1; 0 is zero memory.
    let mut owners = vec![0u8; total as usize];
    for (owner, (runs, _)) in (1u8..).zip(layers) {
        for run in *runs {
            let pages = run.start as usize..run.start as usize + run.count as usize;
            let outside = || MemoryError::Outside {
                address: u64::from(run.start) * PAGE_SIZE,
                length: u64::from(run.count) * PAGE_SIZE,
            };
            owners
                .get_mut(pages)
                .ok_or_else(outside)?
                .fill(if run.zero { 0 } else { owner });
        }
    }
    let mut page = 0u64;
    for part in owners.chunk_by(|a, b| a == b) {
        let (mut rest, owner) = (part.len() as u64, part[0]);
        while rest > 0 {
            let Some((region, offset, left)) = locate(memory, page) else {
                return Err(MemoryError::Outside {
                    address: page * PAGE_SIZE,
                    length: rest * PAGE_SIZE,
                });
            };
            let count = rest.min(left);
            if let Some((_, file)) = usize::from(owner).checked_sub(1).map(|index| layers[index]) {
                place(region, offset, count, file, page * PAGE_SIZE)?;
            }
            page += count;
            rest -= count;
        }
    }
    Ok(())
}

/// Puts `count` pages of `file` into `region`.
fn place(
    region: &vm_memory::GuestRegionMmap<vm_memory::bitmap::AtomicBitmap>,
    offset: u64,
    count: u64,
    file: &File,
    file_offset: u64,
) -> Result<(), MemoryError> {
    let length = (count * PAGE_SIZE) as usize;
    // SAFETY: `locate` gave an offset inside the region.
    let pointer = unsafe { region.as_ptr().add(offset as usize) };
    let result = if count >= u64::from(MIN_MAPPED_PAGES) {
        let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE | libc::MAP_FIXED;
        // SAFETY: the range is inside a mapping that this process owns and that no Rust reference points into.
        let mapped = unsafe {
            libc::mmap(
                pointer.cast(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                file.as_raw_fd(),
                file_offset as libc::off_t,
            )
        };
        if mapped == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    } else {
        // SAFETY: the range is inside the mapping, and nothing else accesses this fresh memory.
        let target = unsafe { std::slice::from_raw_parts_mut(pointer, length) };
        file.read_exact_at(target, file_offset)
    };
    result.map_err(MemoryError::Remap)
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestAddress;

    use super::*;
    use crate::snapshot::pages::PageMap;

    const PAGES: u64 = 512;

    fn memory() -> GuestMemory {
        memory::allocate(PAGES * PAGE_SIZE).unwrap()
    }

    fn fill(memory: &GuestMemory, pages: std::ops::Range<u64>, value: u8) {
        let length = ((pages.end - pages.start) * PAGE_SIZE) as usize;
        memory
            .write_slice(&vec![value; length], GuestAddress(pages.start * PAGE_SIZE))
            .unwrap();
    }

    fn first_bytes(memory: &GuestMemory) -> Vec<u8> {
        (0..PAGES)
            .map(|page| memory.read_obj(GuestAddress(page * PAGE_SIZE)).unwrap())
            .collect()
    }

    fn layer(memory: &GuestMemory) -> (Vec<Run>, File) {
        let file = tempfile::tempfile().unwrap();
        let runs = write(memory, &PageMap::open().unwrap().changed(memory).unwrap(), &file).unwrap();
        (runs, file)
    }

    fn stack(layers: &[(Vec<Run>, File)]) -> GuestMemory {
        let memory = memory();
        let layers: Vec<(&[Run], &File)> = layers.iter().map(|(runs, file)| (runs.as_slice(), file)).collect();
        map(&memory, &layers).unwrap();
        memory
    }

    #[test]
    fn a_diff_has_only_what_changed_since_its_parent() {
        let parent = memory();
        fill(&parent, 10..200, 1);
        let base = layer(&parent);
        assert_eq!(
            base.0,
            [Run {
                start: 10,
                count: 190,
                zero: false
            }]
        );
        // Not read before it is written: a page that was only read counts as a zero page of the machine's own.
        let child = stack(&[base]);
        fill(&child, 50..51, 2);
        memory::discard(&child, GuestAddress(60 * PAGE_SIZE), 2 * PAGE_SIZE).unwrap();
        fill(&child, 300..340, 3);
        let (runs, _) = layer(&child);
        assert_eq!(
            runs,
            [
                Run {
                    start: 50,
                    count: 1,
                    zero: false
                },
                Run {
                    start: 60,
                    count: 2,
                    zero: true
                },
                Run {
                    start: 300,
                    count: 40,
                    zero: false
                }
            ]
        );
    }

    #[test]
    fn layers_above_win_and_clones_do_not_see_each_other() {
        let parent = memory();
        fill(&parent, 0..512, 1);
        let base = layer(&parent);
        let child = stack(&[(base.0.clone(), base.1.try_clone().unwrap())]);
        fill(&child, 100..140, 2);
        fill(&child, 7..8, 2);
        let chain = [base, layer(&child)];
        let (one, two) = (stack(&chain), stack(&chain));
        assert_eq!(first_bytes(&one), first_bytes(&child));
        fill(&one, 0..512, 9);
        assert_eq!(first_bytes(&two), first_bytes(&child));
        assert_eq!(first_bytes(&stack(&chain)), first_bytes(&child), "the files did not change");
    }

    #[test]
    fn memory_beyond_the_gap_and_clean_pages_at_the_end_survive() {
        // Named for a bug of others: memory above 3 GiB was corrupted when a region ended with clean pages.
        let size = memory::GAP_START + 64 * PAGE_SIZE;
        let large = memory::allocate(size).unwrap();
        large.write_obj(7u8, GuestAddress(memory::GAP_END + 5 * PAGE_SIZE)).unwrap();
        large.write_obj(8u8, GuestAddress(PAGE_SIZE)).unwrap();
        let (runs, file) = layer(&large);
        assert_eq!(file.metadata().unwrap().len(), size);
        let restored = memory::allocate(size).unwrap();
        map(&restored, &[(&runs, &file)]).unwrap();
        assert_eq!(
            restored
                .read_obj::<u8>(GuestAddress(memory::GAP_END + 5 * PAGE_SIZE))
                .unwrap(),
            7
        );
        assert_eq!(restored.read_obj::<u8>(GuestAddress(PAGE_SIZE)).unwrap(), 8);
        assert_eq!(restored.read_obj::<u8>(GuestAddress(memory::GAP_END)).unwrap(), 0);
    }

    #[test]
    fn runs_outside_of_memory_are_refused() {
        let file = tempfile::tempfile().unwrap();
        for run in [
            Run {
                start: 511,
                count: 2,
                zero: false,
            },
            Run {
                start: u32::MAX,
                count: u32::MAX,
                zero: true,
            },
        ] {
            assert!(matches!(map(&memory(), &[(&[run], &file)]), Err(MemoryError::Outside { .. })));
        }
    }
}
