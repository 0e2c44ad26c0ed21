//! Takes over the instances of an earlier daemon.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use dormouse_agent_client::wait_healthy;
use dormouse_agent_proto::AGENT_PORT;
use dormouse_engine::{Adopted, AdoptedInstance, InstanceId};
use dormouse_network::Slot;

use crate::engine::Shared;
use crate::error::{GvisorError, Result};
use crate::instance::{Instance, remove_remains};
use crate::layout::{Dir, Record, Started, read_json};
use crate::lifeline::Lifeline;

/// How long an agent that may be paused gets to show that it is not.
const PROBE: Duration = Duration::from_millis(500);

pub(crate) async fn adopt(shared: &Arc<Shared>) -> Result<Adopted> {
    let mut adopted = Adopted::default();
    for name in entries(shared)? {
        let Ok(id) = name.parse::<InstanceId>() else {
            tracing::warn!(%name, "something that is no sandbox is in the directory of sandboxes");
            continue;
        };
        match take_over(shared, &id).await {
            Ok(Some(suspended)) => adopted.live.push(AdoptedInstance { id, suspended }),
            Ok(None) => adopted.removed.push(name),
            // The others are not to suffer; the next start tries again.
            Err(error) => {
                tracing::error!(instance = %id, error = &error as &dyn std::error::Error, "a sandbox could neither be adopted nor removed");
            }
        }
    }
    sweep_cgroups(shared, &mut adopted).await?;
    // Those that live are held, all others have no owner.
    shared.network.sweep(&[]).await?;
    tracing::info!(
        live = adopted.live.len(),
        removed = adopted.removed.len(),
        "looked for sandboxes of an earlier daemon"
    );
    Ok(adopted)
}

fn entries(shared: &Shared) -> Result<Vec<String>> {
    let dir = &shared.config.state_dir;
    let entries = fs::read_dir(dir).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let entries = entries.map_err(GvisorError::file("list", dir))?;
    Ok(entries
        .into_iter()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect())
}

/// Adopts one instance, or removes what is left of it. Whether it is suspended if it lives.
async fn take_over(shared: &Arc<Shared>, id: &InstanceId) -> Result<Option<bool>> {
    let dir = shared.dir(id);
    let record = read_json::<Record>(&dir.record()).unwrap_or_else(|error| {
        tracing::warn!(instance = %id, error = &error as &dyn std::error::Error, "a sandbox's record cannot be read");
        None
    });
    let slot = match record.as_ref().map(|record| record.slot.parse()) {
        Some(Ok(name)) => shared.network.adopt(&name).await.ok(),
        _ => None,
    };
    let shim = live_shim(&dir)?;
    let started = read_json::<Started>(&dir.started()).unwrap_or(None);
    match (record, slot, shim, started) {
        (Some(record), Some(slot), Some(shim), Some(_)) => revive(shared, record, dir, slot, shim).await,
        (_, slot, shim, _) => {
            if let Some(shim) = shim {
                dir.kill_shim();
                shim.ended().await?;
            }
            remove_remains(shared.cgroup(id), dir, slot).await?;
            Ok(None)
        }
    }
}

async fn revive(shared: &Arc<Shared>, record: Record, dir: Dir, slot: Slot, shim: Lifeline) -> Result<Option<bool>> {
    let id = record.id.clone();
    let cgroup = shared.cgroup(&id);
    let suspended = cgroup.is_frozen()?;
    let instance = Arc::new(Instance::new(
        record,
        dir,
        cgroup,
        slot,
        shared.config.control_patience,
        suspended,
    ));
    shared.take_in(&instance, shim);
    if suspended {
        instance.forget_pausing()?;
    } else if instance.dir.pausing().exists()
        && let Err(error) = go_on(&instance).await
    {
        tracing::warn!(%id, error = &error as &dyn std::error::Error, "a sandbox does not go on after a pause that a restart cut off");
        instance.kill().await?;
        return Ok(None);
    }
    Ok(Some(suspended))
}

/// The earlier daemon ended between stopping the guest's tasks and freezing the sentry, or the other way round. The sentry does not tell
/// whether tasks are stopped, and a resume too many ends it, so the agent is asked first.
async fn go_on(instance: &Arc<Instance>) -> Result<()> {
    if wait_healthy(|| instance.dialer.connect(AGENT_PORT), PROBE).await.is_err() {
        instance.change(Instance::resume_blindly).await?;
    }
    instance.forget_pausing()
}

/// The shim of an instance, if it lives.
fn live_shim(dir: &Dir) -> Result<Option<Lifeline>> {
    Ok(Lifeline::open(&dir.alive())?.filter(Lifeline::is_held))
}

/// Removes cgroups without an instance: their directory was lost.
async fn sweep_cgroups(shared: &Arc<Shared>, adopted: &mut Adopted) -> Result<()> {
    for name in shared.hierarchy.children(&shared.config.cgroup)? {
        let Ok(id) = name.parse::<InstanceId>() else { continue };
        if shared.get(&id).is_none() {
            remove_remains(shared.cgroup(&id), shared.dir(&id), None).await?;
            if !adopted.removed.contains(&name) {
                adopted.removed.push(name);
            }
        }
    }
    Ok(())
}
