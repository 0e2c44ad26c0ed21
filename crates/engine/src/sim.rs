//! The engine of the tests: instances in memory.
//!
//! [`SimEngine`] keeps the promises of the trait without a host: an instance is a number (its *memory*), an identity and a state, and a
//! snapshot is a file that holds the number. Tests set and read the memory, make the next call of an operation fail, hold an operation
//! until they let it go, let an instance die, and "restart the daemon" by making a second engine over the same [`Host`].
//!
//! A connection into an instance answers any HTTP/1.1 request with the sandbox id as body, so that the API and the proxy can be tested
//! on top of it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Semaphore, watch};

use crate::{
    Adopted, AdoptedInstance, ConnectError, Connection, Engine, EngineError, EngineKind, ExitReason, Identity, InstanceId,
    InstanceStats, NetworkPolicy, Operation, SnapshotStats, StartFrom, StartRequest,
};

/// What an instance is made of here.
#[derive(Debug)]
struct Instance {
    memory: u64,
    suspended: bool,
    identity: Option<Identity>,
    network: NetworkPolicy,
    exit: watch::Sender<Option<ExitReason>>,
}

/// The part that outlives an engine, as the host's processes outlive the daemon.
#[derive(Debug, Default)]
pub struct Host {
    instances: Mutex<HashMap<InstanceId, Instance>>,
}

impl Host {
    fn instances(&self) -> MutexGuard<'_, HashMap<InstanceId, Instance>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Faults {
    fail: HashMap<Operation, u32>,
    no_room: HashMap<Operation, u32>,
    panic: HashMap<Operation, u32>,
    hold: HashMap<Operation, Arc<Semaphore>>,
    calls: HashMap<Operation, usize>,
}

/// An engine in memory.
#[derive(Debug, Default)]
pub struct SimEngine {
    host: Arc<Host>,
    faults: Mutex<Faults>,
}

impl SimEngine {
    /// An engine over an existing host: the daemon after a restart.
    #[must_use]
    pub fn over(host: Arc<Host>) -> Self {
        Self {
            host,
            faults: Mutex::default(),
        }
    }

    /// The host, to give to a later engine.
    #[must_use]
    pub fn host(&self) -> Arc<Host> {
        Arc::clone(&self.host)
    }

    /// Makes the next `times` calls of an operation fail.
    pub fn fail(&self, operation: Operation, times: u32) {
        self.faults().fail.insert(operation, times);
    }

    /// Makes the next `times` calls of an operation find the host without room.
    pub fn fill(&self, operation: Operation, times: u32) {
        self.faults().no_room.insert(operation, times);
    }

    /// Makes the next `times` calls of an operation panic; of [`Operation::Watch`] those that find the instance.
    pub fn panic(&self, operation: Operation, times: u32) {
        self.faults().panic.insert(operation, times);
    }

    /// Lets calls of an operation pass again that were [held](Self::hold); those that wait already do not go on by that.
    pub fn let_go(&self, operation: Operation) {
        self.faults().hold.remove(&operation);
    }

    /// Makes calls of an operation wait until a permit is added to the semaphore that is returned; each call takes one.
    pub fn hold(&self, operation: Operation) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.faults().hold.insert(operation, Arc::clone(&gate));
        gate
    }

    /// How often an operation was called.
    #[must_use]
    pub fn calls(&self, operation: Operation) -> usize {
        self.faults().calls.get(&operation).copied().unwrap_or(0)
    }

    /// The names of all instances that exist.
    #[must_use]
    pub fn instances(&self) -> Vec<InstanceId> {
        self.host.instances().keys().cloned().collect()
    }

    /// Whether an instance is suspended; `None` when there is none of that name.
    #[must_use]
    pub fn suspended(&self, id: &InstanceId) -> Option<bool> {
        self.host.instances().get(id).map(|instance| instance.suspended)
    }

    /// An instance's memory.
    #[must_use]
    pub fn memory(&self, id: &InstanceId) -> Option<u64> {
        self.host.instances().get(id).map(|instance| instance.memory)
    }

    /// An instance's identity.
    #[must_use]
    pub fn identity(&self, id: &InstanceId) -> Option<Identity> {
        self.host.instances().get(id).and_then(|instance| instance.identity.clone())
    }

    /// What an instance may reach.
    #[must_use]
    pub fn network(&self, id: &InstanceId) -> Option<NetworkPolicy> {
        self.host.instances().get(id).map(|instance| instance.network.clone())
    }

    /// Changes an instance's memory, as a program inside it would.
    pub fn set_memory(&self, id: &InstanceId, memory: u64) {
        if let Some(instance) = self.host.instances().get_mut(id) {
            instance.memory = memory;
        }
    }

    /// Lets an instance die, as if its process had been killed.
    pub fn die(&self, id: &InstanceId, reason: ExitReason) {
        if let Some(instance) = self.host.instances().remove(id) {
            instance.exit.send_replace(Some(reason));
        }
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the call, waits while the operation is held, and fails when it is told to.
    async fn enter(&self, operation: Operation, id: &InstanceId) -> Result<(), EngineError> {
        let gate = {
            let mut faults = self.faults();
            *faults.calls.entry(operation).or_default() += 1;
            faults.hold.get(&operation).cloned()
        };
        if let Some(gate) = gate {
            gate.acquire()
                .await
                .map_err(|closed| EngineError::failed(operation, id, closed))?
                .forget();
        }
        self.panic_if_told(operation);
        let mut faults = self.faults();
        if use_up(&mut faults.no_room, operation) {
            return Err(EngineError::NoRoom {
                operation,
                id: id.clone(),
                source: "the simulator was told to be full".into(),
            });
        }
        if use_up(&mut faults.fail, operation) {
            return Err(EngineError::failed(operation, id, "the simulator was told to fail"));
        }
        Ok(())
    }

    fn panic_if_told(&self, operation: Operation) {
        let told = use_up(&mut self.faults().panic, operation);
        assert!(!told, "the simulator was told to panic");
    }

    fn with<T>(&self, id: &InstanceId, change: impl FnOnce(&mut Instance) -> T) -> Result<T, EngineError> {
        self.host
            .instances()
            .get_mut(id)
            .map(change)
            .ok_or_else(|| EngineError::Gone(id.clone()))
    }
}

