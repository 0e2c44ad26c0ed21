//! Devices, addresses and routes of one network namespace, over netlink.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use futures::TryStreamExt;
use ipnet::Ipv4Net;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::runtime::{self, Runtime};

use crate::error::{NetworkError, Result};

/// A netlink connection into the namespace where the thread was when it was made.
///
/// Blocking: it brings its own small runtime, because it lives on threads that leave the host's namespace.
pub(crate) struct Links {
    runtime: Runtime,
    handle: Handle,
}

/// One device, as far as this crate looks at it.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mtu: Option<u32>,
}

/// One IPv4 address of a device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address {
    pub(crate) link: u32,
    pub(crate) net: Ipv4Net,
}

/// One IPv4 route of the main table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route {
    pub(crate) destination: Ipv4Net,
    pub(crate) link: Option<u32>,
    pub(crate) priority: u32,
}

/// One end of a veth pair that is to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VethEnd<'a> {
    pub(crate) name: &'a str,
    /// Where the end goes; `None` is the namespace of the connection.
    pub(crate) netns: Option<BorrowedFd<'a>>,
    pub(crate) mac: Option<[u8; 6]>,
}

impl Links {
    pub(crate) fn open() -> Result<Self> {
        let failed = |e| NetworkError::system("open a netlink connection", e);
        let runtime = runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
        let handle = {
            let _inside = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection().map_err(failed)?;
            runtime.spawn(connection);
            handle
        };
        Ok(Self { runtime, handle })
    }

    /// Finds a device by name.
    pub(crate) fn find(&self, name: &str) -> Result<Option<u32>> {
        let mut found = self.handle.link().get().match_name(name.to_owned()).execute();
        match self.runtime.block_on(found.try_next()) {
            Ok(link) => Ok(link.map(|l| l.header.index)),
            Err(e) if is_errno(&e, nix::errno::Errno::ENODEV) => Ok(None),
            Err(e) => Err(NetworkError::netlink(format!("look up device {name}"), e)),
        }
    }

    /// The index of a device that must be there.
    pub(crate) fn index(&self, name: &str) -> Result<u32> {
        let gone = || NetworkError::system(format!("find device {name}"), nix::errno::Errno::ENODEV);
        self.find(name)?.ok_or_else(gone)
    }

    /// All devices.
    pub(crate) fn links(&self) -> Result<Vec<Link>> {
        let all = self.handle.link().get().execute().try_collect::<Vec<_>>();
        let all = self
            .runtime
            .block_on(all)
            .map_err(|e| NetworkError::netlink("list devices", e))?;
        Ok(all
            .into_iter()
            .map(|message| {
                let mut link = Link {
                    index: message.header.index,
                    name: String::new(),
                    mtu: None,
                };
                for attribute in message.attributes {
                    match attribute {
                        LinkAttribute::IfName(name) => link.name = name,
                        LinkAttribute::Mtu(mtu) => link.mtu = Some(mtu),
                        _ => {}
                    }
                }
                link
            })
            .collect())
    }

