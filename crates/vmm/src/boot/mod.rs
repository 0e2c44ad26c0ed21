//! Starting Linux: what firmware would have left in memory and registers.

pub mod linux;
pub mod registers;

pub use linux::{BootError, Linux};
