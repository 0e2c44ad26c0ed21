//! Network namespaces held by files, so that they outlive the process that made them.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use crate::error::{NetworkError, Result};

/// The calling thread's own namespace. Not `/proc/self`: that is the main thread's.
const CURRENT: &str = "/proc/thread-self/ns/net";

/// A namespace and the file that keeps it.
#[derive(Debug)]
pub(crate) struct Netns {
    path: PathBuf,
    fd: OwnedFd,
}

impl Netns {
    /// Makes a namespace and leaves the calling thread inside it.
    pub(crate) fn create(path: PathBuf) -> Result<Self> {
        let failed = |what: &str, e: io::Error| NetworkError::system(format!("{what} {}", path.display()), e);
        File::create_new(&path).map_err(|e| failed("create", e))?;
        let made = unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|e| NetworkError::system("make a network namespace", e))
            .and_then(|()| {
                mount(Some(CURRENT), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                    .map_err(|e| failed("mount a network namespace on", e.into()))
            })
            .and_then(|()| File::open(&path).map_err(|e| failed("open", e)));
        match made {
            Ok(file) => Ok(Self { path, fd: file.into() }),
            Err(e) => {
                // The error that matters is the first one; a left-over file is swept by its name.
                let _ = remove(&path);
                Err(e)
            }
        }
    }

    /// Opens what [`Netns::create`] made, perhaps in another process.
    ///
    /// `None` when there is no namespace behind the path: after a reboot the file may be there without its mount.
    pub(crate) fn open(path: PathBuf) -> Result<Option<Self>> {
        let failed = |e: io::Error| NetworkError::system(format!("open {}", path.display()), e);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        let kind = fstatfs(&file).map_err(|e| failed(e.into()))?.filesystem_type();
        Ok((kind == NSFS_MAGIC).then(|| Self { path, fd: file.into() }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Moves the calling thread into this namespace.
    pub(crate) fn enter(&self) -> Result<()> {
        enter(&self.fd).map_err(|e| NetworkError::system(format!("enter {}", self.path.display()), e))
    }
}

/// Moves the calling thread into a namespace.
pub(crate) fn enter(netns: impl AsFd) -> io::Result<()> {
    Ok(setns(netns, CloneFlags::CLONE_NEWNET)?)
}

/// The namespace that the calling thread is in.
pub(crate) fn current() -> Result<OwnedFd> {
    File::open(CURRENT)
        .map(Into::into)
        .map_err(|e| NetworkError::system(format!("open {CURRENT}"), e))
}

/// Takes the mount and the file away; the namespace ends when nothing else is in it. Does nothing if nothing is there.
///
/// Engines start processes in private mount namespaces, with copies of all mounts. To remove the file is what takes the
/// handle out of those: the kernel detaches a mount from a file that is removed, wherever it is mounted.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let failed = |what: &str, e: io::Error| NetworkError::system(format!("{what} {}", path.display()), e);
    match umount2(path, MntFlags::MNT_DETACH) {
        // EINVAL: a file without a mount, left by a reboot or by a crash between two steps.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(e) => return Err(failed("unmount", e.into())),
    }
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed("remove", e)),
    }
}

/// Makes the directory for handles.
pub(crate) fn prepare_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|e| NetworkError::system(format!("create {}", dir.display()), e))
}

/// Removes the directory for handles, unless another daemon has handles there.
pub(crate) fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir(dir) {
        Ok(()) => Ok(()),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => Ok(()),
        Err(e) => Err(NetworkError::system(format!("remove {}", dir.display()), e)),
    }
}
