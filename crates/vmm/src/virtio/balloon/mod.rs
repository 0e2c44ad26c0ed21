//! The memory balloon (virtio 1.2, section 5.5): memory that the guest does not need goes back to the host.
//!
//! Two ways: the host sets a target and the guest's driver hands over that many pages (inflating), or the guest reports
//! pages as it frees them (free-page reporting), which needs no target and no waiting.
//!
//! A page that is given back reads as zeros. Where guest memory is a private mapping of a snapshot's file, forgetting a
//! page would bring the file's content back, so fresh anonymous memory is mapped over it ([`crate::memory::discard`]).

mod stats;

use std::io;

use serde::{Deserialize, Serialize};
use vm_memory::GuestAddress;

pub use self::stats::Stats;
use super::device::{Context, DeviceError, DeviceKind, DeviceMetrics, VirtioDevice};
use super::queue::Chain;
use super::state::{DeviceState, RestoreError};
use crate::memory::{self, GuestMemory};

const INFLATE: usize = 0;
const DEFLATE: usize = 1;

/// Feature bits of the balloon (virtio 1.2, section 5.5.3).
const F_STATS_VQ: u32 = 1;
const F_DEFLATE_ON_OOM: u32 = 2;
const F_PAGE_POISON: u32 = 4;
const F_REPORTING: u32 = 5;

/// The unit of page numbers and of the target, whatever the guest's pages are.
const UNIT: u64 = 4096;

/// The most page numbers looked at in one request. Linux sends 256.
const MAX_NUMBERS: usize = 4096;

/// What a balloon did so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BalloonMetrics {
    /// Pages of 4 KiB that the driver handed over.
    pub inflated_pages: u64,
    /// Pages of 4 KiB that the driver took back.
    pub deflated_pages: u64,
    /// Bytes that the driver reported as free.
    pub reported_bytes: u64,
    /// Bytes given back to the host, by either way.
    pub discarded_bytes: u64,
    /// Ranges that could not be given back.
    pub discard_failures: u64,
    /// Statistics received.
    pub stats_updates: u64,
    /// Requests that made no sense.
    pub malformed: u64,
}

/// A balloon in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonState {
    /// Pages of 4 KiB that the host asks for.
    pub target: u32,
    /// Pages of 4 KiB that the driver says it handed over.
    pub actual: u32,
    /// What the driver fills free pages with.
    pub poison: u32,
    /// The request that statistics are asked for with.
    pub stats_request: Option<u16>,
}

/// A memory balloon.
#[derive(Debug, Default)]
pub struct Balloon {
    target: u32,
    actual: u32,
    poison: u32,
    stats: Stats,
    /// The driver's buffer for statistics. It is given back to ask for new ones.
    stats_request: Option<u16>,
    metrics: BalloonMetrics,
}

