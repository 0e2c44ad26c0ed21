//! The end of a build (contract 5.3): the tree of all layers, a cold boot of it, the start command, and the snapshot.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dormouse_agent_client::Caller;
use dormouse_agent_proto::AGENT_PORT;
use dormouse_agent_proto::rpc::process::process_event::{self, data_event};
use dormouse_engine::{InstanceId, NetworkPolicy, StartFrom, StartRequest};
use dormouse_rootfs::merge::lay_over;
use dormouse_store::{BuildRecord, SnapshotId};
use dormouse_templates::base::AGENT_PATH;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::builder::Shared;
use crate::cache::remove;
use crate::context::{Context, quoted};
use crate::error::Failure;
use crate::job::{Job, Stack};
use crate::logs::{Level, Lines};
use crate::run;

/// The step's name in messages (contract 5.1).
pub(crate) const STEP: &str = "finalize";

/// What decides that a template with a start command is ready, if nothing else does (contract 5.3).
const READY_AFTER_START: &str = "sleep 20";

/// Makes everything that the build's sandboxes need. Nothing of it is left on an error.
pub(crate) async fn finalize(
    job: &Job,
    stack: &Stack,
    context: &Context,
    start_cmd: Option<&str>,
    ready_cmd: Option<&str>,
) -> Result<BuildRecord, Failure> {
    let say = |text: &str| job.log.say(Level::Info, Some(STEP), format!("[finalize] {text}"));
    say("Writing the files of the template");
    job_is_wanted(job)?;
    let relative = Path::new("templates/builds").join(job.build.to_string()).join("root");
    let root = job.shared.config.data_dir.join(&relative);
    let made = make_tree(job, stack, context, &root).await;
    let snapshot = match made {
        Ok(()) => snapshot(job, context, &root, start_cmd, ready_cmd).await,
        Err(failure) => Err(failure),
    };
    let snapshot = match snapshot {
        Ok(snapshot) => snapshot,
        Err(failure) => {
            remove_tree(&root).await;
            return Err(failure);
        }
    };
    Ok(BuildRecord {
        id: job.build,
        template: job.template.clone(),
        engine: job.shared.engine.kind(),
        root: relative,
        snapshot,
        resources: job.resources,
        env: context.full_env(),
        default_user: context.user.clone(),
        default_workdir: context.workdir.clone(),
        created_at: jiff::Timestamp::now(),
    })
}

fn job_is_wanted(job: &Job) -> Result<(), Failure> {
    if job.cancel.is_cancelled() {
        Err(job.cancelled())
    } else {
        Ok(())
    }
}

/// Removes the files of a build that has no row, or will get none.
pub(crate) async fn discard(shared: &Shared, record: &BuildRecord) {
    if let Err(error) = shared.snapshots.remove(&record.snapshot).await {
        tracing::warn!(build = %record.id, error = &error as &dyn std::error::Error, "the snapshot of a build stays until the next start");
    }
    // What was made of its sandboxes may stand on the same tree.
    match shared.store.builds().await {
        Ok(builds) if builds.iter().any(|other| other.root == record.root) => {}
        Ok(_) => remove_tree(&shared.config.data_dir.join(&record.root)).await,
        Err(error) => {
            tracing::warn!(build = %record.id, error = &error as &dyn std::error::Error, "the tree of a build stays until the next start");
        }
    }
}

/// Removes a tree with what the engine has made of it.
async fn remove_tree(root: &Path) {
    let home = root.parent().unwrap_or(root).to_owned();
    let removed = tokio::task::spawn_blocking(move || remove(&home)).await;
    if !matches!(removed, Ok(Ok(()))) {
        tracing::warn!(?removed, root = %root.display(), "a template's tree stays until the next start");
    }
}

/// The tree of all layers, durable when this returns.
async fn make_tree(job: &Job, stack: &Stack, context: &Context, root: &Path) -> Result<(), Failure> {
    let mut layers = vec![stack.root.clone()];
    layers.extend(stack.layer_paths());
    let tree = Tree {
        layers,
        agent: Arc::clone(&job.shared.config.agent),
        marks: format!("ENV_ID={0}\nTEMPLATE_ID={0}\nBUILD_ID={1}\n", job.template, job.build),
        path: context.full_env().remove("PATH"),
        root: root.to_owned(),
    };
    Ok(tokio::task::spawn_blocking(move || tree.make())
        .await
        .map_err(io::Error::other)??)
}

