//! Names inside a tree, looked up as if the tree were the root directory.
//!
//! A link in a tree may point anywhere; `openat2` with `RESOLVE_IN_ROOT` follows it as a process inside would (openat2(2)).

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Uid, chownat, mkdirat, openat2};
use rustix::io::Errno;

/// A directory that stands for `/`.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

/// What a new directory gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Owner {
    /// The superuser.
    pub const ROOT: Self = Self { uid: 0, gid: 0 };

    pub(crate) fn ids(self) -> (Option<Uid>, Option<Gid>) {
        (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
    }
}

impl Root {
    /// The tree at `path`.
    ///
    /// # Errors
    /// It is no directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        Ok(Self {
            fd: rustix::fs::open(path, flags, Mode::empty())?,
        })
    }

    /// Opens what `path` leads to, with links followed inside the tree.
    ///
    /// # Errors
    /// As openat2(2).
    pub fn resolve(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        Ok(self.resolve_raw(path, flags)?)
    }

    fn resolve_raw(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // A lookup that meets a rename is to be tried again (openat2(2)); here nobody renames for long.
        loop {
            match openat2(&self.fd, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// Opens a directory for working in it with `*at` calls.
    ///
    /// # Errors
    /// There is none, or it is something else.
    pub fn dir(&self, path: &Path) -> io::Result<OwnedFd> {
        self.resolve(path, OFlags::DIRECTORY | OFlags::RDONLY)
    }

    /// Whether `path` leads to a directory.
    #[must_use]
    pub fn is_dir(&self, path: &Path) -> bool {
        self.resolve(path, OFlags::DIRECTORY | OFlags::PATH).is_ok()
    }

    /// Opens a directory, made with its parents where it is missing. New ones get the mode 0755 and the owner.
    ///
    /// # Errors
    /// A file is in the way, or a link that leads nowhere.
    pub fn dir_or_make(&self, path: &Path, owner: Owner) -> io::Result<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY;
        match self.resolve_raw(path, flags) {
            Err(Errno::NOENT) => {}
            other => return Ok(other?),
        }
        let mut sofar = PathBuf::from("/");
        let mut current = self.dir(&sofar)?;
        for name in names(path) {
            sofar.push(name);
            current = match self.resolve_raw(&sofar, flags) {
                Err(Errno::NOENT) => {
                    mkdirat(&current, name, Mode::from_raw_mode(0o755))?;
                    let (uid, gid) = owner.ids();
                    chownat(&current, name, uid, gid, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
                    self.resolve_raw(&sofar, flags)?
                }
                other => other?,
            };
        }
        Ok(current)
    }

    /// Reads a file of at most `limit` bytes; none when there is no such file.
    ///
    /// # Errors
    /// It is no regular file, or too long.
    pub fn read(&self, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
        // Without NONBLOCK, a named pipe would hold us for ever.
        let file = match self.resolve_raw(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NXIO) => return Ok(None),
            other => File::from(other?),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        let mut content = Vec::new();
        file.take(limit + 1).read_to_end(&mut content)?;
        if content.len() as u64 > limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file is too long"));
        }
        Ok(Some(content))
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The parts of a path, `.` and the root left out, `..` taken back as far as there is something to take back.
#[must_use]
pub fn names(path: &Path) -> Vec<&OsStr> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::ParentDir => drop(names.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    names
}

/// `path` as an absolute path, relative ones starting at `base`, without `.` and `..`.
#[must_use]
pub fn absolute(base: &Path, path: &Path) -> PathBuf {
    let whole = base.join(path);
    std::iter::once(OsStr::new("/")).chain(names(&whole)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_stay_inside() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc/passwd"), "inside").unwrap();
        symlink("/etc", root.join("absolute")).unwrap();
        symlink("../../../../etc", root.join("up")).unwrap();
        let root = Root::open(&root).unwrap();
        for path in ["etc/passwd", "/absolute/passwd", "up/passwd", "../../etc/passwd"] {
            assert_eq!(root.read(Path::new(path), 100).unwrap().unwrap(), b"inside", "{path}");
        }
        assert_eq!(root.read(Path::new("nothing"), 100).unwrap(), None);
        assert!(root.read(Path::new("etc/passwd"), 3).is_err());
        assert!(root.read(Path::new("etc"), 3).is_err());
    }

    #[test]
    fn directories_are_made_behind_links_too() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("root");
        fs::create_dir_all(root.join("var")).unwrap();
        symlink("/var", root.join("link")).unwrap();
        symlink("/nowhere", root.join("dangling")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        let owner = Owner {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
        };
        let confined = Root::open(&root).unwrap();
        confined.dir_or_make(Path::new("/link/a/b"), owner).unwrap();
        assert!(root.join("var/a/b").is_dir());
        assert!(confined.dir_or_make(Path::new("/dangling/a"), owner).is_err());
        assert!(confined.dir_or_make(Path::new("/file/a"), owner).is_err());
        assert!(!home.path().join("nowhere").exists());
    }

    #[test]
    fn paths_are_put_together() {
        for (base, path, whole) in [
            ("/app", "x", "/app/x"),
            ("/app", "/x", "/x"),
            ("/app", "../../x/./y", "/x/y"),
            ("/", ".", "/"),
        ] {
            assert_eq!(absolute(Path::new(base), Path::new(path)), Path::new(whole));
        }
    }
}
