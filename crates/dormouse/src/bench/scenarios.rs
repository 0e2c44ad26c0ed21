//! What Dormouse is measured at.

use std::future::Future;
use std::time::{Duration, Instant};

use dormouse_store::TeamId;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::client::{Client, Sandbox};
use super::report::Report;
use crate::host::Host;

/// All scenarios at one concurrency; each is run `runs` times in all.
pub(super) async fn measure(
    report: &mut Report,
    host: &Host,
    client: &Client,
    runs: usize,
    at_once: usize,
) -> anyhow::Result<()> {
    let mut durations = Vec::with_capacity(runs);
    while durations.len() < runs {
        host.control.pool_full().await;
        let batch = together(0..at_once, |_| async {
            let begun = Instant::now();
            let sandbox = client.create().await?;
            client.run_true(&sandbox).await?;
            Ok((begun.elapsed(), sandbox))
        });
        for (duration, sandbox) in batch.await? {
            durations.push(duration);
            client.kill(&sandbox).await?;
        }
    }
    report.add("create to the end of a first `true`", at_once, durations);
    host.control.pool_full().await;

    let sandboxes: Vec<Sandbox> = together(0..at_once, |_| client.create()).await?;
    let rounds = runs.div_ceil(at_once);
    let mut measured = Measured::default();
    for _ in 0..rounds {
        measured
            .exec
            .extend(each(&sandboxes, |sandbox| client.run_true(sandbox)).await?);
        measured
            .request
            .extend(each(&sandboxes, |sandbox| client.touch(sandbox)).await?);
        measured
            .pause
            .extend(each(&sandboxes, |sandbox| client.pause(sandbox)).await?);
        measured
            .light
            .extend(each(&sandboxes, |sandbox| client.touch(sandbox)).await?);
        each(&sandboxes, |sandbox| client.pause(sandbox)).await?;
        for sandbox in &sandboxes {
            host.control.sleep_deeply(TeamId::FIRST, &sandbox.id.parse()?).await?;
        }
        measured.deep.extend(each(&sandboxes, |sandbox| client.touch(sandbox)).await?);
    }
    each(&sandboxes, |sandbox| client.kill(sandbox)).await?;
    report.add("`true` in a running sandbox", at_once, measured.exec);
    report.add("request to a running sandbox", at_once, measured.request);
    report.add("pause", at_once, measured.pause);
    report.add("wake from light sleep to first byte", at_once, measured.light);
    report.add("wake from deep sleep to first byte", at_once, measured.deep);
    Ok(())
}

#[derive(Default)]
struct Measured {
    exec: Vec<Duration>,
    request: Vec<Duration>,
    pause: Vec<Duration>,
    light: Vec<Duration>,
    deep: Vec<Duration>,
}

/// Does something to every sandbox at once, and says how long it took for each.
async fn each<'a, F>(sandboxes: &'a [Sandbox], act: impl Fn(&'a Sandbox) -> F) -> anyhow::Result<Vec<Duration>>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let act = &act;
    together(sandboxes, |sandbox| async move {
        let begun = Instant::now();
        act(sandbox).await?;
        Ok(begun.elapsed())
    })
    .await
}

async fn together<I, F, T>(items: I, act: impl Fn(I::Item) -> F) -> anyhow::Result<Vec<T>>
where
    I: IntoIterator,
    F: Future<Output = anyhow::Result<T>>,
{
    let acts: Vec<F> = items.into_iter().map(act).collect();
    let width = acts.len().max(1);
    stream::iter(acts).buffer_unordered(width).try_collect().await
}
