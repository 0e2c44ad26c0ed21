//! What is tested with Linux as guest.

use std::os::fd::AsRawFd as _;
use std::time::{SystemTime, UNIX_EPOCH};

use dormouse_vmm::kvm::{Clock, Host};
use dormouse_vmm::machine::{Builder, Machine, StopReason};
use dormouse_vmm::memory;
use vm_memory::{Bytes as _, GuestAddress};

use crate::linux::{Files, LIMIT, Log, MEMORY, unjailed};

type Test = (&'static str, fn(&Files));

pub(crate) const ALL: &[Test] = &[
    ("linux_boots_and_switches_itself_off", linux_boots_and_switches_itself_off),
    ("a_restart_ends_the_machine", a_restart_ends_the_machine),
    (
        "linux_sees_its_vcpus_and_uses_the_clock_of_kvm",
        linux_sees_its_vcpus_and_uses_the_clock_of_kvm,
    ),
    (
        "a_restored_linux_goes_on_with_the_right_time",
        a_restored_linux_goes_on_with_the_right_time,
    ),
];

fn stopped(machine: &Machine, log: &Log) -> StopReason {
    let mut poll = [libc::pollfd {
        fd: machine.stopped().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    }];
    // SAFETY: the array has one entry.
    let ready = unsafe { libc::poll(poll.as_mut_ptr(), 1, i32::try_from(LIMIT.as_millis()).unwrap()) };
    assert_eq!(ready, 1, "the guest did not stop:\n{}", log.text());
    machine.stop_reason().unwrap()
}

fn linux_boots_and_switches_itself_off(files: &Files) {
    let (machine, log) = files.boot(1, "quiet test.off");
    log.wait("guest: off");
    assert_eq!(stopped(&machine, &log), StopReason::Shutdown);
}

fn a_restart_ends_the_machine(files: &Files) {
    let (machine, log) = files.boot(1, "test.restart");
    assert_eq!(stopped(&machine, &log), StopReason::Shutdown);
}

fn linux_sees_its_vcpus_and_uses_the_clock_of_kvm(files: &Files) {
    let (_machine, log) = files.boot(2, "quiet");
    let line = log.wait("guest: cpus=");
    assert!(line.contains("cpus=0-1 clock=kvm-clock"), "{line}");
}

/// The value of `name=` in a line of the guest.
fn number(line: &str, name: &str) -> u64 {
    let value = line
        .split(' ')
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        .unwrap();
    value.parse().unwrap()
}

/// How many milliseconds the guest's wall clock is behind, by a line that it has just written.
fn behind(line: &str) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    i64::try_from(now).unwrap() - i64::try_from(number(line, "time")).unwrap()
}

fn a_restored_linux_goes_on_with_the_right_time(files: &Files) {
    let (mut parent, log) = files.boot(2, "");
    let before = behind(&log.wait("tick=3"));
    parent.pause().unwrap();
    let state = parent.save().unwrap();
    let memory = memory::allocate(MEMORY).unwrap();
    let mut buffer = vec![0; 1 << 20];
    for address in (0..MEMORY).step_by(buffer.len()) {
        parent.memory().read_slice(&mut buffer, GuestAddress(address)).unwrap();
        if buffer.iter().any(|byte| *byte != 0) {
            memory.write_slice(&buffer, GuestAddress(address)).unwrap();
        }
    }
    drop(parent);
    std::thread::sleep(std::time::Duration::from_secs(5));
    let child_log = Log::default();
    let builder = Builder::new(Host::open().unwrap(), &memory, 2, child_log.console()).unwrap();
    let mut child = builder.restore(&state, Clock::Realtime, &unjailed()).unwrap();
    child.resume();
    child_log.wait("tick=");
    let line = child_log.wait_after(child_log.length(), "tick=");
    // Compared with itself: how right the clock of an emulated host was at the guest's start is not ours.
    let moved = behind(&line) - before;
    assert!(
        moved.abs() < 3_000,
        "the guest's wall clock is {moved} ms further behind than before the save: {line}"
    );
}
