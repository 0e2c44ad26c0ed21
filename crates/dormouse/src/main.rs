//! The `dormouse` program: command line, configuration and wiring. What it does is in the other crates.
#![forbid(unsafe_code)]

mod agent;
mod base;
mod bench;
mod ca;
mod cli;
mod client;
mod config;
mod config_tls;
mod data_dir;
mod doctor;
mod env;
mod host;
mod https;
mod output;
mod sandbox;
mod serve;
mod setup;
mod ssh;
mod ssh_key;
mod template;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = match Cli::parse().command {
        // Before any thread is started: the shim must be small, and changes namespaces.
        Command::Shim(arguments) => return dormouse_engine_gvisor::shim_main(&arguments.arguments),
        // Likewise: it jails itself.
        Command::Vmm(arguments) => return dormouse_vmm::process::vmm_main(&[arguments.configuration]),
        command => command,
    };
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            output::print_error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        match command {
            Command::Serve(arguments) => serve::serve(arguments).await,
            Command::Setup(arguments) => setup::setup(arguments).await,
            Command::Doctor(arguments) => doctor::doctor(arguments).await,
            Command::Env(arguments) => env::env(&arguments),
            Command::Ca(arguments) => ca::ca(arguments),
            Command::Bench(arguments) => bench::bench(arguments).await,
            Command::Sandbox(arguments) => sandbox::sandbox(arguments).await,
            Command::SshKey(arguments) => ssh_key::ssh_key(arguments).await,
            Command::Template(arguments) => template::template(arguments).await,
            Command::Shim(_) | Command::Vmm(_) => Ok(ExitCode::FAILURE),
        }
    });
    // Blocking work that hangs must not keep a stopped server alive.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    code
}
