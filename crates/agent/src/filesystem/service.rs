//! The RPC service `filesystem.Filesystem` (contract 3.6).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use dormouse_agent_proto::oneof::WatchDirEvent;
use dormouse_agent_proto::rpc::filesystem::watch_dir_response::{KeepAlive, StartEvent};
use dormouse_agent_proto::rpc::filesystem::{
    CreateWatcherRequest, CreateWatcherResponse, Filesystem, GetWatcherEventsRequest, GetWatcherEventsResponse, ListDirRequest,
    ListDirResponse, MakeDirRequest, MakeDirResponse, MoveRequest, MoveResponse, RemoveRequest, RemoveResponse,
    RemoveWatcherRequest, RemoveWatcherResponse, StatRequest, StatResponse, WatchDirRequest, WatchDirResponse,
};
use futures::Stream;
use http::HeaderMap;
use rustix::io::Errno;
use tokio::time::Instant;

use super::entry::entry_info;
use super::watch::{Watch, Wish};
use super::{tree, walk};
use crate::agent::Agent;
use crate::paths::{self, PathError};
use crate::rpc::{keepalive_of, user_of};
use crate::users::{Accounts, User};

/// Serves `filesystem.Filesystem`.
#[derive(Clone, Debug)]
pub(crate) struct FilesystemService {
    agent: Arc<Agent>,
}

/// For whom a request is, and how to resolve its paths.
struct Caller {
    user: User,
    accounts: Arc<Accounts>,
    workdir: Option<String>,
}

impl Caller {
    fn resolve(&self, path: &str) -> Result<PathBuf, ConnectError> {
        Ok(paths::resolve(path, &self.user.home, self.workdir.as_deref())?)
    }
}

impl FilesystemService {
    /// A service over the sandbox's files.
    pub(crate) fn new(agent: Arc<Agent>) -> Self {
        Self { agent }
    }

    fn caller(&self, headers: &HeaderMap) -> Result<Caller, ConnectError> {
        let identity = self.agent.identity.get();
        let (user, accounts) = user_of(&self.agent, &identity, headers)?;
        Ok(Caller {
            user,
            accounts,
            workdir: identity.default_workdir.clone(),
        })
    }

    async fn watch(&self, ctx: &RequestContext, path: &str, wish: Wish) -> Result<Watch, ConnectError> {
        let path = self.caller(ctx.headers())?.resolve(path)?;
        let agent = Arc::clone(&self.agent);
        // A large tree takes a while to walk.
        blocking(move || Ok(Watch::of(agent, path, wish)?)).await
    }
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ConnectError> + Send + 'static) -> Result<T, ConnectError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| ConnectError::internal("the file operation was interrupted"))?
}

impl Filesystem for FilesystemService {
    async fn stat(&self, ctx: RequestContext, request: ServiceRequest<'_, StatRequest>) -> ServiceResult<StatResponse> {
        let caller = self.caller(ctx.headers())?;
        let path = caller.resolve(request.path)?;
        let entry = blocking(move || entry_info(&path, &caller.accounts).map_err(|error| missing(&path, &error))).await?;
        Response::ok(StatResponse {
            entry: entry.into(),
            ..StatResponse::default()
        })
    }

