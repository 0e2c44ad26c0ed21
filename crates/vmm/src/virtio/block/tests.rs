//! Tests of the block device with real files.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use super::request::SECTOR;
use super::*;
use crate::virtio::testing::{Guest, INDIRECT, Part, Posted, STATUS_NEEDS_RESET};

const OK: u8 = Status::Ok as u8;
const IO_ERROR: u8 = Status::IoError as u8;
const UNSUPPORTED: u8 = Status::Unsupported as u8;

fn file(size: u64) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(size).unwrap();
    file
}

fn pool() -> Arc<IoPool> {
    IoPool::start(2, || {}).unwrap()
}

fn raw(file: &File, read_only: bool) -> Arc<dyn Disk> {
    Arc::new(RawDisk::new(file.try_clone().unwrap(), read_only).unwrap())
}

fn guest_of(disk: Arc<dyn Disk>) -> Guest<Block> {
    Guest::running(Block::new(disk, "disk-zero", pool()).unwrap())
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

fn range(sector: u64, count: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat()
}

/// Makes a request and returns its status and the length of the answer.
fn request(guest: &mut Guest<Block>, parts: &[Part<'_>]) -> (u8, u32) {
    let posted = guest.post(0, parts);
    guest.notify(0);
    let (head, written) = guest.wait_used(0);
    assert_eq!(head, posted.head);
    (guest.read(*posted.parts.last().unwrap(), 1)[0], written)
}

fn write(guest: &mut Guest<Block>, sector: u64, data: &[u8]) -> u8 {
    request(guest, &[Part::Out(&header(1, sector)), Part::Out(data), Part::In(1)]).0
}

fn read(guest: &mut Guest<Block>, sector: u64, length: u32) -> Result<Vec<u8>, u8> {
    let posted = guest.post(0, &[Part::Out(&header(0, sector)), Part::In(length), Part::In(1)]);
    guest.notify(0);
    assert_eq!(guest.wait_used(0).0, posted.head);
    match guest.read(posted.parts[2], 1)[0] {
        OK => Ok(guest.read(posted.parts[1], length as usize)),
        status => Err(status),
    }
}

fn metrics(guest: &Guest<Block>) -> BlockMetrics {
    guest.device.lock().unwrap().device().metrics.clone()
}

#[test]
fn what_is_written_is_read_and_is_in_the_file() {
    use std::os::unix::fs::FileExt as _;
    let file = file(1 << 20);
    let mut guest = guest_of(raw(&file, false));
    let data: Vec<u8> = (0..8192u32).map(|n| (n % 251) as u8).collect();
    assert_eq!(write(&mut guest, 3, &data), OK);
    assert_eq!(read(&mut guest, 3, 8192), Ok(data.clone()));
    let mut stored = vec![0; 8192];
    file.read_exact_at(&mut stored, 3 * SECTOR).unwrap();
    assert_eq!(stored, data);
    let metrics = metrics(&guest);
    assert_eq!(
        (metrics.reads, metrics.read_bytes, metrics.writes, metrics.written_bytes),
        (1, 8192, 1, 8192)
    );
}

#[test]
fn a_header_in_pieces_and_data_in_odd_buffers_is_one_request() {
    let mut guest = guest_of(raw(&file(1 << 20), false));
    let head = header(1, 1);
    let data = [9; 512];
    let parts = [
        Part::Out(&head[..3]),
        Part::Out(&head[3..15]),
        Part::Out(&head[15..]),
        Part::Out(&data[..1]),
        Part::Out(&data[1..]),
        Part::In(1),
    ];
    assert_eq!(request(&mut guest, &parts), (OK, 1));
    // The status shares a buffer with the data.
    let posted = guest.post(0, &[Part::Out(&header(0, 1)), Part::In(513)]);
    guest.notify(0);
    assert_eq!(guest.wait_used(0), (posted.head, 513));
    assert_eq!(guest.read(posted.parts[1], 513), [vec![9; 512], vec![OK]].concat());
}

#[test]
fn requests_beyond_the_end_are_refused() {
    let mut guest = guest_of(raw(&file(1 << 20), false));
    for sector in [2048, 2047, u64::MAX, u64::MAX / 512, 1 << 55] {
        assert_eq!(write(&mut guest, sector, &[1; 1024]), IO_ERROR);
        assert_eq!(read(&mut guest, sector, 1024), Err(IO_ERROR));
    }
    assert_eq!(read(&mut guest, 2046, 1024), Ok(vec![0; 1024]));
    assert_eq!(metrics(&guest).refused, 10);
}

#[test]
fn malformed_requests_are_refused() {
    let mut guest = guest_of(raw(&file(1 << 20), false));
    // A header that is too short, data that is no whole sector, a name without room, no such request.
    assert_eq!(
        request(&mut guest, &[Part::Out(&header(0, 0)[..15]), Part::In(1)]),
        (IO_ERROR, 1)
    );
    assert_eq!(write(&mut guest, 0, &[1; 100]), IO_ERROR);
    assert_eq!(
        request(&mut guest, &[Part::Out(&header(8, 0)), Part::In(19), Part::In(1)]),
        (IO_ERROR, 1)
    );
    assert_eq!(
        request(&mut guest, &[Part::Out(&header(99, 0)), Part::In(1)]),
        (UNSUPPORTED, 1)
    );
    // Nowhere to put the answer.
    let posted = guest.post(0, &[Part::Out(&header(0, 0))]);
    guest.notify(0);
    assert_eq!(guest.wait_used(0), (posted.head, 0));
    assert_eq!(metrics(&guest).refused, 5);
    assert_eq!(read(&mut guest, 0, 512), Ok(vec![0; 512]));
}

#[test]
fn buffers_outside_of_memory_fail_the_request_only() {
    let mut guest = guest_of(raw(&file(1 << 20), false));
    let posted = guest.post(0, &[Part::Out(&header(0, 0)), Part::In(512), Part::In(1)]);
    guest.set_descriptor(0, posted.head + 1, (u64::MAX - 511, 512, 3, posted.head + 2));
    guest.notify(0);
    assert_eq!(guest.wait_used(0), (posted.head, 1));
    assert_eq!(guest.read(posted.parts[2], 1), [IO_ERROR]);
    assert_eq!(metrics(&guest).disk_errors, 1);
}

#[test]
fn a_read_only_disk_is_not_written() {
    let mut guest = guest_of(raw(&file(1 << 20), true));
    assert_ne!(guest.offered() & 1 << abi::VIRTIO_BLK_F_RO, 0);
    assert_eq!(write(&mut guest, 0, &[1; 512]), IO_ERROR);
    assert_eq!(
        request(
            &mut guest,
            &[Part::Out(&header(11, 0)), Part::Out(&range(0, 8, 0)), Part::In(1)]
        )
        .0,
        IO_ERROR
    );
    assert_eq!(request(&mut guest, &[Part::Out(&header(4, 0)), Part::In(1)]).0, OK);
}

#[test]
fn discarded_and_zeroed_ranges_read_as_zeros() {
    let mut guest = guest_of(raw(&file(1 << 20), false));
    assert_eq!(write(&mut guest, 0, &[7; 16384]), OK);
    let discard = [range(8, 8, 0), range(24, 8, 0)].concat();
    assert_eq!(
        request(&mut guest, &[Part::Out(&header(11, 0)), Part::Out(&discard), Part::In(1)]).0,
        OK
    );
    assert_eq!(
        request(
            &mut guest,
            &[Part::Out(&header(13, 0)), Part::Out(&range(1, 2, 1)), Part::In(1)]
        )
        .0,
        OK
    );
    let expected = [
        vec![7; 512],
        vec![0; 1024],
        vec![7; 2560],
        vec![0; 4096],
        vec![7; 4096],
        vec![0; 4096],
    ]
    .concat();
    assert_eq!(read(&mut guest, 0, 16384), Ok(expected));
    let metrics = metrics(&guest);
    assert_eq!((metrics.discards, metrics.discarded_bytes, metrics.zeroes), (1, 8192, 1));
}

#[test]
fn senseless_ranges_are_refused() {
    let mut guest = guest_of(raw(&file(1 << 20), false));
    let mut discard = |data: &[u8]| request(&mut guest, &[Part::Out(&header(11, 0)), Part::Out(data), Part::In(1)]).0;
    assert_eq!(discard(&range(2047, 2, 0)), IO_ERROR);
    assert_eq!(discard(&range(u64::MAX, 1, 0)), IO_ERROR);
    assert_eq!(discard(&range(0, u32::MAX, 0)), IO_ERROR);
    assert_eq!(discard(&range(0, 8, 1)), UNSUPPORTED);
    assert_eq!(discard(&range(0, 8, 0)[..15]), IO_ERROR);
    assert_eq!(discard(&range(0, 8, 0).repeat(MAX_RANGES + 1)), IO_ERROR);
    assert_eq!(discard(&range(0, 8, 0).repeat(MAX_RANGES)), OK);
}

#[test]
fn the_name_and_the_size_are_told() {
    let mut guest = guest_of(raw(&file(1 << 20), false));
    let posted = guest.post(0, &[Part::Out(&header(8, 0)), Part::In(20), Part::In(1)]);
    guest.notify(0);
    assert_eq!(guest.wait_used(0), (posted.head, 21));
    assert_eq!(guest.read(posted.parts[1], 10), b"disk-zero\0");
    assert_eq!(u64::from_le_bytes(guest.config(0)), 2048);
    assert_eq!(u32::from_le_bytes(guest.config(20)), 512);
    assert_eq!(guest.config::<8>(58), [0; 8]);
}

#[test]
fn broken_queues_need_a_reset_and_nothing_else() {
    let break_it: [fn(&mut Guest<Block>); 6] = [
        // A loop, a link to nowhere, a head that is no descriptor, an index that jumps, tables in tables, wrong order.
        |guest| guest.set_descriptor(0, 0, (0, 16, 1, 0)),
        |guest| guest.set_descriptor(0, 0, (0, 16, 1, 999)),
        |guest| guest.make_available(0, 64),
        |guest| guest.set_available_index(0, 5000),
        |guest| {
            guest.set_descriptor(0, 0, (0x2000, 16, INDIRECT, 0));
            guest.write_descriptor(0x2000, (0x2000, 16, INDIRECT, 0));
        },
        |guest| {
            guest.set_descriptor(0, 0, (0x2000, 16, 3, 1));
            guest.set_descriptor(0, 1, (0x2000, 16, 0, 0));
        },
    ];
    for break_it in break_it {
        let mut guest = guest_of(raw(&file(1 << 20), false));
        guest.make_available(0, 0);
        break_it(&mut guest);
        guest.notify(0);
        assert_ne!(guest.status() & STATUS_NEEDS_RESET, 0);
        // It can be saved in this state, and a reset brings it back.
        guest.device.lock().unwrap().save().unwrap();
        guest.start(u64::MAX);
        assert_eq!(write(&mut guest, 0, &[1; 512]), OK);
    }
}

/// A disk whose reads wait until the test lets them go on.
#[derive(Debug)]
struct Gate {
    inner: RawDisk,
    entered: Mutex<mpsc::Sender<()>>,
    open: (Mutex<bool>, Condvar),
    flushed: AtomicBool,
}

impl Disk for Gate {
    fn size(&self) -> u64 {
        self.inner.size()
    }
    fn is_read_only(&self) -> bool {
        false
    }
    fn read(&self, memory: &GuestMemory, offset: u64, buffer: &Buffer) -> io::Result<()> {
        self.entered.lock().unwrap().send(()).unwrap();
        let mut open = self.open.0.lock().unwrap();
        while !*open {
            open = self.open.1.wait(open).unwrap();
        }
        self.inner.read(memory, offset, buffer)
    }
    fn write(&self, memory: &GuestMemory, offset: u64, buffer: &Buffer) -> io::Result<()> {
        self.inner.write(memory, offset, buffer)
    }
    fn flush(&self) -> io::Result<()> {
        self.flushed.store(true, Ordering::SeqCst);
        Ok(())
    }
    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Other.into())
    }
    fn write_zeroes(&self, _: u64, _: u64) -> io::Result<()> {
        panic!("a defect of the disk")
    }
}

