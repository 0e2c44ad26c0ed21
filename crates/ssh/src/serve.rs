//! The loop that accepts clients, and the life of each client's connection.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use dormouse_control::Control;
use dormouse_store::Store;
use russh::server::Config;
use russh::{Disconnect, MethodKind, MethodSet, SshId};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection::Connection;
use crate::startups::{Startup, Startups};
use crate::{HostKey, SshConfig};

/// What each channel lets a client send ahead.
const WINDOW: u32 = 2 << 20;

/// Questions to a silent client before it is taken for gone.
const KEEPALIVES: usize = 4;

/// How long a client may take over its farewell when the server stops.
const GOODBYE: Duration = Duration::from_secs(2);

/// How long `accept` rests when the host has no descriptor to give.
const REST: Duration = Duration::from_millis(100);

/// What the gateway leads to.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Where sandboxes are.
    pub control: Arc<Control>,
    /// Where keys are.
    pub store: Store,
    /// What clients recognise the server by.
    pub host_key: HostKey,
    /// Limits.
    pub config: SshConfig,
}

/// Serves SSH on `listener` until `stop` is cancelled; then clients are told, and their connections closed. Sandboxes stay as they are.
///
/// # Errors
/// The listener's.
pub async fn serve(listener: TcpListener, gateway: Gateway, stop: CancellationToken) -> io::Result<()> {
    let tasks = TaskTracker::new();
    let startups = Startups::new(&gateway.config);
    let places = Arc::new(Semaphore::new(gateway.config.most_connections));
    let protocol = Arc::new(protocol(&gateway));
    loop {
        let accepted = async {
            // Never closed.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accepted => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a client could not be accepted");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        let Some(startup) = startups.enter(peer.ip()) else {
            tracing::debug!(%peer, "too many SSH connections without a login");
            continue;
        };
        let client = client(
            stream,
            peer,
            startup,
            gateway.clone(),
            Arc::clone(&protocol),
            stop.clone(),
            tasks.clone(),
        );
        tasks.spawn(async move {
            if let Err(error) = client.await {
                tracing::debug!(%peer, %error, "an SSH connection ended");
            }
            drop(place);
        });
    }
    tasks.close();
    let _ = tokio::time::timeout(GOODBYE, tasks.wait()).await;
    Ok(())
}

async fn client(
    stream: TcpStream,
    peer: SocketAddr,
    startup: Startup,
    gateway: Gateway,
    protocol: Arc<Config>,
    stop: CancellationToken,
    tasks: TaskTracker,
) -> Result<(), russh::Error> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    // A second handle to the socket: with it a connection can be ended whatever the protocol is waiting for.
    let stream = stream.into_std()?;
    let socket = stream.try_clone()?;
    let stream = TcpStream::from_std(stream)?;
    let cut = || drop(SockRef::from(&socket).shutdown(Shutdown::Both));

    let authenticated = CancellationToken::new();
    let handler = Connection::new(
        (gateway.control, gateway.store),
        gateway.config.most_channels,
        (peer, local),
        authenticated.clone(),
        tasks,
    );
    let deadline = tokio::time::Instant::now() + gateway.config.login_grace;
    let session = tokio::time::timeout_at(deadline, russh::server::run_stream(protocol, stream, handler))
        .await
        .map_err(|_| russh::Error::InactivityTimeout)??;
    let handle = session.handle();
    let mut session = std::pin::pin!(session);
    tokio::select! {
        ended = &mut session => return ended,
        () = authenticated.cancelled() => drop(startup),
        () = tokio::time::sleep_until(deadline) => {
            cut();
            return Err(russh::Error::InactivityTimeout);
        }
    }
    tokio::select! {
        ended = &mut session => ended,
        () = stop.cancelled() => {
            let words = "the server is stopping; sandboxes stay as they are".to_owned();
            let goodbye = handle.disconnect(Disconnect::ByApplication, words, "en".to_owned());
            let said = async { (goodbye.await, session.await) };
            let _ = tokio::time::timeout(GOODBYE / 2, said).await;
            cut();
            Ok(())
        }
    }
}

fn protocol(gateway: &Gateway) -> Config {
    let limits = &gateway.config;
    Config {
        server_id: SshId::Standard("SSH-2.0-Dormouse".into()),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        keys: vec![gateway.host_key.key()],
        auth_rejection_time: limits.rejection_time,
        auth_rejection_time_initial: Some(Duration::ZERO),
        max_auth_attempts: limits.most_attempts,
        window_size: WINDOW,
        // A shell may be idle for days; the other side's absence is found by asking.
        inactivity_timeout: None,
        keepalive_interval: Some(limits.keepalive),
        keepalive_max: KEEPALIVES,
        nodelay: true,
        ..Config::default()
    }
}
