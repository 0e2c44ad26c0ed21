//! Durable metadata: what must survive the daemon, in SQLite.
//!
//! [`Store`] is the only door; SQL does not leave this crate. Records (`records`) are plain data, ids (`ids`) are typed. A change of a
//! sandbox and the event that tells of it are written in one transaction ([`Store::save`], [`Store::remove`]), so neither is ever seen
//! without the other after a crash.
#![forbid(unsafe_code)]

mod build_jobs;
mod database;
mod error;
mod events;
mod idempotency;
mod ids;
mod keys;
mod records;
mod row;
mod sandboxes;
mod ssh_keys;
mod tags;
mod templates;

pub use self::build_jobs::{BuildJob, BuildStatus, NewBuild, StartedBuild};
pub use self::database::Store;
pub use self::error::StoreError;
pub use self::events::EventQuery;
pub use self::idempotency::Idempotency;
pub use self::ids::{BuildId, InvalidId, SandboxId, SnapshotId, TeamId, TemplateId};
pub use self::records::{
    BuildRecord, Event, EventKind, KeyRecord, NetworkConfig, OnTimeout, SandboxRecord, SandboxState, TemplateRecord,
};
pub use self::ssh_keys::SshKeyRecord;
pub use self::tags::{DeletedTemplate, TagRecord};
pub use self::templates::{DEFAULT_TAG, NewestBuild, TemplateSummary};
