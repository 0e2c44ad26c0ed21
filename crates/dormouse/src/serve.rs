//! `dormouse serve`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use dormouse_store::Store;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::ServeArgs;
use crate::client::reachable;
use crate::config::Config;
use crate::data_dir::{DataDir, write_private};
use crate::host::Host;
use crate::https::Names;
use crate::{base, output, ssh};

pub(crate) async fn serve(arguments: ServeArgs) -> anyhow::Result<ExitCode> {
    output::init_log();
    raise_file_limit();
    let config = Config::load(arguments.settings)?;
    let data = DataDir::open(&config.data_dir)?;
    let _lock = data.lock()?;
    // Signals are caught from here on: a stop during the start must not leave things half-made.
    let stop = stop_on_signal()?;
    // Before anything else is touched: a port that is taken is the likeliest mistake.
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("Cannot listen on {}", config.listen))?;
    let url = format!("http://{}", reachable(listener.local_addr()?));
    let ssh = ssh::SshListener::open(&config, &data).await?;
    let names = Names::open(&config, &data).await?;

    let tree = base::ensure_tree(&config, &data).await?;
    let host = Host::open(&config, &data).await?;
    let build = base::ensure_build(&config, &host, &tree).await?;
    host.control.stock(&build);

    let front = host.front(&config, names.https_port());
    tokio::spawn(prune_events(host.store.clone(), stop.clone()));
    let mut server = json!({ "url": url, "apiKey": data.key_or_make()? });
    if let Some(ssh) = &ssh {
        server["ssh"] = ssh.address().into();
    }
    names.write_down(&mut server);
    let server = server.to_string();
    write_private(&data.server(), server.as_bytes())?;
    if let Some(file) = &arguments.ready_file {
        write_private(file, server.as_bytes())?;
    }
    println!("Dormouse serves on {url}, engine {}", host.engine.kind());
    println!(
        "Point E2B's SDKs here: eval \"$(dormouse env{})\"",
        data_dir_flag(&config.data_dir)
    );
    names.announce(&config);

    let ssh = ssh.map(|ssh| {
        println!("SSH on {}, host key {}", ssh.address(), ssh.fingerprint());
        tokio::spawn(ssh.serve(&host, stop.clone()))
    });

    let https = tokio::spawn(names.serve(config.domains.clone(), front.clone(), stop.clone()));
    dormouse_proxy::serve(listener, front, stop).await?;
    https.await??;
    if let Some(ssh) = ssh {
        ssh.await??;
    }
    tracing::info!("stopping; sandboxes stay as they are");
    // Not an error: it only says where a running server is.
    let _ = std::fs::remove_file(data.server());
    host.close().await;
    Ok(ExitCode::SUCCESS)
}

/// Events are kept for a week (contract 4.9); once an hour the older ones are removed.
async fn prune_events(store: Store, stop: CancellationToken) {
    const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
    const EVERY: Duration = Duration::from_secs(3600);
    loop {
        if let Err(error) = store.prune_events(jiff::Timestamp::now() - KEPT).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "old events could not be removed");
        }
        tokio::select! { () = tokio::time::sleep(EVERY) => {} () = stop.cancelled() => return }
    }
}

/// Every request to a sandbox takes two descriptors: as many as the host lets this process have.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

/// The flag that other commands need to find this server's directory.
fn data_dir_flag(data_dir: &Path) -> String {
    if data_dir == Path::new(crate::config::DATA_DIR) {
        String::new()
    } else {
        format!(" --data-dir {}", data_dir.display())
    }
}

/// Cancelled by the first SIGINT or SIGTERM.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
        stopping.cancel();
    });
    Ok(stop)
}
