//! The engine with the product's own agent.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use dormouse_agent_client::{Caller, Command};
use dormouse_agent_proto::rpc::process::process_event::Event;
use dormouse_engine::{Engine, Identity, InstanceId, StartFrom};

use crate::host::Host;

/// Where a static build of the agent is: named by a variable, or where `cargo xtask` puts it.
fn agent() -> Option<PathBuf> {
    let target = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target");
    let built = [
        "agent/x86_64-unknown-linux-gnu/release",
        "agent/x86_64-unknown-linux-gnu/debug",
    ]
    .map(|dir| Path::new(target).join(dir).join("dormouse-agent"));
    let named = std::env::var_os("DORMOUSE_AGENT").map(PathBuf::from);
    named.into_iter().chain(built).find(|path| is_static(path))
}

fn is_static(program: &Path) -> bool {
    let loader = b"/lib64/ld-linux";
    std::fs::read(program).is_ok_and(|bytes| !bytes.windows(loader.len()).any(|window| window == loader))
}

async fn run(engine: &dyn Engine, id: &InstanceId, script: &str) -> Result<String> {
    let stream = engine.connect(id, dormouse_agent_proto::AGENT_PORT).await?;
    let caller = Caller {
        access_token: Some("token"),
        user: Some("root"),
        ..Caller::default()
    };
    let mut events = Command::new("/bin/sh", ["-c", script]).cwd("/").start(stream, caller).await?;
    let mut output = String::new();
    while let Some(event) = events.next().await? {
        if let Some(Event::Data(data)) = event.event {
            let text = format!("{data:?}");
            output.push_str(&text);
        }
    }
    Ok(output)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_products_agent_runs_commands_before_and_after_a_snapshot() -> Result<()> {
    let Some(agent) = agent() else {
        eprintln!("skipped: the agent is not built");
        return Ok(());
    };
    let Some(host) = Host::new().await? else { return Ok(()) };
    std::fs::copy(agent, host.root.join("agent")).context("the agent cannot be copied")?;
    std::fs::write(host.root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    let identity = Identity {
        sandbox_id: "i1".to_owned(),
        access_token: Some("token".to_owned()),
        ..Identity::default()
    };
    let id = host.boot().await?;
    host.engine.identify(&id, &identity).await?;
    run(&host.engine, &id, "echo kept > /root/file").await?;
    let dir = host.snapshot_dir("snapshot")?;
    host.engine.snapshot(&id, &dir).await?;
    host.engine.destroy(&id).await?;
    let id = host.start(StartFrom::Snapshot(dir)).await?;
    host.engine.identify(&id, &identity).await?;
    run(
        &host.engine,
        &id,
        "test $(cat /root/file) = kept || exit 1; rm /root/file; test $(hostname) = i1 && echo > /root/right",
    )
    .await?;
    let right = run(&host.engine, &id, "ls /root").await?;
    assert!(!right.is_empty(), "neither the file nor the host name were right");
    host.engine.destroy(&id).await?;
    host.finish().await
}
