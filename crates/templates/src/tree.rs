//! Directories that appear whole or not at all, and cheap copies of a root tree.
//!
//! A tree is made under `<name>.partial`, written to disk, and renamed. Whatever ends in `.partial` when nobody holds
//! the lock was left by a crash and is removed.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::exec;

/// The ending of the name of an unfinished tree.
const PARTIAL: &str = "partial";

/// An unfinished directory; removed when dropped without [`Partial::commit`].
pub(crate) struct Partial {
    path: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl Partial {
    /// Starts `target` anew under its temporary name.
    pub(crate) fn create(target: &Path) -> Result<Partial> {
        let mut name = target.file_name().map(OsStr::to_owned).unwrap_or_default();
        name.push(".");
        name.push(PARTIAL);
        let path = target.with_file_name(name);
        remove(&path)?;
        fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        Ok(Partial {
            path,
            target: target.to_owned(),
            committed: false,
        })
    }

    /// Where to build.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it durable, then visible under its name.
    pub(crate) fn commit(mut self) -> Result<()> {
        let directory = File::open(&self.path).map_err(Error::io("open", &self.path))?;
        nix::unistd::syncfs(&directory).map_err(|errno| Error::io("sync", &self.path)(errno.into()))?;
        remove(&self.target)?;
        fs::rename(&self.path, &self.target).map_err(Error::io("rename", &self.path))?;
        self.committed = true;
        if let Some(parent) = self.target.parent() {
            File::open(parent)
                .and_then(|parent| parent.sync_all())
                .map_err(Error::io("sync", parent))?;
        }
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = remove(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "an unfinished template tree could not be removed");
        }
    }
}

/// Removes what crashed builds left in a directory. The caller holds the lock.
pub(crate) fn remove_leftovers(directory: &Path) -> Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("list", directory)(error)),
    };
    for entry in entries {
        let path = entry.map_err(Error::io("list", directory))?.path();
        if path.extension() == Some(OsStr::new(PARTIAL)) {
            tracing::info!(path = %path.display(), "removing an unfinished template tree");
            remove(&path)?;
        }
    }
    Ok(())
}

/// Removes a tree; it is fine when there is none.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Puts a file into a tree under a new inode: the old one may be shared with another tree, and a symbolic link may
/// point out of this one.
pub(crate) fn replace_file(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io("replace", path)(error)),
        _ => {}
    }
    fs::write(path, content).map_err(Error::io("write", path))?;
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(Error::io("change mode of", path))
}

/// A copy of `from` in which only `/usr` shares its files with the original.
///
/// Nothing that a build writes may be shared, because writing through a hard link changes the original too. `/usr` is
/// nearly all of the tree and only gets new files (never changed ones); the rest is small and is copied for real.
pub(crate) fn copy_sharing_usr(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).map_err(Error::io("create", to))?;
    copy_attributes(from, to)?;
    for entry in fs::read_dir(from).map_err(Error::io("list", from))? {
        let path = entry.map_err(Error::io("list", from))?.path();
        let mut copy = Command::new("cp");
        copy.arg("--archive");
        if path.file_name() == Some(OsStr::new("usr")) {
            copy.arg("--link");
        }
        copy.arg("--").arg(&path).arg(to);
        exec::run(copy, |_| {})?;
    }
    Ok(())
}

fn copy_attributes(from: &Path, to: &Path) -> Result<()> {
    let metadata = fs::metadata(from).map_err(Error::io("read", from))?;
    std::os::unix::fs::chown(to, Some(metadata.uid()), Some(metadata.gid())).map_err(Error::io("change owner of", to))?;
    fs::set_permissions(to, metadata.permissions()).map_err(Error::io("change mode of", to))
}

/// The bytes that a tree takes on disk; a file with several links below `root` counts once.
pub(crate) fn disk_usage(root: &Path) -> Result<u64> {
    let mut seen = std::collections::HashSet::new();
    let mut bytes = 0;
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).map_err(Error::io("list", &directory))? {
            let entry = entry.map_err(Error::io("list", &directory))?;
            let metadata = entry.metadata().map_err(Error::io("read", entry.path()))?;
            if metadata.is_dir() {
                open.push(entry.path());
            }
            if metadata.nlink() < 2 || metadata.is_dir() || seen.insert(metadata.ino()) {
                bytes += metadata.blocks() * 512;
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_tree_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("tree");
        let partial = Partial::create(&target).unwrap();
        fs::write(partial.path().join("half"), "x").unwrap();

        drop(partial);

        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn committed_tree_replaces_the_old_one() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("tree");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("old"), "x").unwrap();
        let partial = Partial::create(&target).unwrap();
        fs::write(partial.path().join("new"), "x").unwrap();

        partial.commit().unwrap();

        assert!(target.join("new").exists());
        assert!(!target.join("old").exists());
    }

    #[test]
    fn leftovers_of_a_crash_are_removed_and_the_rest_is_kept() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join("a.partial/root")).unwrap();
        fs::create_dir_all(home.path().join("b/root")).unwrap();

        remove_leftovers(home.path()).unwrap();
        remove_leftovers(&home.path().join("none")).unwrap();

        assert!(!home.path().join("a.partial").exists());
        assert!(home.path().join("b/root").exists());
    }

    #[test]
    fn replaced_file_leaves_the_shared_inode_alone() {
        let home = tempfile::tempdir().unwrap();
        let (ours, theirs) = (home.path().join("ours"), home.path().join("theirs"));
        fs::write(&theirs, "old").unwrap();
        fs::hard_link(&theirs, &ours).unwrap();

        replace_file(&ours, b"new", 0o755).unwrap();

        assert_eq!(fs::read_to_string(&theirs).unwrap(), "old");
        assert_eq!(fs::read_to_string(&ours).unwrap(), "new");
        assert_eq!(fs::metadata(&ours).unwrap().mode() & 0o777, 0o755);
    }

    #[test]
    fn copy_shares_files_below_usr_only() {
        let home = tempfile::tempdir().unwrap();
        let from = home.path().join("from");
        fs::create_dir_all(from.join("usr/bin")).unwrap();
        fs::create_dir_all(from.join("etc")).unwrap();
        fs::write(from.join("usr/bin/tool"), "tool").unwrap();
        fs::write(from.join("etc/hosts"), "hosts").unwrap();
        let to = home.path().join("to");

        copy_sharing_usr(&from, &to).unwrap();

        let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(from.join("usr/bin/tool")), inode(to.join("usr/bin/tool")));
        assert_ne!(inode(from.join("etc/hosts")), inode(to.join("etc/hosts")));
        assert_eq!(fs::read_to_string(to.join("etc/hosts")).unwrap(), "hosts");
    }
}
