//! How the host side talks to the agent inside a sandbox.
//!
//! Every function takes a fresh byte stream to the agent's port and speaks one HTTP/1.1 exchange over it. How that
//! stream came to be (TCP into a network namespace, vsock, a pipe in a test) is the engine's business, and so is
//! trying again. Nothing here waits longer than its caller does: put a timeout around it.
//!
//! [`init`] and [`open_tunnel`] are answered only to the control peer, the address that the agent was started with.

#![forbid(unsafe_code)]

mod command;
mod control;
mod error;
mod exchange;
mod process;
mod tunnel;

pub use command::{Caller, Command, EventStream};
pub use control::{healthy, init, metrics, wait_healthy};
pub use error::Error;
pub use process::{Input, Kind, close_stdin, resize, send_signal, stream_input};
pub use tunnel::{Tunnel, open_tunnel};

/// A byte stream to an agent.
pub trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static {}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static> Stream for S {}