fn gate() -> (Arc<Gate>, mpsc::Receiver<()>) {
    let (entered, is_entered) = mpsc::channel();
    let gate = Gate {
        inner: RawDisk::new(file(1 << 20), false).unwrap(),
        entered: Mutex::new(entered),
        open: (Mutex::new(false), Condvar::new()),
        flushed: AtomicBool::new(false),
    };
    (Arc::new(gate), is_entered)
}

fn open(gate: &Gate) {
    *gate.open.0.lock().unwrap() = true;
    gate.open.1.notify_all();
}

fn slow_read(guest: &mut Guest<Block>) -> Posted {
    let posted = guest.post(0, &[Part::Out(&header(0, 0)), Part::In(512), Part::In(1)]);
    guest.notify(0);
    posted
}

#[test]
fn a_save_waits_for_requests_under_way() {
    let (gate, entered) = gate();
    let mut guest = guest_of(gate.clone());
    let posted = slow_read(&mut guest);
    entered.recv().unwrap();
    assert_eq!(guest.used(0), None);
    let opener = std::thread::spawn(move || open(&gate));
    let state = guest.device.lock().unwrap().save().unwrap();
    assert_eq!(guest.used(0), Some((posted.head, 513)));
    assert_eq!(state.queues[0].next_used, 1);
    opener.join().unwrap();
}