    async fn make_dir(&self, ctx: RequestContext, request: ServiceRequest<'_, MakeDirRequest>) -> ServiceResult<MakeDirResponse> {
        let caller = self.caller(ctx.headers())?;
        let path = caller.resolve(request.path)?;
        let entry = blocking(move || {
            match tree::make_directory(&path, &caller.user) {
                Ok(true) => {}
                Ok(false) => {
                    return Err(ConnectError::already_exists(format!(
                        "directory already exists: {}",
                        path.display()
                    )));
                }
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                    let message = format!("path already exists but it is not a directory: {}", path.display());
                    return Err(ConnectError::invalid_argument(message));
                }
                Err(error) => return Err(failed("creating directory", &error)),
            }
            entry_info(&path, &caller.accounts).map_err(|error| missing(&path, &error))
        })
        .await?;
        Response::ok(MakeDirResponse {
            entry: entry.into(),
            ..MakeDirResponse::default()
        })
    }

    async fn r#move(&self, ctx: RequestContext, request: ServiceRequest<'_, MoveRequest>) -> ServiceResult<MoveResponse> {
        let caller = self.caller(ctx.headers())?;
        let source = caller.resolve(request.source)?;
        let destination = caller.resolve(request.destination)?;
        let entry = blocking(move || {
            std::fs::symlink_metadata(&source).map_err(|error| missing(&source, &error))?;
            tree::make_parents(&destination, &caller.user).map_err(|error| failed("creating directory", &error))?;
            tree::rename(&source, &destination).map_err(|error| missing(&source, &error))?;
            entry_info(&destination, &caller.accounts).map_err(|error| missing(&destination, &error))
        })
        .await?;
        Response::ok(MoveResponse {
            entry: entry.into(),
            ..MoveResponse::default()
        })
    }

    async fn list_dir(&self, ctx: RequestContext, request: ServiceRequest<'_, ListDirRequest>) -> ServiceResult<ListDirResponse> {
        let caller = self.caller(ctx.headers())?;
        let path = caller.resolve(request.path)?;
        let depth = request.depth.max(1);
        let entries = blocking(move || {
            let metadata = std::fs::metadata(&path).map_err(|error| missing(&path, &error))?;
            if !metadata.is_dir() {
                let message = format!("path is not a directory: {}", path.display());
                return Err(ConnectError::invalid_argument(message));
            }
            walk::list(&path, depth, &caller.accounts).map_err(|error| missing(&path, &error))
        })
        .await?;
        Response::ok(ListDirResponse {
            entries,
            ..ListDirResponse::default()
        })
    }

    async fn remove(&self, ctx: RequestContext, request: ServiceRequest<'_, RemoveRequest>) -> ServiceResult<RemoveResponse> {
        let path = self.caller(ctx.headers())?.resolve(request.path)?;
        blocking(move || tree::remove(&path).map_err(|error| failed("removing", &error))).await?;
        Response::ok(RemoveResponse::default())
    }

    async fn watch_dir(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, WatchDirRequest>,
    ) -> ServiceResult<ServiceStream<WatchDirResponse>> {
        let wish = Wish {
            recursive: request.recursive,
            include_entry: request.include_entry,
            allow_network_mounts: request.allow_network_mounts,
        };
        let watch = self.watch(&ctx, request.path, wish).await?;
        Response::stream_ok(watch_events(
            watch,
            keepalive_of(ctx.headers()),
            ctx.deadline().map(Instant::from_std),
        ))
    }

    async fn create_watcher(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, CreateWatcherRequest>,
    ) -> ServiceResult<CreateWatcherResponse> {
        let wish = Wish {
            recursive: request.recursive,
            include_entry: request.include_entry,
            allow_network_mounts: request.allow_network_mounts,
        };
        let watcher_id = self.agent.watchers.open(self.watch(&ctx, request.path, wish).await?);
        Response::ok(CreateWatcherResponse {
            watcher_id,
            ..CreateWatcherResponse::default()
        })
    }

    async fn get_watcher_events(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, GetWatcherEventsRequest>,
    ) -> ServiceResult<GetWatcherEventsResponse> {
        let events = self.agent.watchers.take(request.watcher_id);
        let events = events.ok_or_else(|| no_watcher(request.watcher_id))?;
        Response::ok(GetWatcherEventsResponse {
            events,
            ..GetWatcherEventsResponse::default()
        })
    }

    async fn remove_watcher(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, RemoveWatcherRequest>,
    ) -> ServiceResult<RemoveWatcherResponse> {
        if self.agent.watchers.close(request.watcher_id) {
            Response::ok(RemoveWatcherResponse::default())
        } else {
            Err(no_watcher(request.watcher_id))
        }
    }
}

/// `start`, then events, with a sign of life after every `keepalive` of silence.
fn watch_events(
    watch: Watch,
    keepalive: Duration,
    deadline: Option<Instant>,
) -> impl Stream<Item = Result<WatchDirResponse, ConnectError>> + Send + 'static {
    let start = (Some(WatchDirEvent::from(StartEvent::default())), watch);
    futures::stream::unfold(Some(start), move |state| async move {
        let (first, mut watch) = state?;
        let item = match first {
            Some(event) => Ok(event),
            None => tokio::select! {
                biased;
                () = crate::process::until(deadline) => Err(crate::process::timed_out()),
                event = watch.next() => match event {
                    Ok(event) => Ok(WatchDirEvent::from(event)),
                    Err(error) => Err(failed("watching", &error)),
                },
                () = tokio::time::sleep(keepalive) => Ok(WatchDirEvent::from(KeepAlive::default())),
            },
        };
        Some(match item {
            Ok(event) => {
                let response = WatchDirResponse {
                    event: Some(event),
                    ..WatchDirResponse::default()
                };
                (Ok(response), Some((None, watch)))
            }
            Err(error) => (Err(error), None),
        })
    })
}

fn no_watcher(id: &str) -> ConnectError {
    ConnectError::not_found(format!("watcher with id {id} not found"))
}

fn missing(path: &Path, error: &io::Error) -> ConnectError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            ConnectError::not_found(format!("file not found: {}", path.display()))
        }
        _ => failed(&format!("accessing {}", path.display()), error),
    }
}

fn failed(what: &str, error: &io::Error) -> ConnectError {
    let message = format!("error {what}: {error}");
    match Errno::from_io_error(error) {
        // The path's fault, not ours.
        Some(Errno::NAMETOOLONG | Errno::LOOP | Errno::NOTDIR | Errno::ISDIR | Errno::INVAL) => {
            ConnectError::invalid_argument(message)
        }
        Some(Errno::NOSPC | Errno::DQUOT) => ConnectError::resource_exhausted(message),
        _ => ConnectError::internal(message),
    }
}

impl From<PathError> for ConnectError {
    fn from(error: PathError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}
