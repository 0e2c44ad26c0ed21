//! Memory statistics of the guest (virtio 1.2, section 5.5.6.4).

use serde::Serialize;

use crate::memory::GuestMemory;
use crate::virtio::buffer::Buffer;

/// A tag of two bytes and a value of eight.
const ENTRY: usize = 10;

/// More entries than there are tags; a driver that sends more is not listened to.
const MAX_ENTRIES: usize = 64;

/// What the guest says about its memory. Values that it does not know are absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Bytes swapped in.
    pub swap_in: Option<u64>,
    /// Bytes swapped out.
    pub swap_out: Option<u64>,
    /// Major page faults.
    pub major_faults: Option<u64>,
    /// Minor page faults.
    pub minor_faults: Option<u64>,
    /// Bytes not used for anything.
    pub free: Option<u64>,
    /// All bytes of memory.
    pub total: Option<u64>,
    /// Bytes that a new program could get without swapping.
    pub available: Option<u64>,
    /// Bytes of file caches.
    pub caches: Option<u64>,
    /// Huge pages allocated.
    pub huge_page_allocations: Option<u64>,
    /// Huge pages that could not be allocated.
    pub huge_page_failures: Option<u64>,
}

impl Stats {
    /// Reads the driver's list of tags and values. Tags that are not known are skipped.
    pub(super) fn parse(memory: &GuestMemory, buffer: &Buffer) -> Option<Self> {
        if buffer.len() > MAX_ENTRIES * ENTRY {
            return None;
        }
        let mut bytes = vec![0; buffer.len()];
        buffer.read(memory, &mut bytes).ok()?;
        let (entries, rest) = bytes.as_chunks::<ENTRY>();
        if !rest.is_empty() {
            return None;
        }
        let mut stats = Self::default();
        for [tag_low, tag_high, value @ ..] in entries {
            let field = match u16::from_le_bytes([*tag_low, *tag_high]) {
                0 => &mut stats.swap_in,
                1 => &mut stats.swap_out,
                2 => &mut stats.major_faults,
                3 => &mut stats.minor_faults,
                4 => &mut stats.free,
                5 => &mut stats.total,
                6 => &mut stats.available,
                7 => &mut stats.caches,
                8 => &mut stats.huge_page_allocations,
                9 => &mut stats.huge_page_failures,
                _ => continue,
            };
            *field = Some(u64::from_le_bytes(*value));
        }
        Some(stats)
    }
}
