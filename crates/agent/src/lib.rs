//! The process that runs inside every sandbox.
//!
//! As PID 1 it starts and reaps everything else, and it serves E2B's envd protocol on port 49983: processes, files,
//! health and metrics. Under the name `sudo` the same program is the sandbox's sudo (see [`sudo`]), and with the argument
//! `sftp-server` a file server for the SSH gateway (see [`sftp`]).
//!
//! It is linked statically, because the images that it runs in may hold any C library or none, and it is small and
//! single-threaded where it can be, because it lives in the memory of every snapshot.

#![deny(unsafe_code)]
// Handlers of the generated services name their answer's type; nothing outside this program could come to rely on it.
#![allow(refining_impl_trait)]

mod access;
mod agent;
mod boot;
mod config;
mod entropy;
mod failure;
mod files;
mod filesystem;
#[cfg(fuzzing)]
pub mod fuzzing;
mod identity;
mod init;
mod metrics;
mod paths;
mod process;
mod readiness;
mod rpc;
mod server;
mod sftp;
mod sudo;
mod trust;
mod tunnel;
mod users;

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::agent::Agent;
use crate::config::Config;

/// The whole program: `main` and nothing else.
///
/// A library with one function, so that the fuzz targets can reach the parsers.
#[must_use]
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    if Path::new(&name).file_name() == Some(OsStr::new(sudo::NAME)) {
        return sudo::run(arguments.collect());
    }
    let mut arguments = arguments.peekable();
    if arguments.peek().is_some_and(|first| first == sftp::NAME) {
        return match sftp::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&error);
                ExitCode::FAILURE
            }
        };
    }
    let config = match Config::read(arguments, |name| std::env::var(name).ok()) {
        Ok(config) => config,
        Err(error) => {
            complain(&error);
            return ExitCode::from(2);
        }
    };
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn complain(error: &dyn std::fmt::Display) {
    // There is nowhere left to say that saying it failed.
    let _ = writeln!(io::stderr(), "dormouse-agent: {error}");
}

fn run(config: Config) -> io::Result<()> {
    // Files that clients upload are 0644 and directories 0755, whatever the sandbox was started with.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    process::hide_inherited_descriptors();
    boot::prepare();
    // As PID 1 orphans come to us anyway; elsewhere, as in a test, this makes them.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    // One thread for all waiting: a sandbox has few processors, and waking a second thread costs more than it brings.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_stack_size(256 << 10)
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(config.listen).await?;
        let address = listener.local_addr()?;
        let agent = Agent::new(config)?;
        writeln!(io::stdout(), "listening on {address}")?;
        let sudo = Arc::clone(&agent);
        tokio::spawn(async move {
            // A sandbox without sudo still is a sandbox.
            if let Err(error) = sudo::serve(sudo).await {
                complain(&format_args!("sudo is not available: {error}"));
            }
        });
        server::serve(agent, listener).await
    })
}
