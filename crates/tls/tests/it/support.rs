//! A server that answers every client with one line, and a client that looks at certificates.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use dormouse_tls::acme::Challenges;
use dormouse_tls::{Certificates, Domain, Limits, LocalCa, serve, serve_redirects};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Servers below `box.test` and `localhost`; they end when dropped.
pub(crate) struct Fixture {
    pub(crate) directory: TempDir,
    pub(crate) ca: Arc<LocalCa>,
    pub(crate) certificates: Arc<Certificates>,
    pub(crate) challenges: Arc<Challenges>,
    pub(crate) domains: Vec<Domain>,
    pub(crate) address: SocketAddr,
    pub(crate) plain: SocketAddr,
    _stop: DropGuard,
}

/// What a client that handshakes successfully is told.
pub(crate) const GREETING: &[u8] = b"hello\n";

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::at(([127, 0, 0, 1], 0).into(), ([127, 0, 0, 1], 0).into()).await
    }

    pub(crate) async fn at(address: SocketAddr, plain: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ca = Arc::new(LocalCa::open(&directory.path().join("tls")).unwrap());
        let domains: Vec<Domain> = ["box.test", "localhost"].map(|domain| domain.parse().unwrap()).into();
        let addresses = vec![IpAddr::from([127, 0, 0, 1])];
        let certificates = Arc::new(Certificates::open(domains.clone(), Vec::new(), Arc::clone(&ca), addresses).unwrap());
        let challenges = Arc::<Challenges>::default();
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let redirects = TcpListener::bind(plain).await.unwrap();
        let plain = redirects.local_addr().unwrap();
        let stop = CancellationToken::new();
        let greet = |mut stream: tokio_rustls::server::TlsStream<TcpStream>, _| async move {
            let _ = stream.write_all(GREETING).await;
            let _ = stream.shutdown().await;
        };
        tokio::spawn(serve(
            listener,
            Arc::clone(&certificates),
            Arc::clone(&challenges),
            Limits::default(),
            stop.clone(),
            greet,
        ));
        tokio::spawn(serve_redirects(
            redirects,
            address.port(),
            Arc::clone(&challenges),
            stop.clone(),
        ));
        Self {
            directory,
            ca,
            certificates,
            challenges,
            domains,
            address,
            plain,
            _stop: stop.drop_guard(),
        }
    }

    /// A handshake by a client that trusts the local authority alone.
    pub(crate) async fn connect(&self, name: &str, protocols: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().unwrap()).unwrap();
        let config = builder().with_root_certificates(roots).with_no_client_auth();
        connect(self.address, name, config, protocols).await
    }

    /// Who signed the certificate that is shown for a name.
    pub(crate) async fn issuer(&self, name: &str) -> String {
        let config = builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_no_client_auth();
        let stream = connect(self.address, name, config, &[]).await.unwrap();
        let (_, session) = stream.get_ref();
        let certificate = session.peer_certificates().unwrap()[0].clone();
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).unwrap();
        parsed.issuer().to_string()
    }
}

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
}

async fn connect(
    address: SocketAddr,
    name: &str,
    mut config: ClientConfig,
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Trusts everybody: the test looks at the certificate itself.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