/// Whether a fault is left for the operation; takes one.
fn use_up(faults: &mut HashMap<Operation, u32>, operation: Operation) -> bool {
    match faults.get_mut(&operation) {
        Some(left) if *left > 0 => {
            *left -= 1;
            true
        }
        _ => false,
    }
}

/// The one file of a simulated snapshot.
const MEMORY: &str = "memory";

#[async_trait]
impl Engine for SimEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Sim
    }

    async fn start(&self, request: StartRequest) -> Result<(), EngineError> {
        self.enter(Operation::Start, &request.id).await?;
        let memory = match &request.from {
            StartFrom::Boot | StartFrom::Layers(_) => 0,
            StartFrom::Snapshot(dir) => {
                let bad = |reason: String| EngineError::BadSnapshot {
                    snapshot: dir.display().to_string(),
                    reason,
                };
                let text = std::fs::read_to_string(dir.join(MEMORY)).map_err(|error| bad(error.to_string()))?;
                text.parse()
                    .map_err(|error: std::num::ParseIntError| bad(error.to_string()))?
            }
        };
        let instance = Instance {
            memory,
            suspended: false,
            identity: None,
            network: request.network,
            exit: watch::Sender::new(None),
        };
        self.host.instances().insert(request.id, instance);
        Ok(())
    }

    async fn identify(&self, id: &InstanceId, identity: &Identity) -> Result<(), EngineError> {
        self.enter(Operation::Identify, id).await?;
        self.with(id, |instance| {
            if instance.suspended {
                return Err(EngineError::failed(Operation::Identify, id, "it is suspended"));
            }
            instance.identity = Some(identity.clone());
            Ok(())
        })?
    }

    async fn set_network(&self, id: &InstanceId, policy: &NetworkPolicy) -> Result<(), EngineError> {
        self.enter(Operation::SetNetwork, id).await?;
        self.with(id, |instance| instance.network = policy.clone())
    }

    async fn suspend(&self, id: &InstanceId) -> Result<(), EngineError> {
        self.enter(Operation::Suspend, id).await?;
        self.with(id, |instance| instance.suspended = true)
    }

    async fn resume(&self, id: &InstanceId) -> Result<(), EngineError> {
        self.enter(Operation::Resume, id).await?;
        self.with(id, |instance| instance.suspended = false)
    }

    async fn snapshot(&self, id: &InstanceId, into: &Path) -> Result<SnapshotStats, EngineError> {
        self.with(id, |instance| instance.suspended = true)?;
        self.enter(Operation::Snapshot, id).await?;
        let memory = self.with(id, |instance| instance.memory)?.to_string();
        std::fs::write(into.join(MEMORY), &memory).map_err(|error| EngineError::failed(Operation::Snapshot, id, error))?;
        Ok(SnapshotStats {
            bytes: memory.len() as u64,
        })
    }

    async fn destroy(&self, id: &InstanceId) -> Result<(), EngineError> {
        self.enter(Operation::Destroy, id).await?;
        self.die(id, ExitReason::Destroyed);
        Ok(())
    }

    async fn connect(&self, id: &InstanceId, _port: u16) -> Result<Connection, ConnectError> {
        let body = match self.host.instances().get(id) {
            Some(instance) if !instance.suspended => instance.identity.as_ref().map(|identity| identity.sandbox_id.clone()),
            _ => return Err(ConnectError::Gone(id.clone())),
        };
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(async move {
            let mut head = Vec::new();
            while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                if theirs.read_buf(&mut head).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let body = body.unwrap_or_default();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            // A visitor that is gone already does not want the answer.
            let _ = theirs.write_all(answer.as_bytes()).await;
        });
        Ok(Box::new(ours))
    }

    async fn stats(&self, id: &InstanceId) -> Result<InstanceStats, EngineError> {
        self.enter(Operation::Stats, id).await?;
        self.with(id, |_| InstanceStats {
            cpu_usec: 0,
            memory_bytes: 64 << 20,
        })
    }

    fn exited(&self, id: &InstanceId) -> BoxFuture<'static, ExitReason> {
        let exit = self.host.instances().get(id).map(|instance| instance.exit.subscribe());
        if exit.is_some() {
            self.panic_if_told(Operation::Watch);
        }
        async move {
            let Some(mut exit) = exit else { return ExitReason::Destroyed };
            match exit.wait_for(Option::is_some).await {
                Ok(reason) => reason.clone().unwrap_or(ExitReason::Destroyed),
                Err(_) => ExitReason::Destroyed,
            }
        }
        .boxed()
    }

    async fn adopt(&self) -> Result<Adopted, EngineError> {
        if use_up(&mut self.faults().fail, Operation::Adopt) {
            return Err(EngineError::Host {
                operation: Operation::Adopt,
                source: "the simulator was told to fail".into(),
            });
        }
        let instances = self.host.instances();
        let live = instances
            .iter()
            .map(|(id, instance)| AdoptedInstance {
                id: id.clone(),
                suspended: instance.suspended,
            })
            .collect();
        Ok(Adopted {
            live,
            removed: Vec::new(),
        })
    }
}
