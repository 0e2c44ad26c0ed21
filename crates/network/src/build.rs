//! Makes a slot out of nothing, and nothing out of a slot. Blocking.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{Prefix, SlotName};
use crate::error::{NetworkError, Result};
use crate::firewall::RouterRules;
use crate::host::{self, Host, uplink_device, uplink_device_index};
use crate::link::{Links, VethEnd};
use crate::netns::{self, Netns};
use crate::slot::{GATEWAY_ADDRESS, INSIDE_PREFIX_LEN, SANDBOX_ADDRESS};
use crate::{nft, sysctl};

/// The same hardware addresses in every slot: a snapshot's neighbour cache stays true wherever it wakes.
const GATEWAY_MAC: [u8; 6] = [0x02, 0x64, 0x6d, 0, 0, 1];
const SANDBOX_MAC: [u8; 6] = [0x02, 0x64, 0x6d, 0, 0, 2];

/// The two namespaces of a slot.
#[derive(Debug)]
pub(crate) struct Namespaces {
    pub(crate) sandbox: Netns,
    pub(crate) router: Arc<Netns>,
}

/// Where the handles of a slot's namespaces are.
#[derive(Debug)]
pub(crate) struct Paths {
    sandbox: PathBuf,
    router: PathBuf,
}

impl Paths {
    pub(crate) fn new(dir: &Path, name: &SlotName) -> Self {
        Self {
            sandbox: dir.join(format!("{name}.sandbox")),
            router: dir.join(format!("{name}.router")),
        }
    }

    /// Opens an existing slot.
    pub(crate) fn open(self, name: &SlotName) -> Result<Namespaces> {
        let missing = |path: &Path| NetworkError::NoSuchSlot {
            name: name.to_string(),
            missing: path.display().to_string(),
        };
        let lost_sandbox = missing(&self.sandbox);
        let lost_router = missing(&self.router);
        let sandbox = Netns::open(self.sandbox)?.ok_or(lost_sandbox)?;
        let router = Netns::open(self.router)?.ok_or(lost_router)?;
        Ok(Namespaces {
            sandbox,
            router: Arc::new(router),
        })
    }
}

/// What a slot is made from.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) host: Arc<Host>,
    pub(crate) prefix: Prefix,
    /// The directory of namespace handles.
    pub(crate) dir: PathBuf,
}

impl Plan {
    /// Makes a slot, with or without a way to the internet. On failure nothing of it stays. The calling thread ends up
    /// in another namespace.
    pub(crate) fn create(&self, name: &SlotName, internet: bool) -> Result<Namespaces> {
        self.assemble(name, internet).inspect_err(|_| {
            let cleaned = netns::enter(&self.host.netns)
                .map_err(|e| NetworkError::system("return to the host's namespace", e))
                .and_then(|()| self.destroy(name));
            if let Err(error) = cleaned {
                tracing::warn!(slot = %name, %error, "a slot that could not be made was not cleaned up");
            }
        })
    }

    fn assemble(&self, name: &SlotName, internet: bool) -> Result<Namespaces> {
        let device = uplink_device(&self.prefix, name.index());
        let (host_address, router_address) = self.host.uplink(name.index());
        let paths = Paths::new(&self.dir, name);
        let host = Links::open()?;
        let host_addresses: Vec<Ipv4Addr> = host.addresses()?.iter().map(|address| address.net.addr()).collect();

        let sandbox = Netns::create(paths.sandbox)?;
        sysctl::disable_ipv6()?;
        let inner = Links::open()?;
        inner.set_up(inner.index("lo")?)?;

        let router = Netns::create(paths.router)?;
        // `nft` takes as long as all the rest, and its rules know devices by name only: let it run alongside.
        let rules = RouterRules {
            dns: self.host.dns,
            uplinks: self.host.block,
            host: &host_addresses,
            internet,
            max_connections: self.host.max_connections,
        };
        let rules = nft::start("set up a slot's rules", &rules.script())?;
        let linked = self.link_router(&sandbox, &device, router_address);
        // Waited for in any case: a child left alone would stay as a zombie.
        rules.finish()?;
        linked?;

        let eth0 = inner.index("eth0")?;
        inner.add_address(eth0, SANDBOX_ADDRESS, INSIDE_PREFIX_LEN)?;
        inner.set_up(eth0)?;
        inner.add_default_route(GATEWAY_ADDRESS)?;
        let near = host.index(&device)?;
        host.add_address(near, host_address, 31)?;
        host.set_up(near)?;
        Ok(Namespaces {
            sandbox,
            router: Arc::new(router),
        })
    }

