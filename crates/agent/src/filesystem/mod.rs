//! The tree of files: looking, making, moving, removing and watching (contract 3.6).
//!
//! All of it runs as root, as clients expect: permission bits do not keep them from looking. What they make belongs to
//! the user that they name.

mod entry;
mod inotify;
pub(crate) mod metadata;
mod service;
mod tree;
mod walk;
mod watch;
mod watchers;

pub(crate) use entry::entry_info;
pub(crate) use service::FilesystemService;
pub(crate) use tree::make_parents;
pub(crate) use watchers::Watchers;
