//! Builds on the simulator: everything but commands.

mod builds;
mod world;
