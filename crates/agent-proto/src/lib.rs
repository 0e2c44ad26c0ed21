//! What the agent inside a sandbox and its callers say to each other.
//!
//! Two dialects share port [`AGENT_PORT`]:
//!
//! * **E2B's envd protocol**, for SDKs and CLI: the Connect services in [`rpc`], and the REST bodies in [`rest`].
//!   URLs may carry a [`signature`] instead of a token.
//! * **Our own control dialect**, for the engine that owns the sandbox: [`InitRequest`] and the [`route`]s that only
//!   the control peer may use.
//!
//! This crate holds types and pure functions only; `dormouse-agent` serves them and `dormouse-agent-client` asks.

#![forbid(unsafe_code)]

mod init;
pub mod rest;
pub mod route;
pub mod signature;

pub use init::InitRequest;

/// The envd version that a sandbox reports (contract 3.1).
///
/// Clients compare it to decide what a sandbox can do; nothing asks for more than 0.6.4.
pub const ENVD_VERSION: &str = "0.6.13";

/// The port that the agent listens on inside a sandbox (contract 1.2).
pub const AGENT_PORT: u16 = 49983;

/// Connect messages and services, generated from `proto/*.proto` (contract 11).
///
/// `rpc::process` and `rpc::filesystem` are the two packages.
#[allow(
    missing_docs,
    rust_2018_idioms,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    clippy::semicolon_if_nothing_returned,
    clippy::uninlined_format_args,
    clippy::get_unwrap
)]
pub mod rpc {
    connectrpc::include_generated!("agent.rs");
}

/// The alternatives inside the messages of [`rpc`], under names of their own.
pub mod oneof {
    pub use crate::rpc::filesystem::__buffa::oneof::watch_dir_response::Event as WatchDirEvent;
    pub use crate::rpc::process::__buffa::oneof::process_event::Event as ProcessEventKind;
    pub use crate::rpc::process::__buffa::oneof::process_event::data_event::Output;
    pub use crate::rpc::process::__buffa::oneof::process_input::Input;
    pub use crate::rpc::process::__buffa::oneof::process_selector::Selector;
    pub use crate::rpc::process::__buffa::oneof::stream_input_request::Event as StreamInputKind;
}
