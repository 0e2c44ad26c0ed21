//! API keys, by the hash of the key.

use sqlx::sqlite::SqliteRow;

use crate::row::{self, Row};
use crate::{KeyRecord, Store, StoreError, TeamId};

impl Store {
    /// Writes a key, or changes what is known of it.
    pub async fn save_key(&self, key: &KeyRecord) -> Result<(), StoreError> {
        let what = "save a key";
        let key = key.clone();
        self.write(what, move |connection| {
            Box::pin(async move {
                sqlx::query("INSERT OR REPLACE INTO keys (hash, name, team, max_run_ns, created_at) VALUES (?,?,?,?,?)")
                    .bind(&key.hash)
                    .bind(&key.name)
                    .bind(key.team.to_string())
                    .bind(row::nanos(key.max_run))
                    .bind(row::time(key.created_at))
                    .execute(connection)
                    .await
                    .map(drop)
                    .map_err(|source| StoreError::Query { what, source })
            })
        })
        .await
    }

    /// The key with this hash.
    pub async fn key(&self, hash: &str) -> Result<Option<KeyRecord>, StoreError> {
        sqlx::query("SELECT * FROM keys WHERE hash = ?")
            .bind(hash)
            .fetch_optional(self.reader())
            .await
            .map_err(|source| StoreError::Query {
                what: "look up a key",
                source,
            })?
            .as_ref()
            .map(decode)
            .transpose()
    }

    /// The keys of a team, or of all teams, oldest first.
    pub async fn keys(&self, team: Option<TeamId>) -> Result<Vec<KeyRecord>, StoreError> {
        sqlx::query("SELECT * FROM keys WHERE ?1 IS NULL OR team = ?1 ORDER BY created_at, hash")
            .bind(team.map(|team| team.to_string()))
            .fetch_all(self.reader())
            .await
            .map_err(|source| StoreError::Query {
                what: "list the keys",
                source,
            })?
            .iter()
            .map(decode)
            .collect()
    }

    /// Forgets a key; says whether there was one.
    pub async fn delete_key(&self, hash: &str) -> Result<bool, StoreError> {
        let what = "delete a key";
        let hash = hash.to_owned();
        self.write(what, move |connection| {
            Box::pin(async move {
                sqlx::query("DELETE FROM keys WHERE hash = ?")
                    .bind(hash)
                    .execute(connection)
                    .await
                    .map(|done| done.rows_affected() > 0)
                    .map_err(|source| StoreError::Query { what, source })
            })
        })
        .await
    }
}

fn decode(row: &SqliteRow) -> Result<KeyRecord, StoreError> {
    let row = Row::new(row, "key", "hash");
    Ok(KeyRecord {
        hash: row.get("hash")?,
        name: row.get("name")?,
        team: row.word("team")?,
        max_run: row.duration("max_run_ns")?,
        created_at: row.word("created_at")?,
    })
}
