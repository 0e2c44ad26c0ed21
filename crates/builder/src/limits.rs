//! What a build may use.

use std::time::Duration;

/// Limits of builds.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Builds at once; the others wait.
    pub concurrent: usize,
    /// Longest run of one command (contract 5.3).
    pub command: Duration,
    /// How long a start command gets until its ready command succeeds (contract 5.3).
    pub ready: Duration,
    /// Pause between two tries of the ready command (contract 5.3).
    pub ready_every: Duration,
    /// Longest run of a whole build.
    pub build: Duration,
    /// Most steps.
    pub steps: usize,
    /// Biggest archive that is taken for COPY, compressed, bytes.
    pub upload: u64,
    /// Most files in one archive.
    pub upload_entries: u64,
    /// What cached layers and archives may take, bytes; the least recently used go first.
    pub cache: u64,
    /// Free space on the host's disk below which no step begins, bytes.
    pub host_free: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            concurrent: 2,
            command: Duration::from_secs(3600),
            ready: Duration::from_secs(600),
            ready_every: Duration::from_secs(2),
            build: Duration::from_secs(6 * 3600),
            steps: 400,
            upload: 4 << 30,
            upload_entries: 1_000_000,
            cache: 32 << 30,
            host_free: 512 << 20,
        }
    }
}
