//! The loop that accepts clients, and the handshake.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::Acceptor;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::acme::{ACME_TLS, Challenges};
use crate::error::Result;
use crate::{Certificates, plain};

/// The first byte of a TLS connection: the content type `handshake` (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;
/// A fatal alert `unrecognized_name` (RFC 6066, 3), as a whole record.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
/// Pause after a failure to accept that is not the client's fault.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// After this silence, and then this often, a client is asked whether it is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);

/// Limits of the listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most clients at a time; more wait in the backlog.
    pub connections: usize,
    /// Longest handshake.
    pub handshake: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            handshake: Duration::from_secs(10),
        }
    }
}

/// What a handshake needs.
struct Handshakes {
    certificates: Arc<Certificates>,
    /// For clients: HTTP/2 and HTTP/1.1.
    http: Arc<ServerConfig>,
    /// For an ACME server's look at a proof (RFC 8737).
    proofs: Arc<ServerConfig>,
}

/// Accepts clients until `stop` is cancelled, and gives each whose handshake succeeds to `handle`. Returns when all of them have ended:
/// `handle` must end soon after `stop`.
///
/// Clients that speak plain HTTP are told so, clients that ask for a name that is not ours get the alert `unrecognized_name`.
///
/// # Errors
/// When the TLS library refuses the settings.
pub async fn serve<H, F>(
    listener: TcpListener,
    certificates: Arc<Certificates>,
    challenges: Arc<Challenges>,
    limits: Limits,
    stop: CancellationToken,
    handle: H,
) -> Result<()>
where
    H: Fn(TlsStream<TcpStream>, SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let handshakes = Arc::new(Handshakes::new(certificates, challenges)?);
    let places = Arc::new(Semaphore::new(limits.connections));
    let clients = TaskTracker::new();
    loop {
        // The place first: clients above the limit wait in the kernel's backlog.
        let next = async { (Arc::clone(&places).acquire_owned().await, listener.accept().await) };
        let (place, accepted) = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, peer)) => {
                tune(&stream);
                let (handshakes, handle, stop) = (Arc::clone(&handshakes), handle.clone(), stop.clone());
                clients.spawn(async move {
                    let accepted = tokio::select! {
                        accepted = tokio::time::timeout(limits.handshake, handshakes.accept(stream, peer)) => accepted,
                        () = stop.cancelled() => return,
                    };
                    match accepted {
                        Ok(Ok(Some(stream))) => handle(stream, peer).await,
                        Ok(Ok(None)) => {}
                        Ok(Err(error)) => tracing::debug!(%error, %peer, "a TLS handshake failed"),
                        Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
                    }
                    drop(place);
                });
            }
            Err(error) if is_clients_fault(&error) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept clients");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    clients.close();
    clients.wait().await;
    Ok(())
}

impl Handshakes {
    fn new(certificates: Arc<Certificates>, challenges: Arc<Challenges>) -> Result<Self> {
        let builder = || {
            ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map(|builder| builder.with_no_client_auth())
        };
        let mut http = builder()?.with_cert_resolver(Arc::clone(&certificates) as _);
        http.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        http.ticketer = ring::Ticketer::new()?;
        let mut proofs = builder()?.with_cert_resolver(challenges as _);
        proofs.alpn_protocols = vec![ACME_TLS.to_vec()];
        Ok(Self {
            certificates,
            http: Arc::new(http),
            proofs: Arc::new(proofs),
        })
    }

    /// `None` when the client has had its answer already.
    async fn accept(&self, stream: TcpStream, peer: SocketAddr) -> io::Result<Option<TlsStream<TcpStream>>> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Ok(None);
        }
        // A method of HTTP; whatever else is no handshake gets TLS's own answer to nonsense.
        if first[0] != HANDSHAKE && first[0].is_ascii_alphabetic() {
            plain::on_the_wrong_port(stream, peer).await;
            return Ok(None);
        }
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let hello = start.client_hello();
        let is_proof = hello
            .alpn()
            .is_some_and(|mut protocols| protocols.any(|protocol| protocol == ACME_TLS));
        let config = if is_proof {
            &self.proofs
        } else if self.certificates.choose(hello.server_name()).is_some() {
            &self.http
        } else {
            tracing::debug!(%peer, name = hello.server_name(), "a client asks for a name that is not ours");
            let mut stream = start.io;
            stream.write_all(&UNRECOGNIZED_NAME).await?;
            stream.shutdown().await?;
            return Ok(None);
        };
        start.into_stream(Arc::clone(config)).await.map(Some)
    }
}

/// Small packets go out at once, and a client that has vanished is noticed.
fn tune(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
    let result = stream
        .set_nodelay(true)
        .and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = result {
        tracing::debug!(%error, "cannot tune a client's connection");
    }
}

/// Whether the next `accept` may succeed at once.
fn is_clients_fault(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}
