//! The pool: makes slots ahead of time, hands them out, finds them again, removes what nobody owns.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::JoinHandle;

use crate::build::{Namespaces, Paths, Plan};
use crate::config::{NetworkConfig, SlotName};
use crate::dial::SocketMaker;
use crate::dns::Forwarder;
use crate::error::{NetworkError, Result};
use crate::host::{Host, MAX_SLOTS};
use crate::netns;
use crate::registry::Registry;
use crate::slot::Slot;
use crate::worker::on_thread;

/// How many slots are made at once. More only makes them wait for each other: the kernel makes devices one at a time.
const PARALLEL: usize = 4;
/// How long refilling rests after a failure.
const REST: Duration = Duration::from_secs(1);

/// All slots of one daemon.
#[derive(Debug)]
pub struct SlotPool {
    shared: Arc<Shared>,
    refill: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    forwarder: Forwarder,
}

/// What the pool, its slots and its tasks have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) sockets: SocketMaker,
    config: NetworkConfig,
    plan: Arc<Plan>,
    registry: Arc<Mutex<Registry>>,
    /// Rung when a ready slot was taken.
    taken: Notify,
    making: Semaphore,
    closed: AtomicBool,
}

impl SlotPool {
    /// Prepares the host (idempotent), starts the DNS forwarder and begins to fill the pool in the background.
    /// Slots of an earlier daemon are left alone until [`SlotPool::sweep`].
    ///
    /// Must be called inside a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// When not root, without `nft`, without a free address range, without a DNS server.
    pub async fn open(config: NetworkConfig) -> Result<Arc<Self>> {
        let dir = config.run_dir.join("netns");
        let (for_host, for_dir) = (config.clone(), dir.clone());
        let (host, sockets) = on_thread(move || {
            netns::prepare_dir(&for_dir)?;
            Ok((Host::prepare(&for_host)?, SocketMaker::start()?))
        })
        .await?;
        let host = Arc::new(host);
        let plan = Arc::new(Plan {
            host: Arc::clone(&host),
            prefix: config.prefix.clone(),
            dir,
        });
        let lister = Arc::clone(&plan);
        let (left, devices) = on_thread(move || lister.list()).await?;
        let mut registry = Registry::new(MAX_SLOTS);
        left.into_iter().for_each(|name| registry.note_left(name));
        devices.into_iter().for_each(|index| registry.note_device(index));
        let registry = Arc::new(Mutex::new(registry));

        let forwarder = Forwarder::start(&config.dns, Arc::clone(&host), Arc::clone(&registry)).await?;
        let (udp, tcp) = forwarder.addresses();
        let (rules, prefix) = (Arc::clone(&host), config.prefix.clone());
        on_thread(move || rules.apply_rules(&prefix, udp, tcp)).await?;
        tracing::info!(prefix = %config.prefix, block = %host.block, mtu = host.mtu, dns = %udp, "network is ready");

        let shared = Arc::new(Shared {
            sockets,
            config,
            plan,
            registry,
            taken: Notify::new(),
            making: Semaphore::new(PARALLEL),
            closed: AtomicBool::new(false),
        });
        let refill = tokio::spawn(refill(Arc::clone(&shared)));
        Ok(Arc::new(Self {
            shared,
            refill: Some(refill).into(),
            forwarder,
        }))
    }

    /// A slot for a new sandbox, set as configured: a ready one, or one made now.
    ///
    /// # Errors
    /// When no slot can be made.
    pub async fn take(&self) -> Result<Slot> {
        self.take_with(self.shared.config.internet).await
    }

    /// A slot for a new sandbox, with or without a way to the internet.
    ///
    /// A slot that is not set as configured is made anew: that takes less time than to change a ready one.
    ///
    /// # Errors
    /// When no slot can be made.
    pub async fn take_with(&self, internet: bool) -> Result<Slot> {
        let shared = &self.shared;
        shared.check_open()?;
        let ready = if internet == shared.config.internet {
            shared.ready()
        } else {
            None
        };
        match ready {
            Some(slot) => Ok(slot),
            None => shared.make(internet).await,
        }
    }

