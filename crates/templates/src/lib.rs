//! What a sandbox starts from.
//!
//! A *template* is a name (`base`); a *build* is one immutable version of it: a root tree on disk, the environment
//! and user that processes in it get by default, and a digest. This crate makes builds and finds them again.
//! It knows nothing about sandboxes: an engine is given the path of a tree and treats it as read-only.
//!
//! - [`base`] makes the template `base` from Debian's packages: [`base::ensure`] is the door.
//! - [`ca`] finds the certificate authorities that this host trusts beyond Debian's own.
//! - [`progress`] is how a long build tells what it is doing; [`console`] prints that for a person.
//!
//! All calls block (a build runs for minutes in `mmdebstrap`): from async code use `spawn_blocking`.
#![forbid(unsafe_code)]

pub mod base;
pub mod ca;
pub mod console;
mod error;
mod exec;
pub mod progress;
mod tree;

pub use error::{Error, Result};
