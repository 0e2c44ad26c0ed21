//! Waking: from light sleep by a thaw, from deep sleep by a restore.
//!
//! The row says running *before* the snapshot that was woken from is given up, and names both until the wake has succeeded. A start
//! that finds a running row whose instance is dead, but whose snapshot is still named, puts the sandbox back to sleep: nobody was told
//! that it runs.

use std::time::Duration;

use dormouse_engine::{Identity, InstanceId, NetworkPolicy, StartFrom, StartRequest};
use dormouse_store::{BuildRecord, SandboxRecord, SandboxState};
use tokio::sync::OwnedSemaphorePermit;

use crate::driver::Driver;
use crate::model::Phase;
use crate::node::Node;
use crate::{ControlError, clock, events};

/// The shortest time that an automatic wake gives, and what it gives when no timeout was named at creation (contract 4.4).
const AUTO_RESUME_TIMEOUT: Duration = Duration::from_secs(300);

impl Driver {
    pub(crate) async fn wake_for_traffic(&mut self) -> Result<(), ControlError> {
        if self.phase != Phase::Paused {
            return Ok(());
        }
        if !self.record.auto_resume {
            return Err(ControlError::NotRunning(self.record.id.clone()));
        }
        let timeout = self
            .record
            .timeout
            .unwrap_or(AUTO_RESUME_TIMEOUT)
            .max(AUTO_RESUME_TIMEOUT)
            .min(self.record.max_run);
        self.wake(timeout).await
    }

    /// Wakes a paused sandbox for `timeout`. On an error it sleeps on.
    pub(crate) async fn wake(&mut self, timeout: Duration) -> Result<(), ControlError> {
        let permit = self.node.permit()?;
        self.enter(Phase::Resuming);
        self.node.asleep.leave(&self.record.id);
        match self.wake_durably(timeout).await {
            Ok(()) => {
                self.permit = Some(permit);
                self.begin_run();
                Ok(())
            }
            Err(error) => {
                self.enter(Phase::Paused);
                Err(error)
            }
        }
    }

    async fn wake_durably(&mut self, timeout: Duration) -> Result<(), ControlError> {
        if let Some(instance) = self.record.instance.clone()
            && self.thaw(instance, timeout).await?
        {
            return Ok(());
        }
        let instance = self.restore().await?;
        let running = self.running_record(instance.clone(), timeout);
        if let Err(error) = self.node.store.save(&running, &[events::resumed(&running)]).await {
            self.node.destroy_later(instance);
            return Err(error.into());
        }
        self.record = running;
        Ok(())
    }

    /// Lets the cached instance go on; the row is written meanwhile. `false` when the instance did not wake: it is given up, and the
    /// snapshot is to be restored.
    async fn thaw(&mut self, instance: InstanceId, timeout: Duration) -> Result<bool, ControlError> {
        let running = self.running_record(instance.clone(), timeout);
        let events = [events::resumed(&running)];
        let (woken, saved) = tokio::join!(
            self.unless_cut(&instance, self.node.engine.resume(&instance)),
            self.node.store.save(&running, &events)
        );
        if woken.is_ok() && saved.is_ok() {
            self.record = running;
            return Ok(true);
        }
        // It may have run on for a moment, so it is no cache of the snapshot any more.
        self.record.instance = None;
        self.node.destroy_later(instance);
        // Every resumed in the log is followed by its end, be the run ever so short.
        let ended = saved.is_ok().then(|| events::paused(&running));
        self.node.store.save(&self.record, ended.as_slice()).await?;
        saved?;
        if let Err(error) = woken {
            tracing::warn!(sandbox = %self.record.id, error = &error as &dyn std::error::Error, "the cached instance could not be thawed; restoring the snapshot");
        }
        Ok(false)
    }