#[test]
fn a_reset_waits_for_requests_under_way_and_forgets_them() {
    let (gate, entered) = gate();
    let mut guest = guest_of(gate.clone());
    slow_read(&mut guest);
    entered.recv().unwrap();
    let opener = std::thread::spawn(move || open(&gate));
    guest.start(u64::MAX);
    opener.join().unwrap();
    guest.run();
    assert_eq!(guest.used(0), None);
    assert_eq!(write(&mut guest, 0, &[1; 512]), OK);
}

#[test]
fn a_disk_that_fails_or_panics_is_an_error_of_the_request() {
    let (gate, _entered) = gate();
    let mut guest = guest_of(gate);
    assert_eq!(
        request(
            &mut guest,
            &[Part::Out(&header(11, 0)), Part::Out(&range(0, 8, 0)), Part::In(1)]
        ),
        (IO_ERROR, 1)
    );
    let posted = guest.post(0, &[Part::Out(&header(13, 0)), Part::Out(&range(0, 8, 0)), Part::In(1)]);
    guest.notify(0);
    assert_eq!(guest.wait_used(0), (posted.head, 1));
    assert_eq!(guest.read(posted.parts[2], 1), [IO_ERROR]);
    assert_eq!(metrics(&guest).disk_errors, 2);
}

