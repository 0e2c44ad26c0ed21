//! A node in a directory of its own, with one template (`base`), and the questions that tests ask of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dormouse_control::{Connected, Control, ControlConfig, ControlError, NewSandbox, Owner, Route, RouteError, Sandbox, Visitor};
use dormouse_engine::sim::SimEngine;
use dormouse_engine::{EngineKind, InstanceId, Operation, Resources};
use dormouse_layers::SnapshotStore;
use dormouse_store::{
    BuildId, BuildRecord, EventKind, OnTimeout, SandboxId, SandboxRecord, SandboxState, Store, TeamId, TemplateId, TemplateRecord,
};
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

pub(crate) const TEAM: TeamId = TeamId::FIRST;
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn owner() -> Owner {
    Owner {
        team: TEAM,
        max_run: HOUR,
    }
}

/// A sandbox of `base` for a minute that nothing wakes and that is killed at its end.
pub(crate) fn new() -> NewSandbox {
    NewSandbox {
        template: "base".to_owned(),
        timeout: MINUTE,
        given_timeout: Some(MINUTE),
        on_timeout: OnTimeout::Kill,
        auto_resume: false,
        secure: false,
        allow_internet: None,
        network: None,
        metadata: BTreeMap::from([("who".to_owned(), "test".to_owned())]),
        env: BTreeMap::new(),
    }
}

/// The same, but it sleeps at its end and traffic wakes it.
pub(crate) fn cycling() -> NewSandbox {
    NewSandbox {
        on_timeout: OnTimeout::Pause,
        auto_resume: true,
        ..new()
    }
}

/// Waits until something holds.
pub(crate) async fn wait_until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// No pool, unless a test is about it: what runs is what the test made.
pub(crate) fn config() -> ControlConfig {
    ControlConfig {
        pool_size: 0,
        ..ControlConfig::default()
    }
}