    /// All IPv4 addresses.
    pub(crate) fn addresses(&self) -> Result<Vec<Address>> {
        let all = self.handle.address().get().execute().try_collect::<Vec<_>>();
        let all = self
            .runtime
            .block_on(all)
            .map_err(|e| NetworkError::netlink("list addresses", e))?;
        let ipv4 = all.into_iter().filter(|message| message.header.family == AddressFamily::Inet);
        Ok(ipv4
            .filter_map(|message| {
                // `Local` is the device's own address; `Address` is the peer's on point-to-point devices.
                let local = message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Local(IpAddr::V4(ip)) => Some(*ip),
                    _ => None,
                })?;
                let net = Ipv4Net::new(local, message.header.prefix_len).ok()?;
                Some(Address {
                    link: message.header.index,
                    net,
                })
            })
            .collect())
    }

    /// All IPv4 routes of the main table.
    pub(crate) fn routes(&self) -> Result<Vec<Route>> {
        let all = self
            .handle
            .route()
            .get(RouteMessageBuilder::<Ipv4Addr>::new().build())
            .execute()
            .try_collect::<Vec<_>>();
        let all = self
            .runtime
            .block_on(all)
            .map_err(|e| NetworkError::netlink("list routes", e))?;
        let main = all
            .into_iter()
            .filter(|message| message.header.table == RouteHeader::RT_TABLE_MAIN);
        Ok(main
            .filter_map(|message| {
                let mut address = Ipv4Addr::UNSPECIFIED;
                let mut route = Route {
                    destination: Ipv4Net::default(),
                    link: None,
                    priority: 0,
                };
                for attribute in message.attributes {
                    match attribute {
                        RouteAttribute::Destination(RouteAddress::Inet(ip)) => address = ip,
                        RouteAttribute::Oif(link) => route.link = Some(link),
                        RouteAttribute::Priority(priority) => route.priority = priority,
                        _ => {}
                    }
                }
                route.destination = Ipv4Net::new(address, message.header.destination_prefix_length).ok()?;
                Some(route)
            })
            .collect())
    }

    /// Makes a veth pair with the near end up. The far end cannot be made so: the kernel sets it up before it knows its
    /// peer, and fails.
    pub(crate) fn add_veth(&self, near: VethEnd<'_>, far: VethEnd<'_>, mtu: u32) -> Result<()> {
        let far_message = far.fill(LinkMessageBuilder::<LinkUnspec>::new().name(far.name), mtu).build();
        // Not the builder's own `peer`: that takes only a name.
        let message = near
            .fill(LinkVeth::new(near.name, far.name).up(), mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far_message)))
            .build();
        self.runtime
            .block_on(self.handle.link().add(message).execute())
            .map_err(|e| NetworkError::netlink(format!("make devices {} and {}", near.name, far.name), e))
    }

    /// Sets a device up.
    pub(crate) fn set_up(&self, index: u32) -> Result<()> {
        self.runtime
            .block_on(
                self.handle
                    .link()
                    .change(LinkUnspec::new_with_index(index).up().build())
                    .execute(),
            )
            .map_err(|e| NetworkError::netlink(format!("set device {index} up"), e))
    }

    /// Gives a device an address.
    pub(crate) fn add_address(&self, index: u32, address: Ipv4Addr, prefix_len: u8) -> Result<()> {
        self.runtime
            .block_on(self.handle.address().add(index, address.into(), prefix_len).execute())
            .map_err(|e| NetworkError::netlink(format!("add address {address}/{prefix_len}"), e))
    }

    /// Sends everything without a better route to `gateway`.
    pub(crate) fn add_default_route(&self, gateway: Ipv4Addr) -> Result<()> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
        self.runtime
            .block_on(self.handle.route().add(route).execute())
            .map_err(|e| NetworkError::netlink(format!("add a default route by {gateway}"), e))
    }

    /// Deletes a device if it is there; says whether it was.
    pub(crate) fn delete(&self, name: &str) -> Result<bool> {
        let Some(index) = self.find(name)? else { return Ok(false) };
        match self.runtime.block_on(self.handle.link().del(index).execute()) {
            Ok(()) => Ok(true),
            // Its peer's namespace went away in between, and took the pair along.
            Err(e) if is_errno(&e, nix::errno::Errno::ENODEV) => Ok(false),
            Err(e) => Err(NetworkError::netlink(format!("delete device {name}"), e)),
        }
    }
}

impl VethEnd<'_> {
    fn fill<T>(self, message: LinkMessageBuilder<T>, mtu: u32) -> LinkMessageBuilder<T> {
        let mut message = message.mtu(mtu);
        if let Some(netns) = self.netns {
            message = message.setns_by_fd(netns.as_raw_fd());
        }
        if let Some(mac) = self.mac {
            message = message.address(mac.to_vec());
        }
        message
    }
}

fn is_errno(error: &rtnetlink::Error, errno: nix::errno::Errno) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(e) if e.raw_code() == -(errno as i32))
}
