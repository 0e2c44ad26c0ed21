//! The buses that vCPUs reach devices over: port I/O and memory-mapped I/O.
//!
//! A bus is a sorted list of disjoint ranges. It is filled while the machine is put together and never changes while
//! vCPUs run, so a lookup takes no lock; only the device found is locked.

use std::sync::{Arc, Mutex, PoisonError};

/// A device that answers reads and writes of a vCPU.
///
/// `offset` counts from the start of the range that the device was inserted at.
pub trait BusDevice: Send {
    /// Fills `data` with what the guest reads at `offset`. Bytes that the device does not define stay zero.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// Takes what the guest writes at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A range is empty, wraps around, or overlaps one that is already on the bus.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("range {base:#x}+{length:#x} overlaps another device or is not a range")]
pub struct RangeError {
    /// First address of the range.
    pub base: u64,
    /// Length of the range in bytes.
    pub length: u64,
}

struct Range {
    base: u64,
    length: u64,
    device: Arc<Mutex<dyn BusDevice>>,
}

/// An address space with devices in it.
#[derive(Default)]
pub struct Bus {
    ranges: Vec<Range>,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.ranges.iter().map(|range| (range.base, range.length)))
            .finish()
    }
}

impl Bus {
    /// Puts `device` at `base`, `length` bytes long.
    ///
    /// # Errors
    /// [`RangeError`] when the range is not free.
    pub fn insert(&mut self, base: u64, length: u64, device: Arc<Mutex<dyn BusDevice>>) -> Result<(), RangeError> {
        let error = RangeError { base, length };
        let end = base
            .checked_add(length)
            .filter(|end| *end > base)
            .ok_or(RangeError { base, length })?;
        let at = self.ranges.partition_point(|range| range.base < base);
        let before = at.checked_sub(1).map(|index| &self.ranges[index]);
        if before.is_some_and(|range| range.base + range.length > base)
            || self.ranges.get(at).is_some_and(|range| range.base < end)
        {
            return Err(error);
        }
        self.ranges.insert(at, Range { base, length, device });
        Ok(())
    }

    /// Reads at `address`. Returns false, with `data` all ones as on a bus that nobody drives, when no device covers
    /// the whole access.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        let Some((offset, device)) = self.find(address, data.len()) else {
            data.fill(0xff);
            return false;
        };
        data.fill(0);
        device.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
        true
    }

    /// Writes at `address`. Returns false when no device covers the whole access.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        let Some((offset, device)) = self.find(address, data.len()) else {
            return false;
        };
        device.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data);
        true
    }

    fn find(&self, address: u64, length: usize) -> Option<(u64, &Mutex<dyn BusDevice>)> {
        let index = self.ranges.partition_point(|range| range.base <= address).checked_sub(1)?;
        let range = &self.ranges[index];
        let offset = address - range.base;
        let end = offset.checked_add(u64::try_from(length).ok()?)?;
        (end <= range.length).then_some((offset, &*range.device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(Vec<(u64, Vec<u8>)>);

    impl BusDevice for Echo {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data[0] = u8::try_from(offset).unwrap();
        }

        fn write(&mut self, offset: u64, data: &[u8]) {
            self.0.push((offset, data.to_vec()));
        }
    }

    fn echo() -> Arc<Mutex<Echo>> {
        Arc::new(Mutex::new(Echo(Vec::new())))
    }

    #[test]
    fn accesses_reach_the_device_with_offsets() {
        let mut bus = Bus::default();
        let device = echo();
        bus.insert(0x1000, 0x10, device.clone()).unwrap();
        bus.insert(0x2000, 0x10, echo()).unwrap();
        let mut data = [0xaa; 4];
        assert!(bus.read(0x1004, &mut data));
        assert_eq!(data, [4, 0, 0, 0]);
        assert!(bus.write(0x100f, &[7]));
        assert_eq!(device.lock().unwrap().0, [(15, vec![7])]);
    }

    #[test]
    fn an_access_across_the_end_is_nobodys() {
        let mut bus = Bus::default();
        bus.insert(0x1000, 0x10, echo()).unwrap();
        let mut data = [0; 4];
        assert!(!bus.read(0x100d, &mut data));
        assert_eq!(data, [0xff; 4]);
        assert!(!bus.write(0xfff, &[1]));
        assert!(!bus.write(u64::MAX, &[1, 2]));
    }

    #[test]
    fn overlapping_empty_and_wrapping_ranges_are_refused() {
        let mut bus = Bus::default();
        bus.insert(0x1000, 0x10, echo()).unwrap();
        for (base, length) in [
            (0x1000, 1),
            (0xff8, 9),
            (0x100f, 4),
            (0xff0, 0x100),
            (0x3000, 0),
            (u64::MAX, 2),
        ] {
            assert_eq!(bus.insert(base, length, echo()), Err(RangeError { base, length }));
        }
        bus.insert(0x1010, 1, echo()).unwrap();
        bus.insert(0xfff, 1, echo()).unwrap();
    }
}
