//! Starting a process and seeing it through.

use std::sync::Arc;
use std::time::Instant;

use dormouse_agent_proto::rpc::process::StartRequest;
use rustix::process::Signal;
use tokio::sync::mpsc;

use super::fork::spawn;
use super::launch::{self, LaunchError, Wiring};
use super::output::Event;
use super::running::Running;
use crate::agent::Agent;
use crate::identity::Identity;
use crate::users::{Accounts, User};

/// Starts what `request` says as `user`. The process is killed at `deadline`, whether somebody follows it or not.
///
/// Returns its id and its events; it goes on when they are dropped.
pub(crate) async fn start(
    agent: Arc<Agent>,
    request: StartRequest,
    user: User,
    accounts: Arc<Accounts>,
    identity: Arc<Identity>,
    deadline: Option<Instant>,
) -> Result<(u32, mpsc::Receiver<Event>), LaunchError> {
    let StartRequest {
        process,
        pty,
        tag,
        stdin,
        ..
    } = request;
    let config = process.into_option().unwrap_or_default();
    let wiring = match pty.into_option() {
        None => Wiring::Pipes {
            stdin: stdin.unwrap_or(true),
        },
        Some(pty) => {
            let (cols, rows) = size_of(&pty);
            Wiring::Terminal { cols, rows }
        }
    };
    let reaper = agent.reaper.clone();
    let blocking = tokio::task::spawn_blocking(move || {
        let (mut plan, ends) = launch::plan(&config, wiring, &user, &accounts, &identity)?;
        let mut started = reaper.adopt(|| spawn(&plan));
        if config.cwd.as_deref().unwrap_or_default().is_empty()
            && matches!(&started, Err(error) if error.is_forbidden_directory())
        {
            // The sandbox's default directory is another user's: this one's own does as well.
            plan.cwd = launch::home(&user)?;
            started = reaper.adopt(|| spawn(&plan));
        }
        let (pid, exit) = started?;
        // Dropping the plan closes the child's ends here; otherwise its output would never end.
        drop(plan);
        Ok::<_, LaunchError>((pid, exit, config, ends))
    });
    let (pid, exit, config, ends) = match blocking.await {
        Ok(result) => result?,
        Err(_) => return Err(LaunchError::Plumbing("thread", std::io::ErrorKind::Interrupted.into())),
    };
    let (process, outputs) =
        Running::new(pid, config, tag, ends).map_err(|error| LaunchError::Plumbing("event sources", error))?;
    let process = Arc::new(process);
    let events = process.followers.follow();
    agent.processes.insert(Arc::clone(&process));
    let pid = process.pid();
    tokio::spawn(async move {
        let life = process.run(outputs, exit);
        let ending = match deadline {
            None => life.await,
            Some(deadline) => {
                let mut life = std::pin::pin!(life);
                tokio::select! {
                    ending = &mut life => ending,
                    () = tokio::time::sleep_until(deadline.into()) => {
                        process.signal(Signal::KILL);
                        life.await
                    }
                }
            }
        };
        agent.processes.end(&process, &ending);
        process.followers.finish(ending).await;
    });
    Ok((pid, events))
}

/// The size in a request; nonsense becomes the size of an ordinary terminal.
pub(crate) fn size_of(pty: &dormouse_agent_proto::rpc::process::PTY) -> (u16, u16) {
    let size = pty.size.as_option();
    let fit = |value: Option<u32>, default: u16| match value {
        Some(value) if value > 0 => u16::try_from(value).unwrap_or(u16::MAX),
        _ => default,
    };
    (fit(size.map(|size| size.cols), 80), fit(size.map(|size| size.rows), 24))
}
