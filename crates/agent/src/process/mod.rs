//! Processes of the sandbox: starting, following, feeding and signalling them (contract 3.5).
//!
//! ```text
//!  request ─ launch ─ fork ─► child          reaper ─ how it ended ─┐
//!                               │ pipes or terminal                 ▼
//!                               └─► output ─► followers ◄─ running process ─► table
//! ```
//! A process belongs to no request: followers come and go, and its end is remembered for late ones.

mod exit;
mod follow;
#[allow(unsafe_code)]
mod fork;
mod input;
pub(crate) mod launch;
mod output;
mod reaper;
mod running;
mod service;
mod start;
mod table;
pub(crate) mod window;

pub(crate) use follow::{timed_out, until};
pub(crate) use fork::{Plan, hide_inherited_descriptors, ignored_signals, spawn};
pub(crate) use reaper::{Exit, Reaper};
pub(crate) use service::ProcessService;
pub(crate) use table::Table;
