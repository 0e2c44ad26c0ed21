//! The front as clients meet it: everything over TCP on loopback, with a double of the control plane behind it.
#![expect(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

mod errors;
mod exchange;
mod gone;
mod limits;
mod reuse;
mod routing;
mod serving;
mod streaming;
mod support;
mod tunnels;
