//! Snapshots on disk: immutable directories, made under a temporary name and published by one rename.
//!
//! ```text
//! <dir>/tmp-<id>/   being written; void after a crash
//! <dir>/<id>/       complete; never changed again
//! ```
//!
//! A crash at any point leaves either nothing, a `tmp-` directory that [`SnapshotStore::sweep`] removes, or a complete snapshot. What the
//! engine writes into the directory is its own business, and it has already been synced by the engine when it is published here.
#![forbid(unsafe_code)]

mod snapshots;

pub use self::snapshots::{Draft, LayerError, SnapshotStore};
