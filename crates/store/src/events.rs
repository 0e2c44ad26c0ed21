//! Lifecycle events: an append-only log, pruned by age.

use jiff::Timestamp;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{QueryBuilder, Sqlite};

use crate::row::{self, Row};
use crate::{Event, EventKind, SandboxId, Store, StoreError, TeamId};

/// Which events to read (contract 4.9).
#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    /// Of one sandbox, or of all.
    pub sandbox: Option<SandboxId>,
    /// Of these kinds; empty for all.
    pub kinds: Vec<EventKind>,
    /// How many to skip.
    pub offset: u32,
    /// How many at most.
    pub limit: u32,
    /// Oldest first instead of newest first.
    pub oldest_first: bool,
}

impl Store {
    /// Events of a team, newest first, at most `limit`.
    pub async fn events(&self, team: TeamId, sandbox: Option<&SandboxId>, limit: u32) -> Result<Vec<Event>, StoreError> {
        let query = EventQuery {
            sandbox: sandbox.cloned(),
            limit,
            ..EventQuery::default()
        };
        self.query_events(team, &query).await
    }

    /// Events of a team that match. Those of one transaction are in the order in which they were given.
    pub async fn query_events(&self, team: TeamId, query: &EventQuery) -> Result<Vec<Event>, StoreError> {
        let mut sql = QueryBuilder::<Sqlite>::new("SELECT * FROM events WHERE team = ");
        sql.push_bind(team.to_string());
        if let Some(sandbox) = &query.sandbox {
            sql.push(" AND sandbox = ").push_bind(sandbox.as_str().to_owned());
        }
        if !query.kinds.is_empty() {
            let mut kinds = sql.push(" AND kind IN (").separated(", ");
            for kind in &query.kinds {
                kinds.push_bind(kind.as_str());
            }
            sql.push(")");
        }
        sql.push(if query.oldest_first {
            " ORDER BY seq ASC LIMIT "
        } else {
            " ORDER BY seq DESC LIMIT "
        });
        sql.push_bind(query.limit).push(" OFFSET ").push_bind(query.offset);
        sql.build()
            .fetch_all(self.reader())
            .await
            .map_err(|source| StoreError::Query {
                what: "read events",
                source,
            })?
            .iter()
            .map(decode)
            .collect()
    }

    /// Forgets the events before a moment; says how many there were.
    pub async fn prune_events(&self, before: Timestamp) -> Result<u64, StoreError> {
        let what = "prune events";
        self.write(what, move |connection| {
            Box::pin(async move {
                sqlx::query("DELETE FROM events WHERE at < ?")
                    .bind(row::time(before))
                    .execute(connection)
                    .await
                    .map(|done| done.rows_affected())
                    .map_err(|source| StoreError::Query { what, source })
            })
        })
        .await
    }
}

/// Appends events within the transaction that makes them true.
pub(crate) async fn insert(connection: &mut SqliteConnection, events: &[Event]) -> Result<(), StoreError> {
    for event in events {
        sqlx::query("INSERT INTO events (id, kind, at, sandbox, team, template, build, data) VALUES (?,?,?,?,?,?,?,?)")
            .bind(event.id.to_string())
            .bind(event.kind.as_str())
            .bind(row::time(event.at))
            .bind(event.sandbox.as_str())
            .bind(event.team.to_string())
            .bind(event.template.as_str())
            .bind(event.build.to_string())
            .bind(row::json("event", &event.id, &event.data)?)
            .execute(&mut *connection)
            .await
            .map_err(|source| StoreError::Query {
                what: "write an event",
                source,
            })?;
    }
    Ok(())
}

fn decode(row: &SqliteRow) -> Result<Event, StoreError> {
    let row = Row::new(row, "event", "id");
    Ok(Event {
        id: row.word("id")?,
        kind: row.word("kind")?,
        at: row.word("at")?,
        sandbox: row.word("sandbox")?,
        team: row.word("team")?,
        template: row.word("template")?,
        build: row.word("build")?,
        data: row.json("data")?,
    })
}
