//! Tests of the transport and of what all devices share, with the simplest device there is.

use proptest::prelude::*;
use virtio_bindings::virtio_mmio as reg;

use super::device::DeviceKind;
use super::rng::Rng;
use super::testing::{Guest, Part, STATUS_NEEDS_RESET, STATUS_RUNNING};
use super::*;
use crate::events::EventHandler as _;

const VERSION_1: u64 = 1 << 32;
const EVENT_IDX: u64 = 1 << 29;

#[test]
fn a_driver_finds_the_device() {
    let mut guest = Guest::new(Rng::default());
    assert_eq!(guest.register(reg::VIRTIO_MMIO_MAGIC_VALUE).to_le_bytes(), *b"virt");
    assert_eq!(guest.register(reg::VIRTIO_MMIO_VERSION), 2);
    assert_eq!(guest.register(reg::VIRTIO_MMIO_DEVICE_ID), DeviceKind::Rng as u32);
    assert_eq!(guest.offered() & VERSION_1, VERSION_1);
    assert_eq!(guest.register(reg::VIRTIO_MMIO_SHM_LEN_LOW), u32::MAX);
    guest.set_register(reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
    assert_eq!(guest.register(reg::VIRTIO_MMIO_DEVICE_FEATURES), 0);
    guest.set_register(reg::VIRTIO_MMIO_QUEUE_SEL, 1);
    assert_eq!(guest.register(reg::VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
}

#[test]
fn features_that_were_not_offered_are_not_accepted() {
    for features in [VERSION_1 | 1 << 63, 0, EVENT_IDX] {
        let mut guest = Guest::new(Rng::default());
        for status in [1, 3] {
            guest.set_register(reg::VIRTIO_MMIO_STATUS, status);
        }
        for (half, bits) in [(0, features as u32), (1, (features >> 32) as u32), (7, 99)] {
            guest.set_register(reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
            guest.set_register(reg::VIRTIO_MMIO_DRIVER_FEATURES, bits);
        }
        guest.set_register(reg::VIRTIO_MMIO_STATUS, 11);
        assert_eq!(guest.status(), 3, "{features:#x}");
        guest.set_register(reg::VIRTIO_MMIO_STATUS, 15);
        assert_eq!(guest.status(), 3, "{features:#x}");
    }
}

#[test]
fn status_bits_come_in_order_and_stay() {
    let mut guest = Guest::new(Rng::default());
    guest.set_register(reg::VIRTIO_MMIO_STATUS, 2);
    assert_eq!(guest.status(), 0);
    guest.start(u64::MAX);
    assert_eq!(guest.status(), STATUS_RUNNING);
    guest.set_register(reg::VIRTIO_MMIO_STATUS, 1);
    assert_eq!(guest.status(), STATUS_RUNNING);
    guest.set_register(reg::VIRTIO_MMIO_STATUS, 0x80 | STATUS_RUNNING);
    assert_eq!(guest.status(), 0x80 | STATUS_RUNNING);
    assert!(!guest.device.lock().unwrap().is_running());
    guest.set_register(reg::VIRTIO_MMIO_STATUS, 0);
    assert_eq!(guest.status(), 0);
}

#[test]
fn a_queue_in_use_does_not_move() {
    let mut guest = Guest::running(Rng::default());
    guest.set_register(reg::VIRTIO_MMIO_QUEUE_SEL, 0);
    guest.set_register(reg::VIRTIO_MMIO_QUEUE_DESC_LOW, 0x9000);
    guest.set_register(reg::VIRTIO_MMIO_QUEUE_READY, 0);
    assert_eq!(guest.register(reg::VIRTIO_MMIO_QUEUE_READY), 1);
    let posted = guest.post(0, &[Part::In(4)]);
    guest.notify(0);
    assert_eq!(guest.used(0), Some((posted.head, 4)));
}

#[test]
fn a_queue_outside_of_memory_needs_a_reset() {
    let mut guest = Guest::running(Rng::default());
    for status in [0, 1, 3] {
        guest.set_register(reg::VIRTIO_MMIO_STATUS, status);
    }
    guest.set_register(reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    guest.set_register(reg::VIRTIO_MMIO_DRIVER_FEATURES, 1);
    guest.set_register(reg::VIRTIO_MMIO_STATUS, 11);
    for register in [
        reg::VIRTIO_MMIO_QUEUE_DESC_HIGH,
        reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH,
        reg::VIRTIO_MMIO_QUEUE_USED_HIGH,
    ] {
        guest.set_register(register, 0xffff_ffff);
    }
    guest.set_register(reg::VIRTIO_MMIO_QUEUE_READY, 1);
    guest.set_register(reg::VIRTIO_MMIO_STATUS, 15);
    assert_eq!(guest.status(), 15 | STATUS_NEEDS_RESET);
    // The driver is told (section 2.1.2), by an interrupt for a changed configuration.
    assert_eq!(guest.register(reg::VIRTIO_MMIO_INTERRUPT_STATUS), 2);
    guest.notify(0);
    guest.start(u64::MAX);
    assert_eq!(guest.status(), STATUS_RUNNING);
    assert_eq!(guest.device.lock().unwrap().metrics().failures, 1);
}

#[test]
fn interrupts_are_acknowledged_and_can_be_held_back() {
    let mut guest = Guest::running(Rng::default());
    guest.post(0, &[Part::In(4)]);
    guest.notify(0);
    assert_eq!(guest.register(reg::VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    guest.set_register(reg::VIRTIO_MMIO_INTERRUPT_ACK, 1);
    assert_eq!(guest.register(reg::VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    // The driver has not taken the first answer, so that it wants no interrupt for the next (VIRTIO_F_EVENT_IDX).
    guest.post(0, &[Part::In(4)]);
    guest.notify(0);
    assert_eq!(guest.interrupts(), 1);
    guest.used(0);
    guest.used(0);
    guest.post(0, &[Part::In(4)]);
    guest.notify(0);
    assert_eq!(guest.interrupts(), 2);
}

#[test]
fn an_interrupt_that_was_not_acknowledged_is_repeated_after_a_restore() {
    let mut guest = Guest::running(Rng::default());
    guest.post(0, &[Part::In(4)]);
    guest.notify(0);
    let mut guest = guest.restored_with(Rng::default()).unwrap();
    assert_eq!(guest.interrupts(), 1);
    assert_eq!(guest.register(reg::VIRTIO_MMIO_INTERRUPT_STATUS), 1);
}

#[test]
fn a_state_survives_being_written_down() {
    let guest = Guest::running(Rng::default());
    let state = guest.device.lock().unwrap().save().unwrap();
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<VirtioState>(&text).unwrap(), state);
}

#[test]
fn states_that_do_not_fit_are_refused() {
    let guest = Guest::running(Rng::default());
    let state = guest.device.lock().unwrap().save().unwrap();
    let refuse = |change: fn(&mut VirtioState)| {
        let mut state = state.clone();
        change(&mut state);
        let fresh = Guest::with_memory(Rng::default(), guest.memory.clone());
        fresh.device.lock().unwrap().restore(&state).unwrap_err()
    };
    assert!(matches!(refuse(|state| state.queues.clear()), RestoreError::Kind(_)));
    assert!(matches!(
        refuse(|state| state.device = DeviceState::Net),
        RestoreError::Kind(_)
    ));
    assert!(matches!(
        refuse(|state| state.driver_features |= 1 << 50),
        RestoreError::Features(_)
    ));
    assert!(matches!(
        refuse(|state| state.queues[0].size = 3),
        RestoreError::Queue { index: 0, .. }
    ));
    assert!(matches!(
        refuse(|state| state.queues[0].max_size = 128),
        RestoreError::Queue { index: 0, .. }
    ));
    assert!(matches!(
        refuse(|state| state.queues[0].used = 1 << 60),
        RestoreError::Activate(_)
    ));
}

#[derive(Debug, Clone)]
enum Act {
    Register(u32, u32),
    Config(u64, Vec<u8>),
    Memory(u64, Vec<u8>),
    Event(u32),
    Save,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0u32..0x110, prop_oneof![0u32..16, any::<u32>()]).prop_map(|(offset, value)| Act::Register(offset & !3, value)),
        1 => (any::<u64>(), prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(offset, data)| Act::Config(offset >> 32, data)),
        4 => (0u64..0x4_0000, prop::collection::vec(any::<u8>(), 1..64)).prop_map(|(at, data)| Act::Memory(at, data)),
        3 => (0u32..4).prop_map(Act::Event),
        1 => Just(Act::Save),
    ]
}

proptest! {
    /// Whatever a driver writes where, the device survives and can be started again.
    #[test]
    fn a_device_survives_any_driver(start in any::<bool>(), acts in prop::collection::vec(act(), 1..60)) {
        use vm_memory::{Bytes as _, GuestAddress};
        let mut guest = Guest::new(Rng::default());
        if start {
            guest.start(u64::MAX);
        }
        for act in acts {
            match act {
                Act::Register(offset, value) => guest.set_register(offset, value),
                Act::Config(offset, data) => guest.set_config(offset, &data),
                Act::Memory(at, data) => guest.memory.write_slice(&data, GuestAddress(0x1_0000 + at)).unwrap(),
                Act::Event(queue) => {
                    let mut device = guest.device.lock().unwrap();
                    device.ready(queue, crate::events::EventSet::IN);
                }
                Act::Save => drop(guest.device.lock().unwrap().save().unwrap()),
            }
        }
        guest.start(u64::MAX);
        let posted = guest.post(0, &[Part::In(4)]);
        guest.notify(0);
        prop_assert_eq!(guest.used(0), Some((posted.head, 4)));
    }
}
