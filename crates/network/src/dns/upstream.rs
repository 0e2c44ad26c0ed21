//! Whom the forwarder asks.

use std::net::SocketAddr;
use std::path::PathBuf;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverOpts, ServerOrderingStrategy};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::read_system_conf;
use hickory_server::store::forwarder::{ForwardConfig, ForwardZoneHandler};

use crate::config::DnsConfig;
use crate::error::{NetworkError, Result};

/// Tries per query and server.
const ATTEMPTS: usize = 2;

/// A handler that asks the configured servers, or the host's, and keeps their answers.
pub(super) fn handler(config: &DnsConfig) -> Result<ForwardZoneHandler<TokioRuntimeProvider>> {
    let mut options = ResolverOpts::default();
    options.timeout = config.timeout;
    options.attempts = ATTEMPTS;
    options.cache_size = config.cache_entries;
    options.edns0 = true;
    // The host's own names and addresses are none of a sandbox's business.
    options.use_hosts_file = ResolveHosts::Never;
    options.preserve_intermediates = true;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    let servers = if config.upstreams.is_empty() {
        system_servers()?
    } else {
        config.upstreams.iter().map(server).collect()
    };
    let names: Vec<_> = servers.iter().map(|server| server.ip).collect();
    tracing::info!(upstreams = ?names, "the DNS forwarder asks");
    ForwardZoneHandler::builder_tokio(ForwardConfig {
        name_servers: servers,
        options: Some(options),
    })
    .build()
    .map_err(|detail| NetworkError::Dns { detail })
}

fn system_servers() -> Result<Vec<NameServerConfig>> {
    let none = || NetworkError::NoUpstreams {
        path: PathBuf::from("/etc/resolv.conf"),
    };
    let (config, _) = read_system_conf().map_err(|_| none())?;
    let servers = config.name_servers().to_vec();
    if servers.is_empty() { Err(none()) } else { Ok(servers) }
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = address.port();
    }
    NameServerConfig::new(address.ip(), true, connections)
}
