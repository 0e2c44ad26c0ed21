//! One build, from its base to the snapshot.
//!
//! Log lines and the places that failures name are those of the contract (5.1, 5.3).

use std::path::PathBuf;
use std::sync::Arc;

use dormouse_engine::Resources;
use dormouse_store::{BuildId, BuildRecord, TeamId, TemplateId};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::base::{self, Base};
use crate::builder::Shared;
use crate::cache::{Draft, Layer, Link};
use crate::context::{Context, STANDARD_PATH};
use crate::copy::{self, Copy};
use crate::error::Failure;
use crate::expand::expand;
use crate::logs::{BuildLog, Level};
use crate::steps::{BuildSpec, Step, StepSpec};
use crate::{finalize, run, user};

/// A build that runs.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) shared: Arc<Shared>,
    pub(crate) team: TeamId,
    pub(crate) template: TemplateId,
    pub(crate) build: BuildId,
    pub(crate) resources: Resources,
    pub(crate) spec: BuildSpec,
    pub(crate) log: Arc<BuildLog>,
    pub(crate) cancel: CancellationToken,
}

/// The files of a build so far.
#[derive(Debug)]
pub(crate) struct Stack {
    /// The tree at the bottom.
    pub(crate) root: PathBuf,
    /// What lies over it, lowest first. Kept from being removed as long as this is.
    pub(crate) layers: Vec<Layer>,
}

impl Stack {
    pub(crate) fn layer_paths(&self) -> Vec<PathBuf> {
        self.layers.iter().filter_map(|layer| layer.diff.clone()).collect()
    }
}

impl Job {
    /// Runs it to its end; what it says is in its log, and how it ended in the database.
    pub(crate) async fn run(self) {
        let begun = Instant::now();
        let (template, build) = (&self.template, self.build);
        self.log
            .say(Level::Info, None, format!("Building template {template}/{build}"));
        let limit = self.shared.config.limits.build;
        let built = match self.turn().await {
            Ok(_turn) => {
                // Steps look at this between and while they run; what is under way then is ended in an orderly way.
                let alarm = self.alarm(limit);
                let built = self.build(begun).await;
                alarm.abort();
                built
            }
            Err(failure) => Err(failure),
        };
        if let Err(failure) = built {
            self.log.say(
                Level::Error,
                failure.step.as_deref(),
                format!("Build failed: {}", failure.message),
            );
            let now = jiff::Timestamp::now();
            let entered = self
                .shared
                .store
                .fail_build(build, &failure.message, failure.step.as_deref(), now);
            if let Err(error) = entered.await {
                tracing::error!(%build, error = &error as &dyn std::error::Error, "the failure of a build could not be entered");
            }
        }
        self.shared.logs.end(build);
        let (layers, limits) = (Arc::clone(&self.shared), self.shared.config.limits.clone());
        let trimmed = tokio::task::spawn_blocking(move || layers.layers.trim(limits.cache)).await;
        if !matches!(trimmed, Ok(Ok(()))) {
            tracing::warn!(?trimmed, "old layers could not be removed");
        }
    }

