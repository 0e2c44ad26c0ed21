//! Tests of the network card, on a pair of datagram sockets and on a real TAP interface.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};

use super::*;
use crate::virtio::testing::{Guest, Part, QUEUE_SIZE};

const MAC: Mac = [2, 0, 0, 0, 0, 7];

/// A datagram socket keeps frames apart as a TAP interface does.
#[derive(Debug)]
struct Wire(UnixDatagram, Arc<Mutex<Vec<u32>>>);

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Backend for Wire {
    fn set_offload(&self, flags: u32) -> io::Result<()> {
        self.1.lock().unwrap().push(flags);
        Ok(())
    }
}

struct Setup {
    net: Net,
    host: UnixDatagram,
    offloads: Arc<Mutex<Vec<u32>>>,
}

fn setup() -> Setup {
    let (host, card) = UnixDatagram::pair().unwrap();
    card.set_nonblocking(true).unwrap();
    host.set_nonblocking(true).unwrap();
    let offloads = Arc::default();
    let net = Net::new(Box::new(Wire(card, Arc::clone(&offloads))), MAC, Some(1400));
    Setup { net, host, offloads }
}

fn frame(length: usize) -> Vec<u8> {
    (0..HEADER + length)
        .map(|n| if n < HEADER { 0 } else { (n % 253) as u8 })
        .collect()
}

fn metrics(guest: &Guest<Net>) -> NetMetrics {
    guest.device.lock().unwrap().device().metrics.clone()
}

/// All features but those that allow segments of 64 KiB.
const SMALL: u64 = !(1 << abi::VIRTIO_NET_F_GUEST_TSO4 | 1 << abi::VIRTIO_NET_F_GUEST_TSO6 | 1 << abi::VIRTIO_NET_F_GUEST_UFO);

#[test]
fn frames_of_the_guest_reach_the_host() {
    let Setup { net, host, .. } = setup();
    let mut guest = Guest::running(net);
    let sent = frame(1000);
    let posted = guest.post(
        TRANSMIT,
        &[
            Part::Out(&sent[..HEADER]),
            Part::Out(&sent[HEADER..500]),
            Part::Out(&sent[500..]),
        ],
    );
    guest.notify(TRANSMIT);
    assert_eq!(guest.used(TRANSMIT), Some((posted.head, 0)));
    let mut received = vec![0; 2000];
    let length = host.recv(&mut received).unwrap();
    assert_eq!(received[..length], sent);
    assert_eq!(metrics(&guest).sent_bytes, 1000);
}

#[test]
fn frames_for_the_guest_wait_until_it_has_room() {
    let Setup { net, host, .. } = setup();
    let mut guest = Guest::new(net);
    guest.start(SMALL);
    host.send(&frame(100)).unwrap();
    guest.run();
    assert_eq!(guest.used(RECEIVE), None);
    let posted = guest.post(RECEIVE, &[Part::In(2000)]);
    guest.notify(RECEIVE);
    assert_eq!(guest.used(RECEIVE), Some((posted.head, 112)));
    let mut expected = frame(100);
    expected[NUM_BUFFERS] = 1;
    assert_eq!(guest.read(posted.parts[0], 112), expected);
    assert_eq!(metrics(&guest).received_frames, 1);
}

#[test]
fn a_frame_before_the_driver_started_is_not_lost() {
    let Setup { net, host, .. } = setup();
    let mut guest = Guest::new(net);
    host.send(&frame(60)).unwrap();
    guest.run();
    guest.start(SMALL);
    guest.post(RECEIVE, &[Part::In(2000)]);
    guest.notify(RECEIVE);
    assert_eq!(guest.used(RECEIVE).unwrap().1, 72);
}

