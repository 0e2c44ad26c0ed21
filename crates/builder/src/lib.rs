//! Builds templates (contract section 5).
//!
//! A build is a base and steps. Each step that changes files makes a *layer* over those below it: a directory in overlayfs's form. A
//! layer is named by the hash of everything that led to it, so the next build that begins with the same steps finds it. At the end
//! the layers become one root tree, which is booted once; the start command runs in it, and when it is ready the snapshot is taken
//! that sandboxes start from.
//!
//! ```text
//! <templates>/layers/<team>/<hash>/      diff/ and layer.json: a step's changes, and the context after it
//! <templates>/uploads/<team>/<hash>      archives of files for COPY
//! <templates>/builds/<build>/root        the finished tree
//! <templates>/logs/<build>               one JSON object a line
//! <templates>/work/                      what is being made; emptied at every start
//! ```
//!
//! - [`Builder`] is the door: request, start, follow, cancel.
//! - [`names`] reads and checks names, tags and references.
//! - [`BuildSpec`] is what a build is made of; `steps` checks it.
//! - `job` runs one build: `base` finds what it stands on, `run`, `copy` and `user` carry out steps, `finalize` makes the tree and the
//!   snapshot.
//! - `cache` keeps layers, `uploads` archives, `logs` what builds say.
//!
//! Commands of a build are a stranger's. They run in an instance of the engine, over layers that the engine puts together; only files
//! are moved by the host, and names in them are looked up as if the tree were the root directory (`dormouse-rootfs`).
#![forbid(unsafe_code)]

mod base;
mod builder;
mod cache;
mod context;
mod copy;
mod error;
mod expand;
mod finalize;
mod job;
mod limits;
mod logs;
pub mod names;
mod run;
mod steps;
mod uploads;
mod user;

pub use self::builder::{BuildView, Builder, BuilderConfig};
pub use self::error::BuilderError;
pub use self::limits::Limits;
pub use self::logs::{Level, LogEntry, LogFilter};
pub use self::steps::{BuildSpec, From, StepSpec};
pub use self::uploads::{Upload, UploadError, UploadTicket};
