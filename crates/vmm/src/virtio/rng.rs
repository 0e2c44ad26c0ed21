//! The entropy device (virtio 1.2, section 5.4): the guest gets random numbers of the host's kernel.

use std::io;

use rand::TryRngCore as _;
use rand::rngs::OsRng;
use serde::Serialize;

use super::device::{Context, DeviceError, DeviceKind, DeviceMetrics, VirtioDevice};
use super::queue::Chain;
use super::state::{DeviceState, RestoreError};
use crate::memory::GuestMemory;

/// The most bytes that one request is answered with. A driver that wants more asks again.
const MAX_REQUEST: usize = 64 * 1024;

/// What an entropy device did so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RngMetrics {
    /// Requests answered.
    pub requests: u64,
    /// Bytes given.
    pub bytes: u64,
    /// Requests that could not be answered: no room, or not in the guest's memory.
    pub failed: u64,
}

/// An entropy device.
#[derive(Debug, Default)]
pub struct Rng {
    metrics: RngMetrics,
}

impl Rng {
    fn answer(&mut self, memory: &GuestMemory, chain: &Chain) -> u32 {
        let mut random = [0; 4096];
        let mut done = 0;
        let room = chain.writable.slice(0, MAX_REQUEST);
        while done < room.len() {
            let piece = &mut random[..4096.min(room.len() - done)];
            let filled = OsRng.try_fill_bytes(piece).is_ok() && room.slice(done, piece.len()).write(memory, piece).is_ok();
            if !filled {
                break;
            }
            done += piece.len();
        }
        if done == 0 {
            self.metrics.failed += 1;
        } else {
            self.metrics.requests += 1;
            self.metrics.bytes += done as u64;
        }
        // At most MAX_REQUEST.
        done as u32
    }
}

impl VirtioDevice for Rng {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Rng
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[64]
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn activate(&mut self, _context: &mut Context<'_>) -> Result<(), DeviceError> {
        Ok(())
    }

    fn notified(&mut self, queue: usize, context: &mut Context<'_>) -> Result<(), DeviceError> {
        // One round of the queue at most: the device thread serves other devices too.
        for _ in 0..context.queues[queue].size() {
            let Some(chain) = context.pop(queue)? else { return Ok(()) };
            let written = self.answer(context.memory, &chain);
            context.push(queue, chain.head, written)?;
        }
        context.queues[queue].kick();
        Ok(())
    }

    fn reset(&mut self) {}

    fn save(&mut self) -> io::Result<DeviceState> {
        Ok(DeviceState::Rng)
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        match state {
            DeviceState::Rng => Ok(()),
            _ => Err(RestoreError::Kind("rng")),
        }
    }

    fn metrics(&self) -> DeviceMetrics {
        DeviceMetrics::Rng(self.metrics.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Guest, Part};
    use super::*;

    fn metrics(guest: &Guest<Rng>) -> RngMetrics {
        guest.device.lock().unwrap().device().metrics.clone()
    }

    #[test]
    fn requests_are_filled_with_random_bytes() {
        let mut guest = Guest::running(Rng::default());
        let first = guest.post(0, &[Part::In(10_000)]);
        let second = guest.post(0, &[Part::In(32), Part::In(32)]);
        guest.notify(0);
        assert_eq!(guest.used(0), Some((first.head, 10_000)));
        assert_eq!(guest.used(0), Some((second.head, 64)));
        let (one, two) = (guest.read(second.parts[0], 32), guest.read(second.parts[1], 32));
        assert_ne!(one, two);
        assert_ne!(one, vec![0; 32]);
        assert_eq!(guest.interrupts(), 1);
        assert_eq!(
            metrics(&guest),
            RngMetrics {
                requests: 2,
                bytes: 10_064,
                failed: 0
            }
        );
    }

    #[test]
    fn a_large_request_is_answered_in_part() {
        let mut guest = Guest::running(Rng::default());
        guest.post(0, &[Part::In(1 << 20)]);
        guest.notify(0);
        assert_eq!(guest.used(0).unwrap().1, MAX_REQUEST as u32);
    }

    #[test]
    fn requests_without_room_or_outside_of_memory_get_nothing() {
        let mut guest = Guest::running(Rng::default());
        guest.post(0, &[Part::Out(b"give me")]);
        guest.set_descriptor(0, 1, (u64::MAX - 10, 100, 2, 0));
        guest.make_available(0, 1);
        guest.notify(0);
        assert_eq!(guest.used(0), Some((0, 0)));
        assert_eq!(guest.used(0), Some((1, 0)));
        assert_eq!(metrics(&guest).failed, 2);
    }

    #[test]
    fn a_restored_device_answers_what_was_not_notified() {
        let mut guest = Guest::running(Rng::default());
        let posted = guest.post(0, &[Part::In(16)]);
        let mut guest = guest.restored_with(Rng::default()).unwrap();
        guest.run();
        assert_eq!(guest.used(0), Some((posted.head, 16)));
    }
}
