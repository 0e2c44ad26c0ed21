//! Snapshot directories.
//!
//! ```text
//! checkpoint.img, pages_meta.img, pages.img   what the sentry wrote: its own state, a map of memory, memory
//! gvisor.json                                 what is needed to read them
//! ```
//!
//! The sandbox's file writes live in the sentry's memory and its filestore, and are in `pages.img` with all the rest.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use dormouse_engine::EngineError;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::error::{GvisorError, Result};
use crate::layout::{Root, read_json, write_json};
use crate::urpc::{CheckpointFiles, Control};

/// Changes when this engine can no longer read what an earlier one wrote.
const FORMAT: u32 = 2;
/// What is written through the page cache, bytes of memory.
const SMALL: u64 = 64 << 20;
const MANIFEST: &str = "gvisor.json";
const STATE: &str = "checkpoint.img";
const PAGES_META: &str = "pages_meta.img";
const PAGES: &str = "pages.img";

/// What a snapshot needs to wake.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    root: Root,
    /// Tells the root image from any other: a snapshot over another one would read wrong files. None for a tree.
    root_mark: Option<String>,
}

/// A snapshot that is being written.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    dir: &'a Path,
    state: File,
    pages_meta: File,
    pages: File,
}

impl<'a> Writer<'a> {
    /// Makes the files in `dir`, which is empty, for a sandbox that uses about `memory` bytes.
    pub(crate) fn create(dir: &'a Path, memory: u64) -> Result<Self> {
        let open = |name: &str, flags: OFlags| {
            let path = dir.join(name);
            let flags = i32::try_from(flags.bits()).unwrap_or(0);
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .custom_flags(flags)
                .open(&path);
            file.map_err(GvisorError::file("create", &path))
        };
        // Past the page cache: the data goes to the disk at once, is never read by us, and 1 GB takes 0.7 s instead of 2.4 s. Not every
        // file system can. For a little memory, which is in many pieces, it is the other way round: every piece waits for the disk.
        let direct = if memory < SMALL { OFlags::empty() } else { OFlags::DIRECT };
        let pages = match open(PAGES, direct) {
            Err(GvisorError::File { source, .. }) if source.kind() == io::ErrorKind::InvalidInput => {
                let _ = fs::remove_file(dir.join(PAGES));
                open(PAGES, OFlags::empty())?
            }
            opened => opened?,
        };
        Ok(Self {
            dir,
            state: open(STATE, OFlags::empty())?,
            pages_meta: open(PAGES_META, OFlags::empty())?,
            pages,
        })
    }

    /// Has the sandbox write itself into the files.
    pub(crate) fn fill(&self, control: &Control) -> Result<()> {
        control.checkpoint(&CheckpointFiles {
            state: self.state.as_fd(),
            pages_meta: self.pages_meta.as_fd(),
            pages: self.pages.as_fd(),
        })
    }

