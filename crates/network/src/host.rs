//! What one daemon has on the host besides its slots: a block of addresses, the forwarder's device, rules.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;

use ipnet::Ipv4Net;
use nix::fcntl::{Flock, FlockArg};

use crate::config::{NetworkConfig, Prefix};
use crate::error::{NetworkError, Result};
use crate::firewall::{HostRules, counting_probe, host_removal_script};
use crate::link::{Address, Link, Links, Route, VethEnd};
use crate::owner::{self, Gone, Owner};
use crate::{build, foreign, netns, nft, sysctl};

/// Held while a daemon chooses its addresses: two that start at once must not choose the same.
const LOCK: &str = "/run/dormouse-network.lock";
/// Prefix length of the block that one daemon claims.
const BLOCK_LEN: u8 = 20;
/// Pairs of addresses in a block, less the one that holds the forwarder's address.
pub(crate) const MAX_SLOTS: u16 = (1 << (31 - BLOCK_LEN)) - 1;
/// Taken when the host has no default route.
const DEFAULT_MTU: u32 = 1500;

/// The host as slots see it.
#[derive(Debug)]
pub(crate) struct Host {
    /// All uplink addresses of this daemon.
    pub(crate) block: Ipv4Net,
    /// The forwarder's address.
    pub(crate) dns: Ipv4Addr,
    /// Largest packet on the way out, in bytes.
    pub(crate) mtu: u32,
    /// How many connections each slot may have tracked; `None` where the kernel cannot count them.
    pub(crate) max_connections: Option<u32>,
    /// The host's namespace.
    pub(crate) netns: OwnedFd,
    /// Says that this daemon lives.
    _owner: Option<Owner>,
}

impl Host {
    /// Claims a block of addresses and puts the forwarder's address on the host; finds what is there from before.
    ///
    /// Blocking; in the host's namespace.
    pub(crate) fn prepare(config: &NetworkConfig) -> Result<Self> {
        let _lock = lock()?;
        reclaim(&config.prefix);
        let owner = owner::enter(config)?;
        let links = Links::open()?;
        let (all, addresses, routes) = (links.links()?, links.addresses()?, links.routes()?);
        let device = dns_device(&config.prefix);
        let existing = all.iter().find(|link| link.name == device).map(|link| link.index);
        let claimed = existing.and_then(|index| addresses.iter().find(|address| address.link == index));
        let block = match claimed {
            // Slots of an earlier daemon live there, so it outlives a change of the configuration.
            Some(address) => block_of(address.net.addr()),
            None => choose_block(&config.ranges, &addresses, &routes)?,
        };
        let dns = dns_address(block);
        let index = match existing {
            Some(index) => index,
            None => {
                // Only the address counts. A pair of which nobody uses the other end, because a slot needs pairs
                // anyway, and not every kernel has dummy devices.
                let spare = format!("{}e", config.prefix);
                let end = |name| VethEnd {
                    name,
                    netns: None,
                    mac: None,
                };
                links.add_veth(end(&device), end(&spare), DEFAULT_MTU)?;
                links.index(&device)?
            }
        };
        if claimed.is_none() {
            links.add_address(index, dns, 32)?;
        }
        links.set_up(index)?;
        if sysctl::set("ipv4/ip_forward", "1")? {
            tracing::info!("turned net.ipv4.ip_forward on");
        }
        let mtu = config.mtu.unwrap_or_else(|| outgoing_mtu(&all, &routes));
        let counts = nft::would_apply(&counting_probe(&config.prefix))?;
        if !counts {
            tracing::warn!("this kernel cannot limit a sandbox's connections (hint: it needs nft_connlimit)");
        }
        Ok(Self {
            block,
            dns,
            mtu,
            max_connections: counts.then_some(config.max_connections),
            netns: netns::current()?,
            _owner: owner,
        })
    }

    /// Puts this daemon's rules in place, in exchange for those from before.
    pub(crate) fn apply_rules(&self, prefix: &Prefix, udp: SocketAddr, tcp: SocketAddr) -> Result<()> {
        let rules = HostRules {
            prefix,
            uplinks: self.block,
            dns: self.dns,
            dns_udp_port: udp.port(),
            dns_tcp_port: tcp.port(),
        };
        nft::apply("set up the host's rules", &rules.script())?;
        foreign::let_pass(prefix);
        Ok(())
    }

