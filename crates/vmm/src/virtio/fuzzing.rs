//! What the fuzz targets in `fuzz/` call. Everything here is a guest that does what the input says.

use std::cell::RefCell;

use vm_memory::{Bytes as _, GuestAddress};

use super::balloon::Balloon;
use super::block::request::{Operation, Request};
use super::device::VirtioDevice;
use super::queue::Chain;
use super::rng::Rng;
use super::testing::{Guest, Part, STATUS_NEEDS_RESET, STATUS_RUNNING};
use super::vsock::Vsock;
use crate::events::{EventHandler as _, EventSet};

/// Size of the disk that block requests are for.
const DISK: u64 = 1 << 30;

/// Rings and descriptors of a queue: the input is what the guest's memory holds there.
pub fn virtqueue(data: &[u8]) {
    thread_local!(static GUEST: RefCell<Guest<Rng>> = RefCell::new(Guest::new(Rng::default())));
    GUEST.with_borrow_mut(|guest| {
        guest.start(u64::MAX);
        // The available ring first: with nothing in it nothing happens.
        let (ring, table) = data.split_at(data.len().min(64));
        let write = |at, bytes: &[u8]| guest.memory.write_slice(bytes, GuestAddress(at)).expect("rings in memory");
        write(0x1_0000, table);
        write(0x1_4000, ring);
        // Once for each kick that a device gives itself at most: a full round of the queue.
        for _ in 0..2 {
            guest.device.lock().expect("no panic before").ready(0, EventSet::IN);
        }
        assert_eq!(guest.status() & !STATUS_NEEDS_RESET, STATUS_RUNNING);
    });
}

/// A block request in pieces: lengths of four pieces, lengths of room, and then the bytes.
pub fn block_request(data: &[u8]) {
    thread_local!(static GUEST: Guest<Rng> = Guest::new(Rng::default()));
    let Some((lengths, bytes)) = data.split_at_checked(8) else {
        return;
    };
    let mut chain = Chain {
        head: 0,
        readable: Default::default(),
        writable: Default::default(),
    };
    let mut at = 0x10_0000;
    for length in &lengths[..4] {
        chain.readable.push(GuestAddress(at), u32::from(*length));
        at += u64::from(*length);
    }
    chain.readable.push(GuestAddress(at), bytes.len() as u32);
    for length in &lengths[4..] {
        chain.writable.push(GuestAddress(0x20_0000), u32::from(*length));
    }
    GUEST.with(|guest| {
        guest
            .memory
            .write_slice(bytes, GuestAddress(0x10_0000))
            .expect("an address in memory");
        let Some(request) = Request::parse(&guest.memory, &chain, DISK, false) else {
            assert!(chain.writable.is_empty());
            return;
        };
        assert_eq!(request.status.len(), 1);
        match request.operation {
            Ok(Operation::Read(offset, data) | Operation::Write(offset, data)) => assert!(offset + data.len() as u64 <= DISK),
            Ok(Operation::Discard(ranges) | Operation::WriteZeroes(ranges)) => {
                assert!(ranges.iter().all(|range| range.offset + range.length <= DISK));
            }
            Ok(Operation::Flush | Operation::GetId(_)) | Err(_) => {}
        }
    });
}

/// Packets of the socket device: a length, a packet of that length, and so on.
pub fn vsock(data: &[u8]) {
    thread_local!(static GUEST: RefCell<Guest<Vsock>> = RefCell::new({
        let path = std::env::temp_dir().join(format!("dormouse-fuzz-vsock-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Guest::new(Vsock::bind(3, path).expect("a socket for fuzzing"))
    }));
    GUEST.with_borrow_mut(|guest| {
        guest.start(u64::MAX);
        for _ in 0..16 {
            guest.post(0, &[Part::In(300)]);
        }
        requests(guest, 1, data);
        assert_eq!(guest.status(), STATUS_RUNNING);
    });
}

/// Requests to the queues of the balloon: the first byte says to which.
pub fn balloon(data: &[u8]) {
    thread_local!(static GUEST: RefCell<Guest<Balloon>> = RefCell::new(Guest::new(Balloon::default())));
    GUEST.with_borrow_mut(|guest| {
        guest.start(u64::MAX);
        if let Some((queue, data)) = data.split_first() {
            requests(guest, usize::from(queue % 4), data);
        }
        // A request that breaks the rules may stop the device, and nothing else.
        assert_eq!(guest.status() & !STATUS_NEEDS_RESET, STATUS_RUNNING);
    });
}

fn requests<D: VirtioDevice + 'static>(guest: &mut Guest<D>, queue: usize, mut data: &[u8]) {
    for _ in 0..32 {
        let Some((length, rest)) = data.split_first() else { return };
        let (request, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        guest.post(queue, &[Part::Out(request), Part::In(64)]);
        guest.notify(queue);
        while guest.used(queue).is_some() {}
        data = rest;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    fn seed(target: &str, name: &str) -> Vec<u8> {
        let path = format!("{}/../../fuzz/corpus/vmm_{target}/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(path).unwrap()
    }

    /// Inputs near a seed get further than random ones.
    fn near(target: &str, name: &str) -> impl Strategy<Value = Vec<u8>> {
        let seed = seed(target, name);
        let change = prop::collection::vec((0..seed.len(), any::<u8>()), 0..6);
        (change, prop::collection::vec(any::<u8>(), 0..40)).prop_map(move |(changes, tail)| {
            let mut input = seed.clone();
            for (at, byte) in changes {
                input[at] = byte;
            }
            input.extend(tail);
            input
        })
    }

    proptest! {
        #[test]
        fn queues_survive_any_rings(one in near("virtqueue", "chain"), other in near("virtqueue", "indirect")) {
            super::virtqueue(&one);
            super::virtqueue(&other);
        }

        #[test]
        fn block_requests_are_inside_of_the_disk(one in near("block_request", "read"), other in near("block_request", "discard")) {
            super::block_request(&one);
            super::block_request(&other);
        }

        #[test]
        fn the_socket_device_survives_any_packets(input in near("vsock", "connection")) {
            super::vsock(&input);
        }

        #[test]
        fn the_balloon_survives_any_requests(one in near("balloon", "inflate"), other in near("balloon", "stats")) {
            super::balloon(&one);
            super::balloon(&other);
        }
    }
}