    /// In the router's namespace: both of its devices, their addresses, the way out.
    fn link_router(&self, sandbox: &Netns, device: &str, uplink: Ipv4Addr) -> Result<()> {
        sysctl::disable_ipv6()?;
        // New namespaces start with the host's values, so each one that matters is set. Strict reverse-path checks
        // keep invented source addresses inside.
        sysctl::set("ipv4/conf/all/rp_filter", "1")?;
        sysctl::set("ipv4/conf/default/rp_filter", "1")?;
        sysctl::set("ipv4/conf/all/accept_local", "0")?;
        sysctl::set("ipv4/conf/all/send_redirects", "0")?;
        sysctl::set("ipv4/conf/default/send_redirects", "0")?;
        sysctl::set("ipv4/ip_forward", "1")?;
        let links = Links::open()?;
        let mtu = self.host.mtu;
        links.add_veth(
            VethEnd {
                name: "gw",
                netns: None,
                mac: Some(GATEWAY_MAC),
            },
            VethEnd {
                name: "eth0",
                netns: Some(sandbox.fd().as_fd()),
                mac: Some(SANDBOX_MAC),
            },
            mtu,
        )?;
        links.add_address(links.index("gw")?, GATEWAY_ADDRESS, INSIDE_PREFIX_LEN)?;
        links.add_veth(
            VethEnd {
                name: "up",
                netns: None,
                mac: None,
            },
            VethEnd {
                name: device,
                netns: Some(self.host.netns.as_fd()),
                mac: None,
            },
            mtu,
        )?;
        links.add_address(links.index("up")?, uplink, 31)?;
        links.add_default_route(Ipv4Addr::from(u32::from(uplink) - 1))
    }

    /// Removes a slot, as much of it as there is. In the host's namespace.
    pub(crate) fn destroy(&self, name: &SlotName) -> Result<()> {
        // The device goes by its own request: the namespaces end only when the last process and socket in them does.
        let device = Links::open().and_then(|links| links.delete(&uplink_device(&self.prefix, name.index())));
        let handles = remove_handles(&self.dir, name);
        device.and(handles)
    }

    /// The names of all slots of this daemon with at least one namespace handle, and all indexes with a device.
    pub(crate) fn list(&self) -> Result<(Vec<SlotName>, Vec<u16>)> {
        remains(&self.prefix, &self.dir)
    }

    /// Removes what is on the host besides slots.
    pub(crate) fn leave_host(&self) -> Result<()> {
        host::uninstall(&self.prefix)?;
        netns::remove_dir(&self.dir)
    }

    /// Removes the host's device of an index that no slot has.
    pub(crate) fn destroy_device(&self, index: u16) -> Result<bool> {
        Links::open()?.delete(&uplink_device(&self.prefix, index))
    }
}

/// The names of all slots with this prefix that have a namespace handle in `dir`, and all indexes with a device.
pub(crate) fn remains(prefix: &Prefix, dir: &Path) -> Result<(Vec<SlotName>, Vec<u16>)> {
    let failed = |e| NetworkError::system(format!("list {}", dir.display()), e);
    let mut names = Vec::new();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>().map_err(failed)?,
        // It goes with the last slot.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(failed(e)),
    };
    for entry in entries {
        let file = entry.file_name();
        let stem = file.to_str().and_then(|file| file.rsplit_once('.')).map(|(stem, _)| stem);
        // Another data directory may use the same run directory.
        let name = stem
            .and_then(|stem| stem.parse::<SlotName>().ok())
            .filter(|name| name.has_prefix(prefix));
        names.extend(name);
    }
    names.sort();
    names.dedup();
    let links = Links::open()?.links()?;
    let indexes = links
        .iter()
        .filter_map(|link| uplink_device_index(prefix, &link.name))
        .collect();
    Ok((names, indexes))
}

/// Removes the handles of a slot's namespaces.
pub(crate) fn remove_handles(dir: &Path, name: &SlotName) -> Result<()> {
    let paths = Paths::new(dir, name);
    let router = netns::remove(&paths.router);
    let sandbox = netns::remove(&paths.sandbox);
    router.and(sandbox)
}
