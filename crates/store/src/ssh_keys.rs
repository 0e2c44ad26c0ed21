//! Public keys of people who reach their sandboxes by SSH.

use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;

use crate::row::{self, Row};
use crate::{Store, StoreError, TeamId};

/// A registered SSH key. The same key may be registered by several teams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshKeyRecord {
    /// Whose sandboxes it opens.
    pub team: TeamId,
    /// `SHA256:` and the unpadded base64 of the key's hash, as OpenSSH prints it.
    pub fingerprint: String,
    /// What people call it.
    pub name: String,
    /// Algorithm and key in base64, as in an `authorized_keys` file.
    pub public_key: String,
    /// When it was registered.
    pub created_at: Timestamp,
}

impl Store {
    /// Registers a key. False, and nothing is changed, when the team has it already.
    pub async fn add_ssh_key(&self, key: &SshKeyRecord) -> Result<bool, StoreError> {
        let what = "register an SSH key";
        let key = key.clone();
        self.write(what, move |connection| {
            Box::pin(async move {
                let statement =
                    "INSERT OR IGNORE INTO ssh_keys (team, fingerprint, name, public_key, created_at) VALUES (?,?,?,?,?)";
                sqlx::query(statement)
                    .bind(key.team.to_string())
                    .bind(&key.fingerprint)
                    .bind(&key.name)
                    .bind(&key.public_key)
                    .bind(row::time(key.created_at))
                    .execute(connection)
                    .await
                    .map(|done| done.rows_affected() > 0)
                    .map_err(|source| StoreError::Query { what, source })
            })
        })
        .await
    }

    /// The keys of a team, oldest first.
    pub async fn ssh_keys(&self, team: TeamId) -> Result<Vec<SshKeyRecord>, StoreError> {
        sqlx::query("SELECT * FROM ssh_keys WHERE team = ? ORDER BY created_at, fingerprint")
            .bind(team.to_string())
            .fetch_all(self.reader())
            .await
            .map_err(|source| StoreError::Query {
                what: "list the SSH keys",
                source,
            })?
            .iter()
            .map(decode)
            .collect()
    }

    /// The teams that have registered the key with this fingerprint.
    pub async fn teams_of_ssh_key(&self, fingerprint: &str) -> Result<Vec<TeamId>, StoreError> {
        let rows = sqlx::query("SELECT * FROM ssh_keys WHERE fingerprint = ? ORDER BY team")
            .bind(fingerprint)
            .fetch_all(self.reader())
            .await
            .map_err(|source| StoreError::Query {
                what: "look up an SSH key",
                source,
            })?;
        rows.iter().map(|row| decode(row).map(|key| key.team)).collect()
    }

    /// Forgets a team's key; says whether there was one.
    pub async fn delete_ssh_key(&self, team: TeamId, fingerprint: &str) -> Result<bool, StoreError> {
        let what = "forget an SSH key";
        let fingerprint = fingerprint.to_owned();
        self.write(what, move |connection| {
            Box::pin(async move {
                sqlx::query("DELETE FROM ssh_keys WHERE team = ? AND fingerprint = ?")
                    .bind(team.to_string())
                    .bind(fingerprint)
                    .execute(connection)
                    .await
                    .map(|done| done.rows_affected() > 0)
                    .map_err(|source| StoreError::Query { what, source })
            })
        })
        .await
    }
}

fn decode(row: &SqliteRow) -> Result<SshKeyRecord, StoreError> {
    let row = Row::new(row, "SSH key", "fingerprint");
    Ok(SshKeyRecord {
        team: row.word("team")?,
        fingerprint: row.get("fingerprint")?,
        name: row.get("name")?,
        public_key: row.get("public_key")?,
        created_at: row.word("created_at")?,
    })
}
