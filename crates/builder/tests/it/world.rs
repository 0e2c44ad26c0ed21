//! A builder over the simulator, with a template to build from.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use dormouse_builder::{BuildSpec, BuildView, Builder, BuilderConfig, From, Limits, LogFilter, StepSpec};
use dormouse_control::{Control, ControlConfig};
use dormouse_engine::sim::SimEngine;
use dormouse_engine::{EngineKind, Resources};
use dormouse_layers::SnapshotStore;
use dormouse_store::{BuildId, BuildRecord, BuildStatus, NewBuild, Store, TeamId, TemplateId, TemplateRecord};
use jiff::Timestamp;
use tempfile::TempDir;

pub(crate) struct World {
    pub(crate) builder: Arc<Builder>,
    pub(crate) store: Store,
    pub(crate) engine: Arc<SimEngine>,
    pub(crate) dir: TempDir,
    snapshots: SnapshotStore,
    control: Arc<Control>,
}

impl World {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&dir.path().join("dormouse.db")).await.expect("a database");
        let snapshots = SnapshotStore::open(dir.path().join("layers")).await.expect("a directory");
        let engine = Arc::new(SimEngine::default());
        add_base(&dir, &store, &snapshots).await;
        let config = ControlConfig {
            data_dir: dir.path().to_owned(),
            pool_size: 0,
            ..ControlConfig::default()
        };
        let control = Control::start(config, Arc::clone(&engine) as _, store.clone(), snapshots.clone())
            .await
            .expect("started");
        let builder = open(&dir, &store, &engine, &snapshots, &control).await;
        Self {
            builder,
            store,
            engine,
            dir,
            snapshots,
            control,
        }
    }

    /// As after a crash of the daemon: nothing was told to stop.
    pub(crate) async fn crash(&mut self) {
        self.builder = open(&self.dir, &self.store, &self.engine, &self.snapshots, &self.control).await;
    }

    pub(crate) async fn request(&self, name: &str, tags: &[&str]) -> (TemplateRecord, BuildId) {
        let new = NewBuild {
            team: TeamId::FIRST,
            alias: name.to_owned(),
            tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            resources: Resources::default(),
        };
        let (template, job) = self.builder.request(&new).await.expect("requested");
        (template, job.id)
    }

    pub(crate) async fn start(&self, template: &TemplateRecord, build: BuildId, steps: Vec<StepSpec>) {
        self.builder
            .start(template, build, spec("base", steps))
            .await
            .expect("started");
    }

    pub(crate) async fn view(&self, template: &TemplateRecord, build: BuildId) -> BuildView {
        let filter = LogFilter {
            limit: usize::MAX,
            ..LogFilter::default()
        };
        self.builder.view(template, build, filter).await.expect("a build")
    }

    /// The build when it has ended.
    pub(crate) async fn ended(&self, template: &TemplateRecord, build: BuildId) -> BuildView {
        let wait = async {
            loop {
                let view = self.view(template, build).await;
                if !matches!(view.job.status, BuildStatus::Building | BuildStatus::Waiting) {
                    return view;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("an end")
    }
}

async fn open(
    dir: &TempDir,
    store: &Store,
    engine: &Arc<SimEngine>,
    snapshots: &SnapshotStore,
    control: &Arc<Control>,
) -> Arc<Builder> {
    let config = BuilderConfig {
        data_dir: dir.path().to_owned(),
        agent: Arc::new(b"agent".to_vec()),
        limits: Limits::default(),
    };
    Builder::open(
        config,
        store.clone(),
        Arc::clone(engine) as _,
        snapshots.clone(),
        Arc::clone(control),
    )
    .await
    .expect("opened")
}

async fn add_base(dir: &TempDir, store: &Store, snapshots: &SnapshotStore) {
    let root = dir.path().join("templates/base/x/root");
    fs::create_dir_all(root.join("etc")).expect("made");
    fs::create_dir_all(root.join("tmp/left")).expect("made");
    fs::write(root.join("etc/passwd"), "user:x:1000:1000::/home/user:/bin/bash\n").expect("written");
    let template = TemplateRecord {
        id: TemplateId::random(),
        team: TeamId::FIRST,
        aliases: vec!["base".to_owned()],
        public: true,
        created_at: Timestamp::now(),
    };
    let build = BuildRecord {
        id: BuildId::random(),
        template: template.id.clone(),
        engine: EngineKind::Sim,
        root: "templates/base/x/root".into(),
        snapshot: snapshots.begin().await.expect("begun").publish().await.expect("published"),
        resources: Resources::default(),
        env: BTreeMap::from([("LANG".to_owned(), "C.UTF-8".to_owned())]),
        default_user: "user".to_owned(),
        default_workdir: Some("/home/user".to_owned()),
        created_at: Timestamp::now(),
    };
    store.save_build(&template, &build, "default").await.expect("saved");
}

pub(crate) fn spec(from: &str, steps: Vec<StepSpec>) -> BuildSpec {
    BuildSpec {
        from: From::Template(from.to_owned()),
        force: false,
        steps,
        start_cmd: None,
        ready_cmd: None,
    }
}

pub(crate) fn step(kind: &str, args: &[&str]) -> StepSpec {
    StepSpec {
        kind: kind.to_owned(),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        ..StepSpec::default()
    }
}