    /// Brings everything to stable storage; returns how much it is, in bytes.
    pub(crate) fn finish(self, root: &Root) -> Result<u64> {
        let manifest = Manifest {
            format: FORMAT,
            root: root.clone(),
            root_mark: root_mark(root)?,
        };
        let files = [(&self.state, STATE), (&self.pages_meta, PAGES_META), (&self.pages, PAGES)];
        // At the same time: one commit of the file system's journal does for all.
        let sizes = std::thread::scope(|scope| {
            let syncs = files.map(|(file, name)| {
                scope.spawn(move || {
                    let synced = file.sync_all().and_then(|()| file.metadata());
                    synced
                        .map(|metadata| metadata.len())
                        .map_err(GvisorError::file("write", &self.dir.join(name)))
                })
            });
            let written = write_json(&self.dir.join(MANIFEST), &manifest);
            let sizes = syncs.map(|sync| sync.join().unwrap_or(Err(GvisorError::Panicked)));
            written.map(|()| sizes)
        })?;
        let bytes = sizes.into_iter().sum::<Result<u64>>()?;
        File::open(self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(GvisorError::file("write", self.dir))?;
        Ok(bytes)
    }
}

/// Has a paused sandbox give up its connections to the outside, by a checkpoint that nobody keeps.
///
/// A checkpoint aborts these connections one by one *while* it writes the sentry's objects. Each abort wakes whoever polls the
/// connection, and so changes epoll instances of which a part may have been written already: an epoll instance that is written half
/// before and half after has lost its list of ready files, and a process that waits on it sleeps for ever after the restore. Once no
/// connection is left, a second checkpoint changes nothing while it writes.
///
/// The memory of the sandbox is not copied: the kernel drops what is written to the null device without reading it.
pub(crate) fn disconnect(control: &Control) -> Result<()> {
    let path = Path::new("/dev/null");
    let null = File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(GvisorError::file("open", path))?;
    control.checkpoint(&CheckpointFiles {
        state: null.as_fd(),
        pages_meta: null.as_fd(),
        pages: null.as_fd(),
    })
}

/// Checks that a snapshot can wake over `root` as it is there now, and returns the form of the root it needs.
pub(crate) fn check(snapshot: &Path, root: &Root) -> Result<Root, EngineError> {
    let bad = |reason: String| EngineError::BadSnapshot {
        snapshot: snapshot.display().to_string(),
        reason,
    };
    let manifest: Manifest = read_json(&snapshot.join(MANIFEST))
        .map_err(|e| bad(e.to_string()))?
        .ok_or_else(|| bad(format!("it has no {MANIFEST}: it is not complete, or not of this engine")))?;
    if manifest.format != FORMAT {
        return Err(bad(format!("its format is {}, this engine reads {FORMAT}", manifest.format)));
    }
    for name in [STATE, PAGES_META, PAGES] {
        if !snapshot.join(name).is_file() {
            return Err(bad(format!("{name} is missing")));
        }
    }
    let root = match (&manifest.root, root) {
        // The tree may have got an image after the snapshot was made.
        (Root::Tree(_), Root::Image(image)) => Root::Tree(tree_of(image).ok_or_else(|| bad("its root tree is gone".to_owned()))?),
        (wanted, found) if wanted.same_kind(found) => found.clone(),
        _ => return Err(bad("its root image is gone".to_owned())),
    };
    let mark = root_mark(&root).map_err(|e| bad(e.to_string()))?;
    if mark != manifest.root_mark {
        return Err(bad("its root image is another one".to_owned()));
    }
    Ok(root)
}

/// How much a restore of this snapshot reads, bytes. Zero if that cannot be told.
pub(crate) fn size(snapshot: &Path) -> u64 {
    let files = [STATE, PAGES_META, PAGES].map(|name| fs::metadata(snapshot.join(name)));
    files.iter().flatten().map(fs::Metadata::len).sum()
}

fn tree_of(image: &Path) -> Option<std::path::PathBuf> {
    let tree = image.to_str()?.strip_suffix(".erofs").map(std::path::PathBuf::from)?;
    tree.is_dir().then_some(tree)
}

/// The superblock of a root image in hexadecimal: it holds the image's random id, its size and a checksum.
fn root_mark(root: &Root) -> Result<Option<String>> {
    const AT: u64 = 1024;
    let Root::Image(image) = root else { return Ok(None) };
    let mut superblock = [0; 128];
    let read = File::open(image).and_then(|file| file.read_exact_at(&mut superblock, AT));
    read.map_err(GvisorError::file("read", image))?;
    Ok(Some(superblock.iter().map(|byte| format!("{byte:02x}")).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a snapshot over `made_over` may wake over `found`.
    fn check_roots(made_over: &Root, found: &Root) -> Result<Root, EngineError> {
        let dir = tempfile::tempdir().expect("a directory");
        let manifest = Manifest {
            format: FORMAT,
            root: made_over.clone(),
            root_mark: root_mark(made_over).expect("readable"),
        };
        write_json(&dir.path().join(MANIFEST), &manifest).expect("written");
        for name in [STATE, PAGES_META, PAGES] {
            fs::write(dir.path().join(name), b"").expect("written");
        }
        check(dir.path(), found)
    }

    #[test]
    fn a_snapshot_keeps_to_its_image() {
        let dir = tempfile::tempdir().expect("a directory");
        let image = |name: &str, content: u8| {
            let path = dir.path().join(name);
            fs::write(&path, vec![content; 4096]).expect("written");
            Root::Image(path)
        };
        let (one, moved, other) = (image("one.erofs", 1), image("moved.erofs", 1), image("other.erofs", 2));
        assert_eq!(check_roots(&one, &moved).expect("the same image"), moved);
        let error = check_roots(&one, &other).expect_err("another image");
        assert!(error.to_string().contains("another one"), "{error}");
        check_roots(&one, &Root::Tree(dir.path().to_path_buf())).expect_err("the image is gone");
    }

    #[test]
    fn a_snapshot_over_a_tree_ignores_a_later_image() {
        let dir = tempfile::tempdir().expect("a directory");
        let tree = dir.path().join("root");
        fs::create_dir(&tree).expect("made");
        let image = crate::image_of(&tree);
        fs::write(&image, [0; 4096]).expect("written");
        let found = check_roots(&Root::Tree(tree.clone()), &Root::Image(image)).expect("fits");
        assert_eq!(found, Root::Tree(tree));
    }

    #[test]
    fn an_unfinished_snapshot_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = check(dir.path(), &Root::Tree("/nowhere".into())).expect_err("empty");
        assert!(matches!(error, EngineError::BadSnapshot { .. }), "{error}");
    }
}
