//! The kernel's file events for one directory, or for a whole tree (contract 3.6).
//!
//! inotify watches single directories. For a tree this adds a watch for every directory below, and for new ones as
//! they appear; what was made in a new directory before its watch was there is found by looking.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use dormouse_agent_proto::rpc::filesystem::EventType;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use crate::readiness::{Watched, watched};

/// Something that happened to `name`, which is relative to the watched directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub name: PathBuf,
    pub kind: EventType,
}

/// A stream of changes.
#[derive(Debug)]
pub(crate) struct Changes {
    fd: Watched,
    root: PathBuf,
    recursive: bool,
    /// Watched directories by watch number, relative to the root.
    directories: HashMap<i32, PathBuf>,
    /// Found by looking; the kernel may tell of their creation once more.
    announced: HashSet<PathBuf>,
    pending: VecDeque<Change>,
}

/// One event, out of the kernel's buffer.
struct Raw {
    watch: i32,
    flags: ReadFlags,
    name: Option<PathBuf>,
}

impl Changes {
    /// Watches `root`, from now on.
    pub(crate) fn of(root: &Path, recursive: bool) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let mut changes = Self {
            fd: watched(fd)?,
            root: root.to_owned(),
            recursive,
            directories: HashMap::new(),
            announced: HashSet::new(),
            pending: VecDeque::new(),
        };
        changes.watch(PathBuf::new())?;
        if recursive {
            changes.descend(Path::new(""), false);
        }
        Ok(changes)
    }

    /// The next change.
    pub(crate) async fn next(&mut self) -> io::Result<Change> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Ok(change);
            }
            let raw = {
                let mut ready = self.fd.readable().await?;
                let raw = read_all(self.fd.get_ref())?;
                ready.clear_ready();
                raw
            };
            for event in raw {
                self.take(event);
            }
        }
    }

    fn take(&mut self, event: Raw) {
        if event.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.catch_up();
            return;
        }
        if event.flags.contains(ReadFlags::IGNORED) {
            self.directories.remove(&event.watch);
            return;
        }
        let Some(directory) = self.directories.get(&event.watch) else {
            return;
        };
        let is_root = directory.as_os_str().is_empty();
        let Some(name) = event.name.map(|name| directory.join(name)) else {
            // About the directory itself. For those below, their parent's watch tells the same.
            if is_root {
                let kind = if event.flags.contains(ReadFlags::DELETE_SELF) {
                    Some(EventType::EVENT_TYPE_REMOVE)
                } else if event.flags.contains(ReadFlags::ATTRIB) {
                    Some(EventType::EVENT_TYPE_CHMOD)
                } else {
                    None
                };
                self.pending.extend(kind.map(|kind| Change { name: ".".into(), kind }));
            }
            return;
        };
        let is_directory = event.flags.contains(ReadFlags::ISDIR);
        for (flag, kind) in [
            (ReadFlags::CREATE, EventType::EVENT_TYPE_CREATE),
            (ReadFlags::MOVED_TO, EventType::EVENT_TYPE_CREATE),
            (ReadFlags::MODIFY, EventType::EVENT_TYPE_WRITE),
            (ReadFlags::DELETE, EventType::EVENT_TYPE_REMOVE),
            (ReadFlags::MOVED_FROM, EventType::EVENT_TYPE_RENAME),
            (ReadFlags::ATTRIB, EventType::EVENT_TYPE_CHMOD),
        ] {
            if !event.flags.contains(flag) {
                continue;
            }
            let known = self.announced.remove(&name);
            if !(known && kind == EventType::EVENT_TYPE_CREATE) {
                self.pending.push_back(Change {
                    name: name.clone(),
                    kind,
                });
            }
            if is_directory && self.recursive {
                match kind {
                    EventType::EVENT_TYPE_CREATE => self.enter(&name),
                    EventType::EVENT_TYPE_RENAME => self.leave(&name),
                    _ => {}
                }
            }
        }
    }

    fn watch(&mut self, directory: PathBuf) -> io::Result<()> {
        let events = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::ONLYDIR;
        let watch = inotify::add_watch(self.fd.get_ref(), self.root.join(&directory), events)?;
        self.directories.insert(watch, directory);
        Ok(())
    }

    /// Watches a directory that has appeared, and tells what is in it.
    fn enter(&mut self, directory: &Path) {
        // It may be gone again, which its own events tell.
        if self.watch(directory.to_owned()).is_ok() {
            self.descend(directory, true);
        }
    }

    /// The kernel has lost events. Directories that were made meanwhile must not stay unwatched; what is in them is told.
    fn catch_up(&mut self) {
        if !self.recursive {
            return;
        }
        let known: HashSet<PathBuf> = self.directories.values().cloned().collect();
        let mut open: Vec<PathBuf> = known.iter().cloned().collect();
        while let Some(directory) = open.pop() {
            for child in children(&self.root.join(&directory)) {
                let name = directory.join(child.file_name());
                let is_directory = child.file_type().is_ok_and(|kind| kind.is_dir());
                if is_directory && !known.contains(&name) {
                    if self.announced.insert(name.clone()) {
                        self.announce(&name, &child);
                    }
                    self.enter(&name);
                }
            }
        }
    }

    /// Watches the directories below one that is watched.
    fn descend(&mut self, directory: &Path, announce: bool) {
        let mut open = vec![directory.to_owned()];
        while let Some(directory) = open.pop() {
            for child in children(&self.root.join(&directory)) {
                let name = directory.join(child.file_name());
                if announce && self.announced.insert(name.clone()) {
                    self.announce(&name, &child);
                }
                let is_directory = child.file_type().is_ok_and(|kind| kind.is_dir());
                if is_directory && self.watch(name.clone()).is_ok() {
                    open.push(name);
                }
            }
        }
    }

    /// Tells of something that was there before its directory was watched. Content means that it was written to.
    fn announce(&mut self, name: &Path, child: &fs::DirEntry) {
        let mut tell = |kind| {
            let name = name.to_owned();
            self.pending.push_back(Change { name, kind });
        };
        tell(EventType::EVENT_TYPE_CREATE);
        if child
            .metadata()
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0)
        {
            tell(EventType::EVENT_TYPE_WRITE);
        }
    }

    /// Stops watching a directory that was moved away, and what is below it.
    fn leave(&mut self, directory: &Path) {
        let gone: Vec<i32> = self
            .directories
            .iter()
            .filter(|(_, path)| path.starts_with(directory))
            .map(|(watch, _)| *watch)
            .collect();
        for watch in gone {
            self.directories.remove(&watch);
            // Refused when the kernel has dropped it already.
            let _ = inotify::remove_watch(self.fd.get_ref(), watch);
        }
    }
}

