//! The engine for hosts without usable KVM: every instance is a gVisor sandbox, made by `runsc`.
//!
//! ```text
//!  daemon ── GvisorEngine ──┬─ spawns ──► shim ── runs ──► runsc ── makes ──► sentry (the sandbox's kernel, user nobody)
//!                           ├─ control socket: pause, resume, checkpoint ───────►│
//!                           ├─ cgroup: freeze, thaw, measure, kill ─────────────►│
//!                           └─ network slot: connections to the agent ──────────►│ agent
//! ```
//!
//! - `engine`: [`GvisorEngine`], the [`Engine`](dormouse_engine::Engine).
//! - `launch`: makes instances. `instance`: one of them. `tied`: connections into it. `adopt`: finds those of an earlier daemon.
//! - `shim`: the process between daemon and sandbox, [`shim_main`].
//! - `layout`: an instance's directory. `lifeline`: how the end of a shim is seen. `bundle`, `runsc`, `urpc`, `cgroup`: the host's and runsc's interfaces.
//! - `checkpoint`: snapshot directories. `root_image`: roots as EROFS images. `tune`: a runsc without some faults. `disk_limit`: copies
//!   of it that limit the disk.
//!
//! Invariants:
//! - All that belongs to an instance is found by its directory: the cgroup, the slot, the processes. The directory is the first thing
//!   made and the last removed.
//! - A suspended instance is paused (the guest's tasks are stopped) *and* frozen (the sentry is). Snapshots are taken while it is paused,
//!   so nothing in the guest happens between a snapshot's moment and the next resume.
//! - No operation waits for ever: a sentry that is stuck is given up after [`GvisorConfig::control_patience`], a sandbox that does not come
//!   to be after a minute and what its snapshot takes to read, a connection after 15 seconds. `destroy` needs nobody's help.
//! - Nothing waits by looking again and again, but for the version 1 freezer, which has no event.
#![forbid(unsafe_code)]

mod adopt;
mod bundle;
mod cgroup;
mod checkpoint;
mod config;
mod disk_limit;
mod engine;
mod error;
mod instance;
mod launch;
mod layout;
mod lifeline;
mod root_image;
mod runsc;
mod shim;
mod tied;
mod tune;
mod urpc;

pub use self::config::GvisorConfig;
pub use self::engine::GvisorEngine;
pub use self::error::{GvisorError, Result};
pub use self::root_image::{image_of, make_image};
pub use self::shim::shim_main;
pub use self::tune::tune;
