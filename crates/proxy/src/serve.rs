//! The loop that accepts clients, and the life of each client's connection.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Front;
use crate::upgrade::Listener;
use crate::watch::{Activity, Due, Noticing, Watched};

/// Bounds the head of a request, and what a connection holds in memory when the client does not read.
const BUFFER: usize = 128 << 10;

/// Most header lines of a request.
const MOST_HEADERS: usize = 256;

/// Largest head of an HTTP/2 request.
const HTTP_2_HEAD: u32 = 64 << 10;

/// Most requests at a time on one HTTP/2 connection.
const HTTP_2_STREAMS: u32 = 1024;

/// What one HTTP/2 request may send ahead of its reader, and all of a connection together: a single stalled upload must not hold up
/// the others.
const HTTP_2_STREAM_WINDOW: u32 = 256 << 10;
const HTTP_2_CONNECTION_WINDOW: u32 = 4 << 20;

/// What one HTTP/2 answer may have waiting for its reader.
const HTTP_2_SEND_BUFFER: usize = 64 << 10;

/// After this silence, and then this often, a client is asked whether it is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);

/// Pause after a failure to accept that is not the client's fault (no file descriptors left, most likely).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves clients of `listener` until `shutdown` is cancelled: HTTP/1.1 and, for clients that begin with it, HTTP/2.
///
/// After that no new client is taken, idle connections are closed, and requests in flight get
/// [`shutdown_grace`](crate::FrontConfig::shutdown_grace) to end before they are cut. The sandboxes behind them are not touched.
///
/// # Errors
/// None today: trouble with one client, or with accepting one, is logged and the loop goes on.
pub async fn serve(listener: TcpListener, front: Front, shutdown: CancellationToken) -> io::Result<()> {
    let slots = Arc::new(Semaphore::new(front.config().max_connections));
    let clients = TaskTracker::new();
    loop {
        // The place first: clients above the limit wait in the kernel's backlog.
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, peer)) => {
                tune(&stream);
                let client = serve_stream(stream, peer, front.clone(), shutdown.clone());
                clients.spawn(async move {
                    client.await;
                    drop(slot);
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
    // Each of them ends within the grace.
    clients.wait().await;
    Ok(())
}

/// Serves one client whose stream somebody else accepted (a TLS listener). Returns when the connection, and what it was turned into by
/// an upgrade, has ended.
pub async fn serve_stream<S>(stream: S, peer: SocketAddr, front: Front, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let tunnels = TaskTracker::new();
    let cut = CancellationToken::new();
    let listener = Listener {
        cut: cut.clone(),
        _alive: tunnels.token(),
    };
    let grace = front.config().shutdown_grace;
    let whole = async {
        connection(stream, peer, front, listener, &shutdown).await;
        tunnels.close();
        tunnels.wait().await;
    };
    let too_long = async {
        shutdown.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        () = whole => {}
        () = too_long => {}
    }
    cut.cancel();
}

async fn connection<S>(stream: S, peer: SocketAddr, front: Front, listener: Listener, shutdown: &CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Activity::new();
    let config = front.config().clone();
    let service = service_fn({
        let activity = activity.clone();
        move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(listener.clone());
            let (front, busy) = (front.clone(), activity.begin());
            async move {
                let answer: Response<_> = front.handle(request).await;
                Ok::<_, Infallible>(answer.map(|body| Watched::new(body, busy)))
            }
        }
    });
    let stream = TokioIo::new(Noticing::new(stream, activity.clone()));
    let builder = builder();
    let connection = builder.serve_connection_with_upgrades(stream, service);
    tokio::pin!(connection);
    let look = tokio::time::sleep(config.header_timeout);
    tokio::pin!(look);
    let mut stopping = false;
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, %peer, "a client's connection failed");
                }
                return;
            }
            () = look.as_mut() => {
                let wait = match activity.due(&config) {
                    Due::Slow => return,
                    Due::Idle => {
                        connection.as_mut().graceful_shutdown();
                        config.header_timeout
                    }
                    Due::Later(wait) => wait,
                };
                look.as_mut().reset(tokio::time::Instant::now() + wait);
            }
            () = shutdown.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // `watch` does this.
        .header_read_timeout(None)
        .max_buf_size(BUFFER)
        .max_headers(MOST_HEADERS)
        .preserve_header_case(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HTTP_2_HEAD)
        .max_concurrent_streams(HTTP_2_STREAMS)
        .initial_stream_window_size(HTTP_2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP_2_CONNECTION_WINDOW)
        .max_send_buf_size(HTTP_2_SEND_BUFFER);
    builder
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
