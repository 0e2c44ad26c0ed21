//! A DNS responder for the base domains, so that a laptop, a test or a delegated zone needs no other name server.
//!
//! It is authoritative: it answers for the base domains and everything below them, refuses all else, and asks nobody.
//! `zone` decides the answers, `responder` has the sockets, [`TxtRecords`] are what an ACME server asks for.
#![forbid(unsafe_code)]

mod responder;
mod txt;
mod zone;

pub use self::responder::{Config, Error, Responder};
pub use self::txt::TxtRecords;
