//! Descriptors that wake a task when they can be read or written.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// A descriptor of the runtime's. It must not block.
pub(crate) type Watched = AsyncFd<OwnedFd>;

/// Hands a descriptor to the runtime.
#[expect(
    deprecated,
    reason = "its successor is unsafe because a type may change its descriptor, which an OwnedFd cannot"
)]
pub(crate) fn watched(fd: OwnedFd) -> io::Result<Watched> {
    AsyncFd::new(fd)
}