#[test]
fn a_long_frame_takes_several_buffers() {
    let Setup { net, host, .. } = setup();
    let mut guest = Guest::running(net);
    let posted: Vec<_> = (0..60).map(|_| guest.post(RECEIVE, &[Part::In(1500)])).collect();
    guest.notify(RECEIVE);
    let mut sent = frame(4000);
    host.send(&sent).unwrap();
    guest.run();
    let lengths: Vec<_> = std::iter::from_fn(|| guest.used(RECEIVE)).collect();
    assert_eq!(
        lengths,
        [(posted[0].head, 1500), (posted[1].head, 1500), (posted[2].head, 1012)]
    );
    let received: Vec<u8> = posted[..3]
        .iter()
        .flat_map(|posted| guest.read(posted.parts[0], 1500))
        .collect();
    sent[NUM_BUFFERS] = 3;
    assert_eq!(received[..4012], sent);
}

#[test]
fn a_guest_with_large_frames_receives_when_the_largest_has_room() {
    let Setup { net, host, .. } = setup();
    let mut guest = Guest::running(net);
    host.send(&frame(60)).unwrap();
    for _ in 0..43 {
        guest.post(RECEIVE, &[Part::In(1500)]);
    }
    guest.notify(RECEIVE);
    assert_eq!(guest.used(RECEIVE), None);
    guest.post(RECEIVE, &[Part::In(1500)]);
    guest.notify(RECEIVE);
    assert_eq!(guest.used(RECEIVE).unwrap().1, 72);
}

#[test]
fn a_full_queue_of_small_buffers_is_room_enough() {
    let Setup { net, host, .. } = setup();
    let mut guest = Guest::running(net);
    for _ in 0..QUEUE_SIZE {
        guest.post(RECEIVE, &[Part::In(100)]);
    }
    guest.notify(RECEIVE);
    host.send(&frame(150)).unwrap();
    guest.run();
    assert_eq!((guest.used(RECEIVE).unwrap().1, guest.used(RECEIVE).unwrap().1), (100, 62));
}

#[test]
fn without_merging_each_frame_has_a_buffer_of_its_own() {
    let Setup { net, host, .. } = setup();
    let mut guest = Guest::new(net);
    guest.start(SMALL & !(1 << abi::VIRTIO_NET_F_MRG_RXBUF));
    let posted = guest.post(RECEIVE, &[Part::In(12), Part::In(1518)]);
    guest.post(RECEIVE, &[Part::In(1530)]);
    guest.notify(RECEIVE);
    host.send(&frame(1514)).unwrap();
    guest.run();
    assert_eq!(guest.used(RECEIVE), Some((posted.head, 1526)));
    assert_eq!(guest.used(RECEIVE), None);
}

#[test]
fn buffers_that_are_no_frames_are_dropped() {
    let Setup { net, host, .. } = setup();
    let mut guest = Guest::new(net);
    guest.start(SMALL);
    for length in [0, HEADER + ETHERNET - 1, MAX_FRAME + 1] {
        let posted = guest.post(TRANSMIT, &[Part::Out(&vec![0; length.max(1)])]);
        guest.notify(TRANSMIT);
        assert_eq!(guest.used(TRANSMIT), Some((posted.head, 0)));
    }
    let posted = guest.post(RECEIVE, &[Part::In(11)]);
    guest.notify(RECEIVE);
    assert_eq!(guest.used(RECEIVE), Some((posted.head, 0)));
    assert_eq!(metrics(&guest).malformed, 4);
    assert!(host.recv(&mut [0; 100]).is_err());
}

#[test]
fn buffers_outside_of_memory_lose_frames_only() {
    let Setup { net, host, .. } = setup();
    let mut guest = Guest::new(net);
    guest.start(SMALL);
    guest.set_descriptor(RECEIVE, 0, (1 << 50, 2000, 2, 0));
    guest.make_available(RECEIVE, 0);
    guest.set_descriptor(TRANSMIT, 0, (1 << 50, 2000, 0, 0));
    guest.make_available(TRANSMIT, 0);
    host.send(&frame(100)).unwrap();
    guest.notify(RECEIVE);
    guest.notify(TRANSMIT);
    assert!(metrics(&guest).receive_errors > 0);
    assert_eq!(metrics(&guest).send_dropped, 1);
}

