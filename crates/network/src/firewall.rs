//! The rules, as text for `nft`.
//!
//! They are there twice, on purpose: the router of a slot filters its own sandbox, and the host filters everything
//! that comes from any slot, so that one mistake or one taken-over router does not open the host's network.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::config::Prefix;
use crate::slot::{GATEWAY_ADDRESS, SANDBOX_ADDRESS};

/// Never reachable from a sandbox, whatever is allowed: this network, private, carrier-grade NAT, loopback,
/// link-local (with the metadata services of clouds), multicast and reserved addresses.
const BLOCKED: [&str; 9] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

/// What the rules of a slot's router depend on.
#[derive(Debug)]
pub(crate) struct RouterRules<'a> {
    /// Where the forwarder answers DNS.
    pub(crate) dns: Ipv4Addr,
    /// The block of all uplink addresses.
    pub(crate) uplinks: Ipv4Net,
    /// The host's own addresses.
    pub(crate) host: &'a [Ipv4Addr],
    /// Whether new connections to the internet are let out.
    pub(crate) internet: bool,
    /// How many connections may be tracked; `None` where the kernel cannot count them.
    pub(crate) max_connections: Option<u32>,
}

impl RouterRules<'_> {
    /// The complete rule set of a router's namespace.
    pub(crate) fn script(&self) -> String {
        let Self {
            dns,
            uplinks,
            host,
            internet,
            max_connections,
        } = self;
        let blocked = blocked_set(*uplinks, host);
        let internet = internet_verdict(*internet);
        let count = max_connections
            .map(|max| format!("ct count over {max} reject with icmp admin-prohibited"))
            .unwrap_or_default();
        // The order matters: replies first, then DNS (whose address is in a blocked range after translation), then
        // the ranges that nothing opens, then what the owner allows.
        // Refused, not dropped, towards the sandbox: a program inside fails at once instead of waiting for a timeout.
        format!(
            r#"table ip dormouse {{
  set blocked {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {blocked} }} }}
  chain internet {{
    {internet}
  }}
  chain outbound {{
    ip saddr != {SANDBOX_ADDRESS} drop
    {count}
    ip daddr {dns} meta l4proto {{ tcp, udp }} th dport 53 accept
    ip daddr @blocked reject with icmp admin-prohibited
    jump internet
    reject with icmp admin-prohibited
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state invalid drop
    ct state established,related accept
    iifname "gw" oifname "up" jump outbound
  }}
  chain input {{
    type filter hook input priority filter; policy drop;
    ct state established,related accept
  }}
  chain dns {{
    type nat hook prerouting priority dstnat;
    iifname "gw" ip daddr {GATEWAY_ADDRESS} meta l4proto {{ tcp, udp }} th dport 53 dnat to {dns}
  }}
  chain uplink {{
    type nat hook postrouting priority srcnat;
    oifname "up" masquerade
  }}
}}
"#
        )
    }
}

/// Changes, in one transaction, whether a router lets new connections out to the internet.
pub(crate) fn internet_script(on: bool) -> String {
    let verdict = internet_verdict(on);
    let mut script = String::from("flush chain ip dormouse internet\n");
    if !verdict.is_empty() {
        let _ = writeln!(script, "add rule ip dormouse internet {verdict}");
    }
    script
}

fn internet_verdict(on: bool) -> &'static str {
    if on { "accept" } else { "" }
}

/// What the host's rules depend on.
#[derive(Debug)]
pub(crate) struct HostRules<'a> {
    pub(crate) prefix: &'a Prefix,
    /// The block of all uplink addresses.
    pub(crate) uplinks: Ipv4Net,
    /// Where the forwarder answers DNS, on port 53 as far as slots can tell.
    pub(crate) dns: Ipv4Addr,
    /// The ports where its sockets really are.
    pub(crate) dns_udp_port: u16,
    pub(crate) dns_tcp_port: u16,
}

impl HostRules<'_> {
    /// Replaces this daemon's table in one transaction.
    pub(crate) fn script(&self) -> String {
        let Self {
            prefix,
            uplinks,
            dns,
            dns_udp_port,
            dns_tcp_port,
        } = self;
        let links = format!("{prefix}x*");
        let blocked = blocked_set(*uplinks, &[]);
        // `add` before `delete`: deleting a table that is not there would fail the transaction.
        format!(
            r#"add table inet {prefix}
delete table inet {prefix}
table inet {prefix} {{
  set blocked {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {blocked} }} }}
  chain from_slots {{
    ct state established,related accept
    ip saddr != {uplinks} drop
    ip daddr @blocked drop
    meta nfproto ipv6 drop
    accept
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    oifname "{links}" ct state != {{ established, related }} drop
    iifname "{links}" jump from_slots
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname != "{links}" return
    ip saddr {uplinks} ip daddr {dns} udp dport {dns_udp_port} accept
    ip saddr {uplinks} ip daddr {dns} tcp dport {dns_tcp_port} accept
    drop
  }}
  chain dns {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname "{links}" ip daddr {dns} udp dport 53 dnat ip to {dns}:{dns_udp_port}
    iifname "{links}" ip daddr {dns} tcp dport 53 dnat ip to {dns}:{dns_tcp_port}
  }}
  chain uplink {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {uplinks} oifname != "{links}" masquerade
  }}
}}
"#
        )
    }
}

/// A rule set that only kernels that can count connections take.
pub(crate) fn counting_probe(prefix: &Prefix) -> String {
    format!("table ip {prefix}probe {{\n  chain outbound {{\n    ct count over 1 drop\n  }}\n}}\n")
}

/// Removes this daemon's table.
pub(crate) fn host_removal_script(prefix: &Prefix) -> String {
    format!("add table inet {prefix}\ndelete table inet {prefix}\n")
}

fn blocked_set(uplinks: Ipv4Net, host: &[Ipv4Addr]) -> String {
    let mut set: Vec<String> = BLOCKED.iter().map(ToString::to_string).collect();
    set.push(uplinks.to_string());
    set.extend(host.iter().map(ToString::to_string));
    set.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internet_is_one_chain_that_is_flipped_as_a_whole() {
        assert_eq!(
            internet_script(true),
            "flush chain ip dormouse internet\nadd rule ip dormouse internet accept\n"
        );
        assert_eq!(internet_script(false), "flush chain ip dormouse internet\n");
    }

    #[test]
    fn blocked_ranges_include_uplinks_and_host() {
        let set = blocked_set("198.19.0.0/20".parse().expect("a network"), &[Ipv4Addr::new(203, 0, 113, 9)]);
        for range in ["10.0.0.0/8", "169.254.0.0/16", "198.19.0.0/20", "203.0.113.9"] {
            assert!(set.split(", ").any(|r| r == range), "{range} is not in {set}");
        }
    }
}
