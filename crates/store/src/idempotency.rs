//! Answers kept for requests that carry an idempotency key (contract 2.4).
//!
//! ```text
//! begin ──New──► (the work) ──finish──► Replay for 24 h
//!                    │  └─────forget──► as if never asked
//!                    └─ the daemon dies ─► OutcomeUnknown
//! ```

use std::time::Duration;

use jiff::Timestamp;

use crate::row::{self, Row};
use crate::{Store, StoreError, TeamId};

/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// What is known about an idempotency key when a request with it comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Idempotency {
    /// Nothing: the caller does the work, then calls [`Store::finish_idempotent`] or [`Store::forget_idempotent`].
    New,
    /// The same request was answered.
    Replay {
        /// With this status.
        status: u16,
        /// And this body.
        body: Vec<u8>,
    },
    /// The same request is being worked on.
    InProgress,
    /// The key was used for another request.
    Mismatch,
    /// A daemon that is gone began this request, and nobody knows how far it came.
    OutcomeUnknown,
}

impl Store {
    /// Takes an idempotency key of a team for a request, whose content `request` is a hash of. Of several callers exactly one gets
    /// [`Idempotency::New`].
    pub async fn begin_idempotent(&self, team: TeamId, key: &str, request: &[u8]) -> Result<Idempotency, StoreError> {
        self.begin_idempotent_at(team, key, request, Timestamp::now()).await
    }

    /// [`Store::begin_idempotent`] at a given time.
    pub(crate) async fn begin_idempotent_at(
        &self,
        team: TeamId,
        key: &str,
        request: &[u8],
        now: Timestamp,
    ) -> Result<Idempotency, StoreError> {
        let what = "take an idempotency key";
        let (daemon, team, key, request) = (self.daemon.to_string(), team.to_string(), key.to_owned(), request.to_vec());
        self.write(what, move |connection| {
            Box::pin(async move {
                let failed = |source| StoreError::Query { what, source };
                sqlx::query("DELETE FROM idempotency WHERE started_at < ?")
                    .bind(row::time(now.saturating_sub(KEPT).unwrap_or(Timestamp::MIN)))
                    .execute(&mut *connection)
                    .await
                    .map_err(failed)?;
                let inserted = sqlx::query(
                    "INSERT INTO idempotency (team, key, request, daemon, started_at) VALUES (?,?,?,?,?) ON CONFLICT DO NOTHING",
                )
                .bind(&team)
                .bind(&key)
                .bind(&request)
                .bind(&daemon)
                .bind(row::time(now))
                .execute(&mut *connection)
                .await
                .map_err(failed)?;
                if inserted.rows_affected() == 1 {
                    return Ok(Idempotency::New);
                }
                let found = sqlx::query("SELECT key, request, daemon, status, body FROM idempotency WHERE team = ? AND key = ?")
                    .bind(team)
                    .bind(key)
                    .fetch_one(connection)
                    .await
                    .map_err(failed)?;
                judge(&Row::new(&found, "idempotency key", "key"), &request, &daemon)
            })
        })
        .await
    }

    /// Keeps the answer for requests that repeat.
    pub async fn finish_idempotent(&self, team: TeamId, key: &str, status: u16, body: &[u8]) -> Result<(), StoreError> {
        let what = "keep an answer";
        let (key, body) = (key.to_owned(), body.to_vec());
        self.write(what, move |connection| {
            Box::pin(async move {
                sqlx::query("UPDATE idempotency SET status = ?, body = ? WHERE team = ? AND key = ?")
                    .bind(status)
                    .bind(body)
                    .bind(team.to_string())
                    .bind(key)
                    .execute(connection)
                    .await
                    .map(drop)
                    .map_err(|source| StoreError::Query { what, source })
            })
        })
        .await
    }

    /// Gives an idempotency key back: the work failed and left nothing, so a repeated request may try again.
    pub async fn forget_idempotent(&self, team: TeamId, key: &str) -> Result<(), StoreError> {
        let what = "give an idempotency key back";
        let key = key.to_owned();
        self.write(what, move |connection| {
            Box::pin(async move {
                sqlx::query("DELETE FROM idempotency WHERE team = ? AND key = ? AND status IS NULL")
                    .bind(team.to_string())
                    .bind(key)
                    .execute(connection)
                    .await
                    .map(drop)
                    .map_err(|source| StoreError::Query { what, source })
            })
        })
        .await
    }
}

fn judge(row: &Row<'_>, request: &[u8], daemon: &str) -> Result<Idempotency, StoreError> {
    if row.get::<Vec<u8>>("request")? != request {
        return Ok(Idempotency::Mismatch);
    }
    if row.get::<Option<i64>>("status")?.is_some() {
        return Ok(Idempotency::Replay {
            status: row.number("status")?,
            body: row.get::<Option<Vec<u8>>>("body")?.unwrap_or_default(),
        });
    }
    if row.get::<&str>("daemon")? == daemon {
        Ok(Idempotency::InProgress)
    } else {
        Ok(Idempotency::OutcomeUnknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_is_kept_for_a_day() {
        let store = Store::in_memory().await.unwrap();
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let at = |hours: i64| start + Duration::from_secs(u64::try_from(hours * 3600).unwrap());
        let begin = async |hours| {
            store
                .begin_idempotent_at(TeamId::FIRST, "k", b"one", at(hours))
                .await
                .unwrap()
        };
        assert_eq!(begin(0).await, Idempotency::New);
        store.finish_idempotent(TeamId::FIRST, "k", 201, b"x").await.unwrap();
        assert!(matches!(begin(24).await, Idempotency::Replay { status: 201, .. }));
        assert_eq!(begin(25).await, Idempotency::New);
    }
}
