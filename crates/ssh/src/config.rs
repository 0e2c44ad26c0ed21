//! What can be set.

use std::time::Duration;

/// Limits of the gateway.
#[derive(Clone, Debug)]
pub struct SshConfig {
    /// How long a connection may take to show a registered key.
    pub login_grace: Duration,
    /// Most connections at a time that have not shown one; more are closed at once.
    pub most_startups: usize,
    /// Most of these from one address.
    pub most_startups_of_one: usize,
    /// Most connections at a time; more wait in the listener's backlog.
    pub most_connections: usize,
    /// Most channels of one connection.
    pub most_channels: usize,
    /// How often a silent client is asked whether it is there. After four questions without an answer it is taken for gone.
    pub keepalive: Duration,
    /// Most keys that a client may offer. People have several in their agents.
    pub most_attempts: usize,
    /// Time that every refusal of a key takes.
    pub rejection_time: Duration,
}

impl Default for SshConfig {
    fn default() -> Self {
        Self {
            login_grace: Duration::from_secs(30),
            most_startups: 128,
            most_startups_of_one: 32,
            most_connections: 4096,
            most_channels: 256,
            keepalive: Duration::from_secs(30),
            most_attempts: 20,
            rejection_time: Duration::from_millis(200),
        }
    }
}
