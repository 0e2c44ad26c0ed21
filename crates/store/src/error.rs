//! What can go wrong with the database.

/// The database refused or could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file could not be opened or is not a database.
    #[error("Cannot open the database {path}")]
    Open {
        /// The database file.
        path: String,
        /// SQLite's own error.
        #[source]
        source: sqlx::Error,
    },
    /// A schema migration failed: the data directory is of a newer version, or damaged.
    #[error("Cannot bring the database to this version")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// A statement failed.
    #[error("Cannot {what}")]
    Query {
        /// What was being done.
        what: &'static str,
        /// SQLite's own error.
        #[source]
        source: sqlx::Error,
    },
    /// A row holds what this version cannot read.
    #[error("The database's {what} `{id}` cannot be read")]
    Corrupt {
        /// The kind of record.
        what: &'static str,
        /// Its id.
        id: String,
        /// What is wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A record holds what the database cannot.
    #[error("The {what} `{id}` cannot be stored")]
    Unstorable {
        /// The kind of record.
        what: &'static str,
        /// Its id.
        id: String,
        /// What is wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
