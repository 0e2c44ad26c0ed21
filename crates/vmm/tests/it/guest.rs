//! Guests of a few instructions, and machines that run them.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use dormouse_vmm::kvm::Host;
use dormouse_vmm::machine::{Builder, Console, Machine, Prepare};
use dormouse_vmm::memory::{self, GuestMemory};
use vm_memory::{Bytes as _, GuestAddress};

/// Where the code of a guest starts.
pub(crate) const CODE: u64 = 0x10_0000;
/// Memory of a guest.
pub(crate) const MEMORY: u64 = 8 << 20;
/// How long anything may take on a busy machine whose instructions are emulated.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Opens KVM, or tells why the test is skipped.
pub(crate) fn host() -> Option<Host> {
    match Host::open() {
        Ok(host) => Some(host),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// What a guest wrote to its serial line.
#[derive(Clone, Default)]
pub(crate) struct Output(Arc<(Mutex<Vec<u8>>, Condvar)>);

impl Output {
    /// Waits until the guest wrote `count` bytes in all, and returns all.
    pub(crate) fn wait(&self, count: usize) -> Vec<u8> {
        let (bytes, changed) = &*self.0;
        let (bytes, result) = changed
            .wait_timeout_while(bytes.lock().unwrap(), LIMIT, |bytes| bytes.len() < count)
            .unwrap();
        assert!(!result.timed_out(), "the guest wrote only {bytes:?}");
        bytes.clone()
    }

    /// What the guest wrote so far.
    pub(crate) fn now(&self) -> Vec<u8> {
        self.0.0.lock().unwrap().clone()
    }
}

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.0.lock().unwrap().extend_from_slice(data);
        self.0.1.notify_all();
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Nothing to do on the machine's threads.
pub(crate) fn unjailed() -> Prepare {
    Arc::new(|_| {})
}

/// A console that writes to `output`.
pub(crate) fn console(output: &Output) -> Console {
    Console {
        to: Box::new(output.clone()),
        limit: 1 << 20,
    }
}

/// A paused machine that will run `code`.
pub(crate) fn boot(host: Host, code: &[u8], output: &Output) -> Machine {
    boot_with(host, code, output, memory::allocate(MEMORY).unwrap(), 1)
}

/// Like [`boot`], with this memory and number of vCPUs.
pub(crate) fn boot_with(host: Host, code: &[u8], output: &Output, memory: GuestMemory, vcpus: u8) -> Machine {
    memory.write_slice(code, GuestAddress(CODE)).unwrap();
    Builder::new(host, &memory, vcpus, console(output))
        .unwrap()
        .boot(CODE, &unjailed())
        .unwrap()
}

/// Writes "hi" to the serial line and switches the machine off.
pub(crate) const HELLO: &[u8] = &[
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, b'h', 0xee, // mov al, 'h'; out dx, al
    0xb0, b'i', 0xee, // mov al, 'i'; out dx, al
    0x66, 0xba, 0x64, 0x00, // mov dx, 0x64
    0xb0, 0xfe, 0xee, // mov al, 0xfe; out dx, al
    0xf4, 0xeb, 0xfd, // hlt; jmp to it
];

/// Counts in memory at 2 MiB and writes the low byte of the count to the serial line, for ever.
pub(crate) const COUNTER: &[u8] = &[
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xbb, 0x00, 0x00, 0x20, 0x00, // mov ebx, 0x200000
    0xff, 0x03, // inc dword [rbx]
    0x8a, 0x03, // mov al, [rbx]
    0xee, // out dx, al
    0xeb, 0xf9, // jmp to the inc
];
/// Where [`COUNTER`] counts.
pub(crate) const COUNT: u64 = 0x20_0000;
