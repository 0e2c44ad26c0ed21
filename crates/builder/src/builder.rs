//! The door: what can be asked of builds.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dormouse_control::Control;
use dormouse_engine::Engine;
use dormouse_layers::SnapshotStore;
use dormouse_store::{BuildId, BuildJob, BuildRecord, DeletedTemplate, NewBuild, StartedBuild, Store, TeamId, TemplateRecord};
use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cache::{self, Layers};
use crate::error::BuilderError;
use crate::finalize;
use crate::job::Job;
use crate::limits::Limits;
use crate::logs::{LogEntry, LogFilter, Logs};
use crate::steps::BuildSpec;
use crate::uploads::{Upload, UploadError, UploadTicket, Uploads, is_hash};

/// A request without steps is forgotten after this long.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// Where things are, and how much of them there may be.
#[derive(Clone, Debug)]
pub struct BuilderConfig {
    /// The data directory; builds are in `templates` in it.
    pub data_dir: PathBuf,
    /// The agent's binary, for the trees.
    pub agent: Arc<Vec<u8>>,
    /// Limits.
    pub limits: Limits,
}

/// A build and what it has said.
#[derive(Clone, Debug)]
pub struct BuildView {
    /// The build.
    pub job: BuildJob,
    /// Its log, as far as it was asked for.
    pub entries: Vec<LogEntry>,
}

/// What builds have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: BuilderConfig,
    pub(crate) store: Store,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) control: Arc<Control>,
    pub(crate) layers: Layers,
    pub(crate) uploads: Uploads,
    pub(crate) logs: Logs,
    pub(crate) turns: Arc<Semaphore>,
    pub(crate) shutdown: CancellationToken,
    running: Mutex<HashMap<BuildId, CancellationToken>>,
}

/// Builds templates.
#[derive(Debug)]
pub struct Builder {
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

impl Builder {
    /// Opens the directories, and ends what an earlier daemon left unfinished.
    ///
    /// # Errors
    /// The directories or the database cannot be used.
    pub async fn open(
        config: BuilderConfig,
        store: Store,
        engine: Arc<dyn Engine>,
        snapshots: SnapshotStore,
        control: Arc<Control>,
    ) -> Result<Arc<Self>, BuilderError> {
        let roots: HashSet<PathBuf> = store.builds().await?.into_iter().map(|build| build.root).collect();
        let (home, upload) = (config.data_dir.join("templates"), config.limits.upload);
        let opened = tokio::task::spawn_blocking(move || {
            let layers = Layers::open(home.join("layers"), home.join("work"))?;
            let uploads = Uploads::open(home.join("uploads"), upload)?;
            uploads.sweep()?;
            let logs = Logs::open(home.join("logs"))?;
            sweep_trees(&home.join("builds"), &roots)?;
            Ok((layers, uploads, logs))
        });
        let failed = |source| BuilderError::Files {
            action: "prepare the directories of builds",
            source,
        };
        let (layers, uploads, logs) = opened.await.map_err(|error| failed(error.into()))?.map_err(failed)?;
        let now = Timestamp::now();
        let reason = "the server was restarted during the build";
        for build in store.abandon_builds(reason, now - STALE, now).await? {
            logs.add(build, &format!("Build failed: {reason}"));
        }
        let shared = Shared {
            turns: Arc::new(Semaphore::new(config.limits.concurrent)),
            config,
            store,
            engine,
            snapshots,
            control,
            layers,
            uploads,
            logs,
            shutdown: CancellationToken::new(),
            running: Mutex::default(),
        };
        Ok(Arc::new(Self {
            shared: Arc::new(shared),
            tasks: TaskTracker::new(),
        }))
    }

