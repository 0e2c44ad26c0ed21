//! The one door: decides for every request whether it is for the API or for a port inside a sandbox, and carries the latter there.
//!
//! - [`Front`] is the service behind the listener; [`serve`] runs it on one, HTTP/1.1 and HTTP/2 without TLS on the same port.
//! - [`Backend`] is what the proxy asks of the control plane: where a sandbox is (waking it if it may), and a connection to a port.
//! - `host` and `routing` read the target from the host name or the routing headers (contract 1.2, 4.5).
//! - `reserved` keeps outsiders away from the agent's control endpoints (contract 3.2).
//! - `forward` sends one request: dial or reuse (`dial`, `pool`), headers (`headers`), the two bodies (`payload`, `relay`), and
//!   connections that change protocol (`upgrade`).
//! - `envelope` finds the places where a Connect stream may be ended politely when its sandbox goes away.
//! - `watch` tells slow and idle clients from busy ones.
//! - `preflight`, `errors` and `pages` are everything the proxy says itself.
//!
//! # What always holds
//!
//! - The proxy owns no sandbox state: it asks for a route on every request, and forgets connections when the route ends.
//! - Nothing is collected: bodies are passed on frame by frame, and who does not read is not read from.
//! - The bytes of a body are not changed, and end-to-end headers pass as they came.
#![forbid(unsafe_code)]

mod backend;
mod body;
mod config;
mod dial;
mod envelope;
mod errors;
mod forward;
mod front;
#[cfg(fuzzing)]
pub mod fuzzing;
mod headers;
mod host;
mod limit;
mod pages;
mod payload;
mod pool;
mod preflight;
mod relay;
mod reserved;
mod routing;
mod serve;
mod upgrade;
mod watch;

pub use self::backend::Backend;
pub use self::body::{Body, BoxError};
pub use self::config::FrontConfig;
pub use self::front::Front;
pub use self::serve::{serve, serve_stream};
