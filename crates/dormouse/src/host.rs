//! The node's parts, opened in order: database, engine, control.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use dormouse_api::{ApiConfig, ApiState};
use dormouse_builder::{Builder, BuilderConfig, Limits};
use dormouse_control::{Control, ControlConfig};
use dormouse_engine::Engine;
use dormouse_engine_gvisor::{GvisorConfig, GvisorEngine};
use dormouse_layers::SnapshotStore;
use dormouse_network::{NetworkConfig, SlotPool};
use dormouse_proxy::{Front, FrontConfig};
use dormouse_store::{KeyRecord, Store, TeamId};
use sha2::{Digest as _, Sha256};

use crate::agent::AGENT;
use crate::config::Config;
use crate::data_dir::{DataDir, hex};

/// The name of the key that the first start makes.
const FIRST_KEY: &str = "first key";

/// Everything that serves sandboxes on this host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) store: Store,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) control: Arc<Control>,
    pub(crate) engine: Arc<dyn Engine>,
    builder: Arc<Builder>,
    slots: Arc<SlotPool>,
}

impl Host {
    /// Opens everything and takes over what an earlier server left. The caller holds the data directory's lock.
    pub(crate) async fn open(config: &Config, data: &DataDir) -> anyhow::Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("Network namespaces and cgroups need root: run the same command with sudo");
        }
        let store = Store::open(&data.database()).await?;
        ensure_key(config, data, &store).await?;
        let snapshots = SnapshotStore::open(data.snapshots()).await?;
        let mut network = NetworkConfig::new(&config.data_dir, &data.run());
        network.ready = config.pool_size.clamp(2, 32);
        let slots = SlotPool::open(network)
            .await
            .context("The network for sandboxes could not be prepared")?;
        let engine = engine(config, data, &slots).await?;
        let control = ControlConfig {
            data_dir: config.data_dir.clone(),
            max_running: config.max_running,
            pool_size: config.pool_size,
            light_sleep_memory: config.light_sleep_memory,
            light_sleep_age: config.light_sleep_age,
            ..ControlConfig::default()
        };
        let control = Control::start(control, Arc::clone(&engine), store.clone(), snapshots.clone()).await?;
        let builder = BuilderConfig {
            data_dir: config.data_dir.clone(),
            agent: Arc::new(AGENT.to_vec()),
            limits: Limits::default(),
        };
        let builder = Builder::open(
            builder,
            store.clone(),
            Arc::clone(&engine),
            snapshots.clone(),
            Arc::clone(&control),
        );
        let builder = builder.await.context("Template builds could not be prepared")?;
        Ok(Self {
            store,
            snapshots,
            control,
            engine,
            builder,
            slots,
        })
    }

    /// What answers on the listeners: the API, and the proxy in front of it. `https_port` is told to clients.
    pub(crate) fn front(&self, config: &Config, https_port: Option<u16>) -> Front {
        let api = ApiConfig {
            domain: config.told_domain(https_port),
            ..ApiConfig::default()
        };
        let api = ApiState::new(Arc::clone(&self.control), self.store.clone(), api).with_builder(Arc::clone(&self.builder));
        let api = dormouse_api::router(api);
        let front = FrontConfig {
            domains: config.domains.iter().map(ToString::to_string).collect(),
            ..FrontConfig::default()
        };
        Front::new(self.control.clone(), api, front)
    }

    /// Stops and leaves every sandbox as it is.
    pub(crate) async fn close(self) {
        self.builder.stop().await;
        self.control.stop().await;
        self.slots.close().await;
        self.store.close().await;
    }
}

async fn engine(config: &Config, data: &DataDir, slots: &Arc<SlotPool>) -> anyhow::Result<Arc<dyn Engine>> {
    let runsc = find_runsc(config)?;
    let runsc = dormouse_engine_gvisor::tune(&runsc, &data.run())
        .await
        .context("runsc could not be prepared")?;
    let program = std::env::current_exe().context("Cannot find this program's own file")?;
    let shim: Vec<OsString> = vec![program.into(), "shim".into()];
    let config = GvisorConfig::new(runsc, data.sandboxes(), shim);
    Ok(Arc::new(GvisorEngine::open(config, Arc::clone(slots)).await?))
}

/// The runsc program: the configured one, or the first on PATH.
pub(crate) fn find_runsc(config: &Config) -> anyhow::Result<PathBuf> {
    if let Some(runsc) = &config.runsc {
        return Ok(runsc.clone());
    }
    find_program("runsc").context("No runsc on PATH: `dormouse setup` installs it")
}

/// A program on PATH.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Makes the first API key, and enters it with the longest run that is configured.
async fn ensure_key(config: &Config, data: &DataDir, store: &Store) -> anyhow::Result<()> {
    let hash = hex(&Sha256::digest(data.key_or_make()?));
    let known = store.key(&hash).await?;
    if known.as_ref().is_some_and(|key| key.max_run == config.max_run) {
        return Ok(());
    }
    let created_at = known.map_or_else(jiff::Timestamp::now, |key| key.created_at);
    let key = KeyRecord {
        hash,
        name: FIRST_KEY.to_owned(),
        team: TeamId::FIRST,
        max_run: config.max_run,
        created_at,
    };
    Ok(store.save_key(&key).await?)
}
