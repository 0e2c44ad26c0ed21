//! The agent, embedded by `build.rs`.

/// The static binary that runs in every sandbox.
pub(crate) const AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent"));