    /// A new instance from the snapshot, with the sandbox's identity.
    async fn restore(&self) -> Result<InstanceId, ControlError> {
        let build = self.node.build(&self.record).await?;
        self.node.check_engine(&build)?;
        let snapshot = self
            .record
            .snapshot
            .as_ref()
            .ok_or_else(|| ControlError::NotRunning(self.record.id.clone()))?;
        let request = StartRequest {
            id: InstanceId::random(),
            root: self.node.config.data_dir.join(&build.root),
            from: StartFrom::Snapshot(self.node.snapshots.path(snapshot)),
            resources: self.record.resources,
            network: policy(&self.record),
        };
        let instance = request.id.clone();
        self.unless_cut(&instance, self.node.engine.start(request)).await?;
        let identity = identity(&self.record, &build);
        if let Err(error) = self
            .unless_cut(&instance, self.node.engine.identify(&instance, identity))
            .await
        {
            self.node.destroy_later(instance);
            return Err(error.into());
        }
        Ok(instance)
    }

    fn running_record(&self, instance: InstanceId, timeout: Duration) -> SandboxRecord {
        let mut record = self.record.clone();
        record.state = SandboxState::Running;
        record.instance = Some(instance);
        record.started_at = clock::now();
        record.end_at = clock::later(record.started_at, timeout.min(record.max_run));
        record
    }

    /// After a wake was answered: the run is confirmed, and what it woke from is no longer the truth.
    pub(crate) async fn give_up_snapshot(&mut self) {
        if self.phase != Phase::Running {
            return;
        }
        let Some(snapshot) = self.record.snapshot.take() else { return };
        match self.node.store.save(&self.record, &[]).await {
            Ok(()) => {
                self.show();
                self.node.remove_later(snapshot);
            }
            // Kept: it is named in the row, and the next pause replaces it.
            Err(error) => {
                self.record.snapshot = Some(snapshot);
                tracing::warn!(sandbox = %self.record.id, error = &error as &dyn std::error::Error, "a used snapshot could not be given up");
            }
        }
    }
}

impl Node {
    /// Room for one more running sandbox.
    pub(crate) fn permit(&self) -> Result<OwnedSemaphorePermit, ControlError> {
        std::sync::Arc::clone(&self.running)
            .try_acquire_owned()
            .map_err(|_| ControlError::TooMany(self.config.max_running))
    }

    /// A snapshot is given only to the engine that wrote it.
    pub(crate) fn check_engine(&self, build: &BuildRecord) -> Result<(), ControlError> {
        let runs = self.engine.kind();
        if build.engine == runs {
            return Ok(());
        }
        Err(ControlError::WrongEngine {
            template: build.template.to_string(),
            built: build.engine,
            runs,
        })
    }

    /// The template's version that a sandbox was made from.
    pub(crate) async fn build(&self, record: &SandboxRecord) -> Result<BuildRecord, ControlError> {
        let build = self.store.build(record.build).await?;
        build.ok_or_else(|| ControlError::TemplateNotFound(record.template.to_string()))
    }
}

/// Who a sandbox is inside: the template's environment, then its own (contract 3.5).
pub(crate) fn identity(record: &SandboxRecord, build: &BuildRecord) -> Identity {
    let mut env = build.env.clone();
    env.extend(record.env.iter().map(|(name, value)| (name.clone(), value.clone())));
    env.insert("E2B_SANDBOX".to_owned(), "true".to_owned());
    env.insert("E2B_SANDBOX_ID".to_owned(), record.id.to_string());
    env.insert("E2B_TEMPLATE_ID".to_owned(), record.template.to_string());
    Identity {
        sandbox_id: record.id.to_string(),
        template_id: record.template.to_string(),
        access_token: record.access_token.clone(),
        env,
        default_user: Some(build.default_user.clone()),
        default_workdir: build.default_workdir.clone(),
    }
}

/// What a sandbox may reach: `allow_internet_access: false`, or everything denied (contract 4.10).
pub(crate) fn policy(record: &SandboxRecord) -> NetworkPolicy {
    let denied = record.network.as_ref().and_then(|network| network.deny_out.as_ref());
    let all_denied = denied.is_some_and(|denied| denied.iter().any(|cidr| cidr == "0.0.0.0/0"));
    NetworkPolicy {
        internet: record.allow_internet != Some(false) && !all_denied,
    }
}
