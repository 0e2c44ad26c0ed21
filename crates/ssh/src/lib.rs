//! An SSH gateway: `ssh <sandbox>@host` opens a shell in a sandbox, with keys that its team has registered.
//!
//! - [`serve`] accepts connections, and bounds what those may take that have not shown a key yet (`startups`).
//! - `login` reads the sandbox and the user from the name that a client logs in with; `connection` is the protocol's handler: it
//!   checks keys and sorts what comes in by channel.
//! - `session` runs a shell, a command or the SFTP server of the agent in the sandbox; `forward` carries a TCP connection to a port.
//! - `sandbox` finds the sandbox for a channel and wakes it; `farewell` says what became of one that went away.
//! - `inbox` and `outbox` are a channel's two directions, and keep the memory that they take bounded.
//! - [`HostKey`] is what clients recognise the server by.
//!
//! # What always holds
//!
//! - No sandbox is touched, and its existence is not told, before a registered key was shown.
//! - A sandbox of a team that has not registered the key is, in words and in time, one that does not exist.
//! - The gateway reaches sandboxes as the proxy does: each channel asks control for a route and ends with its run.
//! - The agent's port cannot be forwarded: the agent trusts connections from the host (contract 3.2).
#![forbid(unsafe_code)]

mod config;
mod connection;
mod farewell;
mod forward;
mod host_key;
mod inbox;
mod login;
mod outbox;
mod sandbox;
mod serve;
mod session;
mod signals;
mod startups;

pub use self::config::SshConfig;
pub use self::host_key::{HostKey, HostKeyError};
pub use self::serve::{Gateway, serve};
