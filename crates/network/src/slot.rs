//! One slot: two namespaces, the rules between them, and the way in.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use tokio::net::TcpStream;

use crate::config::SlotName;
use crate::dial::Dialer;
use crate::error::{NetworkError, Result};

/// The address of `eth0` in every sandbox.
pub const SANDBOX_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 77, 2);
/// The address of every sandbox's gateway, which is also its DNS server.
pub const GATEWAY_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 77, 1);
/// The prefix length that goes with both.
pub const INSIDE_PREFIX_LEN: u8 = 30;

/// A slot in use. Dropping it leaves everything as it is, for [`crate::SlotPool::adopt`]; [`Slot::release`] deletes it.
#[derive(Debug)]
pub struct Slot {
    name: SlotName,
}

impl Slot {
    /// The name to adopt it by later.
    #[must_use]
    pub fn name(&self) -> &SlotName {
        &self.name
    }

    /// The file that holds the sandbox's namespace, for `setns` or an OCI configuration's `linux.namespaces`.
    #[must_use]
    pub fn sandbox_netns(&self) -> &Path {
        Path::new("")
    }

    /// The file that holds the router's namespace.
    #[must_use]
    pub fn router_netns(&self) -> &Path {
        Path::new("")
    }

    /// Whether new connections to the internet are let out.
    #[must_use]
    pub fn internet(&self) -> bool {
        false
    }

    /// Lets new connections to the internet out, or not. Connections that exist go on. Costs nothing when it is
    /// already so.
    ///
    /// # Errors
    /// When `nft` fails; the setting is then unchanged.
    pub async fn set_internet(&self, on: bool) -> Result<()> {
        let _ = on;
        Err(NetworkError::Closed)
    }

    /// A handle that only dials, for the proxy.
    #[must_use]
    pub fn dialer(&self) -> Dialer {
        Dialer {}
    }

    /// Connects to a port of the sandbox: see [`Dialer::connect`].
    ///
    /// # Errors
    /// As [`Dialer::connect`].
    pub async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        self.dialer().connect(port).await
    }

    /// Deletes the slot. Call it when the engine has left the namespace: what still runs there loses its network.
    ///
    /// # Errors
    /// When a piece cannot be removed; [`crate::SlotPool::sweep`] tries again.
    pub async fn release(self) -> Result<()> {
        Err(NetworkError::Closed)
    }
}
