//! The control socket: how the process that started a machine steers it.
//!
//! See [`protocol`] for the messages. [`server`] waits for them, and for the machine to stop; it is the process's
//! main loop and alone touches the [`Machine`](crate::machine::Machine).

pub mod protocol;
pub mod server;
pub mod socket;

pub use protocol::{Operation, PROTOCOL, Request};
