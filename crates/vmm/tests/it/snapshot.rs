//! Full snapshots, diffs and forks of small guests, through files.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use dormouse_vmm::kvm::{Clock, Host};
use dormouse_vmm::machine::{Builder, Machine};
use dormouse_vmm::snapshot::{self, Kind, Origin, PageMap, SnapshotError};
use vm_memory::{Bytes as _, GuestAddress};

use crate::guest::{self, COUNT, COUNTER, Output};

/// Files of a layer in a directory that the test owns.
struct Layer {
    state: PathBuf,
    memory: PathBuf,
}

impl Layer {
    fn new(directory: &Path, name: &str) -> Self {
        Self {
            state: directory.join(format!("{name}.state")),
            memory: directory.join(format!("{name}.memory")),
        }
    }

    fn save(&self, machine: &Machine, kind: Kind, origin: Option<&Origin>) -> Result<snapshot::Saved, SnapshotError> {
        let map = PageMap::open().unwrap();
        let mut state = File::create_new(&self.state).unwrap();
        snapshot::save(
            machine,
            kind,
            origin,
            &map,
            &mut state,
            &File::create_new(&self.memory).unwrap(),
        )
    }

    fn files(&self) -> (File, File) {
        (File::open(&self.state).unwrap(), File::open(&self.memory).unwrap())
    }
}

/// A paused machine that continues the chain.
fn restore(chain: &[&Layer], output: &Output) -> (Machine, Origin) {
    let mut files: Vec<_> = chain.iter().map(|layer| layer.files()).collect();
    let opened = snapshot::open(&mut files).unwrap();
    let builder = Builder::new(Host::open().unwrap(), &opened.memory, 1, guest::console(output)).unwrap();
    builder.check(&opened.tags, &opened.machine).unwrap();
    (
        builder.restore(&opened.machine, Clock::Realtime, &guest::unjailed()).unwrap(),
        opened.origin,
    )
}

/// Boots a counter, lets it count a little and pauses it.
fn counting(output: &Output) -> Option<Machine> {
    let mut machine = guest::boot(guest::host()?, COUNTER, output);
    machine.resume();
    output.wait(10);
    machine.pause().unwrap();
    Some(machine)
}

#[test]
fn clones_of_a_snapshot_continue_and_diverge_and_the_parent_is_untouched() {
    let directory = tempfile::tempdir().unwrap();
    let output = Output::default();
    let Some(mut parent) = counting(&output) else { return };
    let base = Layer::new(directory.path(), "base");
    base.save(&parent, Kind::Full, None).unwrap();
    let written = output.now();
    let next = written.last().unwrap().wrapping_add(1);
    let children: Vec<(Machine, Output)> = (0..3)
        .map(|index| {
            let output = Output::default();
            let (mut child, _) = restore(&[&base], &output);
            child.resume();
            output.wait(5 * (index + 1));
            child.pause().unwrap();
            (child, output)
        })
        .collect();
    for (child, output) in &children {
        assert_eq!(output.now()[0], next);
        let count: u32 = child.memory().read_obj(GuestAddress(COUNT)).unwrap();
        assert!(count as usize >= written.len() + output.now().len());
    }
    parent.resume();
    assert_eq!(output.wait(written.len() + 1)[written.len()], next);
}

#[test]
fn a_diff_is_small_and_restores_on_top_of_its_parent() {
    let directory = tempfile::tempdir().unwrap();
    let Some(parent) = counting(&Output::default()) else { return };
    // Memory that the guest does not touch again: it must be in the first layer only.
    parent.memory().write_slice(&[7; 400 << 12], GuestAddress(0x40_0000)).unwrap();
    let base = Layer::new(directory.path(), "base");
    let full = base.save(&parent, Kind::Full, None).unwrap();
    assert!(full.pages >= 400, "{full:?}");
    let output = Output::default();
    let (mut child, origin) = restore(&[&base], &output);
    child.resume();
    output.wait(20);
    child.pause().unwrap();
    let diff = Layer::new(directory.path(), "diff");
    let saved = diff.save(&child, Kind::Diff, Some(&origin)).unwrap();
    assert!(saved.pages < 50, "{saved:?}");
    let written = output.now();

    let output = Output::default();
    let (mut grandchild, origin) = restore(&[&base, &diff], &output);
    assert_eq!((origin.layer, origin.depth), (saved.layer, 2));
    assert_eq!(grandchild.memory().read_obj::<u8>(GuestAddress(0x50_0000)).unwrap(), 7);
    grandchild.resume();
    assert_eq!(output.wait(1)[0], written.last().unwrap().wrapping_add(1));
}