    /// Cancels the builds that run and waits for their end.
    pub async fn stop(&self) {
        self.shared.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Enters a build that waits for its steps; its template is made if the team has none of that name.
    ///
    /// # Errors
    /// The database failed.
    pub async fn request(&self, new: &NewBuild) -> Result<(TemplateRecord, BuildJob), BuilderError> {
        Ok(self.shared.store.request_build(new, Timestamp::now()).await?)
    }

    /// Starts a build that waits. It is under way when this returns, and so says its status.
    ///
    /// # Errors
    /// [`BuilderError::Invalid`], [`BuilderError::UnknownBuild`], [`BuilderError::NotWaiting`].
    pub async fn start(&self, template: &TemplateRecord, build: BuildId, spec: BuildSpec) -> Result<(), BuilderError> {
        if self.shared.shutdown.is_cancelled() {
            return Err(BuilderError::ShuttingDown);
        }
        spec.check(self.shared.config.limits.steps)?;
        let unknown = || BuilderError::UnknownBuild(build.to_string());
        let store = &self.shared.store;
        let asked = store.build_job(&template.id, build).await?.ok_or_else(unknown)?;
        let log = self.shared.logs.begin(build).map_err(|source| BuilderError::Files {
            action: "begin the log of the build",
            source,
        })?;
        let cancel = self.shared.shutdown.child_token();
        self.running().insert(build, cancel.clone());
        let started = store.start_build(&template.id, build, Timestamp::now()).await;
        let others = match started {
            Ok(StartedBuild::Started(others)) => others,
            other => {
                self.running().remove(&build);
                self.shared.logs.end(build);
                return match other {
                    Ok(StartedBuild::Unknown) => Err(unknown()),
                    Ok(_) => Err(BuilderError::NotWaiting),
                    Err(error) => Err(error.into()),
                };
            }
        };
        for other in others {
            if let Some(running) = self.running().get(&other) {
                running.cancel();
            }
        }
        let job = Job {
            shared: Arc::clone(&self.shared),
            team: template.team,
            template: template.id.clone(),
            build,
            resources: asked.resources,
            spec,
            log,
            cancel,
        };
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(async move {
            job.run().await;
            shared.running().remove(&build);
        });
        Ok(())
    }

    /// How far a build is, and what it has said.
    ///
    /// # Errors
    /// [`BuilderError::UnknownBuild`], or the log cannot be read.
    pub async fn view(&self, template: &TemplateRecord, build: BuildId, filter: LogFilter) -> Result<BuildView, BuilderError> {
        let job = self.shared.store.build_job(&template.id, build).await?;
        let job = job.ok_or_else(|| BuilderError::UnknownBuild(build.to_string()))?;
        let shared = Arc::clone(&self.shared);
        let failed = |source| BuilderError::Files {
            action: "read the log of the build",
            source,
        };
        // After the status: what is said between the two belongs to the next look.
        let read = tokio::task::spawn_blocking(move || shared.logs.read(build, &filter)).await;
        let entries = read.map_err(|error| failed(error.into()))?.map_err(failed)?;
        Ok(BuildView { job, entries })
    }

    /// Whether an archive for COPY is there already, and a ticket to bring it.
    ///
    /// # Errors
    /// [`BuilderError::Invalid`]: the hash is none.
    pub fn upload_ticket(&self, team: TeamId, hash: &str) -> Result<(bool, UploadTicket), BuilderError> {
        if !is_hash(hash) {
            return Err(BuilderError::Invalid(format!(
                "Invalid files hash: '{hash}': it is 64 lowercase hexadecimal digits"
            )));
        }
        let present = self.shared.uploads.present(team, hash);
        Ok((present, self.shared.uploads.ticket(team, hash, Timestamp::now())))
    }

    /// Begins to take an archive.
    ///
    /// # Errors
    /// [`UploadError::BadTicket`], or it cannot be stored.
    pub async fn receive(&self, ticket: &UploadTicket) -> Result<Upload, UploadError> {
        self.shared.uploads.receive(ticket, Timestamp::now()).await
    }

    /// Deletes a template with all its builds, unless there are sandboxes of it. A build of it that runs is cancelled.
    ///
    /// # Errors
    /// The database failed.
    pub async fn delete(&self, template: &TemplateRecord) -> Result<DeletedTemplate, BuilderError> {
        let jobs = self.shared.store.build_jobs(&template.id).await?;
        let deleted = self.shared.store.delete_template(&template.id).await?;
        if let DeletedTemplate::Deleted(builds) = &deleted {
            for job in jobs {
                if let Some(running) = self.running().get(&job.id) {
                    running.cancel();
                }
                if let Err(error) = self.shared.logs.remove(job.id) {
                    tracing::warn!(build = %job.id, %error, "the log of a deleted build stays");
                }
            }
            self.shared.control.retire(&template.id);
            for build in builds {
                self.remove_later(build.clone());
            }
        }
        Ok(deleted)
    }

    /// Removes what a build has on disk, off the request path.
    fn remove_later(&self, build: BuildRecord) {
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(async move {
            finalize::discard(&shared, &build).await;
        });
    }

    fn running(&self) -> MutexGuard<'_, HashMap<BuildId, CancellationToken>> {
        self.shared.running()
    }
}

impl Shared {
    fn running(&self) -> MutexGuard<'_, HashMap<BuildId, CancellationToken>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes trees of builds that were never finished, or deleted. Snapshots of sandboxes may stand on a tree longer than its own build.
fn sweep_trees(dir: &Path, roots: &HashSet<PathBuf>) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let used: HashSet<&OsStr> = roots.iter().filter_map(|root| root.parent()?.file_name()).collect();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if !used.contains(&*entry.file_name()) {
            cache::remove(&entry.path())?;
        }
    }
    Ok(())
}
