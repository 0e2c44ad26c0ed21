//! Durable metadata: what must survive the daemon, in SQLite.
//!
//! [`Store`] is the only door; SQL does not leave this crate. Records (`records`) are plain data, ids (`ids`) are typed. A change of a
//! sandbox and the event that tells of it are written in one transaction ([`Store::save`], [`Store::remove`]), so neither is ever seen
//! without the other after a crash.
#![forbid(unsafe_code)]

mod error;
mod ids;
mod records;
mod sandboxes;

pub use self::error::StoreError;
pub use self::ids::{BuildId, InvalidId, SandboxId, SnapshotId, TeamId, TemplateId};
pub use self::records::{
    BuildRecord, Event, EventKind, KeyRecord, NetworkConfig, OnTimeout, SandboxRecord, SandboxState, TemplateRecord,
};
pub use self::sandboxes::Store;
