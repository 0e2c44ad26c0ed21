//! Measures slots on this host: `cargo run --release --example slots -p dormouse-network`, as root.
//!
//! Makes its own data directory, and removes everything it made, other than the setting that lets the host forward.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dormouse_network::{NetworkConfig, SlotPool};
use nix::sched::{CloneFlags, setns};

const ROUNDS: usize = 50;
const AT_ONCE: usize = 16;

#[tokio::main]
async fn main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut config = NetworkConfig::new(dir.path(), &dir.path().join("run"));
    config.ready = 0;
    config.dns.upstreams = vec!["127.0.0.1:9".parse()?];
    let began = Instant::now();
    let pool = SlotPool::open(config).await?;
    println!("open          {:.1} ms", millis(began.elapsed()));
    let outcome = measure(&pool).await;
    pool.uninstall().await?;
    outcome
}

async fn measure(pool: &SlotPool) -> Result<()> {
    let (mut make, mut switch, mut dial, mut release) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let slot = timed(&mut make, pool.take()).await?;
        timed(&mut switch, slot.set_internet(false)).await?;
        let (_listener, port) = listen(slot.sandbox_netns())?;
        // The first finds neighbours; the second is what a request costs.
        slot.connect(port).await?;
        timed(&mut dial, slot.connect(port)).await?;
        timed(&mut release, slot.release()).await?;
    }
    for (what, times) in [
        ("make", make),
        ("set_internet", switch),
        ("connect", dial),
        ("release", release),
    ] {
        print(what, times);
    }

    let began = Instant::now();
    let slots = futures::future::try_join_all((0..AT_ONCE).map(|_| pool.take())).await?;
    println!("{AT_ONCE} at once    {:.1} ms", millis(began.elapsed()));
    drop(slots);
    let began = Instant::now();
    let removed = pool.sweep(&[]).await?;
    println!("sweep of {removed}   {:.1} ms", millis(began.elapsed()));
    Ok(())
}

async fn timed<T, E>(times: &mut Vec<Duration>, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let began = Instant::now();
    let outcome = work.await;
    times.push(began.elapsed());
    outcome
}

fn listen(netns: &Path) -> Result<(TcpListener, u16)> {
    let netns = File::open(netns)?;
    let thread = std::thread::spawn(move || {
        setns(netns, CloneFlags::CLONE_NEWNET)?;
        let listener = TcpListener::bind("169.254.77.2:0")?;
        let port = listener.local_addr()?.port();
        Ok((listener, port))
    });
    thread.join().ok().context("the thread does not panic")?
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |part: f64| millis(times[((times.len() - 1) as f64 * part) as usize]);
    println!(
        "{what:13} p50 {:.2} ms, p95 {:.2} ms, max {:.2} ms",
        at(0.5),
        at(0.95),
        at(1.0)
    );
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
