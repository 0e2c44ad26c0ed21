//! Commands of a build, in an instance over the layers below.

use std::path::Path;
use std::time::Duration;

use dormouse_agent_client::{Caller, Command};
use dormouse_agent_proto::AGENT_PORT;
use dormouse_agent_proto::rpc::process::process_event::{self, data_event};
use dormouse_engine::{Engine, ExitReason, Identity, InstanceId, LayeredRoot, NetworkPolicy, StartFrom, StartRequest};
use dormouse_rootfs::merge::is_whiteout;
use dormouse_rootfs::usage;

use crate::cache::Draft;
use crate::error::{Failure, chain};
use crate::job::{Job, Stack};
use crate::logs::{Level, Lines};

/// The host name while a template is built.
const HOST_NAME: &str = "template-build";
/// How long a guest gets to write back what it holds in memory.
const SYNC_PATIENCE: Duration = Duration::from_secs(120);
/// At least this long between two looks at how much a step has written.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the engine and the agent write for themselves, in a step's changes.
const OURS: &[&str] = &["etc/hostname", "etc/hosts", "etc/resolv.conf", "run/e2b"];

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    /// As a shell's user would say it: `exit status 1`.
    pub(crate) status: String,
}

/// Runs a command in a running instance and passes on what it writes.
pub(crate) async fn execute(
    engine: &dyn Engine,
    id: &InstanceId,
    command: &Command,
    user: &str,
    mut say: impl FnMut(Level, &str, String) + Send,
) -> Result<Exit, String> {
    let stream = engine.connect(id, AGENT_PORT).await.map_err(|error| chain(&error))?;
    let caller = Caller {
        user: Some(user),
        ..Caller::default()
    };
    let mut events = command.start(stream, caller).await.map_err(|error| in_words(&error))?;
    let (mut stdout, mut stderr) = (Lines::default(), Lines::default());
    let mut exit = None;
    while let Some(event) = events.next().await.map_err(|error| in_words(&error))? {
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
            Some(process_event::Event::End(end)) => {
                exit = Some(Exit {
                    code: end.exit_code,
                    status: end.status.clone(),
                });
            }
            _ => {}
        }
    }
    stdout.finish().into_iter().for_each(|line| say(Level::Info, "stdout", line));
    stderr.finish().into_iter().for_each(|line| say(Level::Warn, "stderr", line));
    exit.ok_or_else(|| "the end of the command was not reported".to_owned())
}

/// The agent's refusal in the words that clients' tests know (contract 5.3).
fn in_words(error: &dormouse_agent_client::Error) -> String {
    match error {
        dormouse_agent_client::Error::Call { code, message } => format!("command failed: {code}: {message}"),
        other => chain(other),
    }
}

/// Who the instances of builds are.
pub(crate) fn identity(job: &Job) -> Identity {
    Identity {
        sandbox_id: HOST_NAME.to_owned(),
        template_id: job.template.to_string(),
        default_user: Some("root".to_owned()),
        ..Identity::default()
    }
}

/// Runs a command over the layers; its changes are in the draft afterwards.
///
/// `what` is the command as its owner wrote it, for the message when it fails.
pub(crate) async fn step(
    job: &Job,
    stack: &Stack,
    draft: &Draft,
    command: &Command,
    user: &str,
    what: &str,
    say: impl FnMut(Level, &str, String) + Send,
) -> Result<(), Failure> {
    let engine = &*job.shared.engine;
    let id = InstanceId::random();
    let request = StartRequest {
        id: id.clone(),
        root: stack.root.clone(),
        from: StartFrom::Layers(LayeredRoot {
            layers: stack.layer_paths(),
            changes: draft.diff(),
            work: draft.work(),
        }),
        resources: job.resources,
        network: NetworkPolicy::default(),
    };
    engine
        .start(request)
        .await
        .map_err(|error| Failure::of("the step's sandbox could not be started", &error))?;
    let failed = |why: &str| Failure::new(format!("failed to run command '{what}': {why}"));
    let work = async {
        engine
            .identify(&id, &identity(job))
            .await
            .map_err(|error| Failure::of("the step's sandbox does not answer", &error))?;
        let limit = job.shared.config.limits.command;
        let exit = tokio::time::timeout(limit, execute(engine, &id, command, user, say))
            .await
            .map_err(|_| failed(&format!("it did not end within {} minutes", limit.as_secs() / 60)))?
            .map_err(|why| failed(&why))?;
        if exit.code != 0 {
            return Err(failed(&exit.status));
        }
        sync(engine, &id).await
    };
    let diff = draft.diff();
    let done = tokio::select! {
        done = work => done,
        failure = watch_disk(job, &diff) => Err(failure),
        reason = engine.exited(&id) => Err(failed(&ended(&reason))),
        () = job.cancel.cancelled() => Err(job.cancelled()),
    };
    if let Err(error) = engine.destroy(&id).await {
        // Its changes are not to be trusted while it may live on.
        return Err(Failure::of("the step's sandbox could not be ended", &error));
    }
    done?;
    Ok(tokio::task::spawn_blocking(move || tidy(&diff))
        .await
        .map_err(std::io::Error::other)??)
}

