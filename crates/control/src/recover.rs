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
//! A running row of another engine's build is left alone: its instance may live on under that engine. Snapshots that no row names are
//! removed. A creation that is not in the log yet is entered.
//!
//! First every row is settled, then what nobody owns is removed, and only then do the drivers run: a sandbox whose time ran out while
//! nobody watched falls asleep at once, and its new snapshot must not meet the sweep.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use dormouse_engine::{EngineKind, InstanceId};
use dormouse_store::{BuildId, SandboxRecord, SandboxState};
use futures::{StreamExt as _, TryStreamExt as _};

use crate::driver::Driver;
use crate::model::Phase;
use crate::node::Node;
use crate::wake::{identity, policy};
use crate::{ControlError, clock, events, supervise};

/// How many sandboxes are looked after at once.
const AT_ONCE: usize = 8;

/// Creations older than this are in the log, or it was pruned.
const SURELY_ANNOUNCED: Duration = Duration::from_secs(24 * 3600);

pub(crate) async fn recover(node: &Arc<Node>) -> Result<(), ControlError> {
    let adopted = node.engine.adopt().await?;
    let mut live: HashMap<InstanceId, bool> = adopted
        .live
        .into_iter()
        .map(|instance| (instance.id, instance.suspended))
        .collect();
    let builds = node.store.builds().await?;
    let engines: HashMap<BuildId, EngineKind> = builds.iter().map(|build| (build.id, build.engine)).collect();
    let (rows, left): (Vec<_>, Vec<_>) = node.store.sandboxes().await?.into_iter().partition(|row| {
        let ours = engines.get(&row.build).is_none_or(|engine| *engine == node.engine.kind());
        ours || row.state == SandboxState::Paused
    });
    for row in &left {
        tracing::warn!(sandbox = %row.id, "a running sandbox belongs to another engine and is left alone; start the server with that engine to reach it");
    }
    let all = rows.len();
    let owned: Vec<_> = rows
        .into_iter()
        .map(|record| {
            let instance = record.instance.as_ref().and_then(|instance| live.remove(instance));
            (record, instance)
        })
        .collect();
    let settled: Vec<SandboxRecord> = futures::stream::iter(owned)
        .map(|(record, suspended)| settle(node, record, suspended))
        .buffer_unordered(AT_ONCE)
        .try_filter_map(async |settled| Ok(settled))
        .try_collect()
        .await?;
    let orphans = live.len();
    for orphan in live.into_keys() {
        // One that resists must not keep the daemon from its sandboxes.
        node.destroy_later(orphan);
    }
    let named = settled.iter().chain(&left).filter_map(|record| record.snapshot.clone());
    let keep: HashSet<_> = builds.into_iter().map(|build| build.snapshot).chain(named).collect();
    let swept = node.snapshots.sweep(&keep).await?;
    tracing::info!(
        running = settled.iter().filter(|record| record.state == SandboxState::Running).count(),
        paused = settled.iter().filter(|record| record.state == SandboxState::Paused).count(),
        lost = all - settled.len(),
        orphans,
        dead = adopted.removed.len(),
        swept,
        "took over what an earlier run left"
    );
    for record in settled {
        drive(node, record).await?;
    }
    Ok(())
}

/// Makes the row true. Returns it, or `None` when the sandbox is gone.
pub(crate) async fn settle(
    node: &Arc<Node>,
    mut record: SandboxRecord,
    suspended: Option<bool>,
) -> Result<Option<SandboxRecord>, ControlError> {
    match (record.state, suspended) {
        (SandboxState::Running, Some(_)) => {
            revive(node, &record).await;
            if record.snapshot.take().is_some() {
                node.store.save(&record, &[]).await?;
            }
            Ok(Some(record))
        }
        (SandboxState::Running, None) if record.snapshot.is_some() => {
            // The log tells of the wake already, so it has to tell of its end.
            let ended = events::paused(&record);
            record.state = SandboxState::Paused;
            record.instance = None;
            record.end_at = clock::now();
            node.store.save(&record, &[ended]).await?;
            Ok(Some(record))
        }
        (SandboxState::Running, None) => {
            tracing::warn!(sandbox = %record.id, "the instance of a running sandbox died while nobody watched");
            let announced = announced(node, &record).await?;
            let mut events = Vec::from_iter((!announced).then(|| events::created(&record)));
            events.push(events::killed(&record, "instance died"));
            node.store.remove(&record.id, &events).await?;
            Ok(None)
        }
        (SandboxState::Paused, Some(true)) => Ok(Some(record)),
        (SandboxState::Paused, _) => {
            if let Some(instance) = record.instance.take() {
                node.store.save(&record, &[]).await?;
                node.destroy_later(instance);
            }
            Ok(Some(record))
        }
    }
}

/// Whether the log tells of the creation.
async fn announced(node: &Node, record: &SandboxRecord) -> Result<bool, ControlError> {
    let fresh = record.started_at == record.created_at && clock::since(record.created_at, clock::now()) < SURELY_ANNOUNCED;
    Ok(!fresh || !node.store.events(record.team, Some(&record.id), 1).await?.is_empty())
}

/// A running sandbox whose daemon died: it may be suspended for a pause that was never finished, or lack its identity and its network
/// policy. One that cannot be revived stays as it is; its end is noticed by its driver.
async fn revive(node: &Node, record: &SandboxRecord) {
    let Some(instance) = &record.instance else { return };
    let revived = async {
        node.engine.set_network(instance, policy(record)).await?;
        node.engine.resume(instance).await?;
        let build = node.build(record).await?;
        node.engine.identify(instance, identity(record, &build)).await?;
        Ok::<_, ControlError>(())
    };
    if let Err(error) = revived.await {
        tracing::warn!(sandbox = %record.id, error = &error as &dyn std::error::Error, "a running sandbox did not answer after the restart");
    }
}

/// Gives a settled sandbox its driver.
async fn drive(node: &Arc<Node>, record: SandboxRecord) -> Result<(), ControlError> {
    if record.state == SandboxState::Running {
        let announced = announced(node, &record).await?;
        // More than may run at once can only be if the limit was lowered: they run on without a permit.
        let (mut driver, inbox) = Driver::register(node, record, Phase::Creating, node.permit().ok());
        driver.unannounced = (!announced).then(|| events::created(&driver.record));
        driver.begin_run();
        supervise::launch(driver, inbox);
        return Ok(());
    }
    let light = record.instance.clone();
    let (mut driver, inbox) = Driver::register(node, record, Phase::Paused, None);
    if let Some(instance) = light {
        // Entered before the driver runs, which may wake at once and strike it off.
        driver.sleep_lightly(&instance).await;
    }
    supervise::launch(driver, inbox);
    Ok(())
}
