//! Running, pausing, saving and restoring.

use dormouse_vmm::kvm::{Clock, Host};
use dormouse_vmm::machine::{Builder, MachineError, StopReason};
use dormouse_vmm::memory;
use vm_memory::{Bytes as _, GuestAddress};

use crate::guest::{self, COUNT, COUNTER, HELLO, Output};

/// Waits until `machine` stopped by itself.
fn stopped(machine: &dormouse_vmm::machine::Machine) -> StopReason {
    use std::os::fd::AsRawFd as _;
    let mut poll = [libc::pollfd {
        fd: machine.stopped().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    }];
    // SAFETY: the array has one entry.
    let ready = unsafe { libc::poll(poll.as_mut_ptr(), 1, i32::try_from(guest::LIMIT.as_millis()).unwrap()) };
    assert_eq!(ready, 1, "the guest did not stop");
    machine.stop_reason().unwrap()
}

#[test]
fn a_guest_writes_to_its_console_and_switches_itself_off() {
    let Some(host) = guest::host() else { return };
    let output = Output::default();
    let mut machine = guest::boot(host, HELLO, &output);
    assert!(machine.is_paused());
    machine.resume();
    assert_eq!(stopped(&machine), StopReason::Shutdown);
    assert_eq!(output.now(), b"hi");
}

#[test]
fn a_guest_that_crashes_its_cpu_is_reported() {
    let Some(host) = guest::host() else { return };
    // ud2, without a handler for it.
    let mut machine = guest::boot(host, &[0x0f, 0x0b], &Output::default());
    machine.resume();
    assert!(matches!(
        stopped(&machine),
        StopReason::TripleFault { vcpu: 0 } | StopReason::Failed { vcpu: 0, .. }
    ));
}

#[test]
fn a_paused_guest_stands_still_and_goes_on_after() {
    let Some(host) = guest::host() else { return };
    let output = Output::default();
    let mut machine = guest::boot(host, COUNTER, &output);
    machine.resume();
    output.wait(10);
    machine.pause().unwrap();
    let written = output.now().len();
    let count: u32 = machine.memory().read_obj(GuestAddress(COUNT)).unwrap();
    assert!(count as usize == written || count as usize == written + 1);
    machine.save().unwrap();
    assert_eq!(output.now().len(), written);
    machine.resume();
    output.wait(written + 10);
}

#[test]
fn a_running_machine_is_not_saved() {
    let Some(host) = guest::host() else { return };
    let mut machine = guest::boot(host, COUNTER, &Output::default());
    machine.resume();
    assert!(matches!(machine.save(), Err(MachineError::NotPaused)));
}

#[test]
fn a_restored_guest_continues_where_it_was_saved_and_its_parent_too() {
    let Some(host) = guest::host() else { return };
    let output = Output::default();
    let mut parent = guest::boot(host, COUNTER, &output);
    parent.resume();
    output.wait(20);
    parent.pause().unwrap();
    let state = parent.save().unwrap();
    let written = output.now();

    let memory = memory::allocate(guest::MEMORY).unwrap();
    let mut page = vec![0; guest::MEMORY as usize];
    parent.memory().read_slice(&mut page, GuestAddress(0)).unwrap();
    memory.write_slice(&page, GuestAddress(0)).unwrap();
    let child_output = Output::default();
    let mut child = Builder::new(Host::open().unwrap(), &memory, 1, guest::console(&child_output))
        .unwrap()
        .restore(&state, Clock::Realtime, &guest::unjailed())
        .unwrap();
    child.resume();
    parent.resume();
    let next = written.last().unwrap().wrapping_add(1);
    assert_eq!(child_output.wait(5)[0], next);
    assert_eq!(output.wait(written.len() + 5)[written.len()], next);
}

#[test]
fn a_state_of_another_number_of_vcpus_is_refused() {
    let Some(host) = guest::host() else { return };
    let one = guest::boot(host, COUNTER, &Output::default());
    let state = one.save().unwrap();
    let memory = memory::allocate(guest::MEMORY).unwrap();
    let builder = Builder::new(Host::open().unwrap(), &memory, 2, guest::console(&Output::default())).unwrap();
    assert!(matches!(
        builder.restore(&state, Clock::Frozen, &guest::unjailed()),
        Err(MachineError::Shape {
            what: "vCPUs",
            expected: 2,
            found: 1
        })
    ));
}

#[test]
fn machines_have_one_to_eight_vcpus() {
    let memory = memory::allocate(guest::MEMORY).unwrap();
    for count in [0, 9] {
        let Some(host) = guest::host() else { return };
        let built = Builder::new(host, &memory, count, guest::console(&Output::default()));
        assert!(matches!(built, Err(MachineError::Vcpus(found)) if found == usize::from(count)));
    }
    let Some(host) = guest::host() else { return };
    let output = Output::default();
    let mut machine = guest::boot_with(host, HELLO, &output, memory, 8);
    machine.resume();
    assert_eq!(stopped(&machine), StopReason::Shutdown);
    assert_eq!(machine.vcpus(), 8);
}
