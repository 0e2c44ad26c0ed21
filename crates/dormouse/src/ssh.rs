//! The SSH gateway of `dormouse serve`.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use dormouse_ssh::{Gateway, HostKey, SshConfig};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::client::reachable;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::host::Host;

/// The listener, bound, and the host key.
#[derive(Debug)]
pub(crate) struct SshListener {
    listener: TcpListener,
    address: SocketAddr,
    host_key: HostKey,
}

impl SshListener {
    /// Binds the configured address; `None` when SSH is off. The first time a host key is made.
    pub(crate) async fn open(config: &Config, data: &DataDir) -> anyhow::Result<Option<Self>> {
        let Some(address) = config.ssh_listen else { return Ok(None) };
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("Cannot listen for SSH on {address}"))?;
        Ok(Some(Self {
            address: listener.local_addr()?,
            listener,
            host_key: HostKey::load_or_make(&data.ssh_host_key())?,
        }))
    }

    /// The address that clients on this host can use.
    pub(crate) fn address(&self) -> String {
        reachable(self.address).to_string()
    }

    /// The host key's fingerprint.
    pub(crate) fn fingerprint(&self) -> String {
        self.host_key.fingerprint()
    }

    /// Serves until `stop`.
    pub(crate) fn serve(self, host: &Host, stop: CancellationToken) -> impl Future<Output = io::Result<()>> + Send + use<> {
        let gateway = Gateway {
            control: Arc::clone(&host.control),
            store: host.store.clone(),
            host_key: self.host_key,
            config: SshConfig::default(),
        };
        dormouse_ssh::serve(self.listener, gateway, stop)
    }
}
