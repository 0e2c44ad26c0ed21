//! Sandboxes, each written together with the events that tell of the change.

use dormouse_engine::Resources;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::row::{self, Row};
use crate::{Event, SandboxId, SandboxRecord, Store, StoreError, events};

impl Store {
    /// Writes a sandbox (new or changed), with the events that tell of the change, in one transaction. On return it is on disk.
    pub async fn save(&self, sandbox: &SandboxRecord, events: &[Event]) -> Result<(), StoreError> {
        let (sandbox, events) = (sandbox.clone(), events.to_vec());
        self.write("save a sandbox", move |connection| {
            Box::pin(async move {
                upsert(connection, &sandbox).await?;
                events::insert(connection, &events).await
            })
        })
        .await
    }

    /// Removes a sandbox, with the events that tell of it. Removing an unknown one only writes the events.
    pub async fn remove(&self, sandbox: &SandboxId, events: &[Event]) -> Result<(), StoreError> {
        let (sandbox, events) = (sandbox.clone(), events.to_vec());
        self.write("remove a sandbox", move |connection| {
            Box::pin(async move {
                sqlx::query("DELETE FROM sandboxes WHERE id = ?")
                    .bind(sandbox.as_str())
                    .execute(&mut *connection)
                    .await
                    .map_err(|source| StoreError::Query {
                        what: "remove a sandbox",
                        source,
                    })?;
                events::insert(connection, &events).await
            })
        })
        .await
    }

    /// One sandbox, if there is one.
    pub async fn sandbox(&self, id: &SandboxId) -> Result<Option<SandboxRecord>, StoreError> {
        sqlx::query("SELECT * FROM sandboxes WHERE id = ?")
            .bind(id.as_str())
            .fetch_optional(self.reader())
            .await
            .map_err(|source| StoreError::Query {
                what: "read a sandbox",
                source,
            })?
            .as_ref()
            .map(decode)
            .transpose()
    }

    /// Every sandbox; read once at start.
    pub async fn sandboxes(&self) -> Result<Vec<SandboxRecord>, StoreError> {
        sqlx::query("SELECT * FROM sandboxes ORDER BY created_at, id")
            .fetch_all(self.reader())
            .await
            .map_err(|source| StoreError::Query {
                what: "read the sandboxes",
                source,
            })?
            .iter()
            .map(decode)
            .collect()
    }
}

async fn upsert(connection: &mut SqliteConnection, sandbox: &SandboxRecord) -> Result<(), StoreError> {
    let network = match &sandbox.network {
        None => None,
        Some(network) => Some(row::json("sandbox", &sandbox.id, network)?),
    };
    // REPLACE is a delete and an insert; nothing refers to a sandbox's row, so the two are one.
    sqlx::query(
        "INSERT OR REPLACE INTO sandboxes (
            id, team, template, alias, build, state, instance, snapshot, created_at, started_at, end_at, timeout_ns, max_run_ns,
            on_timeout, auto_resume, access_token, traffic_token, allow_internet, network, metadata, env,
            vcpus, memory_mib, disk_mib, pids
        ) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    )
    .bind(sandbox.id.as_str())
    .bind(sandbox.team.to_string())
    .bind(sandbox.template.as_str())
    .bind(sandbox.alias.as_deref())
    .bind(sandbox.build.to_string())
    .bind(sandbox.state.as_str())
    .bind(sandbox.instance.as_ref().map(dormouse_engine::InstanceId::as_str))
    .bind(sandbox.snapshot.as_ref().map(crate::SnapshotId::as_str))
    .bind(row::time(sandbox.created_at))
    .bind(row::time(sandbox.started_at))
    .bind(row::time(sandbox.end_at))
    .bind(sandbox.timeout.map(row::nanos))
    .bind(row::nanos(sandbox.max_run))
    .bind(sandbox.on_timeout.as_str())
    .bind(sandbox.auto_resume)
    .bind(sandbox.access_token.as_deref())
    .bind(sandbox.traffic_token.as_deref())
    .bind(sandbox.allow_internet)
    .bind(network)
    .bind(row::json("sandbox", &sandbox.id, &sandbox.metadata)?)
    .bind(row::json("sandbox", &sandbox.id, &sandbox.env)?)
    .bind(sandbox.resources.vcpus)
    .bind(sandbox.resources.memory_mib)
    .bind(sandbox.resources.disk_mib)
    .bind(sandbox.resources.pids)
    .execute(connection)
    .await
    .map_err(|source| StoreError::Query {
        what: "save a sandbox",
        source,
    })?;
    Ok(())
}

fn decode(row: &SqliteRow) -> Result<SandboxRecord, StoreError> {
    let row = Row::new(row, "sandbox", "id");
    Ok(SandboxRecord {
        id: row.word("id")?,
        team: row.word("team")?,
        template: row.word("template")?,
        alias: row.get("alias")?,
        build: row.word("build")?,
        state: row.word("state")?,
        instance: row.optional_word("instance")?,
        snapshot: row.optional_word("snapshot")?,
        created_at: row.word("created_at")?,
        started_at: row.word("started_at")?,
        end_at: row.word("end_at")?,
        timeout: row.optional_duration("timeout_ns")?,
        max_run: row.duration("max_run_ns")?,
        on_timeout: row.word("on_timeout")?,
        auto_resume: row.get("auto_resume")?,
        access_token: row.get("access_token")?,
        traffic_token: row.get("traffic_token")?,
        allow_internet: row.get("allow_internet")?,
        network: row.optional_json("network")?,
        metadata: row.json("metadata")?,
        env: row.json("env")?,
        resources: resources(&row)?,
    })
}

/// The four columns of a size.
pub(crate) fn resources(row: &Row<'_>) -> Result<Resources, StoreError> {
    Ok(Resources {
        vcpus: row.number("vcpus")?,
        memory_mib: row.number("memory_mib")?,
        disk_mib: row.number("disk_mib")?,
        pids: row.number("pids")?,
    })
}
