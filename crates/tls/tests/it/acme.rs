//! All three proofs against Pebble, the ACME server that Let's Encrypt tests clients with. Its look-ups go to our DNS responder.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use dormouse_dns::{Config, Responder, TxtRecords};
use dormouse_tls::acme::{Acme, AcmeConfig, Dns01, Proof, PublishTxt};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::support::Fixture;

const HTTPS_PORT: u16 = 5001;
const PLAIN_PORT: u16 = 5002;
const PEBBLE_PORT: u16 = 14000;

/// An ACME server, a DNS responder and our listeners, on an address that no other test uses.
struct World {
    fixture: Fixture,
    responder: Responder,
    directory: String,
    root: PathBuf,
    _pebble: Child,
    _files: TempDir,
}

/// The loopback network has room for every test of every process.
fn address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, NEXT.fetch_add(1, Ordering::Relaxed) + 100, high, low.max(1))
}

/// The certificate of the ACME server's own HTTPS, and its authority.
fn certificate(files: &TempDir, address: Ipv4Addr) -> (PathBuf, PathBuf, PathBuf) {
    let root_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::IpAddress(address.into())];
    let leaf = leaf.signed_by(&key, &Issuer::new(root, root_key)).unwrap();
    let put = |name: &str, text: String| {
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    (
        put("root.pem", root_pem),
        put("cert.pem", leaf.pem()),
        put("key.pem", key.serialize_pem()),
    )
}

impl World {
    async fn new() -> Self {
        let address = address();
        let at = |port| SocketAddr::from((address, port));
        let fixture = Fixture::at(at(HTTPS_PORT), at(PLAIN_PORT)).await;
        let responder = Responder::start(Config {
            listen: at(0),
            domains: vec!["box.test".to_owned()],
            addresses: vec![address.into()],
        })
        .await
        .unwrap();
        let files = tempfile::tempdir().unwrap();
        let (root, certificate, key) = certificate(&files, address);
        let config = serde_json::json!({ "pebble": {
            "listenAddress": at(PEBBLE_PORT).to_string(),
            "managementListenAddress": "",
            "certificate": certificate,
            "privateKey": key,
            "httpPort": PLAIN_PORT,
            "tlsPort": HTTPS_PORT,
        }});
        let file = files.path().join("pebble.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let mut pebble = Command::new("pebble")
            .arg("-config")
            .arg(&file)
            .args(["-dnsserver", &responder.address().to_string()])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .expect("Pebble is needed: apt-get install pebble");
        let mut lines = BufReader::new(pebble.stdout.take().unwrap()).lines();
        loop {
            let line = lines.next_line().await.unwrap().expect("Pebble ended");
            if line.contains("ACME directory available at") {
                break;
            }
        }
        // It says so before it listens.
        tokio::time::timeout(Duration::from_secs(60), async {
            while TcpStream::connect(at(PEBBLE_PORT)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("Pebble does not listen");
        // It must never wait for somebody to read.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self {
            fixture,
            responder,
            directory: format!("https://{}/dir", at(PEBBLE_PORT)),
            root,
            _pebble: pebble,
            _files: files,
        }
    }

    fn acme(&self, proof: Proof) -> Acme {
        let config = AcmeConfig {
            directory: self.directory.clone(),
            root: Some(self.root.clone()),
            email: Some("admin@box.test".to_owned()),
            proof,
            directory_path: self.fixture.directory.path().join("acme"),
        };
        let (issued, challenges) = (self.fixture.certificates.issued(), Arc::clone(&self.fixture.challenges));
        Acme::open(config, &self.fixture.domains, issued, challenges).unwrap()
    }

    /// Gets a certificate and sees it shown.
    async fn check(&self, proof: Proof, shown_for: &[&str], others: &[&str]) {
        for name in shown_for {
            assert!(self.fixture.issuer(name).await.contains("Dormouse"), "{name} before");
        }
        self.acme(proof).renew(&self.fixture.domains[0]).await.unwrap();
        for name in shown_for {
            assert!(self.fixture.issuer(name).await.contains("Pebble"), "{name}");
        }
        for name in others {
            assert!(self.fixture.issuer(name).await.contains("Dormouse"), "{name}");
        }
    }
}

#[derive(Debug)]
struct Published(TxtRecords);

impl PublishTxt for Published {
    fn add(&self, name: &str, value: &str) {
        self.0.add(name, value);
    }

    fn remove(&self, name: &str, value: &str) {
        self.0.remove(name, value);
    }
}

#[tokio::test]
async fn http_01_proves_the_fixed_names() {
    let world = World::new().await;
    world
        .check(Proof::Http01, &["api.box.test", "sandbox.box.test"], &["80-i1.box.test"])
        .await;
}

#[tokio::test]
async fn tls_alpn_01_proves_the_fixed_names() {
    let world = World::new().await;
    world
        .check(Proof::TlsAlpn01, &["api.box.test", "sandbox.box.test"], &["80-i1.box.test"])
        .await;
}

#[tokio::test]
async fn dns_01_by_the_own_responder_proves_the_wildcard_and_the_next_start_has_it() {
    let world = World::new().await;
    let dns = Dns01::Responder(Arc::new(Published(world.responder.txt())));
    let names = ["box.test", "api.box.test", "80-i1.box.test"];
    world.check(Proof::Dns01(dns), &names, &["80-i1.localhost"]).await;

    // The second order uses the account of the first.
    let dns = Dns01::Responder(Arc::new(Published(world.responder.txt())));
    world.acme(Proof::Dns01(dns)).renew(&world.fixture.domains[0]).await.unwrap();
    let saved = std::fs::read_dir(world.fixture.directory.path().join("acme")).unwrap();
    let mut saved: Vec<String> = saved.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    saved.sort();
    assert!(
        saved.len() == 2 && saved[0].starts_with("account-") && saved[1] == "box.test.pem",
        "{saved:?}"
    );
}

#[tokio::test]
async fn a_proof_that_is_not_found_is_told_in_the_servers_words() {
    let world = World::new().await;
    // It says that it has published, and has not.
    let acme = world.acme(Proof::Dns01(Dns01::Hook("true".into())));
    let error = acme.renew(&world.fixture.domains[0]).await.unwrap_err().to_string();
    assert!(
        error.contains("did not confirm") && error.contains("box.test by dns-01"),
        "{error}"
    );
    assert!(world.fixture.issuer("api.box.test").await.contains("Dormouse"));
}