impl Balloon {
    /// Asks the guest to hand over memory until it has handed over `bytes` of it, rounded down to whole pages.
    pub fn set_target(&mut self, bytes: u64, context: Option<&mut Context<'_>>) {
        self.target = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX);
        if let Some(context) = context {
            context.config_changed = true;
        }
    }

    /// Bytes that the guest says it handed over.
    pub fn actual(&self) -> u64 {
        u64::from(self.actual) * UNIT
    }

    /// The statistics that the guest sent last. Empty until [`request_stats`](Self::request_stats) is answered.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Asks the guest for new statistics. Returns false when it cannot be asked: it has not started, has no such
    /// statistics, or has not answered the last time yet.
    ///
    /// # Errors
    /// When the driver broke the queue.
    pub fn request_stats(&mut self, context: Option<&mut Context<'_>>) -> Result<bool, DeviceError> {
        let (Some(context), Some(head)) = (context, self.stats_request.take()) else {
            return Ok(false);
        };
        context.push(DEFLATE + 1, head, 0)?;
        Ok(true)
    }

    /// The driver's queue numbers leave no gap for a queue whose feature it did not accept.
    fn role(queue: usize, context: &Context<'_>) -> Role {
        let has_stats = context.has_feature(F_STATS_VQ);
        match queue {
            INFLATE => Role::Inflate,
            DEFLATE => Role::Deflate,
            2 if has_stats => Role::Stats,
            _ => Role::Report,
        }
    }

    fn inflate(&mut self, memory: &GuestMemory, chain: &Chain) {
        let numbers = self.page_numbers(memory, chain);
        self.metrics.inflated_pages += numbers.len() as u64;
        for run in numbers.chunk_by(|one, next| one.checked_add(1) == Some(*next)) {
            self.discard(memory, GuestAddress(u64::from(run[0]) * UNIT), run.len() as u64 * UNIT);
        }
    }

    fn report(&mut self, context: &Context<'_>, chain: &Chain) {
        // Free pages must keep a pattern that is not zero (section 5.5.6.7).
        if context.has_feature(F_PAGE_POISON) && self.poison != 0 {
            return;
        }
        for range in chain.writable.segments() {
            self.metrics.reported_bytes += u64::from(range.length);
            self.discard(context.memory, range.address, u64::from(range.length));
        }
    }

    fn discard(&mut self, memory: &GuestMemory, address: GuestAddress, length: u64) {
        match memory::discard(memory, address, length) {
            Ok(()) => self.metrics.discarded_bytes += length,
            Err(_) => self.metrics.discard_failures += 1,
        }
    }

    fn page_numbers(&mut self, memory: &GuestMemory, chain: &Chain) -> Vec<u32> {
        let count = chain.readable.len() / 4;
        if count > MAX_NUMBERS || !chain.readable.len().is_multiple_of(4) {
            self.metrics.malformed += 1;
            return Vec::new();
        }
        let mut bytes = vec![0; count * 4];
        if chain.readable.read(memory, &mut bytes).is_err() {
            self.metrics.malformed += 1;
            return Vec::new();
        }
        let (numbers, _) = bytes.as_chunks();
        numbers.iter().map(|number| u32::from_le_bytes(*number)).collect()
    }

    fn receive_stats(&mut self, memory: &GuestMemory, chain: &Chain) -> Option<u16> {
        match Stats::parse(memory, &chain.readable) {
            Some(stats) => {
                self.metrics.stats_updates += 1;
                self.stats = stats;
            }
            None => self.metrics.malformed += 1,
        }
        self.stats_request.replace(chain.head)
    }
}

/// What a queue is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Inflate,
    Deflate,
    Stats,
    Report,
}

impl VirtioDevice for Balloon {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Balloon
    }

    fn features(&self) -> u64 {
        1 << F_STATS_VQ | 1 << F_DEFLATE_ON_OOM | 1 << F_PAGE_POISON | 1 << F_REPORTING
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[128, 128, 128, 128]
    }

    fn config(&self) -> Vec<u8> {
        // num_pages, actual, free_page_hint_cmd_id (not offered), poison_val: section 5.5.4.
        [self.target, self.actual, 0, self.poison].map(u32::to_le_bytes).concat()
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let Ok(value) = data.try_into().map(u32::from_le_bytes) else {
            return;
        };
        match offset {
            4 => self.actual = value,
            12 => self.poison = value,
            _ => {}
        }
    }

    fn activate(&mut self, _context: &mut Context<'_>) -> Result<(), DeviceError> {
        Ok(())
    }

    fn notified(&mut self, queue: usize, context: &mut Context<'_>) -> Result<(), DeviceError> {
        let role = Self::role(queue, context);
        // One round of the queue at most: the device thread serves other devices too.
        for _ in 0..context.queues[queue].size() {
            let Some(chain) = context.pop(queue)? else { return Ok(()) };
            let mut done = Some(chain.head);
            match role {
                Role::Inflate => self.inflate(context.memory, &chain),
                Role::Deflate => self.metrics.deflated_pages += chain.readable.len() as u64 / 4,
                Role::Report => self.report(context, &chain),
                // Kept until the host wants new statistics; one that was kept before goes back.
                Role::Stats => done = self.receive_stats(context.memory, &chain),
            }
            if let Some(head) = done {
                context.push(queue, head, 0)?;
            }
        }
        context.queues[queue].kick();
        Ok(())
    }

    fn reset(&mut self) {
        self.actual = 0;
        self.poison = 0;
        self.stats_request = None;
        self.stats = Stats::default();
    }

    fn save(&mut self) -> io::Result<DeviceState> {
        Ok(DeviceState::Balloon(BalloonState {
            target: self.target,
            actual: self.actual,
            poison: self.poison,
            stats_request: self.stats_request,
        }))
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        let DeviceState::Balloon(state) = state else {
            return Err(RestoreError::Kind("balloon"));
        };
        self.target = state.target;
        self.actual = state.actual;
        self.poison = state.poison;
        self.stats_request = state.stats_request;
        Ok(())
    }

    fn metrics(&self) -> DeviceMetrics {
        DeviceMetrics::Balloon(self.metrics.clone())
    }
}

#[cfg(test)]
mod tests;
