//! Tests of layered disks: what a guest sees of base image, layers and holes.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use proptest::prelude::*;
use vm_memory::{Bytes as _, GuestAddress};

use super::*;
use crate::memory;

const BLOCKS: u64 = 24;
const SIZE: u64 = BLOCKS * BLOCK;

fn open(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .unwrap()
}

/// A base image shorter than the disk, of bytes that are not zero.
fn base() -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&vec![0xba; (SIZE / 2 + 100) as usize], 0).unwrap();
    file
}

/// A guest's view of a disk.
struct View {
    disk: LayeredDisk,
    memory: GuestMemory,
}

impl View {
    fn new(disk: LayeredDisk) -> Self {
        let memory = memory::allocate(1 << 20).unwrap();
        Self { disk, memory }
    }

    fn buffer(length: usize) -> Buffer {
        let mut buffer = Buffer::default();
        // In two pieces that meet nowhere near a block's border.
        let first = (length / 3) as u32;
        buffer.push(GuestAddress(77), first);
        buffer.push(GuestAddress(0x8_0000), length as u32 - first);
        buffer
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let buffer = Self::buffer(data.len());
        buffer.write(&self.memory, data).unwrap();
        self.disk.write(&self.memory, offset, &buffer).unwrap();
    }

    fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let buffer = Self::buffer(length);
        self.memory.write_slice(&[0xee; 4096], GuestAddress(0)).unwrap();
        self.disk.read(&self.memory, offset, &buffer).unwrap();
        let mut data = vec![0; length];
        buffer.read(&self.memory, &mut data).unwrap();
        data
    }
}

fn expected_base() -> Vec<u8> {
    let mut expected = vec![0xba; (SIZE / 2 + 100) as usize];
    expected.resize(SIZE as usize, 0);
    expected
}

#[test]
fn an_empty_layer_shows_the_base_and_zeros_after_it() {
    let top = Layer::create(tempfile::tempfile().unwrap(), SIZE).unwrap();
    let view = View::new(LayeredDisk::new(Some(base()), Vec::new(), top).unwrap());
    assert_eq!(view.read(0, SIZE as usize), expected_base());
    assert_eq!(view.disk.top_bytes(), 0);
}

#[test]
fn a_discarded_block_hides_the_base_and_takes_no_space() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layer");
    let view = View::new(LayeredDisk::new(Some(base()), Vec::new(), Layer::create(open(&path), SIZE).unwrap()).unwrap());
    view.write(0, &[1; 8192]);
    let before = path.metadata().unwrap().blocks();
    view.disk.discard(4096 - 512, 4096 + 1024).unwrap();
    let expected = [vec![1; 4096], vec![0; 4096], vec![0xba; 4096]].concat();
    assert_eq!(view.read(0, 12288), expected);
    assert!(path.metadata().unwrap().blocks() < before);
}

#[test]
fn a_layer_reopened_after_a_flush_has_everything() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layer");
    let view = View::new(LayeredDisk::new(Some(base()), Vec::new(), Layer::create(open(&path), SIZE).unwrap()).unwrap());
    view.write(5000, b"kept");
    view.disk.flush().unwrap();
    // As a crash would: nothing is written when the disk is dropped.
    let copy = dir.path().join("copy");
    std::fs::copy(&path, &copy).unwrap();
    let view = View::new(LayeredDisk::new(Some(base()), Vec::new(), Layer::open(open(&copy)).unwrap()).unwrap());
    assert_eq!(view.read(4998, 8), b"\xba\xbakept\xba\xba");
}

#[test]
fn what_was_not_flushed_shows_the_old_content_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layer");
    let view = View::new(LayeredDisk::new(Some(base()), Vec::new(), Layer::create(open(&path), SIZE).unwrap()).unwrap());
    view.write(0, &[1; 4096]);
    let copy = dir.path().join("copy");
    std::fs::copy(&path, &copy).unwrap();
    let view = View::new(LayeredDisk::new(Some(base()), Vec::new(), Layer::open(open(&copy)).unwrap()).unwrap());
    assert_eq!(view.read(0, 4096), [0xba; 4096]);
}

