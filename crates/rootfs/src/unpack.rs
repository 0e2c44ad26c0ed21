//! Applies a tar stream to a directory.
//!
//! The stream comes from outside and is trusted in nothing: names are looked up inside the directory only ([`crate::confined`]), device
//! nodes are never made, and size and number of what is written are limited.
//!
//! With [`Whiteouts::Apply`] the stream is the change set of an OCI layer (OCI image specification, "Image Layer Filesystem
//! Changeset"): `.wh.<name>` removes what lower layers have under the name, `.wh..wh..opq` all of a directory, whatever their place in
//! the stream. The directory is then best the merged view of the lower layers and this one ([`crate::overlay::with_merged`]): parents
//! that the stream does not name keep their attributes, and links reach files of lower layers.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, fsetxattr, futimens,
    linkat, mkdirat, mknodat, openat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use crate::confined::{Owner, Root, names};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// How tar writers that know extended attributes name them in PAX records.
const XATTR: &str = "SCHILY.xattr.";
const LONGEST_NAME: usize = 255;
const LONGEST_PATH: usize = 4096;
/// Deepest nesting of directories. The kernel has no limit; those who remove or walk the tree later have.
const DEEPEST: usize = 256;

/// What names that begin with `.wh.` mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whiteouts {
    /// Removals, as in an OCI layer.
    Apply,
    /// Nothing special.
    Ignore,
}

/// How a stream is applied.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What `.wh.` means.
    pub whiteouts: Whiteouts,
    /// Most bytes of content.
    pub max_bytes: u64,
    /// Most entries.
    pub max_entries: u64,
    /// Whether absolute names and device nodes are refused rather than taken as relative and left out.
    pub strict: bool,
}

/// What was applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of content.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}