struct Tree {
    layers: Vec<PathBuf>,
    agent: Arc<Vec<u8>>,
    marks: String,
    path: Option<String>,
    root: PathBuf,
}

impl Tree {
    fn make(&self) -> io::Result<()> {
        let home = self.root.parent().unwrap_or(&self.root);
        remove(home)?;
        fs::create_dir_all(&self.root)?;
        for layer in &self.layers {
            lay_over(layer, &self.root)?;
        }
        self.empty_temporary()?;
        self.write("/.e2b", self.marks.as_bytes(), 0o644)?;
        self.write(AGENT_PATH, &self.agent, 0o755)?;
        if let Some(path) = &self.path {
            // The start-up files of login shells set PATH anew; this one is read after that.
            let text = format!("PATH={}\nexport PATH\n", quoted(path));
            self.write("/etc/profile.d/template-path.sh", text.as_bytes(), 0o644)?;
        }
        let directory = fs::File::open(&self.root)?;
        Ok(nix::unistd::syncfs(&directory)?)
    }

    /// Whatever steps left there (contract 5.3).
    fn empty_temporary(&self) -> io::Result<()> {
        let temporary = self.root.join("tmp");
        if !fs::symlink_metadata(&temporary).is_ok_and(|metadata| metadata.is_dir()) {
            return Ok(());
        }
        for entry in fs::read_dir(&temporary)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Writes a file of ours as a new one: what is there shares its content with a layer.
    fn write(&self, path: &str, content: &[u8], mode: u32) -> io::Result<()> {
        use std::io::Write as _;

        use dormouse_rootfs::confined::{Owner, Root};
        use rustix::fs::{AtFlags, Mode, OFlags, fchmod, openat, unlinkat};

        let root = Root::open(&self.root)?;
        let path = Path::new(path);
        let directory = root.dir_or_make(path.parent().unwrap_or(Path::new("/")), Owner::ROOT)?;
        let name = path.file_name().unwrap_or_default();
        match unlinkat(&directory, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = fs::File::from(openat(&directory, name, flags, Mode::from_raw_mode(0o600))?);
        file.write_all(content)?;
        Ok(fchmod(&file, Mode::from_raw_mode(mode))?)
    }
}

/// Boots the tree, waits until it is ready, and writes the snapshot.
async fn snapshot(
    job: &Job,
    context: &Context,
    root: &Path,
    start_cmd: Option<&str>,
    ready_cmd: Option<&str>,
) -> Result<SnapshotId, Failure> {
    let engine = &job.shared.engine;
    let id = InstanceId::random();
    job.log
        .say(Level::Info, Some(STEP), "[finalize] Booting the template".to_owned());
    let request = StartRequest {
        id: id.clone(),
        root: root.to_owned(),
        from: StartFrom::Boot,
        resources: job.resources,
        network: NetworkPolicy::default(),
    };
    engine
        .start(request)
        .await
        .map_err(|error| Failure::of("the template could not be booted", &error))?;
    let work = async {
        if start_cmd.is_some() || ready_cmd.is_some() {
            ready(job, context, &id, start_cmd, ready_cmd).await?;
        }
        job.log
            .say(Level::Info, Some(STEP), "[finalize] Writing the snapshot".to_owned());
        write_snapshot(job, &id).await
    };
    let written = tokio::select! {
        written = work => written,
        reason = engine.exited(&id) => Err(Failure::new(format!("the template's sandbox ended: {reason}"))),
        () = job.cancel.cancelled() => Err(job.cancelled()),
    };
    if let Err(error) = engine.destroy(&id).await {
        // The snapshot is complete whatever becomes of the instance that it was taken from.
        tracing::warn!(instance = %id, error = &error as &dyn std::error::Error, "the instance of a build stays until the next start");
    }
    written
}

async fn write_snapshot(job: &Job, id: &InstanceId) -> Result<SnapshotId, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::of("the snapshot could not be written", error);
    let draft = job.shared.snapshots.begin().await.map_err(|error| failed(&error))?;
    if let Err(error) = job.shared.engine.snapshot(id, draft.path()).await {
        if let Err(error) = draft.discard().await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "an unfinished snapshot stays until the next start"
            );
        }
        return Err(failed(&error));
    }
    draft.publish().await.map_err(|error| failed(&error))
}

