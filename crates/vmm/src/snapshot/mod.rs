//! Snapshots: layers of memory and the state of the machine, on disk.
//!
//! A snapshot is a chain of layers. The first is *full*: all memory that is not zero. Each further one is a *diff*: the
//! pages that a machine changed since it was restored from the layers below. A layer has two files:
//!
//! - its **state** ([`format`]): a header, and in it the machine's state and the list of the layer's pages;
//! - its **memory** ([`layers`]): a sparse file as large as the guest's memory, with the layer's pages at their places.
//!
//! Memory files are mapped privately, never read as a whole and never changed, so that all machines restored from them
//! share the host's page cache.

pub mod format;
pub mod layers;
pub mod pages;
pub mod tags;

use std::fs::File;
use std::io;

use crate::machine::{Machine, MachineError, MachineState};
use crate::memory::{self, GuestMemory, MemoryError};

pub use format::{FormatError, Layer, LayerId};
pub use pages::{Changes, PageMap};
pub use tags::{Mismatch, Tags};

/// Most layers of a chain.
pub const MAX_LAYERS: usize = 64;

/// Why a snapshot cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The state's file is not one of ours, or is damaged.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// This host cannot continue the snapshot.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// The layers are not a chain.
    #[error("layer {index} does not belong on the layers below it")]
    Chain {
        /// The layer, counted from 0.
        index: usize,
    },
    /// There are no layers, or too many.
    #[error("a snapshot has 1 to {MAX_LAYERS} layers, not {0}")]
    Depth(usize),
    /// A diff is wanted of a machine that was not restored.
    #[error("the machine was not restored from a snapshot, so there is nothing to which a diff could be made")]
    NoParent,
    /// A file that is to be written has content: it may be one that a machine runs from.
    #[error("the file for the {0} is not empty")]
    NotEmpty(&'static str),
    /// A memory file is shorter than its layer says.
    #[error("the memory file of layer {index} has {found} bytes, not {expected}")]
    MemoryFile {
        /// The layer, counted from 0.
        index: usize,
        /// Bytes that there should be.
        expected: u64,
        /// Bytes that there are.
        found: u64,
    },
    /// The machine cannot be saved.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// Memory cannot be mapped.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A file cannot be read or written.
    #[error("{0}")]
    Io(&'static str, #[source] io::Error),
}

/// What a machine was restored from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The topmost layer.
    pub layer: LayerId,
    /// Number of layers.
    pub depth: usize,
}

/// Which pages go into a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// All that are not zero.
    Full,
    /// Those that changed since the machine was restored.
    Diff,
}

/// What a save did.
#[derive(Debug, Clone, Copy, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Saved {
    /// Name of the new layer.
    #[serde(serialize_with = "as_text")]
    pub layer: LayerId,
    /// Pages of 4 KiB written to the memory file.
    pub pages: u64,
    /// Pages of 4 KiB that became zero.
    pub zero_pages: u64,
}

fn as_text<S: serde::Serializer>(id: &LayerId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

/// Writes a layer of the paused `machine` into two empty files.
///
/// Nothing is synced: whoever publishes the snapshot does that.
///
/// # Errors
/// [`SnapshotError`]; what the files then hold is no snapshot.
pub fn save(
    machine: &Machine,
    kind: Kind,
    origin: Option<&Origin>,
    map: &PageMap,
    state_file: &mut File,
    memory_file: &File,
) -> Result<Saved, SnapshotError> {
    let parent = match (kind, origin) {
        (Kind::Full, _) => None,
        (Kind::Diff, Some(origin)) => Some(origin.layer),
        (Kind::Diff, None) => return Err(SnapshotError::NoParent),
    };
    empty(state_file, "state")?;
    empty(memory_file, "memory")?;
    let state = machine.save()?;
    let memory = machine.memory();
    // A machine that was booted has only pages of its own; one that was restored has the others in its layers.
    let changes = match (kind, origin) {
        (Kind::Full, Some(_)) => pages::everything(memory),
        _ => map
            .changed(memory)
            .map_err(|error| SnapshotError::Io("cannot read the kernel's page map", error))?,
    };
    let runs =
        layers::write(memory, &changes, memory_file).map_err(|error| SnapshotError::Io("cannot write the memory file", error))?;
    let count = |zero| {
        runs.iter()
            .filter(|run| run.zero == zero)
            .map(|run| u64::from(run.count))
            .sum()
    };
    let (pages, zero_pages) = (count(false), count(true));
    let layer = Layer {
        parent,
        memory_size: memory::size(memory),
        runs,
        tags: Tags::of(&state, machine.backend()),
        machine: state,
    };
    let id = format::write(&layer, state_file)?;
    Ok(Saved {
        layer: id,
        pages,
        zero_pages,
    })
}

fn empty(file: &File, what: &'static str) -> Result<(), SnapshotError> {
    let metadata = file
        .metadata()
        .map_err(|error| SnapshotError::Io("cannot inspect a file of the snapshot", error))?;
    if metadata.len() == 0 {
        Ok(())
    } else {
        Err(SnapshotError::NotEmpty(what))
    }
}

/// A snapshot that was opened: memory is mapped, nothing runs.
#[derive(Debug)]
pub struct Opened {
    /// The guest's memory.
    pub memory: GuestMemory,
    /// The machine's state.
    pub machine: MachineState,
    /// What the snapshot was made on; see [`Tags::check`].
    pub tags: Tags,
    /// What a diff of the machine will refer to.
    pub origin: Origin,
}

/// Opens the chain `files`, pairs of state and memory from the first layer to the last.
///
/// # Errors
/// [`SnapshotError`] when a file is damaged or the layers do not belong together.
pub fn open(files: &mut [(File, File)]) -> Result<Opened, SnapshotError> {
    let depth = files.len();
    if !(1..=MAX_LAYERS).contains(&depth) {
        return Err(SnapshotError::Depth(depth));
    }
    let mut chain: Vec<(LayerId, Layer)> = Vec::with_capacity(depth);
    for (index, (state, memory)) in files.iter_mut().enumerate() {
        let (id, layer) = format::read(state)?;
        let below = chain.last();
        let same_size = below.is_none_or(|(_, below)| below.memory_size == layer.memory_size);
        if layer.parent != below.map(|(id, _)| *id) || !same_size {
            return Err(SnapshotError::Chain { index });
        }
        let found = memory
            .metadata()
            .map_err(|error| SnapshotError::Io("cannot inspect a memory file", error))?
            .len();
        if found != layer.memory_size {
            return Err(SnapshotError::MemoryFile {
                index,
                expected: layer.memory_size,
                found,
            });
        }
        chain.push((id, layer));
    }
    let size = chain[0].1.memory_size;
    let memory = memory::allocate(size)?;
    let stack: Vec<(&[layers::Run], &File)> = chain
        .iter()
        .zip(&*files)
        .map(|((_, layer), (_, memory))| (layer.runs.as_slice(), memory))
        .collect();
    layers::map(&memory, &stack)?;
    let (id, top) = chain.pop().ok_or(SnapshotError::Depth(0))?;
    Ok(Opened {
        memory,
        machine: top.machine,
        tags: top.tags,
        origin: Origin { layer: id, depth },
    })
}