fn ended(reason: &ExitReason) -> String {
    match reason {
        ExitReason::OutOfMemory => "it used more memory than the template has".to_owned(),
        other => format!("its sandbox ended: {other}"),
    }
}

/// Has the guest write back what programs have written: the engine's kernel may hold some of it.
async fn sync(engine: &dyn Engine, id: &InstanceId) -> Result<(), Failure> {
    let command = Command::new("sync", [] as [&str; 0]);
    let run = execute(engine, id, &command, "root", |_, _, _| {});
    match tokio::time::timeout(SYNC_PATIENCE, run).await {
        // A tree without the program has lost nothing that was written the usual way.
        Ok(Ok(_) | Err(_)) => Ok(()),
        Err(_) => Err(Failure::new("the step's files could not be brought to disk in time")),
    }
}

/// Ends when the step has written more than it may.
async fn watch_disk(job: &Job, diff: &Path) -> Failure {
    let limit = u64::from(job.resources.disk_mib) << 20;
    loop {
        let begun = tokio::time::Instant::now();
        let looked = diff.to_owned();
        let used = tokio::task::spawn_blocking(move || usage::of(&looked)).await;
        if let Ok(Ok(used)) = used
            && used.bytes > limit
        {
            return Failure::new(format!(
                "the step has written more than {} MiB, the template's disk size",
                job.resources.disk_mib
            ));
        }
        // Counting may take long itself; it is not to be all that the host does.
        tokio::time::sleep(LOOK_EVERY.max(begun.elapsed() * 5)).await;
    }
}

/// Removes from a step's changes what is not the owner's, and temporary files (contract 5.3).
fn tidy(diff: &Path) -> std::io::Result<()> {
    for name in OURS {
        remove(&diff.join(name))?;
    }
    let temporary = diff.join("tmp");
    let entries = match std::fs::read_dir(&temporary) {
        Ok(entries) if std::fs::symlink_metadata(&temporary)?.is_dir() => entries,
        _ => return Ok(()),
    };
    for entry in entries {
        let entry = entry?;
        // What a COPY has put there and the command has removed stays removed.
        if !is_whiteout(&entry.metadata()?) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a name of a layer, not what a link leads to; its parents are directories of the layer, or it is not there.
fn remove(path: &Path) -> std::io::Result<()> {
    let parent_is_real = path
        .parent()
        .is_some_and(|parent| std::fs::symlink_metadata(parent).is_ok_and(|parent| parent.is_dir()));
    if !parent_is_real {
        return Ok(());
    }
    let removed = match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_step_keeps_the_owners_files_and_no_others() {
        let home = tempfile::tempdir().unwrap();
        let diff = home.path().join("diff");
        for dir in ["etc", "run/e2b", "tmp/d", "opt"] {
            fs::create_dir_all(diff.join(dir)).unwrap();
        }
        for file in ["etc/hosts", "etc/motd", "run/e2b/x", "tmp/d/x", "tmp/f", "opt/f"] {
            fs::write(diff.join(file), "").unwrap();
        }
        tidy(&diff).unwrap();
        for gone in ["etc/hosts", "run/e2b", "tmp/d", "tmp/f"] {
            assert!(!diff.join(gone).exists(), "{gone}");
        }
        for kept in ["etc/motd", "opt/f", "tmp"] {
            assert!(diff.join(kept).exists(), "{kept}");
        }
    }

    #[test]
    fn a_link_in_place_of_a_directory_leads_nowhere() {
        let home = tempfile::tempdir().unwrap();
        let (diff, outside) = (home.path().join("diff"), home.path().join("outside"));
        fs::create_dir_all(&diff).unwrap();
        fs::create_dir_all(outside.join("e2b")).unwrap();
        fs::write(outside.join("hosts"), "").unwrap();
        for name in ["etc", "run", "tmp"] {
            symlink(&outside, diff.join(name)).unwrap();
        }
        tidy(&diff).unwrap();
        assert!(outside.join("hosts").exists() && outside.join("e2b").exists());
    }
}
