//! The serial line (a 16550): the guest's console, for the boot log.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};
use vm_superio::serial::{NoEvents, Serial as Uart};
use vm_superio::{SerialState as UartState, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::BusDevice;

/// Number of its ports.
pub const PORTS: u64 = 8;
/// In the interrupt enable register, and in the interrupt identification register.
const TRANSMITTER_EMPTY: u8 = 1 << 1;
/// In the interrupt identification register.
const NO_INTERRUPT: u8 = 1;

/// The line's interrupt.
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Where the console's output goes, with a limit so that a guest cannot fill the host's disk.
struct Output {
    to: Box<dyn Write + Send>,
    left: u64,
}

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(data.len());
        self.left -= room as u64;
        // A console that nobody takes must not stop the guest: what does not fit is lost.
        let _ = self.to.write(&data[..room]);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// The line's registers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialState {
    divisor: [u8; 2],
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    received: Vec<u8>,
}

/// A serial line that nothing is connected to on the way in.
pub struct Serial(Uart<Line, NoEvents, Output>);

impl std::fmt::Debug for Serial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Serial").field(&self.0.state()).finish()
    }
}

impl Serial {
    /// A line whose output goes to `to`, at most `limit` bytes of it.
    pub fn new(line: EventFd, to: Box<dyn Write + Send>, limit: u64) -> Self {
        Self(Uart::new(Line(line), Output { to, left: limit }))
    }

    /// The registers.
    pub fn save(&self) -> SerialState {
        let state = self.0.state();
        SerialState {
            divisor: [state.baud_divisor_low, state.baud_divisor_high],
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            received: state.in_buffer,
        }
    }

    /// A line that continues from `state`. An interrupt that was pending is raised again, or the guest would wait
    /// for its end forever: call this after the interrupt controllers are restored.
    ///
    /// # Errors
    /// When the state is none, or the interrupt cannot be raised.
    pub fn restore(state: &SerialState, line: EventFd, to: Box<dyn Write + Send>, limit: u64) -> io::Result<Self> {
        let mut state = UartState {
            baud_divisor_low: state.divisor[0],
            baud_divisor_high: state.divisor[1],
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.received.clone(),
        };
        if state.interrupt_enable & TRANSMITTER_EMPTY != 0 {
            // The transmitter is always empty here. A guest that waits for it may have been saved between its look at
            // the interrupt and its next character; a second interrupt does no harm, a missing one stops its console.
            state.interrupt_identification = state.interrupt_identification & !NO_INTERRUPT | TRANSMITTER_EMPTY;
        }
        let uart = Uart::from_state(&state, Line(line), NoEvents, Output { to, left: limit })
            .map_err(|error| io::Error::other(format!("the state of the serial line: {error:?}")))?;
        Ok(Self(uart))
    }
}

impl BusDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            *byte = self.0.read(offset);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            // The output takes everything, so only the interrupt can fail: its counter is full, so it is raised.
            let _ = self.0.write(offset, *byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(data);
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn event() -> EventFd {
        EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK).unwrap()
    }

    #[test]
    fn output_stops_at_the_limit_and_the_guest_does_not_notice() {
        let sink = Sink::default();
        let mut serial = Serial::new(event(), Box::new(sink.clone()), 3);
        for byte in b"hello" {
            serial.write(0, &[*byte]);
        }
        assert_eq!(*sink.0.lock().unwrap(), b"hel");
        let mut status = [0];
        serial.read(5, &mut status);
        assert_eq!(status[0] & 0x60, 0x60, "the transmitter is empty");
    }

    #[test]
    fn a_transmit_interrupt_is_not_lost_over_a_restore() {
        let mut serial = Serial::new(event(), Box::new(io::sink()), 0);
        serial.write(1, &[2]);
        serial.write(7, &[0x5a]);
        let mut cause = [0];
        serial.read(2, &mut cause);
        let state = serial.save();
        let line = event();
        let mut restored = Serial::restore(&state, line.try_clone().unwrap(), Box::new(io::sink()), 0).unwrap();
        assert_eq!(line.read().unwrap(), 1);
        let mut cause = [0];
        restored.read(2, &mut cause);
        assert_eq!(cause[0] & 0xf, TRANSMITTER_EMPTY);
        let mut scratch = [0];
        restored.read(7, &mut scratch);
        assert_eq!(scratch, [0x5a]);
    }

    #[test]
    fn wide_accesses_are_ignored() {
        let mut serial = Serial::new(event(), Box::new(io::sink()), 0);
        serial.write(0, &[1, 2]);
        let mut data = [0; 4];
        serial.read(0, &mut data);
        assert_eq!(data, [0; 4]);
    }
}