#[test]
fn a_driver_without_flush_gets_durable_writes() {
    let (gate, _entered) = gate();
    let mut guest = Guest::new(Block::new(gate.clone(), "", pool()).unwrap());
    guest.start(!(1 << abi::VIRTIO_BLK_F_FLUSH));
    assert_eq!(write(&mut guest, 0, &[1; 512]), OK);
    assert!(gate.flushed.load(Ordering::SeqCst));
}

#[test]
fn more_requests_than_the_queue_holds_are_answered_in_time() {
    let mut guest = guest_of(raw(&file(1 << 20), false));
    for round in 0..10u8 {
        let posted: Vec<_> = (0..20)
            .map(|n| guest.post(0, &[Part::Out(&header(1, n)), Part::Out(&[round; 512]), Part::In(1)]))
            .collect();
        guest.notify(0);
        let mut heads: Vec<_> = posted.iter().map(|_| guest.wait_used(0).0).collect();
        heads.sort_unstable();
        let mut expected: Vec<_> = posted.iter().map(|posted| posted.head).collect();
        expected.sort_unstable();
        assert_eq!(heads, expected);
    }
    assert_eq!(metrics(&guest).writes, 200);
}

#[test]
fn a_restored_device_goes_on_where_the_other_stopped() {
    let file = file(1 << 20);
    let mut guest = guest_of(raw(&file, false));
    assert_eq!(write(&mut guest, 0, &[5; 512]), OK);
    // Not notified: the interrupt of a kick may be lost in a snapshot.
    let posted = guest.post(0, &[Part::Out(&header(0, 0)), Part::In(512), Part::In(1)]);
    let device = Block::new(raw(&file, false), "disk-zero", pool()).unwrap();
    let mut guest = guest.restored_with(device).unwrap();
    assert_eq!(guest.wait_used(0), (posted.head, 513));
    assert_eq!(guest.read(posted.parts[1], 512), [5; 512]);
}

#[test]
fn a_disk_of_another_size_is_not_taken_for_the_saved_one() {
    let guest = guest_of(raw(&file(1 << 20), false));
    let other = Block::new(raw(&file(2 << 20), false), "disk-zero", pool()).unwrap();
    let error = guest.restored_with(other).unwrap_err();
    assert!(matches!(error, RestoreError::Differs(_)), "{error}");
}