    /// Waits until another build may run.
    async fn turn(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Failure> {
        let turns = Arc::clone(&self.shared.turns);
        if let Ok(turn) = Arc::clone(&turns).try_acquire_owned() {
            return Ok(turn);
        }
        self.log
            .say(Level::Info, None, "Waiting for other builds to finish".to_owned());
        tokio::select! {
            turn = turns.acquire_owned() => turn.map_err(|_| self.cancelled()),
            () = self.cancel.cancelled() => Err(self.cancelled()),
        }
    }

    fn alarm(&self, limit: std::time::Duration) -> tokio::task::JoinHandle<()> {
        let cancel = self.cancel.clone();
        tokio::spawn(async move {
            tokio::time::sleep(limit).await;
            cancel.cancel();
        })
    }

    pub(crate) fn cancelled(&self) -> Failure {
        Failure::new(if self.shared.shutdown.is_cancelled() {
            "the server was stopped"
        } else {
            "the build was cancelled, or took too long"
        })
    }

    /// Removes builds of the template that nobody can reach any more. At the beginning: a creation that has found one of them before its
    /// tags moved is finished by now.
    async fn prune(&self) {
        match self.shared.store.prune_builds(&self.template).await {
            Ok(builds) => {
                for build in &builds {
                    finalize::discard(&self.shared, build).await;
                }
            }
            Err(error) => {
                tracing::warn!(template = %self.template, error = &error as &dyn std::error::Error, "old builds stay");
            }
        }
    }

    async fn build(&self, begun: Instant) -> Result<(), Failure> {
        self.prune().await;
        let base = base::prepare(self).await.map_err(|failure| failure.at(base::STEP))?;
        let Base {
            mut stack,
            mut context,
            start_cmd,
            ready_cmd,
            mut link,
        } = base;
        let mut force = self.spec.force;
        for (index, spec) in self.spec.steps.iter().enumerate() {
            let number = (index + 1).to_string();
            if self.cancel.is_cancelled() {
                return Err(self.cancelled().at(number));
            }
            link = link.next(&spec.kind, &spec.args, spec.files_hash.as_deref());
            force |= spec.force;
            let layer = self
                .step(&stack, &context, spec, &number, &link, force)
                .await
                .map_err(|failure| failure.at(number))?;
            context = layer.meta.context.clone();
            stack.layers.push(layer);
        }
        // Either of its own replaces both of the base's (contract 5.3).
        let (start_cmd, ready_cmd) = match (&self.spec.start_cmd, &self.spec.ready_cmd) {
            (None, None) => (start_cmd, ready_cmd),
            own => (own.0.clone(), own.1.clone()),
        };
        let record = finalize::finalize(self, &stack, &context, start_cmd.as_deref(), ready_cmd.as_deref())
            .await
            .map_err(|failure| failure.at(finalize::STEP))?;
        self.shared.layers.synced(&stack.layers);
        self.finish(&record, start_cmd.as_deref(), ready_cmd.as_deref(), begun).await
    }

    /// A step: found in the cache, or carried out.
    async fn step(
        &self,
        stack: &Stack,
        context: &Context,
        spec: &StepSpec,
        number: &str,
        link: &Link,
        force: bool,
    ) -> Result<Layer, Failure> {
        let prefix = format!("[builder {number}/{}]", self.spec.steps.len());
        let args: Vec<&str> = spec.args.iter().map(String::as_str).filter(|arg| !arg.is_empty()).collect();
        let line = format!("{prefix} {} {} [{}]", spec.kind, args.join(" "), link.as_str());
        if !force && let Some(layer) = self.shared.layers.get(self.team, link) {
            self.log.say(Level::Info, Some(number), format!("CACHED {line}"));
            return Ok(layer);
        }
        self.log.say(Level::Info, Some(number), line);
        self.check_host()?;
        let step = Step::read(spec).map_err(Failure::new)?;
        let say = |level, stream: &str, line| {
            self.log.output(level, Some(number), format!("{prefix} [{stream}]: {line}"));
        };
        let shared = &self.shared;
        let (context, draft): (Context, Option<Draft>) = match step {
            Step::Env(pairs) => (with_env(context, &pairs), None),
            Step::Run { command, user } => {
                let draft = shared.layers.draft()?;
                let as_user = user.as_deref().unwrap_or(&context.user);
                run::step(self, stack, &draft, &context.shell(&command), as_user, &command, say).await?;
                (context.clone(), Some(draft))
            }
            Step::Copy {
                source,
                destination,
                owner,
                mode,
                hash,
            } => {
                let draft = shared.layers.draft()?;
                let copy = Copy {
                    source,
                    destination: expand(&destination, &|name| variable(context, name)),
                    owner,
                    mode,
                    archive: shared.uploads.path(self.team, &hash),
                };
                copy::copy(self, stack, &draft, context, copy).await?;
                (context.clone(), Some(draft))
            }
            Step::Workdir(path) => {
                let draft = shared.layers.draft()?;
                let path = expand(&path, &|name| variable(context, name));
                let workdir = user::workdir(stack, &draft, context, &path).await?;
                let context = Context {
                    workdir: Some(workdir),
                    ..context.clone()
                };
                (context, Some(draft))
            }
            Step::User(name) => {
                let name = expand(&name, &|variable_name| variable(context, variable_name));
                let draft = shared.layers.draft()?;
                let (user, draft) = match user::find(stack, &draft, &name).await? {
                    Some(user) => (user.name, None),
                    None => {
                        let draft = shared.layers.draft()?;
                        user::make(self, stack, &draft, &name, say).await?;
                        let user = name.split(':').next().unwrap_or_default().to_owned();
                        (user, Some(draft))
                    }
                };
                (Context { user, ..context.clone() }, draft)
            }
        };
        let (shared, team, link) = (Arc::clone(shared), self.team, link.clone());
        let published = tokio::task::spawn_blocking(move || shared.layers.publish(team, &link, draft, &context));
        Ok(published.await.map_err(std::io::Error::other)??)
    }

    /// Refuses to begin what would fill the host's disk.
    fn check_host(&self) -> Result<(), Failure> {
        let stat = nix::sys::statvfs::statvfs(&self.shared.config.data_dir).map_err(std::io::Error::from)?;
        if stat.blocks_available() * stat.fragment_size() < self.shared.config.limits.host_free {
            return Err(Failure::new("the host's disk is full"));
        }
        Ok(())
    }

    async fn finish(
        &self,
        record: &BuildRecord,
        start_cmd: Option<&str>,
        ready_cmd: Option<&str>,
        begun: Instant,
    ) -> Result<(), Failure> {
        // Before the status: a client stops to ask for lines when the build is ready and there are no more.
        let seconds = begun.elapsed().as_secs();
        self.log.say(Level::Info, None, format!("Build finished, took {seconds}s"));
        let now = jiff::Timestamp::now();
        let entered = self.shared.store.finish_build(record, start_cmd, ready_cmd, now).await;
        match entered {
            Ok(true) => {
                self.shared.control.stock(record);
                Ok(())
            }
            Ok(false) => {
                finalize::discard(&self.shared, record).await;
                Err(self.cancelled())
            }
            Err(error) => {
                finalize::discard(&self.shared, record).await;
                Err(Failure::of("the finished build could not be entered", &error))
            }
        }
    }
}

/// The context with variables set, each expanded with what was known before it.
fn with_env(context: &Context, pairs: &[(String, String)]) -> Context {
    let mut context = context.clone();
    for (name, value) in pairs {
        let value = expand(value, &|name| variable(&context, name));
        context.env.insert(name.clone(), value);
    }
    context
}

/// A variable as root's shell would know it.
fn variable(context: &Context, name: &str) -> Option<String> {
    let known = context.env.get(name).cloned();
    known.or_else(|| match name {
        "PATH" => Some(STANDARD_PATH.to_owned()),
        "HOME" => Some("/root".to_owned()),
        "USER" | "LOGNAME" => Some("root".to_owned()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_build_on_each_other_and_on_a_shells_own() {
        let pairs = [("A", "1"), ("B", "$A-2"), ("PATH", "/opt/bin:$PATH"), ("C", "$(id)")];
        let pairs: Vec<_> = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let context = with_env(&Context::default(), &pairs);
        assert_eq!(context.env["B"], "1-2");
        assert_eq!(context.env["PATH"], format!("/opt/bin:{STANDARD_PATH}"));
        assert_eq!(context.env["C"], "$(id)");
    }
}