#[test]
fn sealing_keeps_the_content_and_lets_others_build_on_it() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second, other) = (dir.path().join("1"), dir.path().join("2"), dir.path().join("3"));
    let view = View::new(LayeredDisk::new(Some(base()), Vec::new(), Layer::create(open(&first), SIZE).unwrap()).unwrap());
    view.write(100, b"one");
    assert!(matches!(Layer::open_read_only(open(&first)), Err(LayerError::InUse)));
    view.disk.push_layer(open(&second)).unwrap();
    let sealed = Layer::open_read_only(open(&first)).unwrap();
    let fork = LayeredDisk::new(Some(base()), vec![sealed], Layer::create(open(&other), SIZE).unwrap()).unwrap();
    let fork = View::new(fork);
    view.write(101, b"N");
    fork.write(102, b"X");
    assert_eq!(view.read(99, 5), b"\xbaoNe\xba");
    assert_eq!(fork.read(99, 5), b"\xbaonX\xba");
    drop((view, fork));
    assert!(matches!(Layer::open(open(&first)), Err(LayerError::Sealed)));
}

#[test]
fn a_layer_has_one_writer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layer");
    let layer = Layer::create(open(&path), SIZE).unwrap();
    assert!(matches!(Layer::open(open(&path)), Err(LayerError::InUse)));
    drop(layer);
    Layer::open(open(&path)).unwrap();
}

#[test]
fn sizes_that_no_disk_has_are_refused() {
    for size in [0, 1, 4095, u64::MAX, u64::MAX - 4095] {
        assert!(
            matches!(Layer::create(tempfile::tempfile().unwrap(), size), Err(LayerError::Size(_))),
            "{size}"
        );
    }
}

#[derive(Debug, Clone)]
enum Step {
    Write(u64, usize, u8),
    Zero(u64, u64),
    Discard(u64, u64),
    NewLayer,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let sectors = SIZE / 512;
    let place = move || {
        (0..sectors).prop_flat_map(move |start| (Just(start * 512), (0..=(sectors - start).min(40)).prop_map(|n| n * 512)))
    };
    prop_oneof![
        6 => (place(), 1u8..).prop_map(|((offset, length), byte)| Step::Write(offset, length as usize, byte)),
        2 => place().prop_map(|(offset, length)| Step::Zero(offset, length)),
        2 => place().prop_map(|(offset, length)| Step::Discard(offset, length)),
        1 => Just(Step::NewLayer),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_layered_disk_is_a_disk(steps in prop::collection::vec(step(), 1..30)) {
        let dir = tempfile::tempdir().unwrap();
        let mut paths = vec![dir.path().join("0")];
        let mut view = View::new(LayeredDisk::new(Some(base()), Vec::new(), Layer::create(open(&paths[0]), SIZE).unwrap()).unwrap());
        let mut model = expected_base();
        for step in steps {
            match step {
                Step::Write(offset, length, byte) => {
                    view.write(offset, &vec![byte; length]);
                    model[offset as usize..offset as usize + length].fill(byte);
                }
                Step::Zero(offset, length) => {
                    view.disk.write_zeroes(offset, length).unwrap();
                    model[offset as usize..(offset + length) as usize].fill(0);
                }
                Step::Discard(offset, length) => {
                    view.disk.discard(offset, length).unwrap();
                    let (start, end) = (offset.next_multiple_of(BLOCK), (offset + length) / BLOCK * BLOCK);
                    if start < end {
                        model[start as usize..end as usize].fill(0);
                    }
                }
                Step::NewLayer => {
                    paths.push(dir.path().join(paths.len().to_string()));
                    view.disk.push_layer(open(paths.last().unwrap())).unwrap();
                }
                Step::Reopen => {
                    drop(view);
                    let (top, sealed) = paths.split_last().unwrap();
                    let sealed = sealed.iter().map(|path| Layer::open_read_only(open(path)).unwrap()).collect();
                    view = View::new(LayeredDisk::new(Some(base()), sealed, Layer::open(open(top)).unwrap()).unwrap());
                }
            }
            prop_assert_eq!(view.read(0, SIZE as usize), model.clone());
        }
    }

    #[test]
    fn a_file_of_any_bytes_is_a_layer_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64), valid in any::<bool>(), at in 0usize..40, byte in any::<u8>()) {
        let file = tempfile::tempfile().unwrap();
        if valid {
            drop(Layer::create(file.try_clone().unwrap(), SIZE).unwrap());
            file.write_all_at(&[byte], at as u64).unwrap();
        } else {
            file.write_all_at(&bytes, 0).unwrap();
        }
        if let Ok(layer) = Layer::open(file) {
            prop_assert_eq!(layer.size(), SIZE);
        }
    }
}
