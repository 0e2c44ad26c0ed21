//! `dormouse bench`: how long things take here, over the same wire that clients use, beside plain runsc in the same run.
//!
//! A server of its own, on a free port of loopback and in a data directory of its own below the given one, is measured by requests as
//! an SDK sends them. Every number is from the first byte sent to the last byte needed; nothing is subtracted.

mod client;
mod idle;
mod plain;
mod report;
mod sample;
mod scenarios;

use std::process::ExitCode;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::client::Client;
use self::report::Report;
use crate::cli::BenchArgs;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::host::Host;
use crate::{base, output};

/// How many at a time, in the two columns of every table.
const CONCURRENCY: [usize; 2] = [1, 8];

pub(crate) async fn bench(arguments: BenchArgs) -> anyhow::Result<ExitCode> {
    output::init_log();
    let mut config = Config::load(arguments.settings)?;
    // Enough that eight creates at once find eight instances.
    config.pool_size = config.pool_size.max(CONCURRENCY[1]);
    let data = DataDir::open(&config.data_dir)?;
    let _lock = data
        .lock()
        .context("The benchmark needs the data directory for itself: stop the server first")?;
    let tree = base::ensure_tree(&config, &data).await?;
    let host = Host::open(&config, &data).await?;
    let measured = measure(&config, &data, &host, &tree, arguments.runs).await;
    host.close().await;
    let report = measured?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(ExitCode::SUCCESS)
}

async fn measure(
    config: &Config,
    data: &DataDir,
    host: &Host,
    tree: &dormouse_templates::base::RootTree,
    runs: usize,
) -> anyhow::Result<Report> {
    let build = base::ensure_build(config, host, tree).await?;
    host.control.stock(&build);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let front = host.front(config, None);
    let stop = CancellationToken::new();
    let serving = tokio::spawn(dormouse_proxy::serve(listener, front, stop.clone()));
    let client = Client::new(address, data.key_or_make()?);

    let mut report = Report::new(config, host);
    for at_once in CONCURRENCY {
        scenarios::measure(&mut report, host, &client, runs, at_once).await?;
        plain::measure(&mut report, config, tree, runs, at_once).await?;
    }
    idle::measure(&mut report, host, &client).await?;

    stop.cancel();
    serving.await??;
    Ok(report)
}
