//! What can go wrong, with a hint where the operator can do something about it.

use std::io;
use std::path::PathBuf;

use ipnet::Ipv4Net;

/// The result of this crate's operations.
pub type Result<T, E = NetworkError> = std::result::Result<T, E>;

/// An operation on the host's network failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// Slots need root, or CAP_NET_ADMIN and CAP_SYS_ADMIN in the host's namespaces.
    #[error("Not allowed to {action} (hint: run as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN)")]
    NotPermitted {
        /// What was tried.
        action: String,
    },
    /// A system call failed.
    #[error("Cannot {action}")]
    System {
        /// What was tried.
        action: String,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// `nft` is not there.
    #[error("Cannot start `nft` (hint: install the package nftables)")]
    NoNft {
        /// Why it did not start.
        #[source]
        source: io::Error,
    },
    /// `nft` refused a rule set.
    #[error("`nft` refused to {action}: {stderr} (hint: the kernel needs nf_tables with NAT)")]
    Nft {
        /// What the rules were for.
        action: String,
        /// What `nft` printed.
        stderr: String,
    },
    /// Every candidate block of uplink addresses is in use on the host.
    #[error("No free /20 for uplinks in {tried:?} (hint: configure a range that the host does not use)")]
    NoFreeRange {
        /// The ranges that were looked at.
        tried: Vec<Ipv4Net>,
    },
    /// All slots of the claimed block are in use.
    #[error("All {limit} slots are in use")]
    Exhausted {
        /// How many there can be.
        limit: usize,
    },
    /// A slot that should be adopted is not there, or only in part.
    #[error("Slot {name} does not exist (missing: {missing})")]
    NoSuchSlot {
        /// Which slot.
        name: String,
        /// The piece that is not there.
        missing: String,
    },
    /// A slot that should be adopted is already in use in this daemon.
    #[error("Slot {name} is already in use")]
    InUse {
        /// Which slot.
        name: String,
    },
    /// A text is not the name of a slot of this daemon.
    #[error("Not a slot of this daemon: {name:?}")]
    BadSlotName {
        /// The text.
        name: String,
    },
    /// The DNS forwarder has nobody to ask.
    #[error("No DNS server in {path} (hint: configure upstreams)", path = path.display())]
    NoUpstreams {
        /// Where servers were looked for.
        path: PathBuf,
    },
    /// The DNS forwarder could not be set up.
    #[error("Cannot start the DNS forwarder: {detail}")]
    Dns {
        /// What the resolver said.
        detail: String,
    },
    /// The pool was closed.
    #[error("The slot pool is closed")]
    Closed,
}

impl NetworkError {
    /// Wraps a failed system call; a refusal for lack of privilege becomes [`NetworkError::NotPermitted`].
    pub(crate) fn system(action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        let (action, source) = (action.into(), source.into());
        if source.kind() == io::ErrorKind::PermissionDenied {
            return Self::NotPermitted { action };
        }
        Self::System { action, source }
    }

    /// Wraps a failed netlink request.
    pub(crate) fn netlink(action: impl Into<String>, source: rtnetlink::Error) -> Self {
        match source {
            rtnetlink::Error::NetlinkError(answer) => Self::system(action, answer.to_io()),
            other => Self::system(action, io::Error::other(other)),
        }
    }
}