/// What is in a directory; nothing if it cannot be read, or is gone.
fn children(directory: &Path) -> impl Iterator<Item = fs::DirEntry> + use<> {
    fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok)
}

fn read_all(fd: &OwnedFd) -> io::Result<Vec<Raw>> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
    let mut reader = inotify::Reader::new(fd, &mut buffer);
    let mut events = Vec::new();
    loop {
        match reader.next() {
            Ok(event) => events.push(Raw {
                watch: event.wd(),
                flags: event.events(),
                name: event
                    .file_name()
                    .map(|name| PathBuf::from(OsStr::from_bytes(name.to_bytes()))),
            }),
            Err(Errno::AGAIN) => return Ok(events),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn seen(changes: &mut Changes) -> Vec<(String, EventType)> {
        let mut seen = Vec::new();
        while let Ok(change) = tokio::time::timeout(Duration::from_millis(200), changes.next()).await {
            let change = change.expect("readable");
            seen.push((change.name.display().to_string(), change.kind));
        }
        seen
    }

    fn list(expected: &[(&str, EventType)]) -> Vec<(String, EventType)> {
        expected.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect()
    }

    use EventType::{
        EVENT_TYPE_CREATE as CREATE, EVENT_TYPE_REMOVE as REMOVE, EVENT_TYPE_RENAME as RENAME, EVENT_TYPE_WRITE as WRITE,
    };

    #[tokio::test]
    async fn tells_what_happens_to_a_file() {
        let root = tempfile::tempdir().expect("temporary directory");
        let mut changes = Changes::of(root.path(), false).expect("watched");
        fs::write(root.path().join("a"), "text").expect("written");
        fs::rename(root.path().join("a"), root.path().join("b")).expect("renamed");
        fs::remove_file(root.path().join("b")).expect("removed");
        let expected = list(&[("a", CREATE), ("a", WRITE), ("a", RENAME), ("b", CREATE), ("b", REMOVE)]);
        assert_eq!(seen(&mut changes).await, expected);
    }

    #[tokio::test]
    async fn follows_new_and_moved_directories_once() {
        let root = tempfile::tempdir().expect("temporary directory");
        let mut changes = Changes::of(root.path(), true).expect("watched");
        fs::create_dir_all(root.path().join("a/b")).expect("made");
        fs::write(root.path().join("a/b/c"), "text").expect("written");
        let expected = list(&[("a", CREATE), ("a/b", CREATE), ("a/b/c", CREATE), ("a/b/c", WRITE)]);
        assert_eq!(seen(&mut changes).await, expected);
        fs::rename(root.path().join("a"), root.path().join("z")).expect("renamed");
        let first = seen(&mut changes).await;
        assert_eq!(first[..2], list(&[("a", RENAME), ("z", CREATE)]));
        fs::write(root.path().join("z/b/d"), "").expect("written");
        assert_eq!(seen(&mut changes).await, list(&[("z/b/d", CREATE)]));
    }

    #[tokio::test]
    async fn watches_one_level_unless_asked_for_more() {
        let root = tempfile::tempdir().expect("temporary directory");
        fs::create_dir(root.path().join("a")).expect("made");
        let mut changes = Changes::of(root.path(), false).expect("watched");
        fs::write(root.path().join("a/below"), "").expect("written");
        assert_eq!(seen(&mut changes).await, []);
    }
}
