//! The listener over real sockets, and ACME against a real server.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

mod acme;
mod handshake;
mod support;
