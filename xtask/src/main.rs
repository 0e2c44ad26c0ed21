//! The developer's one door: everything that is done to this repository is a `cargo xtask` command.
//!
//! - [`host`] and [`clients`] install what the rest needs, once.
//! - [`server`] starts a real server with a data directory below `target/`.
//! - [`examples`] runs the documented examples against it and checks what they print.
//! - [`fuzz`] feeds random input to the parsers.
//! - [`compat`] runs the client tests against older versions of the official clients.
//! - [`test`] and [`demo`] put these together.
//! - [`microvm`] runs the machine monitor's tests inside QEMU.
//! - [`run`] runs every child process: with a time limit, and never in silence.
#![forbid(unsafe_code)]

mod clients;
mod compat;
mod demo;
mod examples;
mod fuzz;
mod host;
mod microvm;
mod names;
mod paths;
mod run;
mod second_try;
mod server;
mod test;
mod tests_count;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Everything that is done to this repository")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Installs the packages that the project needs on a Debian host (root)
    SetupHost,
    /// Installs the official E2B clients below `.clients/`
    Clients {
        /// Replaces them with the newest versions
        #[arg(long)]
        refresh: bool,
    },
    /// Sets everything up, runs the documented examples against a real server and says what it took (root)
    Demo,
    /// Runs every check and every test (root)
    Test(test::Options),
    /// Feeds the parsers with random input, guided by what it reaches
    Fuzz(fuzz::Options),
    /// Runs the client tests against several versions of the official SDKs and writes docs/compatibility.md (root)
    Compat(compat::Options),
    /// Runs the tests of the machine monitor that need Linux as guest, inside QEMU
    TestMicrovm(microvm::Options),
    /// Checks the formatting and runs clippy
    Lint,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::SetupHost => host::setup(),
        Task::Clients { refresh } => clients::ensure(refresh).map(drop),
        Task::Demo => demo::demo(),
        Task::Test(options) => test::test(&options),
        Task::Fuzz(options) => fuzz::fuzz(&options),
        Task::Compat(options) => compat::compat(&options),
        Task::TestMicrovm(options) => microvm::test(&options),
        Task::Lint => test::lint(),
    };
    finish(done)
}

fn finish(done: Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
