//! The control plane of one node: what happens to sandboxes, and in which order.
//!
//! [`Control`] is the front: the API and the proxy call it and nothing else. Behind it each sandbox has one *driver*, a task that owns
//! its state; everybody else sends it commands and watches a [`Sandbox`] view of it.
//!
//! - `model`: requests, answers and the view.
//! - `create`: making a sandbox.
//! - `driver`: the task of one sandbox and its timer; its transitions are in `pause`, `wake` and `end`.
//! - `handle`: how a driver is asked, and what it does with what it is asked meanwhile.
//! - `supervise`: a driver that panics starts over from its row.
//! - `guarded`: the engine with a limit to every wait.
//! - `pool`: instances of templates in use, kept restored and suspended.
//! - `bake`: the snapshot that a template's sandboxes start from.
//! - `asleep`: the memory budget of light sleep.
//! - `recover`: what a start makes of what an earlier daemon left.
//! - `route`: what traffic to a port may do, and when it wakes a sandbox.
//!
//! All I/O goes through the engine trait, the store and the snapshot store; with the simulator and a database in memory the whole crate
//! runs in a test without root.
#![forbid(unsafe_code)]

mod asleep;
mod bake;
mod clock;
mod control;
mod create;
mod driver;
mod end;
mod error;
mod events;
mod guarded;
mod handle;
mod model;
mod node;
mod pause;
mod pool;
mod recover;
mod route;
mod supervise;
mod token;
mod wake;

pub use self::control::{Control, ControlConfig};
pub use self::error::ControlError;
pub use self::guarded::Deadlines;
pub use self::model::{Connected, ListFilter, NewSandbox, Owner, Phase, Sandbox};
pub use self::route::{Route, RouteError, RunEnd, Visitor};
