//! Runs the real agent as a child process and talks to it as clients do.

mod support;

mod access;
