//! The store's behaviour through its public door.

mod durability;
mod events;
mod idempotency;
mod keys;
mod round_trip;
mod samples;
mod templates;
