//! Network slots: ready-made homes for sandboxes on the host's network.
//!
//! A *slot* is a pair of network namespaces made ahead of time. The sandbox runs in the inner one, which looks the
//! same in every slot (`eth0`, [`SANDBOX_ADDRESS`], gateway [`GATEWAY_ADDRESS`]), so that a snapshot wakes in any
//! slot. The outer one, the *router*, holds the firewall and the address translation of that one sandbox.
//!
//! ```text
//!  sandbox netns             router netns                          host netns
//!  ┌──────────────┐  veth   ┌─────────────────────────────┐ veth  ┌────────────────────────────┐
//!  │ eth0         ├─────────┤ gw                       up ├───────┤ dm……x….     firewall table │
//!  │ 169.254.77.2 │         │ 169.254.77.1     10.119.… /31│       │ DNS forwarder              │──► uplink
//!  └──────────────┘         │ nftables: filter, NAT, DNS  │       │                            │
//!                           └─────────────▲───────────────┘       └────────────────────────────┘
//!                                         └── the daemon dials from in here
//! ```
//!
//! [`SlotPool`] makes, hands out, re-opens and removes slots; [`Slot`] is one of them; [`Dialer`] opens TCP
//! connections into its sandbox. Nothing on the host other than root can reach a sandbox's ports: the inner address
//! exists only between the two namespaces.
//!
//! Invariants:
//! - A slot is used once. Engines change the inner namespace (gVisor takes the address off `eth0`), so a released
//!   slot is deleted.
//! - Everything made carries the [`Prefix`] of its data directory and is found again by it: [`SlotPool::sweep`].
//! - Namespaces are held by bind mounts, so they outlive the daemon: [`SlotPool::adopt`]. They do not outlive
//!   their data directory: the next daemon to start on the host removes what a dead one left whose directory is gone.
#![forbid(unsafe_code)]

mod build;
mod config;
mod dial;
mod dns;
mod error;
mod firewall;
mod foreign;
mod host;
mod link;
mod netns;
mod nft;
mod owner;
mod pool;
mod registry;
mod slot;
mod sysctl;
mod worker;

pub use self::config::{DnsConfig, NetworkConfig, Prefix, SlotName};
pub use self::dial::Dialer;
pub use self::dns::{AllowAll, Query, QueryPolicy, Verdict};
pub use self::error::{NetworkError, Result};
pub use self::pool::SlotPool;
pub use self::slot::{GATEWAY_ADDRESS, INSIDE_PREFIX_LEN, SANDBOX_ADDRESS, Slot};
