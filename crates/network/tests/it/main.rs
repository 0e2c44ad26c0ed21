//! The network crate against a real kernel. Needs root and `nft`; says so and passes where they are missing.

mod dial;
mod dns;
mod internet;
mod isolation;
mod lifecycle;
mod support;
