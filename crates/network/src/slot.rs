//! One slot: two namespaces, the rules between them, and the way in.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::build::Namespaces;
use crate::config::SlotName;
use crate::dial::Dialer;
use crate::error::Result;
use crate::pool::Shared;
use crate::worker::on_thread;
use crate::{firewall, nft};

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
    namespaces: Namespaces,
    shared: Arc<Shared>,
    /// What the router's rules say; unknown after an adoption.
    internet: Mutex<Option<bool>>,
    released: bool,
}

impl Slot {
    pub(crate) fn new(name: SlotName, namespaces: Namespaces, shared: Arc<Shared>, internet: Option<bool>) -> Self {
        Self {
            name,
            namespaces,
            shared,
            internet: Mutex::new(internet),
            released: false,
        }
    }

    /// The name to adopt it by later.
    #[must_use]
    pub fn name(&self) -> &SlotName {
        &self.name
    }

    /// The file that holds the sandbox's namespace, for `setns` or an OCI configuration's `linux.namespaces`.
    #[must_use]
    pub fn sandbox_netns(&self) -> &Path {
        self.namespaces.sandbox.path()
    }

    /// The file that holds the router's namespace.
    #[must_use]
    pub fn router_netns(&self) -> &Path {
        self.namespaces.router.path()
    }

    /// Lets new connections to the internet out, or not. Connections that exist go on. Costs nothing when it is
    /// known to be so already.
    ///
    /// # Errors
    /// When `nft` fails; the setting is then unchanged.
    pub async fn set_internet(&self, on: bool) -> Result<()> {
        // Held over the work, so that two callers' rules and what is noted here come in the same order.
        let mut known = self.internet.lock().await;
        if *known == Some(on) {
            return Ok(());
        }
        // Unknown while it is changed: the future may be dropped half-way.
        *known = None;
        let router = Arc::clone(&self.namespaces.router);
        on_thread(move || {
            router.enter()?;
            nft::apply("change a slot's access to the internet", &firewall::internet_script(on))
        })
        .await?;
        *known = Some(on);
        Ok(())
    }

    /// A handle that only dials, for the proxy.
    #[must_use]
    pub fn dialer(&self) -> Dialer {
        Dialer::new(self.shared.sockets.clone(), &self.namespaces.router)
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
    /// The work goes on when the future is dropped.
    ///
    /// # Errors
    /// When a piece cannot be removed; [`crate::SlotPool::sweep`] tries again.
    pub async fn release(mut self) -> Result<()> {
        self.released = true;
        self.shared.registry().begin_release(&self.name);
        let (shared, name) = (Arc::clone(&self.shared), self.name.clone());
        // Its open handles go first: dialers stop, and the namespaces can end with their mounts.
        drop(self);
        shared.remove(name).await
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.released {
            self.shared.registry().leave(&self.name);
        }
    }
}
