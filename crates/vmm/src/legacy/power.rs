//! How a guest switches itself off: ACPI's sleep register, the keyboard controller's reset, both of which end the
//! machine. The host decides whether to start another.

use std::sync::Arc;

use crate::bus::BusDevice;

/// Status and command port of the keyboard controller.
pub const RESET_PORT: u16 = 0x64;
/// The command that pulses the CPU's reset line.
pub const RESET: u8 = 0xfe;
/// `SLP_EN`: what else is written tells how deep to sleep.
const SLEEP_ENABLE: u8 = 1 << 5;

/// Called when the guest is off.
pub type OnOff = Arc<dyn Fn() + Send + Sync>;

/// The keyboard controller: nothing but its reset. Inserted at [`RESET_PORT`], one byte.
pub struct Reset(pub OnOff);

impl BusDevice for Reset {
    fn read(&mut self, _: u64, _: &mut [u8]) {}

    fn write(&mut self, _: u64, data: &[u8]) {
        if data == [RESET] {
            (self.0)();
        }
    }
}

/// ACPI's sleep control and status registers. Inserted at [`crate::layout::SLEEP_PORT`], two bytes.
pub struct Sleep(pub OnOff);

impl BusDevice for Sleep {
    fn read(&mut self, _: u64, _: &mut [u8]) {}

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == 0 && data.first().is_some_and(|value| value & SLEEP_ENABLE != 0) {
            (self.0)();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn only_the_reset_command_and_the_sleep_bit_switch_off() {
        let count = Arc::new(AtomicUsize::new(0));
        let off: OnOff = {
            let count = count.clone();
            Arc::new(move || {
                count.fetch_add(1, Ordering::SeqCst);
            })
        };
        let mut reset = Reset(off.clone());
        let mut sleep = Sleep(off);
        reset.write(0, &[0xd1]);
        sleep.write(0, &[5 << 2]);
        sleep.write(1, &[0xff]);
        assert_eq!(count.load(Ordering::SeqCst), 0);
        reset.write(0, &[0xfe]);
        sleep.write(0, &[5 << 2 | 0x20]);
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }
}
