//! Opening the database, and the two ways to reach it: one connection that writes, several that read.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use uuid::Uuid;

use crate::StoreError;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// How long a statement waits for another process (a `dormouse` command next to the daemon) that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a caller waits for a connection of the pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections that read while another one writes.
const READERS: u32 = 4;

/// The statements of one transaction.
pub(crate) type Work<'c, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'c>>;

/// The database. Cheap to clone; one writer at a time, many readers.
///
/// Every method that writes has the change on stable storage when it returns. Dropping its future does not stop a write that has begun;
/// it is done as a whole or not at all.
#[derive(Clone, Debug)]
pub struct Store {
    writer: SqlitePool,
    reader: SqlitePool,
    /// Names this opening of the database: tells the idempotency entries of a crashed daemon from our own.
    pub(crate) daemon: Uuid,
}

impl Store {
    /// Opens or makes the database file and brings it to the current schema. WAL, `synchronous=FULL`.
    ///
    /// The file holds access tokens of sandboxes, so a new one can be read by its owner only (SQLite gives its `-wal` and `-shm` the
    /// same mode).
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let refused = |source| StoreError::Open {
            path: path.display().to_string(),
            source,
        };
        make_private(path).map_err(|error| refused(sqlx::Error::Io(error)))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let writer = pool(1).connect_with(options.clone()).await.map_err(refused)?;
        MIGRATIONS.run(&writer).await.map_err(StoreError::Migrate)?;
        let reader = pool(READERS).connect_with(options.read_only(true)).await.map_err(refused)?;
        Ok(Self {
            writer,
            reader,
            daemon: Uuid::new_v4(),
        })
    }

    /// A database in memory, for tests. Each call makes another one.
    pub async fn in_memory() -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new().in_memory(true).foreign_keys(true);
        // The database lives as long as its connection: exactly one, and never recycled.
        let only = pool(1)
            .min_connections(1)
            .connect_with(options)
            .await
            .map_err(|source| StoreError::Open {
                path: ":memory:".to_owned(),
                source,
            })?;
        MIGRATIONS.run(&only).await.map_err(StoreError::Migrate)?;
        Ok(Self {
            writer: only.clone(),
            reader: only,
            daemon: Uuid::new_v4(),
        })
    }

    /// Waits for what is being written and closes the file. The write-ahead log is folded into the database.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }

    /// Runs `work` in a transaction that holds the write lock from its beginning, so that what it reads cannot change before it writes.
    ///
    /// It runs as a task of its own: sqlx leaves a transaction open for ever when the future that begins it is dropped at the wrong
    /// moment, and every later write on the connection would be part of it, never committed.
    pub(crate) async fn write<T, F>(&self, what: &'static str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> Work<'c, T> + Send + 'static,
    {
        let writer = self.writer.clone();
        let failed = move |source| StoreError::Query { what, source };
        let task = tokio::spawn(async move {
            let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
            let done = work(&mut transaction).await?;
            transaction.commit().await.map_err(failed)?;
            Ok(done)
        });
        // It fails only by a panic, or when the runtime ends.
        task.await.unwrap_or_else(|error| Err(failed(sqlx::Error::Io(error.into()))))
    }

    /// Where single statements read.
    pub(crate) fn reader(&self) -> &SqlitePool {
        &self.reader
    }
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        // A local file's connection does not go stale; a ping before each use would cost every read a thread switch.
        .test_before_acquire(false)
}

fn make_private(path: &Path) -> io::Result<()> {
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}
