//! Makes instances.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use dormouse_agent_client::wait_healthy;
use dormouse_agent_proto::AGENT_PORT;
use dormouse_engine::{EngineError, Operation, StartFrom, StartRequest};
use dormouse_network::Slot;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use crate::cgroup::Cgroup;
use crate::engine::Shared;
use crate::error::{GvisorError, Result};
use crate::instance::{Instance, remove_remains};
use crate::layout::{Dir, Record, Report, Root, write_json};
use crate::lifeline::Lifeline;
use crate::runsc::Action;
use crate::{bundle, checkpoint, root_image};

/// An agent in a snapshot listens already; it only has to be scheduled.
const WAKE_PATIENCE: Duration = Duration::from_secs(20);

/// How long runsc may take to make a sandbox, but for reading a snapshot: seldom above half a second.
const MAKE_PATIENCE: Duration = Duration::from_secs(60);
/// How fast a snapshot is read at least, bytes in a second: a slow disk that is shared with others.
const SLOWEST_READ: u64 = 10 << 20;

/// Makes an instance; it is in `shared` when its agent answers, and nothing of it is left when it fails.
pub(crate) async fn launch(shared: Arc<Shared>, request: StartRequest) -> Result<(), EngineError> {
    let id = request.id.clone();
    let failed = |error: GvisorError| {
        let source = Box::new(error);
        if source.is_no_room() {
            EngineError::NoRoom {
                operation: Operation::Start,
                id: id.clone(),
                source,
            }
        } else {
            EngineError::Failed {
                operation: Operation::Start,
                id: id.clone(),
                source,
            }
        }
    };
    let root = root(&shared, &request).await?;
    let snapshot = match &request.from {
        StartFrom::Boot | StartFrom::Layers(_) => None,
        StartFrom::Snapshot(dir) => Some(dir.clone()),
    };
    let patience = if snapshot.is_some() {
        WAKE_PATIENCE
    } else {
        shared.config.boot_patience
    };
    let runsc = runsc(&shared, request.resources.disk_mib).await.map_err(failed)?;
    let dir = shared.dir(&id);
    let cgroup = shared.cgroup(&id);
    let slot = shared
        .network
        .take_with(request.network.internet)
        .await
        .map_err(|e| failed(e.into()))?;
    let record = Record {
        id: id.clone(),
        slot: slot.name().to_string(),
        root,
        resources: request.resources,
        cgroup: shared.cgroup_path(&id),
        runsc,
        snapshot,
    };
    let started = match prepare(&shared, &dir, &record, &slot).await {
        Ok(()) => start_shim(&shared, &dir, &record).await,
        Err(error) => Err(error),
    };
    let shim = match started {
        Ok(shim) => shim,
        Err(error) => {
            undo(cgroup, dir, slot).await;
            return Err(failed(error));
        }
    };
    let instance = Arc::new(Instance::new(
        record,
        dir,
        cgroup,
        slot,
        shared.config.control_patience,
        false,
    ));
    shared.take_in(&instance, shim);
    match greet(&instance, patience).await {
        Ok(()) => Ok(()),
        Err(error) => {
            if let Err(error) = instance.kill().await {
                tracing::warn!(%id, error = &error as &dyn std::error::Error, "a sandbox whose agent does not answer could not be killed");
            }
            Err(failed(error))
        }
    }
}

/// The form in which the new instance reads its root.
async fn root(shared: &Arc<Shared>, request: &StartRequest) -> Result<Root, EngineError> {
    let (path, from, shared) = (request.root.clone(), request.from.clone(), Arc::clone(shared));
    let find = move || match from {
        StartFrom::Snapshot(snapshot) => checkpoint::check(&snapshot, &root_image::existing(&path)),
        StartFrom::Layers(layered) => Ok(Root::Layers {
            lower: std::iter::once(path).chain(layered.layers).collect(),
            upper: layered.changes,
            work: layered.work,
        }),
        StartFrom::Boot => {
            // Two boots from a new root make one image.
            let _making = shared.making_image.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            Ok(root_image::for_boot(&path, shared.config.make_images))
        }
    };
    let failed = |_| EngineError::failed(Operation::Start, &request.id, GvisorError::Panicked);
    tokio::task::spawn_blocking(find).await.map_err(failed)?
}

