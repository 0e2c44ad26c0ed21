//! The file that an upload writes (contract 3.3, upload semantics).

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use http::StatusCode;
use rustix::io::Errno;

use crate::failure::Failure;
use crate::filesystem::make_parents;
use crate::filesystem::metadata::{self, Metadata};
use crate::users::User;

/// Opens `path` for writing from the start, with its parents, its owner and its metadata in place.
///
/// A new file is 0644; one that exists keeps its mode. Either belongs to `user` afterwards.
pub(crate) fn create(path: &Path, user: &User, metadata: &Metadata) -> Result<File, Failure> {
    if path.is_dir() {
        return Err(Failure::bad_request(format!("path is a directory: {}", path.display())));
    }
    make_parents(path, user).map_err(|error| match error.kind() {
        io::ErrorKind::NotADirectory => {
            Failure::bad_request(format!("path is below something that is no directory: {}", path.display()))
        }
        _ => Failure::io("creating directory", &error),
    })?;
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o666)
        // A pipe without a reader refuses instead of waiting for ever.
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| Failure::io("opening file", &error))?;
    match std::os::unix::fs::fchown(&file, Some(user.uid), Some(user.gid)) {
        // The kernel's own files can be written but not given away.
        Err(error) if !belongs_to_kernel(&error) => return Err(Failure::io("changing file ownership", &error)),
        _ => {}
    }
    metadata::replace(&file, metadata).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::OPNOTSUPP) => Failure::new(StatusCode::BAD_REQUEST, "the file system of this path cannot store metadata"),
        _ => Failure::io("storing metadata", &error),
    })?;
    Ok(file)
}

fn belongs_to_kernel(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::PERM | Errno::ROFS | Errno::OPNOTSUPP | Errno::INVAL)
    )
}
