//! Instances outlive the daemon.

use std::path::Path;

use anyhow::{Context as _, Result};
use dormouse_engine::{AdoptedInstance, Engine, ExitReason};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::host::Host;
use crate::http::get;

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_daemon_finds_its_instances() -> Result<()> {
    let Some(host) = Host::new().await? else { return Ok(()) };
    let (running, suspended) = (host.boot().await?, host.boot().await?);
    get(&host.engine, &running, "/count").await?;
    host.engine.suspend(&suspended).await?;

    let host = host.restart().await?;
    let mut adopted = host.engine.adopt().await?;
    adopted.live.sort_by_key(|instance| instance.suspended);
    let expected = [
        AdoptedInstance {
            id: running.clone(),
            suspended: false,
        },
        AdoptedInstance {
            id: suspended.clone(),
            suspended: true,
        },
    ];
    assert_eq!(adopted.live, expected);
    assert!(adopted.removed.is_empty(), "{:?}", adopted.removed);
    assert_eq!(get(&host.engine, &running, "/count").await?, "1");
    host.engine.resume(&suspended).await?;
    assert_eq!(get(&host.engine, &suspended, "/count").await?, "0");
    let exit = host.engine.exited(&running);
    host.engine.destroy(&running).await?;
    assert_eq!(exit.await, ExitReason::Destroyed);
    host.engine.destroy(&suspended).await?;
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn remains_of_the_dead_are_removed() -> Result<()> {
    let Some(host) = Host::new().await? else { return Ok(()) };
    let id = host.boot().await?;
    let dir = host.dir().join("sandboxes").join(id.as_str());
    // The start of another daemon that got no further than this.
    let half = host.dir().join("sandboxes").join("xaaaaaaaaaaaaaaa");
    std::fs::create_dir_all(&half)?;
    std::fs::write(half.join("record.json"), "{")?;
    let host = host.restart().await?;
    kill_and_wait(&dir.join("shim.pid"))?;
    let adopted = host.engine.adopt().await?;
    assert!(adopted.live.is_empty(), "{:?}", adopted.live);
    assert_eq!(adopted.removed.len(), 2, "{:?}", adopted.removed);
    host.finish().await
}

/// Kills the process whose number is in a file, and returns when it has ended.
fn kill_and_wait(file: &Path) -> Result<()> {
    let pid = std::fs::read_to_string(file)?.trim().parse()?;
    let pid = Pid::from_raw(pid).context("no process")?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    pidfd_send_signal(&process, Signal::KILL)?;
    poll(&mut [PollFd::new(&process, PollFlags::IN)], None)?;
    Ok(())
}
