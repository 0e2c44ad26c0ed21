//! The engine: the trait's methods in terms of instances.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dormouse_agent_client::{Caller, Command, init, open_tunnel};
use dormouse_agent_proto::{AGENT_PORT, InitRequest};
use dormouse_engine::{
    Adopted, ConnectError, Connection, Engine, EngineError, EngineKind, ExitReason, Identity, InstanceId, InstanceStats,
    NetworkPolicy, Operation, SnapshotStats, StartRequest,
};
use dormouse_network::{GATEWAY_ADDRESS, SlotPool};
use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::adopt;
use crate::cgroup::{Cgroup, Hierarchy};
use crate::config::GvisorConfig;
use crate::disk_limit::DiskLimits;
use crate::error::{GvisorError, Result};
use crate::instance::Instance;
use crate::launch::launch;
use crate::layout::Dir;
use crate::lifeline::Lifeline;
use crate::tied::Tied;

/// How long the sandbox may take to accept or to refuse a connection. Enough for four SYNs of which three are lost.
const CONNECT_PATIENCE: Duration = Duration::from_secs(15);

/// How long a first command may take, in a sandbox that nobody waits for.
const WARM_PATIENCE: Duration = Duration::from_secs(20);

/// How long the agent may take to apply an identity.
const INIT_PATIENCE: Duration = Duration::from_secs(20);

/// The gVisor engine.
#[derive(Debug)]
pub struct GvisorEngine {
    shared: Arc<Shared>,
}

/// What the engine and its tasks have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: GvisorConfig,
    pub(crate) network: Arc<SlotPool>,
    pub(crate) hierarchy: Hierarchy,
    pub(crate) disk_limits: DiskLimits,
    /// Held while a root image is made.
    pub(crate) making_image: Mutex<()>,
    instances: Mutex<HashMap<InstanceId, Arc<Instance>>>,
}

impl GvisorEngine {
    /// An engine whose instances use slots of `network`. Call [`adopt`](Engine::adopt) next.
    ///
    /// # Errors
    /// When the host has no usable cgroups, or the state directory cannot be made.
    pub async fn open(config: GvisorConfig, network: Arc<SlotPool>) -> Result<Self> {
        tokio::fs::create_dir_all(&config.state_dir)
            .await
            .map_err(GvisorError::file("create", &config.state_dir))?;
        let hierarchy = Hierarchy::detect()?;
        let disk_limits = DiskLimits::open(&config).await?;
        let shared = Shared {
            disk_limits,
            config,
            network,
            hierarchy,
            making_image: Mutex::default(),
            instances: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    fn get(&self, id: &InstanceId) -> Result<Arc<Instance>, EngineError> {
        self.shared.get(id).ok_or_else(|| EngineError::Gone(id.clone()))
    }

    async fn change<T, F>(&self, operation: Operation, id: &InstanceId, work: F) -> Result<T, EngineError>
    where
        T: Send + 'static,
        F: FnOnce(&Instance) -> Result<T> + Send + 'static,
    {
        let instance = self.get(id)?;
        let exit = instance.exit();
        instance.change(work).await.map_err(|error| {
            if exit.borrow().is_some() {
                return EngineError::Gone(id.clone());
            }
            let source = Box::new(error);
            if source.is_no_room() {
                EngineError::NoRoom {
                    operation,
                    id: id.clone(),
                    source,
                }
            } else {
                EngineError::Failed {
                    operation,
                    id: id.clone(),
                    source,
                }
            }
        })
    }
}

impl Shared {
    pub(crate) fn dir(&self, id: &InstanceId) -> Dir {
        Dir::new(self.config.state_dir.join(id.as_str()))
    }

    pub(crate) fn cgroup_path(&self, id: &InstanceId) -> String {
        format!("{}/{id}", self.config.cgroup)
    }

    pub(crate) fn cgroup(&self, id: &InstanceId) -> Cgroup {
        Cgroup::new(self.hierarchy.clone(), self.cgroup_path(id))
    }

    pub(crate) fn get(&self, id: &InstanceId) -> Option<Arc<Instance>> {
        self.instances().get(id).cloned()
    }

    fn instances(&self) -> MutexGuard<'_, HashMap<InstanceId, Arc<Instance>>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a live instance known, until its shim ends.
    pub(crate) fn take_in(self: &Arc<Self>, instance: &Arc<Instance>, shim: Lifeline) {
        self.instances().insert(instance.id().clone(), Arc::clone(instance));
        let (shared, instance) = (Arc::clone(self), Arc::clone(instance));
        tokio::spawn(async move {
            Arc::clone(&instance).attend(shim).await;
            shared.instances().remove(instance.id());
        });
    }
}

#[async_trait]
impl Engine for GvisorEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Gvisor
    }

    async fn start(&self, request: StartRequest) -> Result<(), EngineError> {
        let id = request.id.clone();
        // In a task of its own: a caller that goes away must not leave half an instance.
        let launched = tokio::spawn(launch(Arc::clone(&self.shared), request));
        launched
            .await
            .map_err(|_| EngineError::failed(Operation::Start, &id, GvisorError::Panicked))?
    }

    async fn warm(&self, id: &InstanceId) -> Result<(), EngineError> {
        let instance = self.get(id)?;
        // The shell that commands run in, with its start-up files: the sentry keeps what it has learnt, and the host processes in which
        // sandboxed ones run are used again.
        let run = async {
            let stream = instance
                .dialer
                .connect(AGENT_PORT)
                .await
                .map_err(dormouse_agent_client::Error::Connect)?;
            let mut events = Command::shell("true").start(stream, Caller::default()).await?;
            while events.next().await?.is_some() {}
            Ok(())
        };
        let failed = |error| EngineError::failed(Operation::Warm, id, GvisorError::Agent(error));
        match tokio::time::timeout(WARM_PATIENCE, run).await {
            Ok(done) => done.map_err(failed),
            Err(_) => Err(failed(dormouse_agent_client::Error::NotReady(WARM_PATIENCE))),
        }
    }

