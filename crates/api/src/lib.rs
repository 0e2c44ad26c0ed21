//! The control API: E2B's REST routes over `control` (contract 1.3, 1.5, 2).
//!
//! [`router`] is the door. A request goes through `router` (CORS, trace id, panics), `auth` (whose key is it), the handler of its
//! feature, and comes back as JSON; every refusal is an `error::ApiError`, which knows the status, the numeric `code` and whether a
//! client may try again. Handlers hold no rules about sandboxes: they read a request, check its shape, call `control` once, and write
//! the answer.
//!
//! - `sandboxes`: one file for each thing that can be asked of a sandbox.
//! - `wire`: the answers' types. `json`, `path`, `paging`: how bodies, ids and pages are read.
//! - `network`: the network settings of a new sandbox, and which of them cannot be kept yet.
//! - `idempotency`: one answer for repeated creations.
//! - `openapi`: the document that describes all routes, made from what the handlers declare.
//! - `later`: routes of the contract that answer 501 so far.
#![forbid(unsafe_code)]

mod auth;
mod cors;
mod error;
mod health;
mod idempotency;
mod json;
mod later;
mod network;
mod openapi;
mod paging;
mod path;
mod router;
mod sandboxes;
mod ssh_keys;
mod state;
mod teams;
mod templates;
mod trace;
mod wire;

pub use self::router::{openapi_json, router};
pub use self::state::{ApiConfig, ApiState};