    /// Both ends of the uplink with this index: the host's and the router's.
    pub(crate) fn uplink(&self, index: u16) -> (Ipv4Addr, Ipv4Addr) {
        let base = u32::from(self.block.network()) + 2 * u32::from(index);
        (Ipv4Addr::from(base), Ipv4Addr::from(base + 1))
    }

    /// The index of the uplink that an address belongs to.
    pub(crate) fn uplink_index(&self, address: Ipv4Addr) -> Option<u16> {
        if !self.block.contains(&address) {
            return None;
        }
        u16::try_from((u32::from(address) - u32::from(self.block.network())) / 2).ok()
    }
}

/// Removes what [`Host::prepare`] and [`Host::apply_rules`] made, other than the setting that lets the host forward:
/// others may rely on it by now.
pub(crate) fn uninstall(prefix: &Prefix) -> Result<()> {
    let _lock = lock()?;
    remove(prefix)?;
    owner::leave(prefix);
    Ok(())
}

/// The caller holds the lock.
fn remove(prefix: &Prefix) -> Result<()> {
    foreign::forget(prefix);
    nft::apply("remove the host's rules", &host_removal_script(prefix))?;
    Links::open()?.delete(&dns_device(prefix))?;
    Ok(())
}

/// Removes everything of daemons that are dead and whose data directory is gone. Best effort: what stays is tried again by the next start.
fn reclaim(mine: &Prefix) {
    for gone in owner::gone(mine) {
        let prefix = gone.prefix.clone();
        match reclaim_from(gone) {
            Ok(()) => tracing::info!(%prefix, "took back the addresses of a daemon that is gone with its data directory"),
            Err(error) => tracing::warn!(%prefix, %error, "what a daemon left that is gone could not be removed"),
        }
    }
}

fn reclaim_from(gone: Gone) -> Result<()> {
    let handles = gone.run_dir.join("netns");
    let (names, indexes) = build::remains(&gone.prefix, &handles)?;
    let links = Links::open()?;
    for index in indexes {
        links.delete(&uplink_device(&gone.prefix, index))?;
    }
    for name in names {
        build::remove_handles(&handles, &name)?;
    }
    remove(&gone.prefix)?;
    netns::remove_dir(&handles)?;
    gone.forget()
}

/// The host's device of a slot. Its first part is what the host's rules match.
pub(crate) fn uplink_device(prefix: &Prefix, index: u16) -> String {
    format!("{prefix}x{index:04x}")
}

/// The slot index that a device's name tells, if it is one of [`uplink_device`]'s.
pub(crate) fn uplink_device_index(prefix: &Prefix, device: &str) -> Option<u16> {
    let digits = device.strip_prefix(prefix.as_str())?.strip_prefix('x')?;
    (digits.len() == 4).then(|| u16::from_str_radix(digits, 16).ok())?
}

fn dns_device(prefix: &Prefix) -> String {
    format!("{prefix}d")
}

fn dns_address(block: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(block.network()) + 1)
}

fn lock() -> Result<Flock<File>> {
    let path = Path::new(LOCK);
    let failed = |e| NetworkError::system(format!("lock {LOCK}"), e);
    let file = File::options().create(true).append(true).open(path).map_err(failed)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| failed(e.into()))
}

fn block_of(address: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::new_assert(address, BLOCK_LEN).trunc()
}

/// The first block that nothing on the host touches. A default route touches nothing.
fn choose_block(ranges: &[Ipv4Net], addresses: &[Address], routes: &[Route]) -> Result<Ipv4Net> {
    let routed = routes
        .iter()
        .map(|route| route.destination)
        .filter(|net| net.prefix_len() > 0);
    let used: Vec<Ipv4Net> = addresses.iter().map(|address| address.net).chain(routed).collect();
    let overlaps = |block: &Ipv4Net| used.iter().any(|net| net.contains(block) || block.contains(&net.addr()));
    ranges
        .iter()
        .flat_map(|range| range.subnets(BLOCK_LEN).into_iter().flatten())
        .find(|block| !overlaps(block))
        .ok_or_else(|| NetworkError::NoFreeRange { tried: ranges.to_vec() })
}

