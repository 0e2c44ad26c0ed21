//! What a start makes of what an earlier daemon left.
//!
//! | row     | instance            | becomes                                                                      |
//! | ------- | ------------------- | ---------------------------------------------------------------------------- |
//! | running | lives               | running: resumed (a pause was under way: it is undone) and given its identity again |
//! | running | dead, snapshot named | paused: the wake was under way, nobody was told                              |
//! | running | dead                | gone, with an event                                                          |
//! | paused  | lives, suspended    | light sleep                                                                  |
//! | paused  | anything else       | deep sleep                                                                   |
//! | none    | lives               | destroyed: it was pooled, or on its way into or out of a sandbox             |
//!
//! Snapshots that no row names are removed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use dormouse_engine::InstanceId;
use dormouse_store::{SandboxRecord, SandboxState};
use futures::StreamExt as _;

use crate::driver::{Command, Driver};
use crate::model::Phase;
use crate::node::Node;
use crate::wake::identity;
use crate::{ControlError, clock, events};

/// How many sandboxes are looked after at once.
const AT_ONCE: usize = 8;

/// What a start found. Printed once.
#[derive(Debug, Default)]
struct Found {
    running: usize,
    paused: usize,
    lost: usize,
}

pub(crate) async fn recover(node: &Arc<Node>) -> Result<(), ControlError> {
    let adopted = node.engine.adopt().await?;
    let mut live: HashMap<InstanceId, bool> = adopted
        .live
        .into_iter()
        .map(|instance| (instance.id, instance.suspended))
        .collect();
    let builds = node.store.builds().await?;
    let mut keep: HashSet<_> = builds.iter().map(|build| build.snapshot.clone()).collect();
    let mut owned = Vec::new();
    for record in node.store.sandboxes().await? {
        keep.extend(record.snapshot.clone());
        let instance = record.instance.as_ref().and_then(|instance| live.remove(instance));
        owned.push((record, instance));
    }
    let mut found = Found::default();
    let mut recovering = futures::stream::iter(
        owned
            .into_iter()
            .map(|(record, instance)| recover_one(node, record, instance)),
    )
    .buffer_unordered(AT_ONCE);
    while let Some(state) = recovering.next().await {
        match state? {
            Some(SandboxState::Running) => found.running += 1,
            Some(SandboxState::Paused) => found.paused += 1,
            None => found.lost += 1,
        }
    }
    let orphans = live.len();
    for (orphan, _suspended) in live {
        node.engine.destroy(&orphan).await?;
    }
    let swept = node.snapshots.sweep(&keep).await?;
    let Found { running, paused, lost } = found;
    tracing::info!(
        running,
        paused,
        lost,
        orphans,
        dead = adopted.removed.len(),
        swept,
        "took over what an earlier run left"
    );
    Ok(())
}

/// Returns what became of the sandbox, `None` when it is gone.
async fn recover_one(
    node: &Arc<Node>,
    mut record: SandboxRecord,
    suspended: Option<bool>,
) -> Result<Option<SandboxState>, ControlError> {
    match (record.state, suspended) {
        (SandboxState::Running, Some(_)) => {
            revive(node, &record).await;
            if record.snapshot.is_some() {
                record.snapshot = None;
                node.store.save(&record, &[]).await?;
            }
            // More than may run at once can only be if the limit was lowered: they run on without a permit.
            let (mut driver, commands) = Driver::register(node, record, Phase::Creating, node.permit().ok());
            driver.begin_run();
            node.tasks.spawn(driver.run(commands));
            Ok(Some(SandboxState::Running))
        }
        (SandboxState::Running, None) if record.snapshot.is_some() => {
            record.state = SandboxState::Paused;
            record.instance = None;
            record.end_at = clock::now();
            node.store.save(&record, &[]).await?;
            asleep(node, record);
            Ok(Some(SandboxState::Paused))
        }
        (SandboxState::Running, None) => {
            tracing::warn!(sandbox = %record.id, "the instance of a running sandbox died while nobody watched");
            node.store
                .remove(&record.id, &[events::killed(&record, "instance died")])
                .await?;
            Ok(None)
        }
        (SandboxState::Paused, suspended) => {
            if suspended != Some(true)
                && let Some(instance) = record.instance.take()
            {
                node.store.save(&record, &[]).await?;
                node.engine.destroy(&instance).await?;
            }
            asleep(node, record);
            Ok(Some(SandboxState::Paused))
        }
    }
}

/// A running sandbox whose daemon died: it may be suspended for a pause that was never finished, or lack its identity. One that cannot
/// be revived stays as it is; its end is noticed by its driver.
async fn revive(node: &Node, record: &SandboxRecord) {
    let Some(instance) = &record.instance else { return };
    let revived = async {
        node.engine.resume(instance).await?;
        let build = node.build(record).await?;
        node.engine.identify(instance, &identity(record, &build)).await?;
        Ok::<_, ControlError>(())
    };
    if let Err(error) = revived.await {
        tracing::warn!(sandbox = %record.id, error = &error as &dyn std::error::Error, "a running sandbox did not answer after the restart");
    }
}

fn asleep(node: &Arc<Node>, record: SandboxRecord) {
    let id = record.id.clone();
    let light = record.instance.clone();
    let (mut driver, commands) = Driver::register(node, record, Phase::Paused, None);
    if light.is_some() {
        driver.deep_at = Some(clock::later(clock::now(), node.config.light_sleep_age));
    }
    node.tasks.spawn(driver.run(commands));
    let Some(instance) = light else { return };
    let node = Arc::clone(node);
    node.tasks.clone().spawn(async move {
        let bytes = node
            .engine
            .stats(&instance)
            .await
            .map_or(u64::MAX, |stats| stats.memory_bytes);
        for evicted in node.asleep.enter(id, bytes) {
            if let Some(handle) = node.handle(&evicted) {
                handle.hint(Command::GoDeep);
            }
        }
    });
}
