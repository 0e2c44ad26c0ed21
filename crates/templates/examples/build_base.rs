//! Builds the template `base` by itself, as `dormouse setup` does it.
//!
//! ```console
//! # cargo run -p dormouse-templates --example build_base -- /var/lib/dormouse/templates --agent target/release/dormouse-agent
//! ```

use std::path::PathBuf;

use clap::Parser;
use dormouse_templates::base::{self, AgentSource, BaseOptions};
use dormouse_templates::ca;
use dormouse_templates::console::Console;

#[derive(Parser)]
struct Arguments {
    /// The templates directory.
    directory: PathBuf,
    /// The agent's binary.
    #[arg(long)]
    agent: PathBuf,
    /// Keeps Debian's setuid sudo.
    #[arg(long)]
    real_sudo: bool,
    /// Trusts the certificate authorities that this host trusts beyond Debian's.
    #[arg(long)]
    host_cas: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let options = BaseOptions {
        directory: arguments.directory,
        agent: AgentSource::File(arguments.agent),
        agent_as_sudo: !arguments.real_sudo,
        extra_cas: if arguments.host_cas {
            ca::host_extra_cas()?
        } else {
            Vec::new()
        },
    };
    let tree = base::ensure(&options, &Console::new("base template")).map_err(|error| match error.hint() {
        Some(hint) => anyhow::Error::new(error).context(format!("hint: {hint}")),
        None => error.into(),
    })?;
    println!("{}", serde_json::to_string_pretty(&tree)?);
    println!("{}", tree.path.display());
    Ok(())
}
