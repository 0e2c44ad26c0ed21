//! Between rows and records. Every failure names the record, so that a damaged row can be found and removed by hand.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer as _};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::StoreError;

/// A row with the name of what it holds.
pub(crate) struct Row<'r> {
    row: &'r SqliteRow,
    what: &'static str,
    id: String,
}

impl<'r> Row<'r> {
    /// A row of a `what`, whose id is in the column `key`.
    pub(crate) fn new(row: &'r SqliteRow, what: &'static str, key: &str) -> Self {
        let id = row.try_get::<String, _>(key).unwrap_or_else(|_| "?".to_owned());
        Self { row, what, id }
    }

    fn corrupt(&self, column: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
        let source: Box<dyn std::error::Error + Send + Sync> = source.into();
        StoreError::Corrupt {
            what: self.what,
            id: self.id.clone(),
            source: format!("column {column}: {source}").into(),
        }
    }

    /// A column as it is.
    pub(crate) fn get<T>(&self, column: &str) -> Result<T, StoreError>
    where
        T: sqlx::Type<sqlx::Sqlite> + sqlx::Decode<'r, sqlx::Sqlite>,
    {
        self.row.try_get(column).map_err(|error| self.corrupt(column, error))
    }

    /// A number that may be smaller than SQLite's 64 bits.
    pub(crate) fn number<T: TryFrom<i64, Error: std::error::Error + Send + Sync + 'static>>(
        &self,
        column: &str,
    ) -> Result<T, StoreError> {
        T::try_from(self.get::<i64>(column)?).map_err(|error| self.corrupt(column, error))
    }

    /// A text that stands for something: an id, a time, a word of an enumeration.
    pub(crate) fn word<T: DeserializeOwned>(&self, column: &str) -> Result<T, StoreError> {
        let text: &str = self.get(column)?;
        self.parse(column, text)
    }

    /// The same, or nothing.
    pub(crate) fn optional_word<T: DeserializeOwned>(&self, column: &str) -> Result<Option<T>, StoreError> {
        let text: Option<&str> = self.get(column)?;
        text.map(|text| self.parse(column, text)).transpose()
    }

    fn parse<T: DeserializeOwned>(&self, column: &str, text: &str) -> Result<T, StoreError> {
        let reader: StrDeserializer<'_, ValueError> = text.into_deserializer();
        T::deserialize(reader).map_err(|error| self.corrupt(column, error))
    }

    /// A duration in nanoseconds.
    pub(crate) fn duration(&self, column: &str) -> Result<Duration, StoreError> {
        Ok(Duration::from_nanos(self.number::<u64>(column)?))
    }

    /// The same, or nothing.
    pub(crate) fn optional_duration(&self, column: &str) -> Result<Option<Duration>, StoreError> {
        match self.get::<Option<i64>>(column)? {
            None => Ok(None),
            Some(_) => self.duration(column).map(Some),
        }
    }

    /// A JSON column.
    pub(crate) fn json<T: DeserializeOwned>(&self, column: &str) -> Result<T, StoreError> {
        serde_json::from_str(self.get(column)?).map_err(|error| self.corrupt(column, error))
    }

    /// The same, or nothing.
    pub(crate) fn optional_json<T: DeserializeOwned>(&self, column: &str) -> Result<Option<T>, StoreError> {
        let text: Option<&str> = self.get(column)?;
        text.map(|text| serde_json::from_str(text).map_err(|error| self.corrupt(column, error)))
            .transpose()
    }
}

/// A time as a column: of fixed width, so that text order is time order.
pub(crate) fn time(at: Timestamp) -> String {
    format!("{at:.9}")
}

/// A duration as a column. More than SQLite can hold (292 years) is as good as for ever.
pub(crate) fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// A value as a JSON column of the `what` named `id`.
pub(crate) fn json<T: Serialize>(what: &'static str, id: &impl ToString, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|source| StoreError::Unstorable {
        what,
        id: id.to_string(),
        source: source.into(),
    })
}
