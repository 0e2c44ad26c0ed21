//! HTTPS for the base domains: which certificate a client gets, and the listener that hands it out.
//!
//! - [`Domain`] is a base domain, checked.
//! - [`LocalCa`] is the authority of this installation, made at the first start; it signs certificates for names below the base domains
//!   when they are asked for (`minted`), and writes the bundles that clients are pointed at (`bundle`).
//! - [`OwnFiles`] names certificates from elsewhere; they are checked at the start and read again when they change (`files`).
//! - [`acme`] gets certificates from a public authority (RFC 8555) and renews them.
//! - [`Certificates`] chooses among all of these by the name that the client asks for (RFC 6066, server name indication).
//! - [`serve`] accepts clients, and answers those that speak plain HTTP on the port (`plain`).
//!
//! # What always holds
//!
//! - No certificate is signed for a name that is not below a configured base domain.
//! - Private keys are in files that only their owner can read.
//! - A handshake never waits for the network or the disk.
#![forbid(unsafe_code)]

pub mod acme;
mod bundle;
mod ca;
mod certificates;
mod domain;
mod error;
mod files;
mod held;
mod minted;
mod plain;
mod private;
mod serve;

pub use self::bundle::Bundles;
pub use self::ca::LocalCa;
pub use self::certificates::Certificates;
pub use self::domain::{Domain, InvalidDomain};
pub use self::error::{Error, Result};
pub use self::files::OwnFiles;
pub use self::plain::serve_redirects;
pub use self::serve::{Limits, serve};
