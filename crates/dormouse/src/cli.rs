//! The command line.

use clap::{Args, Parser, Subcommand};

use crate::config::Settings;
use crate::template::TemplateArgs;

/// Sandboxes for AI agents on your own machine: E2B-compatible, asleep when idle, awake on the next call.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server
    Serve(ServeArgs),
    /// Prepare this host: packages, engine, base template. Safe to run again
    Setup(SetupArgs),
    /// Check this host and explain what would be used
    Doctor(DoctorArgs),
    /// Print the variables that point E2B's SDKs and CLI here
    Env(EnvArgs),
    /// Print the certificate authority of this installation, and how to trust it
    Ca(CaArgs),
    /// Work with sandboxes on a running server
    Sandbox(SandboxArgs),
    /// Register the SSH keys that open this team's sandboxes
    SshKey(SshKeyArgs),
    /// Build templates, and manage them, on a running server
    Template(TemplateArgs),
    /// Measure create, pause and wake on this host, beside plain runsc
    Bench(BenchArgs),
    /// The parent of one sandbox's processes; started by the server
    #[command(hide = true)]
    Shim(ShimArgs),
    /// The monitor of one virtual machine; started by the server
    #[command(hide = true)]
    Vmm(VmmArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// Write {"url", "apiKey"} to this file once requests are answered
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<std::path::PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SshKeyArgs {
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// API key of the team that is meant [default: the first key]
    #[arg(long, env = "E2B_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub(crate) api_key: Option<String>,
    #[command(subcommand)]
    pub(crate) action: SshKeyAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SshKeyAction {
    /// Register a public key
    Add {
        /// A .pub file, or `-` for standard input [default: the first of ~/.ssh/id_*.pub]
        file: Option<std::path::PathBuf>,
        /// Name of the key [default: the comment in the file]
        #[arg(long)]
        name: Option<String>,
    },
    /// List the registered keys, oldest first
    #[command(visible_alias = "ls")]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Forget keys; connections that are open stay open
    #[command(visible_alias = "rm")]
    Remove {
        /// Fingerprints or names, as `list` shows them
        #[arg(required = true)]
        keys: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SetupArgs {
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// Do not install packages, only say what is missing
    #[arg(long)]
    pub(crate) no_packages: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CaArgs {
    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Debug, Args)]
pub(crate) struct EnvArgs {
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// Point clients at HTTPS and the base domain, as they would be at E2B
    #[arg(long)]
    pub(crate) tls: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SandboxArgs {
    #[command(flatten)]
    pub(crate) settings: Settings,
    #[command(subcommand)]
    pub(crate) action: SandboxAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SandboxAction {
    /// List sandboxes, newest first
    #[command(visible_alias = "ls")]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a sandbox and print its id
    Create {
        /// Template to start from
        #[arg(default_value = "base")]
        template: String,
        /// Seconds until it ends
        #[arg(long, default_value_t = 300)]
        timeout: u32,
        /// At the end of its time: put it to sleep instead of killing it, and wake it on traffic
        #[arg(long)]
        auto_pause: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Run a command in a sandbox; a sleeping one is woken. The exit code is the command's
    Exec {
        /// The sandbox
        id: String,
        /// User inside the sandbox
        #[arg(long, short)]
        user: Option<String>,
        /// Working directory
        #[arg(long, short)]
        cwd: Option<String>,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// End sandboxes for ever
    Kill {
        /// The sandboxes
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Put a sandbox to sleep
    Pause {
        /// The sandbox
        id: String,
    },
    /// Wake a sandbox
    Resume {
        /// The sandbox
        id: String,
        /// Seconds until it ends or sleeps again
        #[arg(long, default_value_t = 300)]
        timeout: u32,
    },
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// How often each thing is measured, at each concurrency
    #[arg(long, default_value_t = 40)]
    pub(crate) runs: usize,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ShimArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct VmmArgs {
    /// The machine's configuration
    pub(crate) configuration: String,
}