/// A node.
pub(crate) struct World {
    pub(crate) engine: Arc<SimEngine>,
    pub(crate) store: Store,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) control: Arc<Control>,
    pub(crate) base: BuildRecord,
    template: TemplateRecord,
    config: ControlConfig,
    /// Where control's tasks run: dropped, they stop where they are, as in a crash.
    daemon: Option<Runtime>,
    dir: TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(config()).await
    }

    /// A node whose lightly sleeping sandboxes keep nothing: every pause is a deep one.
    pub(crate) async fn deep() -> Self {
        let light_sleep_memory = 0;
        Self::with(ControlConfig {
            light_sleep_memory,
            ..config()
        })
        .await
    }

    pub(crate) async fn with(config: ControlConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("dormouse.db")).await.unwrap();
        let snapshots = SnapshotStore::open(dir.path().join("snapshots")).await.unwrap();
        let template = TemplateRecord {
            id: TemplateId::random(),
            team: TEAM,
            aliases: vec!["base".to_owned()],
            public: true,
            created_at: Timestamp::now(),
        };
        let base = add_build(&store, &snapshots, &template, EngineKind::Sim).await;
        let engine = Arc::new(SimEngine::default());
        let (daemon, control) = start(&config, &engine, &store, &snapshots).await;
        Self {
            engine,
            store,
            snapshots,
            control: control.unwrap(),
            base,
            template,
            config,
            daemon: Some(daemon),
            dir,
        }
    }

    /// Another build of the template, tagged as its default.
    pub(crate) async fn rebuild(&self) -> BuildRecord {
        self.build_of(EngineKind::Sim).await
    }

    /// The same, as if another engine had made it.
    pub(crate) async fn build_of(&self, engine: EngineKind) -> BuildRecord {
        add_build(&self.store, &self.snapshots, &self.template, engine).await
    }

    /// Makes all sandboxes ones of another build.
    pub(crate) async fn move_to(&self, build: &BuildRecord) {
        for mut row in self.store.sandboxes().await.unwrap() {
            row.build = build.id;
            self.store.save(&row, &[]).await.unwrap();
        }
    }

    /// The daemon dies where it is and a new one starts.
    pub(crate) async fn crash(&mut self) {
        self.die();
        self.start().await;
    }

    /// The daemon dies where it is.
    pub(crate) fn die(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            // A runtime may not be dropped within another one.
            std::thread::spawn(move || daemon.shutdown_timeout(PATIENCE)).join().unwrap();
        }
    }

    /// The next daemon is configured like this.
    pub(crate) fn reconfigure(&mut self, config: ControlConfig) {
        self.config = config;
    }

    /// A new daemon over the same host and files.
    pub(crate) async fn start(&mut self) {
        self.start_on(SimEngine::over(self.engine.host())).await;
    }

    /// The same, on an engine that a test has prepared.
    pub(crate) async fn start_on(&mut self, engine: SimEngine) {
        self.try_start_on(engine).await.unwrap();
    }

    pub(crate) async fn try_start_on(&mut self, engine: SimEngine) -> Result<(), ControlError> {
        self.die();
        self.engine = Arc::new(engine);
        self.store = Store::open(&self.dir.path().join("dormouse.db")).await.unwrap();
        let (daemon, control) = start(&self.config, &self.engine, &self.store, &self.snapshots).await;
        self.daemon = Some(daemon);
        self.control = control?;
        Ok(())
    }

    pub(crate) async fn create(&self, new: NewSandbox) -> Sandbox {
        self.try_create(new).await.unwrap()
    }

    pub(crate) async fn try_create(&self, new: NewSandbox) -> Result<Sandbox, ControlError> {
        self.spawn(|control| async move { control.create(&owner(), new).await })
            .await
            .unwrap()
    }

    /// A sandbox that runs.
    pub(crate) async fn running(&self) -> SandboxId {
        self.create(new()).await.record.id
    }

    /// A sandbox that sleeps and that traffic may wake.
    pub(crate) async fn paused(&self) -> SandboxId {
        let id = self.create(cycling()).await.record.id;
        self.pause(&id).await.unwrap();
        id
    }

    pub(crate) async fn pause(&self, id: &SandboxId) -> Result<(), ControlError> {
        self.control.pause(TEAM, id).await
    }

    pub(crate) async fn kill(&self, id: &SandboxId) -> Result<(), ControlError> {
        self.control.kill(TEAM, id).await
    }

    pub(crate) async fn connect(&self, id: &SandboxId) -> Result<Connected, ControlError> {
        self.control.connect(&owner(), id, MINUTE).await
    }

    pub(crate) async fn visit(&self, id: &SandboxId, port: u16) -> Result<Route, RouteError> {
        let visitor = Visitor {
            port,
            traffic_token: None,
            access_token: None,
        };
        self.control.route(id, visitor).await
    }

    /// Asks something beside the test, where the daemon runs.
    pub(crate) fn spawn<R>(&self, ask: impl FnOnce(Arc<Control>) -> R) -> JoinHandle<R::Output>
    where
        R: Future<Output: Send> + Send + 'static,
    {
        let daemon = self.daemon.as_ref().expect("the daemon runs");
        daemon.spawn(ask(Arc::clone(&self.control)))
    }

    /// A pause beside the test.
    pub(crate) fn begin_pause(&self, id: &SandboxId) -> JoinHandle<Result<(), ControlError>> {
        let id = id.clone();
        self.spawn(|control| async move { control.pause(TEAM, &id).await })
    }

    /// A connect beside the test.
    pub(crate) fn begin_connect(&self, id: &SandboxId) -> JoinHandle<Result<Connected, ControlError>> {
        let id = id.clone();
        self.spawn(|control| async move { control.connect(&owner(), &id, MINUTE).await })
    }

    pub(crate) fn record(&self, id: &SandboxId) -> SandboxRecord {
        self.control.get(TEAM, id).unwrap().record
    }

    /// The visible state, `None` when there is no such sandbox.
    pub(crate) fn state(&self, id: &SandboxId) -> Option<SandboxState> {
        self.control.get(TEAM, id).ok().map(|sandbox| sandbox.state())
    }

    pub(crate) async fn wait_for(&self, id: &SandboxId, state: Option<SandboxState>) {
        wait_until(&format!("{id} is {state:?}"), async || self.state(id) == state).await;
    }

    pub(crate) fn instance(&self, id: &SandboxId) -> InstanceId {
        self.record(id).instance.expect("it has an instance")
    }

    pub(crate) fn set_memory(&self, id: &SandboxId, memory: u64) {
        self.engine.set_memory(&self.instance(id), memory);
    }

    pub(crate) fn memory(&self, id: &SandboxId) -> u64 {
        self.engine.memory(&self.instance(id)).expect("its instance exists")
    }

    /// Waits until an operation has begun for the nth time.
    pub(crate) async fn begun(&self, operation: Operation, times: usize) {
        wait_until(&format!("{operation} began"), async || self.engine.calls(operation) >= times).await;
    }

    /// Snapshot directories beside those of builds, drafts included.
    pub(crate) fn snapshot_dirs(&self) -> usize {
        let all = std::fs::read_dir(self.dir.path().join("snapshots")).unwrap().count();
        all - 1
    }

    /// Waits until the node holds exactly this: instances, snapshot directories, rows.
    pub(crate) async fn holds(&self, instances: usize, snapshots: usize, rows: usize) {
        wait_until(
            &format!("the node holds {instances} instances, {snapshots} snapshots, {rows} rows"),
            async || {
                let now = self.store.sandboxes().await.unwrap().len();
                (self.engine.instances().len(), self.snapshot_dirs(), now) == (instances, snapshots, rows)
            },
        )
        .await;
    }

    /// The kinds of a sandbox's events, oldest first.
    pub(crate) async fn log(&self, id: &SandboxId) -> Vec<EventKind> {
        let mut events = self.store.events(TEAM, Some(id), 100).await.unwrap();
        events.reverse();
        events.into_iter().map(|event| event.kind).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.die();
    }
}

async fn start(
    config: &ControlConfig,
    engine: &Arc<SimEngine>,
    store: &Store,
    snapshots: &SnapshotStore,
) -> (Runtime, Result<Arc<Control>, ControlError>) {
    let daemon = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (config, engine, store, snapshots) = (config.clone(), Arc::clone(engine), store.clone(), snapshots.clone());
    let control = daemon.spawn(async move { Control::start(config, engine, store, snapshots).await });
    let control = control.await.unwrap();
    (daemon, control)
}

async fn add_build(store: &Store, snapshots: &SnapshotStore, template: &TemplateRecord, engine: EngineKind) -> BuildRecord {
    let draft = snapshots.begin().await.unwrap();
    std::fs::write(draft.path().join("memory"), "7").unwrap();
    let build = BuildRecord {
        id: BuildId::random(),
        template: template.id.clone(),
        engine,
        root: "templates/base/root".into(),
        snapshot: draft.publish().await.unwrap(),
        resources: Resources::default(),
        env: BTreeMap::from([("LANG".to_owned(), "C.UTF-8".to_owned())]),
        default_user: "user".to_owned(),
        default_workdir: None,
        created_at: Timestamp::now(),
    };
    store.save_build(template, &build, dormouse_store::DEFAULT_TAG).await.unwrap();
    build
}
