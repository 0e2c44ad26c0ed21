//! From a fresh Debian machine to both clients at work, with what it took.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::run::Step;
use crate::server::{Profile, Server};
use crate::{clients, examples, host, paths, server};

/// Runs the demonstration.
pub(crate) fn demo() -> Result<()> {
    let started = Instant::now();
    host::setup()?;
    let clients = clients::ensure(false)?;
    let program = server::build(Profile::Release)?;
    let data = server::data_directory("demo");
    let setup = server::setup(&program, &data)?;
    let server = Server::start(&program, &data, &[])?;

    let count = examples::run_all(&clients, &server)?;
    let timings = Step::new("timings", clients.python())
        .args([paths::root().join("examples/timings.py")])
        .envs(server.variables())
        .limit(Duration::from_secs(180))
        .outcome()?;
    server.stop()?;
    server::forget(&data)?;

    println!("\nclients: {}", clients.versions().trim().replace('\n', ", "));
    println!("set-up of the data directory: {:.1} s", setup.as_secs_f64());
    println!("everything: {:.0} s", started.elapsed().as_secs_f64());
    println!("examples: {count}");
    if count.failed > 0 || !timings.success {
        bail!("the demonstration failed");
    }
    Ok(())
}
