//! A gateway on a free port with two teams, and clients.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dormouse_control::{Control, ControlConfig, NewSandbox, Owner};
use dormouse_engine::sim::SimEngine;
use dormouse_engine::{EngineKind, Resources};
use dormouse_layers::SnapshotStore;
use dormouse_ssh::{Gateway, HostKey, SshConfig};
use dormouse_store::{BuildId, BuildRecord, OnTimeout, SandboxId, SshKeyRecord, Store, TeamId, TemplateId, TemplateRecord};
use jiff::Timestamp;
use russh::client::{self, AuthResult, Handle};
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};
use russh::keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{Channel, ChannelMsg};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A client that trusts any host.
#[derive(Debug)]
pub(crate) struct Trusting;

impl client::Handler for Trusting {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

pub(crate) struct World {
    pub(crate) address: SocketAddr,
    pub(crate) control: Arc<Control>,
    pub(crate) store: Store,
    _stop: DropGuard,
    _dir: TempDir,
}

impl World {
    pub(crate) async fn new(config: SshConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::in_memory().await.unwrap();
        let snapshots = SnapshotStore::open(dir.path().join("snapshots")).await.unwrap();
        add_template(&store, &snapshots).await;
        let settings = ControlConfig {
            pool_size: 0,
            ..ControlConfig::default()
        };
        let engine = Arc::new(SimEngine::default());
        let control = Control::start(settings, engine, store.clone(), snapshots).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let gateway = Gateway {
            control: Arc::clone(&control),
            store: store.clone(),
            host_key: HostKey::load_or_make(&dir.path().join("host-key")).unwrap(),
            config,
        };
        let stop = CancellationToken::new();
        tokio::spawn(dormouse_ssh::serve(listener, gateway, stop.clone()));
        Self {
            address,
            control,
            store,
            _stop: stop.drop_guard(),
            _dir: dir,
        }
    }

    pub(crate) async fn sandbox(&self, team: TeamId) -> SandboxId {
        let owner = Owner {
            team,
            max_run: Duration::from_secs(24 * 3600),
        };
        let new = NewSandbox {
            template: "base".to_owned(),
            timeout: Duration::from_secs(300),
            given_timeout: None,
            on_timeout: OnTimeout::Kill,
            auto_resume: false,
            secure: true,
            allow_internet: None,
            network: None,
            metadata: BTreeMap::new(),
            env: BTreeMap::new(),
        };
        self.control.create(&owner, new).await.unwrap().record.id
    }

    /// Makes a key and registers it for these teams.
    pub(crate) async fn key(&self, seed: u8, teams: &[TeamId]) -> PrivateKey {
        let pair = Ed25519Keypair::from_seed(&[seed; 32]);
        let key = PrivateKey::new(KeypairData::Ed25519(pair), "test").unwrap();
        for &team in teams {
            let record = SshKeyRecord {
                team,
                fingerprint: key.fingerprint(HashAlg::Sha256).to_string(),
                name: "test".to_owned(),
                public_key: key.public_key().to_openssh().unwrap(),
                created_at: Timestamp::now(),
            };
            assert!(self.store.add_ssh_key(&record).await.unwrap());
        }
        key
    }

    pub(crate) async fn connect(&self) -> Result<Handle<Trusting>, russh::Error> {
        client::connect(Arc::default(), self.address, Trusting).await
    }

    /// Logs in; `None` when the key is refused.
    pub(crate) async fn login(&self, name: &str, key: PrivateKey) -> Option<Handle<Trusting>> {
        let mut client = self.connect().await.unwrap();
        let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
        let done = client.authenticate_publickey(name, key).await.unwrap();
        matches!(done, AuthResult::Success).then_some(client)
    }
}

/// What a command says on standard error, and its exit status.
pub(crate) async fn run(client: &Handle<Trusting>) -> (String, Option<u32>) {
    let channel = client.channel_open_session().await.unwrap();
    channel.exec(true, "true").await.unwrap();
    read(channel).await
}

async fn read(mut channel: Channel<client::Msg>) -> (String, Option<u32>) {
    let (mut words, mut status) = (Vec::new(), None);
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::ExtendedData { data, ext: 1 } => words.extend_from_slice(&data),
            ChannelMsg::ExitStatus { exit_status } => status = Some(exit_status),
            _ => {}
        }
    }
    (String::from_utf8(words).unwrap(), status)
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
