//! The store itself. To be filled.

use std::path::Path;

use crate::{BuildRecord, Event, KeyRecord, SandboxId, SandboxRecord, StoreError, TeamId, TemplateRecord};

/// The database. Cheap to clone; one writer at a time, many readers.
#[derive(Clone, Debug)]
pub struct Store {}

#[allow(clippy::unused_async, unused_variables, missing_docs, clippy::unimplemented)]
impl Store {
    /// Opens or makes the database file and brings it to the current schema. WAL, `synchronous=FULL`.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        unimplemented!()
    }

    /// A database in memory, for tests.
    pub async fn in_memory() -> Result<Self, StoreError> {
        unimplemented!()
    }

    /// Writes a sandbox (new or changed), with the events that tell of the change, in one transaction. On return it is on disk.
    pub async fn save(&self, sandbox: &SandboxRecord, events: &[Event]) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Removes a sandbox, with the events that tell of it.
    pub async fn remove(&self, sandbox: &SandboxId, events: &[Event]) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Every sandbox; read once at start.
    pub async fn sandboxes(&self) -> Result<Vec<SandboxRecord>, StoreError> {
        unimplemented!()
    }

    /// Events of a team, newest first, at most `limit`.
    pub async fn events(&self, team: TeamId, sandbox: Option<&SandboxId>, limit: u32) -> Result<Vec<Event>, StoreError> {
        unimplemented!()
    }

    pub async fn save_key(&self, key: &KeyRecord) -> Result<(), StoreError> {
        unimplemented!()
    }

    pub async fn key(&self, hash: &str) -> Result<Option<KeyRecord>, StoreError> {
        unimplemented!()
    }

    /// Writes a template with one more build, and points the tag at the build.
    pub async fn save_build(&self, template: &TemplateRecord, build: &BuildRecord, tag: &str) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// The template that a reference names for a team: by id, by alias of its own, by public alias (contract 4.1).
    pub async fn template(&self, team: TeamId, id_or_alias: &str) -> Result<Option<TemplateRecord>, StoreError> {
        unimplemented!()
    }

    /// The build that a template's tag points at.
    pub async fn tagged_build(&self, template: &TemplateRecord, tag: &str) -> Result<Option<BuildRecord>, StoreError> {
        unimplemented!()
    }

    /// A build by id.
    pub async fn build(&self, id: crate::BuildId) -> Result<Option<BuildRecord>, StoreError> {
        unimplemented!()
    }

    /// Every build; read at start for the sweep of snapshots and trees, and for the warm pool.
    pub async fn builds(&self) -> Result<Vec<BuildRecord>, StoreError> {
        unimplemented!()
    }
}
