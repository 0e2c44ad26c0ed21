//! Changing the tree of files: making, moving and removing (contract 3.6).

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::users::User;

/// Makes `path` and what is missing above it, 0755, owned by `user`. Returns false when it was there.
///
/// # Errors
/// `NotADirectory` when something else is in the way.
pub(crate) fn make_directory(path: &Path, user: &User) -> io::Result<bool> {
    let mut missing: Vec<PathBuf> = Vec::new();
    for candidate in path.ancestors() {
        match fs::metadata(candidate) {
            Ok(metadata) if metadata.is_dir() => break,
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(candidate.to_owned()),
            Err(error) => return Err(error),
        }
    }
    let made = !missing.is_empty();
    for directory in missing.iter().rev() {
        match fs::DirBuilder::new().mode(0o755).create(directory) {
            Ok(()) => std::os::unix::fs::lchown(directory, Some(user.uid), Some(user.gid))?,
            // Somebody else was quicker, which is as good.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(made)
}

/// Makes the directory that `path` is to be in.
pub(crate) fn make_parents(path: &Path, user: &User) -> io::Result<()> {
    match path.parent() {
        Some(parent) => make_directory(parent, user).map(drop),
        None => Ok(()),
    }
}

/// Renames; between file systems it copies and then removes.
pub(crate) fn rename(source: &Path, destination: &Path) -> io::Result<()> {
    match fs::rename(source, destination) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::XDEV) => {
            copy(source, destination)?;
            remove(source)
        }
        result => result,
    }
}

fn copy(source: &Path, destination: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(source)?;
    if metadata.is_dir() {
        fs::DirBuilder::new().recursive(true).create(destination)?;
        for child in fs::read_dir(source)? {
            let name = child?.file_name();
            copy(&source.join(&name), &destination.join(&name))?;
        }
        fs::set_permissions(destination, metadata.permissions())?;
    } else if metadata.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(source)?, destination)?;
    } else {
        fs::copy(source, destination)?;
    }
    std::os::unix::fs::lchown(destination, Some(metadata.uid()), Some(metadata.gid()))
}

/// Removes a file, a link or a whole tree. What is not there is as good as removed.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> User {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        User {
            name: "me".into(),
            uid,
            gid,
            home: "/".into(),
            shell: "/bin/sh".into(),
        }
    }

    #[test]
    fn makes_only_what_is_missing() {
        let root = tempfile::tempdir().expect("temporary directory");
        let deep = root.path().join("a/b/c");
        assert!(make_directory(&deep, &me()).expect("made"));
        assert_eq!(fs::metadata(&deep).expect("there").mode() & 0o777, 0o755);
        assert!(!make_directory(&deep, &me()).expect("there already"));
        fs::write(root.path().join("file"), "").expect("written");
        for path in ["file", "file/below"] {
            let error = make_directory(&root.path().join(path), &me()).expect_err("in the way");
            assert_eq!(error.kind(), io::ErrorKind::NotADirectory, "{path}");
        }
    }

    #[test]
    fn removes_links_not_what_they_lead_to() {
        let root = tempfile::tempdir().expect("temporary directory");
        fs::create_dir(root.path().join("kept")).expect("made");
        std::os::unix::fs::symlink("kept", root.path().join("link")).expect("linked");
        remove(&root.path().join("link")).expect("removed");
        remove(&root.path().join("link")).expect("missing is fine");
        remove(&root.path().join("kept/none/below")).expect("missing is fine");
        assert!(root.path().join("kept").is_dir());
    }

    #[test]
    fn copies_keep_modes_and_links() {
        let root = tempfile::tempdir().expect("temporary directory");
        let from = root.path().join("from");
        fs::create_dir(&from).expect("made");
        fs::write(from.join("file"), "text").expect("written");
        std::os::unix::fs::symlink("file", from.join("link")).expect("linked");
        let to = root.path().join("to");
        copy(&from, &to).expect("copied");
        assert_eq!(fs::read_to_string(to.join("file")).expect("there"), "text");
        assert_eq!(fs::read_link(to.join("link")).expect("a link"), Path::new("file"));
    }
}