    /// Opens a slot that an earlier daemon took.
    ///
    /// # Errors
    /// [`NetworkError::NoSuchSlot`] when it is gone (a reboot), [`NetworkError::InUse`] when it was adopted before.
    pub async fn adopt(&self, name: &SlotName) -> Result<Slot> {
        let shared = &self.shared;
        shared.check_open()?;
        if !name.has_prefix(&shared.config.prefix) {
            return Err(NetworkError::BadSlotName { name: name.to_string() });
        }
        shared.registry().adopt(name)?;
        match Paths::new(&shared.plan.dir, name).open(name) {
            Ok(namespaces) => Ok(shared.slot(name.clone(), namespaces, None)),
            Err(error) => {
                shared.registry().leave(name);
                Err(error)
            }
        }
    }

    /// Removes every slot, whole or in part, with this daemon's prefix that is neither in `keep` nor held by this
    /// pool. Returns how many.
    ///
    /// # Errors
    /// When the host's state cannot be listed. A slot that cannot be removed is logged and not counted.
    pub async fn sweep(&self, keep: &[SlotName]) -> Result<usize> {
        let shared = &self.shared;
        let plan = Arc::clone(&shared.plan);
        let (names, indexes) = on_thread(move || plan.list()).await?;
        indexes.into_iter().for_each(|index| shared.registry().note_device(index));
        let orphans: Vec<SlotName> = {
            let mut registry = shared.registry();
            names
                .into_iter()
                .filter(|name| !keep.contains(name) && registry.begin_sweep(name))
                .collect()
        };
        let removals = futures::stream::iter(orphans).map(|name| async move {
            let outcome = shared.remove(name.clone()).await;
            outcome.inspect_err(|error| tracing::warn!(slot = %name, %error, "a slot without an owner could not be removed"))
        });
        let outcomes = removals.buffer_unordered(PARALLEL).collect::<Vec<_>>().await;
        let mut removed = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        let devices = shared.registry().orphan_devices();
        for index in devices {
            let plan = Arc::clone(&shared.plan);
            match on_thread(move || plan.destroy_device(index)).await {
                Ok(existed) => {
                    shared.registry().forget_device(index);
                    removed += usize::from(existed);
                }
                Err(error) => tracing::warn!(index, %error, "a device without a slot could not be removed"),
            }
        }
        if removed > 0 {
            tracing::info!(removed, "removed slots without an owner");
        }
        Ok(removed)
    }

    /// Stops: taken slots stay as they are for the next daemon, ready ones are removed, the forwarder ends. If no slot is
    /// left, nothing of this daemon stays on the host.
    pub async fn close(&self) {
        self.shared.stop();
        self.forwarder.stop();
        // Not aborted: a slot that is half made could not be told from one in use.
        if let Some(refill) = self.refill.lock().await.take() {
            let _ = refill.await;
        }
        // All permits: whatever was being made is made by now, and nothing new begins.
        let _all = self.shared.making.acquire_many(PARALLEL as u32).await;
        let unused = self.shared.registry().drain_ready();
        for name in unused {
            if let Err(error) = self.shared.remove(name.clone()).await {
                tracing::warn!(slot = %name, %error, "an unused slot could not be removed");
            }
        }
        if let Err(error) = self.leave_unused_host().await {
            tracing::warn!(%error, "the host could not be left as it was found");
        }
    }

    /// Removes rules and the claim to addresses, unless there is a slot that needs them. Data directories come and go,
    /// in tests above all, and each would keep a block of addresses until the next reboot.
    async fn leave_unused_host(&self) -> Result<()> {
        let plan = Arc::clone(&self.shared.plan);
        on_thread(move || {
            let (names, indexes) = plan.list()?;
            if names.is_empty() && indexes.is_empty() {
                plan.leave_host()
            } else {
                Ok(())
            }
        })
        .await
    }