/// The interface of a restored machine is a new one, which does not know what the guest can take.
#[test]
fn offloads_are_told_at_the_start_and_again_after_a_restore() {
    let first = setup();
    let mut guest = Guest::new(first.net);
    guest.start(!(1 << abi::VIRTIO_NET_F_GUEST_TSO6));
    let flags = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO_ECN | libc::TUN_F_UFO;
    assert_eq!(*first.offloads.lock().unwrap(), [flags]);
    let second = setup();
    guest.restored_with(second.net).unwrap();
    assert_eq!(*second.offloads.lock().unwrap(), [flags]);
}

#[test]
fn buffers_that_were_taken_but_not_used_are_there_after_a_restore() {
    let first = setup();
    let mut guest = Guest::running(first.net);
    let posted: Vec<_> = (0..60).map(|_| guest.post(RECEIVE, &[Part::In(1500)])).collect();
    guest.notify(RECEIVE);
    first.host.send(&frame(100)).unwrap();
    guest.run();
    assert_eq!(guest.used(RECEIVE), Some((posted[0].head, 112)));
    let second = setup();
    let mut guest = guest.restored_with(second.net).unwrap();
    second.host.send(&frame(200)).unwrap();
    guest.run();
    assert_eq!(guest.used(RECEIVE), Some((posted[1].head, 212)));
}

#[test]
fn the_address_and_the_mtu_are_told() {
    let Setup { net, .. } = setup();
    let mut guest = Guest::new(net);
    assert_eq!(guest.config(0), MAC);
    assert_eq!(u16::from_le_bytes(guest.config(10)), 1400);
}

/// In a network namespace of its own: the test's thread leaves the machine's network alone.
#[test]
fn a_tap_interface_carries_frames_both_ways() {
    let outcome = std::thread::spawn(|| {
        // SAFETY: the thread has no other users of its namespaces and ends with this test.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            eprintln!("skipped: no network namespace without privilege");
            return;
        }
        let Ok(tap) = Tap::open("dm-test0") else {
            eprintln!("skipped: no TAP interface");
            return;
        };
        let net = Net::new(Box::new(tap), MAC, None);
        let mut guest = Guest::running(net);
        let run = |arguments: &str| std::process::Command::new("ip").args(arguments.split(' ')).status();
        if !run("addr add 10.77.0.1/24 dev dm-test0").is_ok_and(|status| status.success()) {
            eprintln!("skipped: no `ip`");
            return;
        }
        assert!(run("link set dm-test0 up").unwrap().success());
        for _ in 0..60 {
            guest.post(RECEIVE, &[Part::In(1500)]);
        }
        guest.notify(RECEIVE);
        // To reach a neighbour the host asks who has the address: a frame of type ARP. IPv6 makes frames too.
        let socket = std::net::UdpSocket::bind("10.77.0.1:0").unwrap();
        socket.send_to(b"ping", "10.77.0.2:9").unwrap();
        let arp = guest.wait(|guest| {
            let (head, length) = guest.used(RECEIVE)?;
            let frame = guest.buffer(RECEIVE, head, length as usize);
            (frame[HEADER + 12..HEADER + 14] == [8, 6]).then_some(frame)
        });
        assert_eq!(arp[HEADER + 38..HEADER + 42], [10, 77, 0, 2]);
        // The guest answers, and gets the datagram.
        let mut answer = vec![0; HEADER];
        answer.extend_from_slice(&arp[HEADER + 6..HEADER + 12]);
        answer.extend_from_slice(&MAC);
        answer.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        answer.extend_from_slice(&MAC);
        answer.extend_from_slice(&[10, 77, 0, 2]);
        answer.extend_from_slice(&arp[HEADER + 22..HEADER + 32]);
        guest.post(TRANSMIT, &[Part::Out(&answer)]);
        guest.notify(TRANSMIT);
        let datagram = guest.wait(|guest| {
            let (head, length) = guest.used(RECEIVE)?;
            let frame = guest.buffer(RECEIVE, head, length as usize);
            (frame[HEADER + 12..HEADER + 14] == [8, 0]).then_some(frame)
        });
        assert_eq!(datagram[HEADER..HEADER + 6], MAC);
        assert!(datagram.ends_with(b"ping"));
    });
    outcome.join().unwrap();
}