/// Runs the start command and waits until the ready command succeeds.
async fn ready(
    job: &Job,
    context: &Context,
    id: &InstanceId,
    start_cmd: Option<&str>,
    ready_cmd: Option<&str>,
) -> Result<(), Failure> {
    let engine = &*job.shared.engine;
    let limits = &job.shared.config.limits;
    let identity = dormouse_engine::Identity {
        env: context.full_env(),
        default_user: Some(context.user.clone()),
        default_workdir: context.workdir.clone(),
        ..run::identity(job)
    };
    engine
        .identify(id, &identity)
        .await
        .map_err(|error| Failure::of("the template's sandbox does not answer", &error))?;
    let mut started = match start_cmd {
        Some(command) => {
            job.log.say(Level::Info, Some(STEP), format!("[finalize] START {command}"));
            Some(start(job, context, id, command).await?)
        }
        None => None,
    };
    let ready_cmd = ready_cmd.unwrap_or(READY_AFTER_START);
    job.log.say(Level::Info, Some(STEP), format!("[finalize] READY {ready_cmd}"));
    let command = context.shell(ready_cmd);
    let deadline = Instant::now() + limits.ready;
    let mut last = String::new();
    loop {
        let attempt = run::execute(engine, id, &command, &context.user, |_, stream, line| {
            job.log
                .output(Level::Debug, Some(STEP), format!("[ready] [{stream}]: {line}"));
        });
        // A start command that has ended well needs no more (contract 5.3).
        let ended = async {
            match &mut started {
                Some(started) => started.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            exit = attempt => match exit {
                Ok(exit) if exit.code == 0 => return Ok(()),
                Ok(exit) => last = exit.status,
                Err(why) => return Err(Failure::new(format!("the ready command could not be run: {why}"))),
            },
            ended = ended => return ended,
            () = tokio::time::sleep_until(deadline) => {}
        }
        if Instant::now() + limits.ready_every >= deadline {
            let minutes = limits.ready.as_secs() / 60;
            return Err(Failure::new(format!(
                "the template was not ready within {minutes} minutes: the last ready command ended with {last}"
            )));
        }
        tokio::time::sleep(limits.ready_every).await;
    }
}

/// A start command that runs.
struct Started {
    /// None while it runs.
    end: watch::Receiver<Option<Result<(), String>>>,
    /// Passes on what it writes, until this is dropped.
    _follow: tokio_util::task::AbortOnDropHandle<()>,
}

impl Started {
    /// Resolves when it has ended; well or not.
    async fn ended(&mut self) -> Result<(), Failure> {
        let end = self.end.wait_for(Option::is_some).await.map(|end| end.clone());
        match end {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(status))) => Err(Failure::new(format!("start command failed: {status}"))),
            _ => std::future::pending().await,
        }
    }
}

async fn start(job: &Job, context: &Context, id: &InstanceId, command: &str) -> Result<Started, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::of("start command failed", error);
    let stream = job
        .shared
        .engine
        .connect(id, AGENT_PORT)
        .await
        .map_err(|error| failed(&error))?;
    let caller = Caller {
        user: Some(&context.user),
        ..Caller::default()
    };
    let mut events = context
        .shell(command)
        .start(stream, caller)
        .await
        .map_err(|error| failed(&error))?;
    let (end, receiver) = watch::channel(None);
    let log = Arc::clone(&job.log);
    let follow = async move {
        let (mut stdout, mut stderr) = (Lines::default(), Lines::default());
        let say = |level, stream: &str, line| log.output(level, Some(STEP), format!("[start] [{stream}]: {line}"));
        let end_with = |result| {
            end.send_replace(Some(result));
        };
        loop {
            let event = match events.next().await {
                Ok(Some(event)) => event,
                Ok(None) => return,
                Err(error) => return end_with(Err(crate::error::chain(&error))),
            };
            match event.event {
                Some(process_event::Event::Data(data)) => match data.output {
                    Some(data_event::Output::Stdout(bytes)) => {
                        stdout
                            .push(&bytes)
                            .into_iter()
                            .for_each(|line| say(Level::Info, "stdout", line));
                    }
                    Some(data_event::Output::Stderr(bytes) | data_event::Output::Pty(bytes)) => {
                        stderr
                            .push(&bytes)
                            .into_iter()
                            .for_each(|line| say(Level::Warn, "stderr", line));
                    }
                    None => {}
                },
                Some(process_event::Event::End(exit)) => {
                    return end_with(if exit.exit_code == 0 {
                        Ok(())
                    } else {
                        Err(exit.status.clone())
                    });
                }
                _ => {}
            }
        }
    };
    Ok(Started {
        end: receiver,
        _follow: tokio_util::task::AbortOnDropHandle::new(tokio::spawn(follow)),
    })
}