    async fn identify(&self, id: &InstanceId, identity: &Identity) -> Result<(), EngineError> {
        let instance = self.get(id)?;
        let request = init_request(identity);
        let exchange = async {
            let stream = instance
                .dialer
                .connect(AGENT_PORT)
                .await
                .map_err(dormouse_agent_client::Error::Connect)?;
            init(stream, &request).await
        };
        let failed = |error| EngineError::failed(Operation::Identify, id, GvisorError::Agent(error));
        match tokio::time::timeout(INIT_PATIENCE, exchange).await {
            Ok(done) => done.map_err(failed),
            Err(_) => Err(failed(dormouse_agent_client::Error::NotReady(INIT_PATIENCE))),
        }
    }

    async fn set_network(&self, id: &InstanceId, policy: &NetworkPolicy) -> Result<(), EngineError> {
        let set = self.get(id)?.set_internet(policy.internet).await;
        set.map_err(|error| EngineError::failed(Operation::SetNetwork, id, error))
    }

    async fn suspend(&self, id: &InstanceId) -> Result<(), EngineError> {
        self.change(Operation::Suspend, id, Instance::suspend).await
    }

    async fn resume(&self, id: &InstanceId) -> Result<(), EngineError> {
        self.change(Operation::Resume, id, Instance::resume).await
    }

    async fn snapshot(&self, id: &InstanceId, into: &Path) -> Result<SnapshotStats, EngineError> {
        let into = into.to_path_buf();
        self.change(Operation::Snapshot, id, move |instance| instance.snapshot(&into))
            .await
    }

    async fn destroy(&self, id: &InstanceId) -> Result<(), EngineError> {
        let Some(instance) = self.shared.get(id) else { return Ok(()) };
        let killed = instance.kill().await;
        killed.map_err(|error| EngineError::failed(Operation::Destroy, id, error))
    }

    async fn connect(&self, id: &InstanceId, port: u16) -> Result<Connection, ConnectError> {
        let gone = || ConnectError::Gone(id.clone());
        let instance = self
            .shared
            .get(id)
            .filter(|instance| !instance.is_suspended())
            .ok_or_else(gone)?;
        let failed = |source| ConnectError::Io {
            id: id.clone(),
            port,
            source,
        };
        let refused = match in_time(instance.dialer.connect(port)).await {
            Ok(stream) => return Ok(Box::new(Tied::new(stream, instance.exit()))),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => error,
            Err(error) => return Err(failed(error)),
        };
        if port == AGENT_PORT {
            return Err(failed(refused));
        }
        // Perhaps it listens on loopback only: the agent can reach that.
        let agent = in_time(instance.dialer.connect(AGENT_PORT)).await.map_err(failed)?;
        match in_time(async { Ok(open_tunnel(agent, port).await) }).await.map_err(failed)? {
            Ok(tunnel) => Ok(Box::new(Tied::new(tunnel, instance.exit()))),
            Err(dormouse_agent_client::Error::PortClosed { .. }) => Err(ConnectError::Refused(port)),
            Err(error) => Err(failed(std::io::Error::other(error))),
        }
    }

    async fn stats(&self, id: &InstanceId) -> Result<InstanceStats, EngineError> {
        let cgroup = self.get(id)?.cgroup.clone();
        let usage = tokio::task::spawn_blocking(move || cgroup.usage())
            .await
            .unwrap_or(Err(GvisorError::Panicked));
        let usage = usage.map_err(|error| EngineError::failed(Operation::Stats, id, error))?;
        Ok(InstanceStats {
            cpu_usec: usage.cpu_usec,
            memory_bytes: usage.memory_bytes,
        })
    }

    fn exited(&self, id: &InstanceId) -> BoxFuture<'static, ExitReason> {
        let exit = self.shared.get(id).map(|instance| instance.exit());
        async move {
            let Some(mut exit) = exit else { return ExitReason::Destroyed };
            // An engine that ends without the instance's end says nothing of it.
            let reason = exit.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
            match reason {
                Some(reason) => reason,
                None => futures::future::pending().await,
            }
        }
        .boxed()
    }

    async fn adopt(&self) -> Result<Adopted, EngineError> {
        adopt::adopt(&self.shared).await.map_err(|error| EngineError::Host {
            operation: Operation::Adopt,
            source: Box::new(error),
        })
    }
}

/// A sandbox whose kernel is stuck answers no SYN, and the host would try for two minutes.
async fn in_time<T>(connect: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    match tokio::time::timeout(CONNECT_PATIENCE, connect).await {
        Ok(connected) => connected,
        Err(_) => Err(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            format!("the sandbox did not answer within {} s", CONNECT_PATIENCE.as_secs()),
        )),
    }
}

fn init_request(identity: &Identity) -> InitRequest {
    InitRequest {
        sandbox_id: identity.sandbox_id.clone(),
        template_id: identity.template_id.clone(),
        hostname: identity.sandbox_id.clone(),
        access_token: identity.access_token.clone(),
        env_vars: identity.env.clone(),
        default_user: identity.default_user.clone(),
        default_workdir: identity.default_workdir.clone(),
        timestamp: i64::try_from(jiff::Timestamp::now().as_nanosecond()).ok(),
        resolv_conf: Some(format!("nameserver {GATEWAY_ADDRESS}\n")),
        ..InitRequest::default()
    }
}
