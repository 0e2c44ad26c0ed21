//! sudo without setuid.
//!
//! A sandbox may run where setuid programs gain nothing, and its user still is promised a sudo that needs no password.
//! So the agent, which is root, starts commands for those who may ask. The same program, called as `sudo`, is the
//! client:
//!
//! ```text
//!  shell ── sudo (client) ──── unix socket, descriptors ────► agent (server) ── fork ──► command, as root
//!              │   ▲                                                                        │
//!              └───┴──── relays the terminal, signals, stops and the exit code ◄────────────┘
//! ```
//! The kernel tells the server who the client is (`SO_PEERCRED`). Whoever may use sudo may run anything as anybody, so
//! the server believes the rest of what the client says.

mod args;
mod client;
mod command;
mod protocol;
mod relay;
mod server;
mod signals;

pub(crate) use client::run;
pub(crate) use server::serve;

use std::path::{Path, PathBuf};

/// Name that makes the program the client.
pub(crate) const NAME: &str = "sudo";

/// Where the server listens.
fn socket_path(run: &Path) -> PathBuf {
    run.join("dormouse").join("sudo.sock")
}
