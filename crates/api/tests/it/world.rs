//! A server without a network: requests go straight into the router.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use dormouse_api::{ApiConfig, ApiState, router};
use dormouse_builder::{Builder, BuilderConfig, Limits};
use dormouse_control::{Control, ControlConfig};
use dormouse_engine::sim::SimEngine;
use dormouse_engine::{EngineKind, Resources};
use dormouse_layers::SnapshotStore;
use dormouse_store::{BuildId, BuildRecord, KeyRecord, Store, TeamId, TemplateId, TemplateRecord};
use http::{HeaderMap, Request};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tower::ServiceExt as _;

pub(crate) const KEY: &str = "e2b_0000000000000000000000000000000000000000";
pub(crate) const OTHER_KEY: &str = "e2b_1111111111111111111111111111111111111111";
pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// `Null` when there is none.
    pub(crate) body: Value,
}

impl Answer {
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        if status >= 400 {
            assert_eq!(self.body["code"], status, "every refusal has its status as `code`");
            assert!(self.body["message"].is_string(), "{}", self.body);
            assert_eq!(self.headers["content-type"], "application/json");
        }
        if status == 204 {
            assert_eq!(self.body, Value::Null);
        }
        self
    }

    #[track_caller]
    pub(crate) fn says(self, message: &str) -> Self {
        assert_eq!(self.body["message"], message);
        self
    }

    #[track_caller]
    pub(crate) fn mentions(self, part: &str) -> Self {
        let message = self.body["message"].as_str().unwrap_or_default();
        assert!(message.contains(part), "`{message}` does not mention `{part}`");
        self
    }

    #[track_caller]
    pub(crate) fn text(&self, field: &str) -> String {
        self.body[field].as_str().expect("a text").to_owned()
    }

    #[track_caller]
    pub(crate) fn time(&self, field: &str) -> Timestamp {
        self.text(field).parse().expect("a time")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }
}

/// A node with its API.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) router: Router,
    pub(crate) engine: Arc<SimEngine>,
    pub(crate) store: Store,
    pub(crate) dir: Arc<TempDir>,
    pub(crate) template: TemplateRecord,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(1000, ApiConfig::default()).await
    }

    pub(crate) async fn with(max_running: usize, api: ApiConfig) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&dir.path().join("dormouse.db")).await.expect("a database");
        let snapshots = SnapshotStore::open(dir.path().join("snapshots")).await.expect("a directory");
        let template = add_template(&store, &snapshots).await;
        for (key, team) in [(KEY, TeamId::FIRST), (OTHER_KEY, TeamId::random())] {
            let key = KeyRecord {
                hash: Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect(),
                name: "test".to_owned(),
                team,
                max_run: DAY,
                created_at: Timestamp::now(),
            };
            store.save_key(&key).await.expect("saved");
        }
        let engine = Arc::new(SimEngine::default());
        let config = ControlConfig {
            max_running,
            pool_size: 0,
            ..ControlConfig::default()
        };
        let control = Control::start(config, Arc::clone(&engine) as _, store.clone(), snapshots.clone())
            .await
            .expect("started");
        let builder = BuilderConfig {
            data_dir: dir.path().to_owned(),
            agent: Arc::default(),
            limits: Limits::default(),
        };
        let builder = Builder::open(
            builder,
            store.clone(),
            Arc::clone(&engine) as _,
            snapshots,
            Arc::clone(&control),
        );
        let builder = builder.await.expect("opened");
        Self {
            router: router(ApiState::new(control, store.clone(), api).with_builder(builder)),
            engine,
            store,
            dir: Arc::new(dir),
            template,
        }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.expect("infallible");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        let body = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).expect("JSON")
        };
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        }
    }

    /// A request with the key, with a body if there is one.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let request = Request::builder().method(method).uri(path).header("X-API-KEY", KEY);
        self.send(request.body(body).expect("a request")).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask("POST", path, Some(body)).await
    }

    /// A running sandbox's id.
    pub(crate) async fn running(&self) -> String {
        let created = self.post("/v2/sandboxes", serde_json::json!({"templateID": "base"})).await;
        created.is(201).text("sandboxID")
    }

    /// A sleeping sandbox's id.
    pub(crate) async fn paused(&self) -> String {
        let id = self.running().await;
        self.ask("POST", &format!("/sandboxes/{id}/pause"), None).await.is(204);
        id
    }

    /// Its state as a client sees it, `None` when it does not.
    pub(crate) async fn state(&self, id: &str) -> Option<String> {
        let answer = self.get(&format!("/sandboxes/{id}")).await;
        (answer.status != 404).then(|| answer.is(200).text("state"))
    }
}

async fn add_template(store: &Store, snapshots: &SnapshotStore) -> TemplateRecord {
    let template = TemplateRecord {
        id: TemplateId::random(),
        team: TeamId::FIRST,
        aliases: vec!["base".to_owned(), "second-name".to_owned()],
        public: true,
        created_at: Timestamp::now(),
    };
    let draft = snapshots.begin().await.expect("a draft");
    std::fs::write(draft.path().join("memory"), "7").expect("written");
    let build = BuildRecord {
        id: BuildId::random(),
        template: template.id.clone(),
        engine: EngineKind::Sim,
        root: "templates/base/root".into(),
        snapshot: draft.publish().await.expect("published"),
        resources: Resources::default(),
        env: BTreeMap::new(),
        default_user: "user".to_owned(),
        default_workdir: None,
        created_at: Timestamp::now(),
    };
    store.save_build(&template, &build, "default").await.expect("saved");
    template
}
