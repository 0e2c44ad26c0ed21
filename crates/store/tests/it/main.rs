//! The store's behaviour through its public door.
// clippy.toml excuses test functions; their helpers are tests too.
#![allow(clippy::unwrap_used)]

mod durability;
mod events;
mod idempotency;
mod keys;
mod round_trip;
mod samples;
mod ssh_keys;
mod templates;
