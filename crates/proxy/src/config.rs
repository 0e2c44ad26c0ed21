//! What can be set.

use std::time::Duration;

/// Names and limits of the front. The defaults are the contract's numbers where it has some.
#[derive(Clone, Debug)]
pub struct FrontConfig {
    /// Base domains that are ours, without a leading dot: a host below one of them that names neither the API nor a sandbox is refused.
    /// Without any, such a host is taken for the API's.
    pub domains: Vec<String>,
    /// Most requests and tunnels to one sandbox at a time; more are refused with 429 (contract 4.5).
    pub connections_per_sandbox: usize,
    /// Waits between attempts to connect to a port where nothing listens yet (contract 4.5).
    pub dial_waits: Vec<Duration>,
    /// Longest single attempt to connect.
    pub dial_timeout: Duration,
    /// How long a connection to a sandbox is kept for the next request.
    pub upstream_idle: Duration,
    /// Most client connections at a time; more wait in the listener's backlog.
    pub max_connections: usize,
    /// Longest time a client may take to send the head of a request.
    pub header_timeout: Duration,
    /// How long a client's connection may be without a request (contract 4.5). Requests and tunnels themselves have no deadline.
    pub client_idle: Duration,
    /// How long a shutdown waits for requests in flight.
    pub shutdown_grace: Duration,
}

impl Default for FrontConfig {
    fn default() -> Self {
        Self {
            domains: Vec::new(),
            connections_per_sandbox: 2048,
            dial_waits: [100, 200, 300, 400].map(Duration::from_millis).to_vec(),
            dial_timeout: Duration::from_secs(10),
            upstream_idle: Duration::from_secs(30),
            max_connections: 16_384,
            header_timeout: Duration::from_secs(30),
            client_idle: Duration::from_secs(610),
            shutdown_grace: Duration::from_secs(10),
        }
    }
}
