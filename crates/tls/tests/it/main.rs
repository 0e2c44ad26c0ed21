//! The listener over real sockets, and ACME against a real server.

mod acme;
mod handshake;
mod support;
