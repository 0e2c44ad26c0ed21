//! TXT records that come and go while the responder runs.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// TXT records by lower-case name. Cheap to clone; all clones are the same records.
#[derive(Clone, Debug, Default)]
pub struct TxtRecords {
    records: Arc<RwLock<HashMap<String, Vec<String>>>>,
}

impl TxtRecords {
    /// Adds a value (at most 255 bytes) to those of a name.
    pub fn add(&self, name: &str, value: &str) {
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        records.entry(key(name)).or_default().push(value.to_owned());
    }

    /// Takes one such value away.
    pub fn remove(&self, name: &str, value: &str) {
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        let Some(values) = records.get_mut(&key(name)) else { return };
        if let Some(at) = values.iter().position(|known| known == value) {
            values.remove(at);
        }
        if values.is_empty() {
            records.remove(&key(name));
        }
    }

    pub(crate) fn get(&self, name: &str) -> Vec<String> {
        let records = self.records.read().unwrap_or_else(PoisonError::into_inner);
        records.get(&key(name)).cloned().unwrap_or_default()
    }
}

fn key(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}