/// The program that keeps to the limit of the disk.
async fn runsc(shared: &Arc<Shared>, disk_mib: u32) -> Result<PathBuf> {
    let shared = Arc::clone(shared);
    tokio::task::spawn_blocking(move || shared.disk_limits.runsc_for(disk_mib))
        .await
        .map_err(|_| GvisorError::Panicked)?
}

async fn prepare(shared: &Shared, dir: &Dir, record: &Record, slot: &Slot) -> Result<()> {
    let (dir, record, netns) = (dir.clone(), record.clone(), slot.sandbox_netns().to_path_buf());
    let init = shared.config.init.clone();
    let write = move || {
        dir.create()?;
        Lifeline::create(&dir.alive())?;
        write_json(&dir.record(), &record)?;
        bundle::write(&dir, &record, &netns, &init)
    };
    tokio::task::spawn_blocking(write).await.map_err(|_| GvisorError::Panicked)?
}

/// Starts the shim and returns when the sandbox runs.
async fn start_shim(shared: &Shared, dir: &Dir, record: &Record) -> Result<Lifeline> {
    let alive = dir.alive();
    let missing = || GvisorError::file("open", &alive)(std::io::Error::from(std::io::ErrorKind::NotFound));
    let lifeline = Lifeline::open(&alive)?.ok_or_else(missing)?;
    let log_path = dir.shim_log();
    let log = std::fs::File::create(&log_path).map_err(GvisorError::file("create", &log_path))?;
    let [program, arguments @ ..] = &shared.config.shim[..] else {
        return Err(GvisorError::System {
            action: "start the shim: no command is configured",
            source: std::io::ErrorKind::InvalidInput.into(),
        });
    };
    let mut shim = Command::new(program)
        .args(arguments)
        .arg(dir.path())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(GvisorError::file("start", Path::new(program)))?;
    let mut text = Vec::new();
    let report = shim.stdout.take();
    // It becomes a zombie of ours when it ends, whenever that is.
    let reaped = tokio::spawn(async move { shim.wait().await });
    let patience = making_patience(record);
    if let Some(mut report) = report {
        let Ok(read) = tokio::time::timeout(patience, report.read_to_end(&mut text)).await else {
            if lifeline.is_held() {
                dir.kill_shim();
            }
            let _ = reaped.await;
            let action = Action::of(record).word();
            let log = dir.runsc_log();
            return Err(GvisorError::Slow { action, patience, log });
        };
        read.map_err(GvisorError::system("listen to the shim"))?;
    }
    let error = match serde_json::from_slice(&text) {
        Ok(Report::Started) => return Ok(lifeline),
        Ok(Report::Failed(message)) => GvisorError::Runsc {
            action: "start",
            message,
            log: dir.runsc_log(),
        },
        Err(_) => GvisorError::ShimEnded { log: log_path },
    };
    // What it cleans up after a failure is done when it has ended.
    let _ = reaped.await;
    Err(error)
}

/// How long the shim gets until the sandbox runs.
fn making_patience(record: &Record) -> Duration {
    let snapshot = record.snapshot.as_deref().map_or(0, checkpoint::size);
    MAKE_PATIENCE + Duration::from_secs(snapshot / SLOWEST_READ)
}

/// Waits until the agent answers or the sandbox ends.
async fn greet(instance: &Arc<Instance>, patience: Duration) -> Result<()> {
    let mut exit = instance.exit();
    tokio::select! {
        healthy = wait_healthy(|| instance.dialer.connect(AGENT_PORT), patience) => Ok(healthy?),
        ended = exit.wait_for(Option::is_some) => {
            let reason = ended.ok().and_then(|reason| reason.clone());
            Err(GvisorError::Ended(reason.map_or_else(|| "for no known reason".to_owned(), |reason| reason.to_string())))
        }
    }
}

async fn undo(cgroup: Cgroup, dir: Dir, slot: Slot) {
    if let Err(error) = remove_remains(cgroup, dir, Some(slot)).await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "a sandbox that could not be made left something behind"
        );
    }
}
