//! The engine with a limit to every wait.
//!
//! An operation runs in a task of its own: it is never dropped half-way, its panic is an error like any other, and who waits for it may
//! go away, because the time is up or because the sandbox is killed meanwhile. What an operation makes that nobody waits for any more is
//! given up by its task.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dormouse_engine::{
    Adopted, ConnectError, Connection, Engine, EngineError, EngineKind, ExitReason, Identity, InstanceId, InstanceStats,
    NetworkPolicy, Operation, StartRequest,
};
use dormouse_layers::Draft;
use futures::future::BoxFuture;
use tokio::sync::oneshot;
use tracing::Instrument as _;

/// How long an operation of the engine may take before it counts as failed. They are far above what a slow host needs: an engine has
/// closer limits of its own, and these are for what hangs all the same.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// Making an instance until its agent answers.
    pub start: Duration,
    /// Writing a snapshot.
    pub snapshot: Duration,
    /// Everything else.
    pub other: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(120),
            snapshot: Duration::from_secs(600),
            other: Duration::from_secs(60),
        }
    }
}

/// Why an operation failed that did not fail by itself.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("no answer within {0:?}")]
    Overdue(Duration),
    #[error("the engine panicked")]
    Panicked,
}

/// An engine that always answers.
#[derive(Clone, Debug)]
pub(crate) struct Guarded {
    engine: Arc<dyn Engine>,
    deadlines: Deadlines,
}

impl Guarded {
    pub(crate) fn new(engine: Arc<dyn Engine>, deadlines: Deadlines) -> Self {
        Self { engine, deadlines }
    }

    pub(crate) fn kind(&self) -> EngineKind {
        self.engine.kind()
    }

    pub(crate) async fn start(&self, request: StartRequest) -> Result<(), EngineError> {
        let (engine, id) = (Arc::clone(&self.engine), request.id.clone());
        let made = id.clone();
        let unwanted = move |()| destroy(engine, made);
        let engine = Arc::clone(&self.engine);
        let work = async move { engine.start(request).await };
        wait(Operation::Start, &id, self.deadlines.start, work, unwanted).await
    }

    pub(crate) async fn warm(&self, id: &InstanceId) -> Result<(), EngineError> {
        self.other(Operation::Warm, id, |engine, id| async move { engine.warm(&id).await })
            .await
    }

    pub(crate) async fn identify(&self, id: &InstanceId, identity: Identity) -> Result<(), EngineError> {
        self.other(Operation::Identify, id, |engine, id| async move {
            engine.identify(&id, &identity).await
        })
        .await
    }

    pub(crate) async fn set_network(&self, id: &InstanceId, policy: NetworkPolicy) -> Result<(), EngineError> {
        self.other(Operation::SetNetwork, id, |engine, id| async move {
            engine.set_network(&id, &policy).await
        })
        .await
    }

    pub(crate) async fn suspend(&self, id: &InstanceId) -> Result<(), EngineError> {
        self.other(Operation::Suspend, id, |engine, id| async move { engine.suspend(&id).await })
            .await
    }

    pub(crate) async fn resume(&self, id: &InstanceId) -> Result<(), EngineError> {
        self.other(Operation::Resume, id, |engine, id| async move { engine.resume(&id).await })
            .await
    }

    /// Writes the snapshot into the draft, which comes back complete; on an error it is discarded.
    pub(crate) async fn snapshot(&self, id: &InstanceId, draft: Draft) -> Result<Draft, EngineError> {
        let (engine, of) = (Arc::clone(&self.engine), id.clone());
        let work = async move {
            let into: PathBuf = draft.path().to_path_buf();
            match engine.snapshot(&of, &into).await {
                Ok(stats) => {
                    tracing::debug!(instance = %of, bytes = stats.bytes, "snapshot written");
                    Ok(draft)
                }
                Err(error) => {
                    discard(draft).await;
                    Err(error)
                }
            }
        };
        wait(Operation::Snapshot, id, self.deadlines.snapshot, work, discard).await
    }

    pub(crate) async fn destroy(&self, id: &InstanceId) -> Result<(), EngineError> {
        self.other(Operation::Destroy, id, |engine, id| async move { engine.destroy(&id).await })
            .await
    }

    pub(crate) async fn stats(&self, id: &InstanceId) -> Result<InstanceStats, EngineError> {
        self.other(Operation::Stats, id, |engine, id| async move { engine.stats(&id).await })
            .await
    }

    /// The caller sets the limit: a program inside may be slow to take connections.
    pub(crate) async fn connect(&self, id: &InstanceId, port: u16) -> Result<Connection, ConnectError> {
        self.engine.connect(id, port).await
    }

    pub(crate) fn exited(&self, id: &InstanceId) -> BoxFuture<'static, ExitReason> {
        self.engine.exited(id)
    }

    /// Without a limit: a start of the daemon waits for it, and may be stopped.
    pub(crate) async fn adopt(&self) -> Result<Adopted, EngineError> {
        self.engine.adopt().await
    }

    async fn other<T, W>(
        &self,
        operation: Operation,
        id: &InstanceId,
        work: impl FnOnce(Arc<dyn Engine>, InstanceId) -> W,
    ) -> Result<T, EngineError>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, EngineError>> + Send + 'static,
    {
        let work = work(Arc::clone(&self.engine), id.clone());
        wait(operation, id, self.deadlines.other, work, |_| std::future::ready(())).await
    }
}

/// Does `work` in a task and waits for it. A result that nobody waits for any more goes to `unwanted`.
async fn wait<T, U>(
    operation: Operation,
    id: &InstanceId,
    limit: Duration,
    work: impl Future<Output = Result<T, EngineError>> + Send + 'static,
    unwanted: impl FnOnce(T) -> U + Send + 'static,
) -> Result<T, EngineError>
where
    T: Send + 'static,
    U: Future<Output = ()> + Send,
{
    let (answer, answered) = oneshot::channel();
    let task = async move {
        if let Err(Ok(left)) = answer.send(work.await) {
            unwanted(left).await;
        }
    };
    // Not one of the tasks that a stop waits for: it may hang.
    tokio::spawn(task.in_current_span());
    match tokio::time::timeout(limit, answered).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(EngineError::failed(operation, id, Lost::Panicked)),
        Err(_) => Err(EngineError::failed(operation, id, Lost::Overdue(limit))),
    }
}

async fn destroy(engine: Arc<dyn Engine>, id: InstanceId) {
    if let Err(error) = engine.destroy(&id).await {
        tracing::warn!(instance = %id, error = &error as &dyn std::error::Error, "an instance that came too late could not be destroyed");
    }
}

/// Removes a void draft.
async fn discard(draft: Draft) {
    if let Err(error) = draft.discard().await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "a void snapshot could not be removed; the next start sweeps it"
        );
    }
}
