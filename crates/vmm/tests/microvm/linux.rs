//! Machines that run Linux with [`crate::guest`] as init.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use dormouse_vmm::boot::Linux;
use dormouse_vmm::initramfs;
use dormouse_vmm::kvm::Host;
use dormouse_vmm::machine::{Builder, Console, Machine, Prepare};
use dormouse_vmm::memory;

/// How long a guest may take for anything. Emulated machines inside emulated machines are slow.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);
/// Memory of a guest.
pub(crate) const MEMORY: u64 = 256 << 20;

/// A kernel, and an initramfs with this program as init.
pub(crate) struct Files {
    kernel: PathBuf,
    initramfs: PathBuf,
    _directory: tempfile::TempDir,
}

impl Files {
    pub(crate) fn from_environment() -> Option<Self> {
        let kernel = PathBuf::from(std::env::var_os("DORMOUSE_TEST_KERNEL")?);
        let modules = PathBuf::from(std::env::var_os("DORMOUSE_TEST_MODULES")?);
        let directory = tempfile::tempdir().unwrap();
        let initramfs = directory.path().join("initramfs");
        let modules = initramfs::resolve(&modules, &initramfs::MODULES).unwrap();
        let init = std::env::current_exe().unwrap();
        initramfs::write(&mut File::create(&initramfs).unwrap(), &init, &modules).unwrap();
        Some(Self {
            kernel,
            initramfs,
            _directory: directory,
        })
    }

    /// Starts Linux. `options` are added to the kernel's command line.
    pub(crate) fn boot(&self, vcpus: u8, options: &str) -> (Machine, Log) {
        let memory = memory::allocate(MEMORY).unwrap();
        let entry = Linux {
            kernel: &mut File::open(&self.kernel).unwrap(),
            initramfs: &mut File::open(&self.initramfs).unwrap(),
            command_line: &format!("console=ttyS0 panic=-1 reboot=k clocksource=kvm-clock random.trust_cpu=on {options}"),
        }
        .load(&memory)
        .unwrap();
        let log = Log::default();
        let builder = Builder::new(Host::open().unwrap(), &memory, vcpus, log.console()).unwrap();
        let mut machine = builder.boot(entry, &unjailed()).unwrap();
        machine.resume();
        (machine, log)
    }
}

pub(crate) fn unjailed() -> Prepare {
    Arc::new(|_| {})
}

/// The console of a guest, which is also shown.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<(Mutex<String>, Condvar)>);

impl Log {
    pub(crate) fn console(&self) -> Console {
        Console {
            to: Box::new(self.clone()),
            limit: 1 << 20,
        }
    }

    /// Waits for a whole line that contains `part`, after the first `skip` bytes, and returns it.
    pub(crate) fn wait_after(&self, skip: usize, part: &str) -> String {
        let (text, changed) = &*self.0;
        let find = |text: &str| {
            let lines = text.get(skip..)?.split_inclusive('\n');
            lines
                .filter(|line| line.ends_with('\n'))
                .find(|line| line.contains(part))
                .map(|line| line.trim().to_owned())
        };
        let (text, result) = changed
            .wait_timeout_while(text.lock().unwrap(), LIMIT, |text| find(text).is_none())
            .unwrap();
        assert!(!result.timed_out(), "no line with {part:?} in the guest's console:\n{text}");
        find(&text).unwrap()
    }

    pub(crate) fn wait(&self, part: &str) -> String {
        self.wait_after(0, part)
    }

    /// All so far.
    pub(crate) fn text(&self) -> String {
        self.0.0.lock().unwrap().clone()
    }

    /// Bytes so far.
    pub(crate) fn length(&self) -> usize {
        self.0.0.lock().unwrap().len()
    }
}

impl Write for Log {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.0.lock().unwrap().push_str(&String::from_utf8_lossy(data));
        self.0.1.notify_all();
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
