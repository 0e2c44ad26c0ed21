//! The API over a real control plane, on the simulator: what a client sees.
// clippy.toml excuses test functions; their helpers are tests too.
#![allow(clippy::unwrap_used)]

mod auth;
mod bodies;
mod create;
mod failures;
mod idempotency;
mod list;
mod openapi;
mod others;
mod states;
mod templates;
mod wire;
mod world;
