//! How devices interrupt the guest.

use std::fmt::Debug;
use std::io;

use vmm_sys_util::eventfd::EventFd;

/// One interrupt line of a device, edge triggered.
pub trait Interrupt: Send + Sync + Debug {
    /// Raises the line once.
    ///
    /// # Errors
    /// The error of the write to the event file.
    fn trigger(&self) -> io::Result<()>;
}

/// A line that KVM listens to: writing the event raises the interrupt without an exit to this process.
#[derive(Debug)]
pub struct IrqFd(pub EventFd);

impl Interrupt for IrqFd {
    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// A line for tests that counts how often it was raised.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct CountingInterrupt(std::sync::atomic::AtomicUsize);

#[cfg(test)]
impl CountingInterrupt {
    /// How often the line was raised so far.
    pub(crate) fn count(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}

#[cfg(test)]
impl Interrupt for CountingInterrupt {
    fn trigger(&self) -> io::Result<()> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trigger_counts() {
        let event = EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK).unwrap();
        let lines: [&dyn Interrupt; 2] = [&IrqFd(event.try_clone().unwrap()), &CountingInterrupt::default()];
        for line in lines {
            line.trigger().unwrap();
        }
        assert_eq!(event.read().unwrap(), 1);
        let counting = CountingInterrupt::default();
        counting.trigger().unwrap();
        assert_eq!(counting.count(), 1);
    }
}
