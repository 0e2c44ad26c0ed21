//! Sandboxes that use all there is, and sandboxes whose kernel is stuck.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use dormouse_engine::{Engine, EngineError, ExitReason, InstanceId, StartFrom};
use rustix::process::{Pid, Signal, kill_process};

use crate::host::Host;
use crate::http::{get, sh};

/// Writes this many MiB to a file and says what came of it, as much as was written, and whether what is there is right.
async fn fill(host: &Host, id: &InstanceId, mib: u32) -> Result<String> {
    let script = format!("dd if=/dev/zero of=/root/full bs=1M count={mib} 2>&1; ls -l /root/full; df -m / 2>&1");
    sh(&host.engine, id, &script).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_an_error_inside_and_nothing_more() -> Result<()> {
    let Some(host) = Host::new().await? else { return Ok(()) };
    let engine = &host.engine;
    let mut request = host.request(StartFrom::Boot);
    request.resources.disk_mib = 48;
    let mut id = request.id.clone();
    engine.start(request).await?;
    for generation in 0..3 {
        let said = fill(&host, &id, 100).await?;
        assert!(said.contains("No space left on device"), "{generation}: {said}");
        assert!(said.contains(" 48 "), "`df` shows the limit: {said}");
        let written: u64 = said
            .lines()
            .find_map(|line| line.strip_prefix("-rw")?.split_whitespace().nth(4)?.parse().ok())
            .with_context(|| format!("no size in {said}"))?;
        assert!((40 << 20..=48 << 20).contains(&written), "{written}");
        let said = sh(engine, &id, "rm /root/full; echo x > /root/x && cat /root/x").await?;
        assert_eq!(said, "x\n", "{generation}: what is removed is free again");
        let said = fill(&host, &id, 30).await?;
        assert!(!said.contains("No space"), "{generation}: {said}");
        sh(engine, &id, "rm /root/full /root/x").await?;

        // The limit is the sandbox's, wherever it wakes.
        let snapshot = host.snapshot_dir(&format!("generation-{generation}"))?;
        engine.snapshot(&id, &snapshot).await?;
        engine.destroy(&id).await?;
        id = host.start(StartFrom::Snapshot(snapshot)).await?;
    }
    engine.destroy(&id).await?;
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_tmpfs_is_an_error_inside() -> Result<()> {
    let Some(host) = Host::new().await? else { return Ok(()) };
    let id = host.boot().await?;
    for dir in ["/tmp", "/dev/shm"] {
        let said = sh(
            &host.engine,
            &id,
            &format!("dd if=/dev/zero of={dir}/full bs=1M count=2000 2>&1; rm {dir}/full"),
        )
        .await?;
        assert!(said.contains("No space left on device"), "{dir}: {said}");
    }
    host.engine.destroy(&id).await?;
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_sentry_is_given_up_and_goes_on_when_it_can() -> Result<()> {
    let Some(host) = Host::impatient().await? else { return Ok(()) };
    let engine = &host.engine;
    let id = host.boot().await?;
    get(engine, &id, "/count").await?;
    signal(&sentry(&host, &id)?, Signal::STOP)?;
    let snapshot = host.snapshot_dir("snapshot")?;
    for error in [
        engine.suspend(&id).await.expect_err("it is stuck"),
        engine.snapshot(&id, &snapshot).await.map(drop).expect_err("it is stuck"),
    ] {
        assert!(matches!(error, EngineError::Failed { .. }), "{error}");
        let chain = format!("{:#}", anyhow::Error::from(error));
        assert!(chain.contains("did not answer"), "{chain}");
    }
    engine.stats(&id).await?;
    // It carries out the pause that nobody waits for any more, and that is undone.
    signal(&sentry(&host, &id)?, Signal::CONT)?;
    assert_eq!(get(engine, &id, "/count").await?, "1");
    engine.suspend(&id).await?;
    engine.resume(&id).await?;
    assert_eq!(get(engine, &id, "/count").await?, "2");
    engine.destroy(&id).await?;
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_sandbox_can_be_destroyed() -> Result<()> {
    let Some(host) = Host::impatient().await? else { return Ok(()) };
    let engine = &host.engine;
    for stuck in [&["sandbox.pid"][..], &["shim.pid"], &["shim.pid", "sandbox.pid"]] {
        let id = host.boot().await?;
        for file in stuck {
            signal(&host.dir().join("sandboxes").join(id.as_str()).join(file), Signal::STOP)?;
        }
        let exit = engine.exited(&id);
        tokio::time::timeout(Duration::from_secs(60), engine.destroy(&id))
            .await
            .with_context(|| format!("destroy hangs with {stuck:?}"))??;
        assert_eq!(exit.await, ExitReason::Destroyed);
    }
    host.finish().await
}

fn sentry(host: &Host, id: &InstanceId) -> Result<PathBuf> {
    Ok(host.dir().join("sandboxes").join(id.as_str()).join("sandbox.pid"))
}

/// Sends a signal to the process whose number is in a file.
fn signal(file: &std::path::Path, signal: Signal) -> Result<()> {
    let pid = std::fs::read_to_string(file)?.trim().parse()?;
    kill_process(Pid::from_raw(pid).context("no process")?, signal)?;
    Ok(())
}
