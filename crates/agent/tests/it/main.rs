//! Runs the real agent as a child process and talks to it as clients do.

mod support;

mod access;
mod files;
mod filesystem;
mod input;
mod process;
mod sudo;
mod tunnel;
