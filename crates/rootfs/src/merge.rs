//! A tree out of layers, by hard links.
//!
//! Files of a layer never change, so the tree shares them with it: it costs names, no content. The tree is as immutable as the layers.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

/// With what overlayfs marks a directory that hides those below it.
pub const OPAQUE: &str = "trusted.overlay.opaque";

/// What overlayfs writes for itself.
const OVERLAY_PREFIX: &[u8] = b"trusted.overlay.";

/// Whether a layer's entry stands for something that was removed.
#[must_use]
pub fn is_whiteout(metadata: &Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

/// Lays `layer` over the tree `onto`, which exists: the tree afterwards is what overlayfs would show.
///
/// Nobody may change either meanwhile. Device nodes are left out: a sandbox has its own `/dev`.
///
/// # Errors
/// As the file system says; the tree is then half-made.
pub fn lay_over(layer: &Path, onto: &Path) -> io::Result<()> {
    for entry in fs::read_dir(layer)? {
        let entry = entry?;
        let (from, to) = (entry.path(), onto.join(entry.file_name()));
        let metadata = fs::symlink_metadata(&from)?;
        let kind = metadata.file_type();
        if is_whiteout(&metadata) {
            remove(&to)?;
        } else if kind.is_char_device() || kind.is_block_device() {
            tracing::debug!(path = %from.display(), "a device node is left out");
        } else if kind.is_dir() {
            let there = fs::symlink_metadata(&to).is_ok_and(|there| there.is_dir());
            if !there || is_opaque(&from)? {
                remove(&to)?;
                fs::create_dir(&to)?;
            }
            lay_over(&from, &to)?;
        } else {
            remove(&to)?;
            link(&from, &to)?;
        }
    }
    // Last: its content has changed its times.
    copy_attributes(layer, onto)
}

fn link(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        // The file has as many names as the file system allows.
        Err(error) if error.kind() == io::ErrorKind::TooManyLinks => {
            fs::copy(from, to)?;
            copy_attributes(from, to)
        }
        other => other,
    }
}

/// Removes whatever has this name; nothing is fine.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn is_opaque(dir: &Path) -> io::Result<bool> {
    let mut value = [0; 1];
    match rustix::fs::lgetxattr(dir, OPAQUE, &mut value) {
        Ok(length) => Ok(value.get(..length) == Some(b"y")),
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Owner, mode, extended attributes and times.
fn copy_attributes(from: &Path, to: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(from)?;
    let (uid, gid) = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()));
    rustix::fs::chownat(CWD, to, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    rustix::fs::chmodat(CWD, to, Mode::from_raw_mode(metadata.mode()), AtFlags::empty())?;
    copy_xattrs(from, to)?;
    let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: time(metadata.atime(), metadata.atime_nsec()),
        last_modification: time(metadata.mtime(), metadata.mtime_nsec()),
    };
    Ok(rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn copy_xattrs(from: &Path, to: &Path) -> io::Result<()> {
    const LONGEST: usize = 64 * 1024;
    let mut names = vec![0; LONGEST];
    let length = match rustix::fs::llistxattr(from, &mut names) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error.into()),
    };
    for name in names[..length].split(|&byte| byte == 0) {
        if name.is_empty() || name.starts_with(OVERLAY_PREFIX) {
            continue;
        }
        let mut value = vec![0; LONGEST];
        let length = rustix::fs::lgetxattr(from, name, &mut value)?;
        rustix::fs::lsetxattr(to, name, &value[..length], XattrFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn later_layers_win_and_links_are_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let dir = |name: &str| {
            let path = home.path().join(name);
            fs::create_dir_all(&path).unwrap();
            path
        };
        let (low, high, tree, outside) = (dir("low"), dir("high"), dir("tree"), dir("outside"));
        fs::create_dir(low.join("d")).unwrap();
        fs::write(low.join("d/a"), "low").unwrap();
        fs::write(low.join("d/b"), "low").unwrap();
        symlink(&outside, low.join("link")).unwrap();
        fs::create_dir(high.join("d")).unwrap();
        fs::write(high.join("d/a"), "high").unwrap();
        fs::set_permissions(high.join("d"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::create_dir(high.join("link")).unwrap();
        fs::write(high.join("link/x"), "inside").unwrap();

        lay_over(&low, &tree).unwrap();
        lay_over(&high, &tree).unwrap();

        assert_eq!(fs::read_to_string(tree.join("d/a")).unwrap(), "high");
        assert_eq!(fs::read_to_string(tree.join("d/b")).unwrap(), "low");
        assert_eq!(fs::metadata(tree.join("d")).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::read_to_string(tree.join("link/x")).unwrap(), "inside");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&low.join("d/b")), inode(&tree.join("d/b")));
    }

    #[test]
    fn a_file_takes_the_place_of_a_directory_and_back() {
        let home = tempfile::tempdir().unwrap();
        let (low, high, tree) = (home.path().join("low"), home.path().join("high"), home.path().join("tree"));
        for dir in [&low, &high, &tree] {
            fs::create_dir(dir).unwrap();
        }
        fs::create_dir(low.join("one")).unwrap();
        fs::write(low.join("one/x"), "").unwrap();
        fs::write(low.join("two"), "").unwrap();
        fs::write(high.join("one"), "file").unwrap();
        fs::create_dir(high.join("two")).unwrap();
        lay_over(&low, &tree).unwrap();
        lay_over(&high, &tree).unwrap();
        assert_eq!(fs::read_to_string(tree.join("one")).unwrap(), "file");
        assert!(tree.join("two").is_dir());
    }

    #[test]
    fn what_overlayfs_removed_or_hid_is_gone() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: mounts need root");
            return;
        }
        let home = tempfile::tempdir().unwrap();
        let dir = |name: &str| {
            let path = home.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let (low, upper, work, at, tree) = (dir("low"), dir("upper"), dir("work"), dir("at"), dir("tree"));
        for path in ["gone", "again", "kept"] {
            fs::create_dir(low.join(path)).unwrap();
            fs::write(low.join(path).join("old"), "").unwrap();
        }
        fs::write(low.join("file"), "").unwrap();
        let done: io::Result<()> = crate::overlay::with_merged(&at, std::slice::from_ref(&low), &upper, &work, |root| {
            fs::remove_dir_all(root.join("gone"))?;
            fs::remove_file(root.join("file"))?;
            fs::remove_dir_all(root.join("again"))?;
            fs::create_dir(root.join("again"))?;
            fs::write(root.join("again/new"), "")
        });
        done.unwrap();
        lay_over(&low, &tree).unwrap();
        lay_over(&upper, &tree).unwrap();
        assert!(!tree.join("gone").exists() && !tree.join("file").exists());
        assert!(tree.join("again/new").exists() && !tree.join("again/old").exists());
        assert!(tree.join("kept/old").exists());
    }
}
