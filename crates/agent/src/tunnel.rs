//! `GET /tunnel?port=N`: the way for the host to ports that listen on the sandbox's loopback (contract 3.7).
//!
//! The host dials the agent, which dials inside. Nothing scans for new ports, and a port is reachable as soon as it
//! listens.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::extract::{Query, Request};
use axum::response::{IntoResponse, Response};
use dormouse_agent_proto::route;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

use crate::failure::Failure;

/// Bytes in flight in each direction of a tunnel.
const BUFFER: usize = 64 << 10;

/// Query of the request.
#[derive(Debug, Deserialize)]
pub(crate) struct Target {
    port: u16,
}

/// Answers 101 and carries bytes, or 502 when nothing listens.
pub(crate) async fn tunnel(Query(target): Query<Target>, mut request: Request) -> Response {
    if !asks_for_tunnel(request.headers()) {
        return Failure::bad_request("a tunnel needs `Connection: Upgrade` and `Upgrade: dormouse-tunnel`").into_response();
    }
    let inside = match dial(target.port).await {
        Ok(inside) => inside,
        Err(error) => {
            let message = format!("port {} is not open: {error}", target.port);
            return Failure::new(StatusCode::BAD_GATEWAY, message).into_response();
        }
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        // A host that changes its mind, or either side breaking off, ends the tunnel; there is nobody to tell.
        if let Ok(outside) = upgrade.await {
            let _ = splice(TokioIo::new(outside), inside).await;
        }
    });
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static(route::TUNNEL_PROTOCOL)),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

fn asks_for_tunnel(headers: &HeaderMap) -> bool {
    let has = |name, word: &str| {
        headers.get_all(name).iter().any(|value: &HeaderValue| {
            value
                .to_str()
                .is_ok_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word)))
        })
    };
    has(header::CONNECTION, "upgrade") && has(header::UPGRADE, route::TUNNEL_PROTOCOL)
}

/// Programs that listen on `localhost` may have chosen either family.
async fn dial(port: u16) -> io::Result<TcpStream> {
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    let stream = match TcpStream::connect(v4).await {
        Ok(stream) => stream,
        // The first refusal is the better one to report: the second may only say that there is no IPv6.
        Err(error) => TcpStream::connect(v6).await.map_err(|_| error)?,
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn splice(mut outside: TokioIo<hyper::upgrade::Upgraded>, mut inside: TcpStream) -> io::Result<(u64, u64)> {
    tokio::io::copy_bidirectional_with_sizes(&mut outside, &mut inside, BUFFER, BUFFER).await
}