    /// Closes, and removes everything with this daemon's prefix from the host, taken slots included.
    ///
    /// # Errors
    /// When a piece cannot be removed.
    pub async fn uninstall(&self) -> Result<()> {
        self.close().await;
        let plan = Arc::clone(&self.shared.plan);
        on_thread(move || {
            let (names, indexes) = plan.list()?;
            names.iter().try_for_each(|name| plan.destroy(name))?;
            indexes
                .into_iter()
                .try_for_each(|index| plan.destroy_device(index).map(drop))?;
            plan.leave_host()
        })
        .await
    }
}

impl Drop for SlotPool {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl Shared {
    fn stop(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.taken.notify_one();
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        // Its methods leave it whole at every point where they could panic.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(self: &Arc<Self>, name: SlotName, namespaces: Namespaces, internet: Option<bool>) -> Slot {
        Slot::new(name, namespaces, Arc::clone(self), internet)
    }

    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::SeqCst) {
            Err(NetworkError::Closed)
        } else {
            Ok(())
        }
    }

    /// A slot that waits to be taken, if there is one.
    fn ready(self: &Arc<Self>) -> Option<Slot> {
        loop {
            let name = self.registry().take_ready()?;
            self.taken.notify_one();
            match Paths::new(&self.plan.dir, &name).open(&name) {
                Ok(namespaces) => return Some(self.slot(name, namespaces, Some(self.config.internet))),
                // Somebody cleaned up under us. The pieces that stayed are swept like any other.
                Err(error) => {
                    tracing::warn!(slot = %name, %error, "a ready slot is broken");
                    self.registry().leave(&name);
                }
            }
        }
    }

    /// Makes a slot for the caller. If the caller goes away meanwhile, the slot becomes a ready one, if it is like them.
    async fn make(self: &Arc<Self>, internet: bool) -> Result<Slot> {
        let (answer, wait) = oneshot::channel();
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            let made = shared.create(internet, Registry::made_held).await;
            let made = made.map(|(name, namespaces)| shared.slot(name, namespaces, Some(internet)));
            if let Err(Ok(unwanted)) = answer.send(made) {
                let name = unwanted.name().clone();
                if internet == shared.config.internet {
                    drop(unwanted);
                    shared.registry().made_ready(&name);
                } else if let Err(error) = unwanted.release().await {
                    tracing::warn!(slot = %name, %error, "a slot that nobody waits for could not be removed");
                }
            }
        });
        wait.await.map_err(|_| NetworkError::Closed)?
    }

    /// Makes a slot and has it noted by `note`, before anybody can see that the work has ended.
    async fn create(&self, internet: bool, note: impl FnOnce(&mut Registry, &SlotName)) -> Result<(SlotName, Namespaces)> {
        let _permit = self.making.acquire().await.map_err(|_| NetworkError::Closed)?;
        self.check_open()?;
        let name = self.registry().begin(&self.config.prefix)?;
        let (plan, new) = (Arc::clone(&self.plan), name.clone());
        let began = Instant::now();
        match on_thread(move || plan.create(&new, internet)).await {
            Ok(namespaces) => {
                note(&mut self.registry(), &name);
                tracing::debug!(slot = %name, took = ?began.elapsed(), "made a slot");
                Ok((name, namespaces))
            }
            Err(error) => {
                self.registry().forget(&name);
                Err(error)
            }
        }
    }

    /// Removes a slot that nobody stands for any more, and frees its index.
    pub(crate) async fn remove(self: &Arc<Self>, name: SlotName) -> Result<()> {
        let shared = Arc::clone(self);
        on_thread(move || {
            let removed = shared.plan.destroy(&name);
            match removed {
                Ok(()) => shared.registry().forget(&name),
                Err(_) => shared.registry().leave(&name),
            }
            removed
        })
        .await
    }
}

/// Keeps the pool full, one slot at a time: requests come first.
async fn refill(shared: Arc<Shared>) {
    loop {
        while shared.registry().ready_count() < shared.config.ready {
            match shared.create(shared.config.internet, Registry::made_ready).await {
                Ok(_) => {}
                Err(NetworkError::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "cannot make a slot ahead of time");
                    tokio::time::sleep(REST).await;
                }
            }
        }
        shared.taken.notified().await;
        if shared.check_open().is_err() {
            return;
        }
    }
}
