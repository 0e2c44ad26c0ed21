//! JSON bodies of the agent's REST endpoints (contract 3.3).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Body of every REST error (contract 3.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The HTTP status again: clients look here.
    pub code: u16,
    /// For people.
    pub message: String,
}

/// Answer of `GET /metrics`. Sizes are bytes unless the name says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Unix seconds.
    pub ts: i64,
    /// Processors of the sandbox.
    pub cpu_count: u32,
    /// Share of all processors that was busy since the last question, 0 to 100.
    pub cpu_used_pct: f32,
    /// Memory of the sandbox.
    pub mem_total: u64,
    /// Memory in use, caches left out.
    pub mem_used: u64,
    /// Memory that holds file contents and can be given back.
    pub mem_cache: u64,
    /// `mem_total` in MiB.
    pub mem_total_mib: u64,
    /// `mem_used` in MiB.
    pub mem_used_mib: u64,
    /// Used space on the file system of `/`.
    pub disk_used: u64,
    /// Size of the file system of `/`.
    pub disk_total: u64,
}

/// One element of the answer of `POST /files`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenFile {
    /// Absolute path.
    pub path: String,
    /// Last component of the path.
    pub name: String,
    /// Always `file`.
    pub r#type: WrittenKind,
    /// What was stored with the file. Left out when empty: clients compare the whole object.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// The only kind of thing that an upload makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WrittenKind {
    /// A regular file.
    File,
}

/// Body of `POST /files/compose`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComposeRequest {
    /// Joined in this order, then deleted.
    pub source_paths: Vec<String>,
    /// Where the result goes.
    pub destination: String,
    /// Whose home relative paths start from, and who owns the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
}
