//! Control over the simulator: every test has its own node, and none needs root.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

mod auto_resume;
mod concurrency;
mod events;
mod faults;
mod hangs;
mod harness;
mod lifecycle;
mod light_sleep;
mod pool;
mod recovery;
mod timeouts;
