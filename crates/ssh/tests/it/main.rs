//! The gateway over a real control plane, on the simulator: who gets in, and what those get who do not. What runs in sandboxes is in the
//! end-to-end tests, with OpenSSH's own clients.
// clippy.toml excuses test functions; their helpers are tests too.
#![allow(clippy::unwrap_used)]

mod access;
mod forwarding;
mod limits;
mod world;