#[test]
fn a_full_snapshot_of_a_restored_machine_stands_alone() {
    let directory = tempfile::tempdir().unwrap();
    let Some(parent) = counting(&Output::default()) else { return };
    parent.memory().write_slice(&[7; 400 << 12], GuestAddress(0x40_0000)).unwrap();
    let base = Layer::new(directory.path(), "base");
    base.save(&parent, Kind::Full, None).unwrap();
    let (child, origin) = restore(&[&base], &Output::default());
    let again = Layer::new(directory.path(), "again");
    again.save(&child, Kind::Full, Some(&origin)).unwrap();
    drop(child);
    std::fs::remove_file(&base.memory).unwrap();
    let (alone, _) = restore(&[&again], &Output::default());
    assert_eq!(alone.memory().read_obj::<u8>(GuestAddress(0x50_0000)).unwrap(), 7);
}

#[test]
fn layers_that_do_not_belong_together_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let Some(parent) = counting(&Output::default()) else { return };
    let (base, other, diff) = (
        Layer::new(directory.path(), "base"),
        Layer::new(directory.path(), "other"),
        Layer::new(directory.path(), "diff"),
    );
    base.save(&parent, Kind::Full, None).unwrap();
    other.save(&parent, Kind::Full, None).unwrap();
    let (child, origin) = restore(&[&base], &Output::default());
    diff.save(&child, Kind::Diff, Some(&origin)).unwrap();
    let open = |chain: &[&Layer]| snapshot::open(&mut chain.iter().map(|layer| layer.files()).collect::<Vec<_>>()).map(drop);
    assert!(matches!(open(&[&diff]), Err(SnapshotError::Chain { index: 0 })));
    assert!(matches!(open(&[&base, &other]), Err(SnapshotError::Chain { index: 1 })));
    assert!(matches!(open(&[]), Err(SnapshotError::Depth(0))));
    File::options().write(true).open(&base.memory).unwrap().set_len(4096).unwrap();
    assert!(matches!(
        open(&[&base]),
        Err(SnapshotError::MemoryFile {
            index: 0,
            found: 4096,
            ..
        })
    ));
    let state = File::options().write(true).open(&base.state).unwrap();
    state.write_all_at(&[0xff], 200).unwrap();
    assert!(open(&[&base]).unwrap_err().to_string().contains("damaged"));
}

#[test]
fn files_with_content_are_never_written_over() {
    let directory = tempfile::tempdir().unwrap();
    let Some(parent) = counting(&Output::default()) else { return };
    let base = Layer::new(directory.path(), "base");
    base.save(&parent, Kind::Full, None).unwrap();
    let before = std::fs::read(&base.memory).unwrap();
    let (child, _) = restore(&[&base], &Output::default());
    let memory = File::options().write(true).open(&base.memory).unwrap();
    let saved = snapshot::save(
        &child,
        Kind::Full,
        None,
        &PageMap::open().unwrap(),
        &mut tempfile::tempfile().unwrap(),
        &memory,
    );
    assert!(matches!(saved, Err(SnapshotError::NotEmpty("memory"))));
    assert_eq!(std::fs::read(&base.memory).unwrap(), before);
}

#[test]
fn a_booted_machine_has_nothing_to_make_a_diff_to() {
    let directory = tempfile::tempdir().unwrap();
    let Some(parent) = counting(&Output::default()) else { return };
    let saved = Layer::new(directory.path(), "diff").save(&parent, Kind::Diff, None);
    assert!(matches!(saved, Err(SnapshotError::NoParent)));
}
