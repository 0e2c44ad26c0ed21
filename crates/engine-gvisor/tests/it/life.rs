//! One instance after another: boot, work, suspend, snapshot, restore, die.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use dormouse_engine::{ConnectError, Engine, EngineError, ExitReason, Identity, InstanceId, StartFrom};
use tokio::io::AsyncReadExt as _;

use crate::host::Host;
use crate::http::{get, sh};

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_boots_works_and_is_gone() -> Result<()> {
    let Some(host) = Host::new().await? else { return Ok(()) };
    let engine = &host.engine;
    let began = Instant::now();
    let id = host.boot().await?;
    eprintln!("boot: {:?}", began.elapsed());
    assert_eq!(get(engine, &id, "/count").await?, "0");
    assert_eq!(
        sh(engine, &id, "echo written > /root/file; cat /root/file").await?,
        "written\n"
    );
    assert!(!host.root.join("root/file").exists(), "the template is shared");
    assert!(sh(engine, &id, "id").await?.starts_with("uid=0"));
    assert_eq!(sh(engine, &id, "hostname").await?, "sandbox\n");

    let mut stream = engine.connect(&id, 9000).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    assert_eq!(text, "from loopback");
    let Err(refused) = engine.connect(&id, 9001).await else {
        panic!("nothing listens there")
    };
    assert!(matches!(refused, ConnectError::Refused(9001)), "{refused}");

    let stats = engine.stats(&id).await?;
    assert!(stats.cpu_usec > 0 && stats.memory_bytes > 0, "{stats:?}");
    let exit = engine.exited(&id);
    let began = Instant::now();
    engine.destroy(&id).await?;
    eprintln!("destroy: {:?}", began.elapsed());
    assert_eq!(exit.await, ExitReason::Destroyed);
    engine.destroy(&id).await?;
    assert_eq!(engine.exited(&id).await, ExitReason::Destroyed);
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_arrives() -> Result<()> {
    let Some(host) = Host::new().await? else { return Ok(()) };
    let id = host.boot().await?;
    let identity = Identity {
        sandbox_id: "i123".to_owned(),
        access_token: Some("secret".to_owned()),
        ..Identity::default()
    };
    host.engine.identify(&id, &identity).await?;
    let got = get(&host.engine, &id, "/identity").await?;
    assert!(
        got.contains(r#""sandboxId":"i123""#) && got.contains(r#""accessToken":"secret""#),
        "{got}"
    );
    host.engine.destroy(&id).await?;
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_instance_rests_and_goes_on() -> Result<()> {
    let Some(host) = Host::new().await? else { return Ok(()) };
    let engine = &host.engine;
    let id = host.boot().await?;
    get(engine, &id, "/count").await?;
    let began = Instant::now();
    engine.suspend(&id).await?;
    eprintln!("suspend: {:?}", began.elapsed());
    engine.suspend(&id).await?;
    let before = engine.stats(&id).await?.cpu_usec;
    let Err(gone) = engine.connect(&id, 49983).await else {
        panic!("it is suspended")
    };
    assert!(matches!(gone, ConnectError::Gone(_)), "{gone}");
    // Long enough for a sentry that was only paused to use some milliseconds.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(
        engine.stats(&id).await?.cpu_usec,
        before,
        "a suspended instance uses no processor"
    );
    let began = Instant::now();
    engine.resume(&id).await?;
    eprintln!("resume: {:?}", began.elapsed());
    assert_eq!(get(engine, &id, "/count").await?, "1");
    eprintln!("resume to answer: {:?}", began.elapsed());
    engine.resume(&id).await?;
    let inside: u128 = get(engine, &id, "/clock").await?.parse()?;
    let outside = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    assert!(
        outside.abs_diff(inside) < 500,
        "the clock inside is {inside}, outside it is {outside}"
    );
    // Destroying a suspended one needs no resume.
    engine.suspend(&id).await?;
    engine.destroy(&id).await?;
    host.finish().await
}

async fn snapshot_wakes_twice(host: Host) -> Result<()> {
    let engine = &host.engine;
    let id = host.boot().await?;
    get(engine, &id, "/count").await?;
    sh(engine, &id, "echo kept > /root/file; rm /bin/dd").await?;
    let dir = host.snapshot_dir("snapshot")?;
    let began = Instant::now();
    let stats = engine.snapshot(&id, &dir).await?;
    eprintln!("snapshot of {} KiB: {:?}", stats.bytes / 1024, began.elapsed());
    engine.resume(&id).await?;
    assert_eq!(get(engine, &id, "/count").await?, "1", "the instance goes on");

    for clone in 0..2 {
        let began = Instant::now();
        let woken = host.start(StartFrom::Snapshot(dir.clone())).await?;
        eprintln!("restore: {:?}", began.elapsed());
        assert_eq!(
            get(engine, &woken, "/count").await?,
            "1",
            "clone {clone} continues at the snapshot's moment"
        );
        assert_eq!(sh(engine, &woken, "cat /root/file; ls /bin/dd 2>/dev/null").await?, "kept\n");
        // A snapshot of a suspended one, and of one that came from a snapshot.
        engine.suspend(&woken).await?;
        let again = host.snapshot_dir(&format!("again-{clone}"))?;
        engine.snapshot(&woken, &again).await?;
        engine.destroy(&woken).await?;
        let woken = host.start(StartFrom::Snapshot(again)).await?;
        assert_eq!(get(engine, &woken, "/count").await?, "2");
        engine.destroy(&woken).await?;
    }
    engine.destroy(&id).await?;
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_wakes_as_often_as_wanted_over_an_image() -> Result<()> {
    match Host::new().await? {
        Some(host) => snapshot_wakes_twice(host).await,
        None => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_wakes_as_often_as_wanted_over_a_tree() -> Result<()> {
    match Host::with(false).await? {
        Some(host) => snapshot_wakes_twice(host).await,
        None => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_start_at_once() -> Result<()> {
    let Some(host) = Host::new().await? else { return Ok(()) };
    let engine = &host.engine;
    let first = host.boot().await?;
    let dir = host.snapshot_dir("snapshot")?;
    engine.snapshot(&first, &dir).await?;
    let began = Instant::now();
    let starts = (0..6).map(|_| host.start(StartFrom::Snapshot(dir.clone())));
    let ids: Vec<InstanceId> = futures::future::try_join_all(starts).await?;
    eprintln!("6 restores at once: {:?}", began.elapsed());
    futures::future::try_join_all(ids.iter().map(|id| get(engine, id, "/count"))).await?;
    futures::future::try_join_all(ids.iter().chain([&first]).map(|id| engine.destroy(id))).await?;
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_dies_says_why() -> Result<()> {
    let Some(host) = Host::new().await? else { return Ok(()) };
    let engine = &host.engine;
    let id = host.boot().await?;
    let exit = engine.exited(&id);
    // The answer never comes: the first process is the agent.
    let _ = sh(
        engine,
        &id,
        "kill -9 1; kill -TERM 1; cat /dev/zero > /dev/null & sleep 0; echo",
    )
    .await;
    let pid: i32 = std::fs::read_to_string(host.dir().join("sandboxes").join(id.as_str()).join("sandbox.pid"))?
        .trim()
        .parse()?;
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    let reason = exit.await;
    assert!(matches!(reason, ExitReason::Died(_)), "{reason}");
    let Err(gone) = engine.suspend(&id).await else {
        panic!("it is gone")
    };
    assert!(matches!(gone, EngineError::Gone(_)), "{gone}");
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_without_memory_says_so() -> Result<()> {
    let Some(host) = Host::new().await? else { return Ok(()) };
    let id = host.boot().await?;
    let exit = host.engine.exited(&id);
    // Those that are there have a limit; this one is all memory, and more.
    let fill = "mount -t tmpfs -o size=8g tmpfs /root; dd if=/dev/urandom of=/root/all bs=1M count=2000";
    let _ = sh(&host.engine, &id, fill).await;
    assert_eq!(exit.await, ExitReason::OutOfMemory);
    host.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_leaves_nothing() -> Result<()> {
    let Some(host) = Host::new().await? else { return Ok(()) };
    std::fs::remove_file(host.root.join("agent"))?;
    let error = host.boot().await.expect_err("there is no agent");
    let chain = format!("{error:#}");
    ensure!(chain.contains("/agent"), "{chain}");
    let bad = host.snapshot_dir("bad")?;
    let error = host.start(StartFrom::Snapshot(bad)).await.expect_err("it is empty");
    assert!(
        matches!(error.downcast_ref(), Some(EngineError::BadSnapshot { .. })),
        "{error:#}"
    );
    host.finish().await
}
