//! Tests of the balloon.

use vm_memory::Bytes as _;

use super::*;
use crate::virtio::testing::{Guest, Part, Posted};

const STATS: usize = 2;
const REPORT: usize = 3;

fn metrics(guest: &Guest<Balloon>) -> BalloonMetrics {
    guest.device.lock().unwrap().device().metrics.clone()
}

fn numbers(pages: &[u32]) -> Vec<u8> {
    pages.iter().flat_map(|page| page.to_le_bytes()).collect()
}

fn fill(guest: &Guest<Balloon>, address: u64, length: usize) {
    guest.memory.write_slice(&vec![7; length], GuestAddress(address)).unwrap();
}

#[test]
fn inflated_pages_go_back_to_the_host() {
    let mut guest = Guest::running(Balloon::default());
    fill(&guest, 0x20_0000, 5 * 4096);
    let posted = guest.post(INFLATE, &[Part::Out(&numbers(&[0x200, 0x201, 0x203]))]);
    guest.notify(INFLATE);
    assert_eq!(guest.used(INFLATE), Some((posted.head, 0)));
    let page = |guest: &Guest<Balloon>, index: u64| guest.read(GuestAddress(0x20_0000 + index * 4096), 1)[0];
    assert_eq!([0, 1, 2, 3, 4].map(|index| page(&guest, index)), [0, 0, 7, 0, 7]);
    let metrics = metrics(&guest);
    assert_eq!((metrics.inflated_pages, metrics.discarded_bytes), (3, 3 * 4096));
}

#[test]
fn pages_outside_of_memory_are_counted_and_nothing_else() {
    let mut guest = Guest::running(Balloon::default());
    guest.post(INFLATE, &[Part::Out(&numbers(&[u32::MAX, u32::MAX - 1, 0x800]))]);
    guest.notify(INFLATE);
    let metrics = metrics(&guest);
    assert_eq!((metrics.discarded_bytes, metrics.discard_failures), (0, 3));
}

#[test]
fn senseless_lists_are_ignored() {
    let mut guest = Guest::running(Balloon::default());
    guest.post(INFLATE, &[Part::Out(&[1, 2, 3])]);
    guest.post(INFLATE, &[Part::Out(&vec![0; 4 * (MAX_NUMBERS + 1)])]);
    guest.set_descriptor(INFLATE, 2, (1 << 40, 64, 0, 0));
    guest.make_available(INFLATE, 2);
    guest.notify(INFLATE);
    assert_eq!(
        metrics(&guest),
        BalloonMetrics {
            malformed: 3,
            ..Default::default()
        }
    );
}

#[test]
fn reported_ranges_go_back_to_the_host() {
    let mut guest = Guest::running(Balloon::default());
    let posted = guest.post(REPORT, &[Part::In(64 * 4096), Part::In(10)]);
    let address = posted.parts[0].0;
    fill(&guest, address, 64 * 4096);
    guest.notify(REPORT);
    assert_eq!(guest.used(REPORT), Some((posted.head, 0)));
    // The test's buffer does not begin at a page.
    let middle = GuestAddress(address.next_multiple_of(4096));
    assert_eq!(guest.read(middle, 63 * 4096), vec![0; 63 * 4096]);
    assert_eq!(metrics(&guest).reported_bytes, 64 * 4096 + 10);
}

#[test]
fn reported_pages_with_a_pattern_keep_it() {
    let mut guest = Guest::running(Balloon::default());
    guest.set_config(12, &0xaaaa_aaaau32.to_le_bytes());
    let posted = guest.post(REPORT, &[Part::In(64 * 4096)]);
    fill(&guest, posted.parts[0].0, 64 * 4096);
    guest.notify(REPORT);
    assert_eq!(guest.used(REPORT), Some((posted.head, 0)));
    assert_eq!(guest.read(posted.parts[0], 64 * 4096), vec![7; 64 * 4096]);
}

#[test]
fn queues_of_features_that_were_not_accepted_leave_no_gap() {
    let mut guest = Guest::new(Balloon::default());
    guest.start(!(1 << F_STATS_VQ));
    guest.post(STATS, &[Part::In(8192)]);
    guest.notify(STATS);
    assert_eq!(metrics(&guest).reported_bytes, 8192);
}

#[test]
fn a_target_is_told_by_an_interrupt() {
    let mut guest = Guest::running(Balloon::default());
    let device = guest.device.clone();
    let set = |bytes| {
        let mut device = device.lock().unwrap();
        device.control(|balloon, context| {
            balloon.set_target(bytes, context);
            Ok(())
        })
    };
    set(10 * 4096 + 1).unwrap();
    assert_eq!(guest.interrupts(), 1);
    assert_eq!(u32::from_le_bytes(guest.config(0)), 10);
    guest.set_config(4, &4u32.to_le_bytes());
    assert_eq!(guest.device.lock().unwrap().device().actual(), 4 * 4096);
    guest.post(DEFLATE, &[Part::Out(&numbers(&[1, 2, 3]))]);
    guest.notify(DEFLATE);
    assert_eq!(metrics(&guest).deflated_pages, 3);
}

fn stats(free: u64) -> Vec<u8> {
    let entries = [(4u16, free), (5, 1000), (77, 1)];
    entries
        .iter()
        .flat_map(|(tag, value)| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat())
        .collect()
}

fn ask(guest: &Guest<Balloon>) -> bool {
    let mut device = guest.device.lock().unwrap();
    device.control(Balloon::request_stats).unwrap()
}

fn send_stats(guest: &mut Guest<Balloon>, free: u64) -> Posted {
    let posted = guest.post(STATS, &[Part::Out(&stats(free))]);
    guest.notify(STATS);
    posted
}

#[test]
fn statistics_come_when_they_are_asked_for() {
    let mut guest = Guest::running(Balloon::default());
    assert!(!ask(&guest));
    let posted = send_stats(&mut guest, 1);
    assert_eq!(guest.used(STATS), None);
    assert!(ask(&guest));
    assert_eq!(guest.used(STATS), Some((posted.head, 0)));
    assert!(!ask(&guest));
    send_stats(&mut guest, 2);
    let device = guest.device.lock().unwrap();
    assert_eq!(
        (device.device().stats().free, device.device().stats().total),
        (Some(2), Some(1000))
    );
}

#[test]
fn statistics_can_be_asked_for_after_a_restore() {
    let mut guest = Guest::running(Balloon::default());
    let posted = send_stats(&mut guest, 1);
    let mut guest = guest.restored_with(Balloon::default()).unwrap();
    guest.run();
    assert!(ask(&guest));
    assert_eq!(guest.used(STATS), Some((posted.head, 0)));
}

#[test]
fn statistics_that_make_no_sense_are_ignored() {
    let mut guest = Guest::running(Balloon::default());
    guest.post(STATS, &[Part::Out(&[0; 11])]);
    guest.notify(STATS);
    guest.post(STATS, &[Part::Out(&[0; 1000])]);
    guest.notify(STATS);
    assert_eq!(metrics(&guest).malformed, 2);
    // The first buffer went back when the second came.
    assert_eq!(guest.used(STATS), Some((0, 0)));
}