/// Why a stream was not applied as a whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// It is no tar stream, or it breaks off.
    #[error("the archive is damaged")]
    Damaged(#[source] io::Error),
    /// An entry has a name that no honest archive has.
    #[error("the archive has an entry named `{}`, {reason}", .name.display())]
    Name {
        /// The name.
        name: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An entry is something that may not be made.
    #[error("the archive's entry `{}` is {what}", .name.display())]
    Kind {
        /// The name.
        name: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The content is more than may be written.
    #[error("the archive holds more than {limit} {what}")]
    TooMuch {
        /// The limit.
        limit: u64,
        /// Of what.
        what: &'static str,
    },
    /// An entry cannot be written.
    #[error("the archive's entry `{}` cannot be written", .name.display())]
    Write {
        /// The name.
        name: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Applies `stream` to the directory `into`. Blocks.
///
/// # Errors
/// What was written before the error stays.
pub fn unpack(stream: impl Read, into: &Path, options: &Options) -> Result<Unpacked, UnpackError> {
    let root = Root::open(into).map_err(|source| UnpackError::Write {
        name: into.to_owned(),
        source,
    })?;
    let mut target = Target {
        root,
        options,
        done: Unpacked::default(),
        made: HashSet::new(),
        directories: Vec::new(),
    };
    let mut archive = Archive::new(stream);
    for entry in archive.entries().map_err(UnpackError::Damaged)? {
        target.apply(entry.map_err(UnpackError::Damaged)?)?;
    }
    target.finish()?;
    Ok(target.done)
}

struct Target<'a> {
    root: Root,
    options: &'a Options,
    done: Unpacked,
    /// What this stream has made, and everything above it: a whiteout does not remove it.
    made: HashSet<PathBuf>,
    /// Directories and their times, set when nothing changes in them any more.
    directories: Vec<(PathBuf, Timespec)>,
}

impl Target<'_> {
    fn apply<R: Read>(&mut self, entry: Entry<'_, R>) -> Result<(), UnpackError> {
        self.done.entries += 1;
        self.within(self.done.entries, self.options.max_entries, "entries")?;
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader) {
            return Ok(());
        }
        let path = self.path(&entry.path_bytes())?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            // The root itself: its attributes, and nothing else.
            return if kind.is_dir() { self.root_attributes(&entry) } else { Ok(()) };
        };
        let failed = |source: io::Error| UnpackError::Write {
            name: path.clone(),
            source,
        };
        let parent_path = path.parent().unwrap_or(Path::new("")).to_owned();
        let parent = self
            .root
            .dir_or_make(&Path::new("/").join(&parent_path), Owner::ROOT)
            .map_err(failed)?;
        if self.options.whiteouts == Whiteouts::Apply && name.as_bytes().starts_with(WHITEOUT) {
            return self.whiteout(&parent, &parent_path, &name).map_err(failed);
        }
        self.make(entry, kind, &path, &parent, &name)?;
        self.made.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    /// The entry's name as a relative path without surprises.
    fn path(&self, bytes: &[u8]) -> Result<PathBuf, UnpackError> {
        let name = PathBuf::from(OsString::from_vec(bytes.to_vec()));
        let refuse = |reason| UnpackError::Name {
            name: name.clone(),
            reason,
        };
        if bytes.contains(&0) {
            return Err(refuse("which has a zero byte"));
        }
        if name
            .components()
            .any(|component| matches!(component, std::path::Component::ParentDir))
        {
            return Err(refuse("which leads upwards"));
        }
        if self.options.strict && name.is_absolute() {
            return Err(refuse("which is absolute"));
        }
        let parts = names(&name);
        if parts.iter().any(|part| part.len() > LONGEST_NAME) || bytes.len() > LONGEST_PATH || parts.len() > DEEPEST {
            return Err(refuse("which is too long"));
        }
        Ok(parts.into_iter().collect())
    }

    fn make<R: Read>(
        &mut self,
        mut entry: Entry<'_, R>,
        kind: EntryType,
        path: &Path,
        parent: &OwnedFd,
        name: &OsStr,
    ) -> Result<(), UnpackError> {
        let failed = |source: io::Error| UnpackError::Write {
            name: path.to_owned(),
            source,
        };
        let refused = |what| UnpackError::Kind {
            name: path.to_owned(),
            what,
        };
        let attributes = Attributes::of(&entry).map_err(UnpackError::Damaged)?;
        match kind {
            EntryType::Directory => {
                let there = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| FileType::from_raw_mode(stat.st_mode));
                if there != Ok(FileType::Directory) {
                    remove_at(parent, name).map_err(failed)?;
                    mkdirat(parent, name, Mode::from_raw_mode(0o700)).map_err(|e| failed(e.into()))?;
                }
                attributes.set_at(parent, name, true).map_err(failed)?;
                self.set_xattrs(&mut entry, parent, name, OFlags::DIRECTORY).map_err(failed)?;
                self.directories.push((path.to_owned(), attributes.modified));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                remove_at(parent, name).map_err(failed)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(parent, name, flags, Mode::from_raw_mode(0o600)).map_err(|e| failed(e.into()))?;
                let mut file = File::from(file);
                self.copy(&mut entry, &mut file, path)?;
                // Owner first: a change of owner takes away the set-user-id bit.
                attributes.set_at(parent, name, true).map_err(failed)?;
                set_xattrs_of(&mut entry, &file).map_err(failed)?;
                futimens(&file, &attributes.times()).map_err(|e| failed(e.into()))?;
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or_else(|| refused("a link to nothing"))?;
                remove_at(parent, name).map_err(failed)?;
                symlinkat(OsStr::from_bytes(&target), parent, name).map_err(|e| failed(e.into()))?;
                attributes.set_at(parent, name, false).map_err(failed)?;
                utimensat(parent, name, &attributes.times(), AtFlags::SYMLINK_NOFOLLOW).map_err(|e| failed(e.into()))?;
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().ok_or_else(|| refused("a link to nothing"))?;
                let target = self.path(&target)?;
                let Some(target_name) = target.file_name() else {
                    return Err(refused("a hard link to the root"));
                };
                if target == path {
                    return Ok(());
                }
                let target_parent = Path::new("/").join(target.parent().unwrap_or(Path::new("")));
                let target_dir = self.root.dir(&target_parent).map_err(failed)?;
                let stat = statat(&target_dir, target_name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| failed(e.into()))?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    return Err(refused("a hard link to a directory"));
                }
                remove_at(parent, name).map_err(failed)?;
                linkat(&target_dir, target_name, parent, name, AtFlags::empty()).map_err(|e| failed(e.into()))?;
            }
            EntryType::Fifo => {
                remove_at(parent, name).map_err(failed)?;
                mknodat(parent, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0).map_err(|e| failed(e.into()))?;
                attributes.set_at(parent, name, true).map_err(failed)?;
            }
            EntryType::Char | EntryType::Block if !self.options.strict => {
                tracing::debug!(path = %path.display(), "a device node is left out");
            }
            EntryType::Char | EntryType::Block => return Err(refused("a device node")),
            _ => return Err(refused("of an unknown kind")),
        }
        Ok(())
    }

    /// The content of a file, as long as there is room for it.
    fn copy(&mut self, content: &mut impl Read, file: &mut File, path: &Path) -> Result<(), UnpackError> {
        let left = self.options.max_bytes.saturating_sub(self.done.bytes);
        let copied = io::copy(&mut content.take(left + 1), file).map_err(|source| {
            // A broken stream and a full disk are told apart by what the system says.
            if source.raw_os_error().is_some() {
                UnpackError::Write {
                    name: path.to_owned(),
                    source,
                }
            } else {
                UnpackError::Damaged(source)
            }
        })?;
        self.done.bytes += copied;
        self.within(self.done.bytes, self.options.max_bytes, "bytes")
    }

    fn within(&self, count: u64, limit: u64, what: &'static str) -> Result<(), UnpackError> {
        if count > limit {
            Err(UnpackError::TooMuch { limit, what })
        } else {
            Ok(())
        }
    }

    fn root_attributes<R: Read>(&mut self, entry: &Entry<'_, R>) -> Result<(), UnpackError> {
        let attributes = Attributes::of(entry).map_err(UnpackError::Damaged)?;
        let failed = |source: io::Error| UnpackError::Write {
            name: "/".into(),
            source,
        };
        attributes.set_at(&self.root, OsStr::new("."), true).map_err(failed)
    }

    /// Removes what lower layers have; what this stream made stays.
    fn whiteout(&self, parent: &OwnedFd, parent_path: &Path, name: &OsStr) -> io::Result<()> {
        if name.as_bytes() == OPAQUE {
            return self.clear(parent, parent_path);
        }
        // Other names that begin so are notes of an old file system to itself.
        let hidden = OsStr::from_bytes(&name.as_bytes()[WHITEOUT.len()..]);
        if hidden.is_empty() || hidden.as_bytes().starts_with(WHITEOUT) || hidden == "." || hidden == ".." {
            return Ok(());
        }
        self.hide(parent, parent_path, hidden)
    }

    fn clear(&self, dir: &OwnedFd, path: &Path) -> io::Result<()> {
        for entry in entries(dir)? {
            self.hide(dir, path, &entry)?;
        }
        Ok(())
    }

    fn hide(&self, parent: &OwnedFd, parent_path: &Path, name: &OsStr) -> io::Result<()> {
        let path = parent_path.join(name);
        if !self.made.contains(&path) {
            return remove_at(parent, name);
        }
        match openat(parent, name, DIR_FLAGS, Mode::empty()) {
            Ok(dir) => self.clear(&dir, &path),
            // A file of this stream.
            Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn set_xattrs<R: Read>(&self, entry: &mut Entry<'_, R>, parent: &OwnedFd, name: &OsStr, flags: OFlags) -> io::Result<()> {
        let file = openat(parent, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        set_xattrs_of(entry, &File::from(file))
    }

    /// Directories get their times; deepest last in the stream does not matter, setting one's time changes no other's.
    fn finish(&mut self) -> Result<(), UnpackError> {
        for (path, modified) in std::mem::take(&mut self.directories) {
            let times = times(modified);
            // It may have been replaced by something else since.
            if let Ok(dir) = self.root.dir(&Path::new("/").join(&path)) {
                futimens(&dir, &times).map_err(|error| UnpackError::Write {
                    name: path,
                    source: error.into(),
                })?;
            }
        }
        Ok(())
    }
}

const DIR_FLAGS: OFlags = OFlags::DIRECTORY
    .union(OFlags::RDONLY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    modified: Timespec,
}

impl Attributes {
    fn of<R: Read>(entry: &Entry<'_, R>) -> io::Result<Self> {
        let header = entry.header();
        let id = |id: u64| u32::try_from(id).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "an owner is out of range"));
        Ok(Self {
            mode: header.mode()? & 0o7777,
            uid: id(header.uid()?)?,
            gid: id(header.gid()?)?,
            modified: Timespec {
                tv_sec: i64::try_from(header.mtime()?).unwrap_or(0),
                tv_nsec: 0,
            },
        })
    }

    fn times(&self) -> Timestamps {
        times(self.modified)
    }

    /// Sets owner and, for what has one, mode. In a test without root the owner stays.
    fn set_at(&self, parent: impl std::os::fd::AsFd, name: &OsStr, mode: bool) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        match chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::PERM) if !rustix::process::geteuid().is_root() => {}
            other => other?,
        }
        if mode {
            chmodat(&parent, name, Mode::from_raw_mode(self.mode), AtFlags::empty())?;
        }
        Ok(())
    }
}

fn times(modified: Timespec) -> Timestamps {
    Timestamps {
        last_access: modified,
        last_modification: modified,
    }
}

/// Extended attributes of the user's and the file's capabilities; the host's own name spaces are not for an archive.
fn set_xattrs_of<R: Read>(entry: &mut Entry<'_, R>, file: &File) -> io::Result<()> {
    let Some(records) = entry.pax_extensions()? else {
        return Ok(());
    };
    for record in records {
        let record = record?;
        let Some(name) = record.key().ok().and_then(|key| key.strip_prefix(XATTR)) else {
            continue;
        };
        if !name.starts_with("user.") && name != "security.capability" {
            continue;
        }
        match fsetxattr(file, name, record.value_bytes(), XattrFlags::empty()) {
            // A file system without them, or one that finds this one strange: programs do without.
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::PERM) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Removes whatever has this name in a directory; nothing is fine.
fn remove_at(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let dir = openat(parent, name, DIR_FLAGS, Mode::empty())?;
    for entry in entries(&dir)? {
        remove_at(&dir, &entry)?;
    }
    Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

fn entries(dir: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir.as_fd())? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