fn outgoing_mtu(links: &[Link], routes: &[Route]) -> u32 {
    routes
        .iter()
        .filter(|route| route.destination.prefix_len() == 0)
        .min_by_key(|route| route.priority)
        .and_then(|route| links.iter().find(|link| Some(link.index) == route.link))
        .and_then(|link| link.mtu)
        .unwrap_or(DEFAULT_MTU)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a network")
    }

    fn route(text: &str) -> Route {
        Route {
            destination: net(text),
            link: Some(1),
            priority: 0,
        }
    }

    fn address(text: &str) -> Address {
        Address { link: 1, net: net(text) }
    }

    fn check(ranges: &[&str], addresses: &[&str], routes: &[&str], expected: Option<&str>) {
        let ranges: Vec<_> = ranges.iter().map(|r| net(r)).collect();
        let addresses: Vec<_> = addresses.iter().map(|a| address(a)).collect();
        let routes: Vec<_> = routes.iter().map(|r| route(r)).collect();
        assert_eq!(choose_block(&ranges, &addresses, &routes).ok(), expected.map(net));
    }

    #[test]
    fn a_block_is_free_of_addresses_and_routes() {
        let range = &["10.119.0.0/16"];
        check(range, &[], &["0.0.0.0/0"], Some("10.119.0.0/20"));
        check(range, &["10.119.0.1/32"], &[], Some("10.119.16.0/20"));
        check(range, &["10.119.0.1/32", "10.119.20.7/24"], &[], Some("10.119.32.0/20"));
        check(range, &[], &["10.119.15.0/24"], Some("10.119.16.0/20"));
    }

    #[test]
    fn a_covering_route_takes_the_whole_range() {
        check(
            &["10.119.0.0/16", "172.29.0.0/16"],
            &[],
            &["10.0.0.0/8"],
            Some("172.29.0.0/20"),
        );
        check(&["10.119.0.0/16"], &[], &["10.0.0.0/8"], None);
    }

    #[test]
    fn uplink_addresses_are_pairs() {
        let host = Host {
            block: net("10.119.16.0/20"),
            dns: Ipv4Addr::new(10, 119, 16, 1),
            mtu: 1500,
            max_connections: None,
            netns: File::open("/dev/null").expect("any file").into(),
            _owner: None,
        };
        assert_eq!(host.uplink(1), (Ipv4Addr::new(10, 119, 16, 2), Ipv4Addr::new(10, 119, 16, 3)));
        assert_eq!(
            host.uplink(MAX_SLOTS),
            (Ipv4Addr::new(10, 119, 31, 254), Ipv4Addr::new(10, 119, 31, 255))
        );
        assert_eq!(host.uplink_index(Ipv4Addr::new(10, 119, 31, 255)), Some(MAX_SLOTS));
        assert_eq!(host.uplink_index(Ipv4Addr::new(10, 119, 32, 0)), None);
    }

    #[test]
    fn device_names_tell_the_index() {
        let prefix = Prefix::for_data_dir(Path::new("/nonexistent"));
        let device = uplink_device(&prefix, 0x2a);
        assert!(device.len() <= 15);
        assert_eq!(uplink_device_index(&prefix, &device), Some(0x2a));
        assert_eq!(uplink_device_index(&prefix, &dns_device(&prefix)), None);
        assert_eq!(uplink_device_index(&prefix, "eth0"), None);
    }

    #[test]
    fn the_outgoing_mtu_is_the_best_default_routes() {
        let links = [(1, 1400), (2, 9000)].map(|(index, mtu)| Link {
            index,
            name: String::new(),
            mtu: Some(mtu),
        });
        let routes = [(2, 200), (1, 100)].map(|(link, priority)| Route {
            destination: Ipv4Net::default(),
            link: Some(link),
            priority,
        });
        assert_eq!(outgoing_mtu(&links, &routes), 1400);
        assert_eq!(outgoing_mtu(&links, &[]), DEFAULT_MTU);
    }
}
