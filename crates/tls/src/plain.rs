//! Plain HTTP where HTTPS was wanted: people are led to the other scheme, programs are told.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, LOCATION};
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::acme::Challenges;

/// A client has so long for its request and to read the answer.
const LIMIT: Duration = Duration::from_secs(15);
/// Most clients of the redirecting listener at a time.
const CLIENTS: usize = 1024;
/// Where an ACME server looks for proofs (RFC 8555, 8.3).
const WELL_KNOWN: &str = "/.well-known/acme-challenge/";

/// Answers plain HTTP on a port of its own (usually 80): proofs for an ACME server, and otherwise the way to HTTPS on `https_port`.
/// Returns when `stop` is cancelled.
pub async fn serve_redirects(listener: TcpListener, https_port: u16, challenges: Arc<Challenges>, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CLIENTS));
    let clients = TaskTracker::new();
    loop {
        let next = async { (Arc::clone(&places).acquire_owned().await, listener.accept().await) };
        let (place, accepted) = tokio::select! { next = next => next, () = stop.cancelled() => break };
        let Ok((stream, _)) = accepted else {
            // No descriptors left, most likely: they come back with time.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let challenges = Arc::clone(&challenges);
        clients.spawn(async move {
            answer_with(stream, |request| match proof(request, &challenges) {
                Some(proof) => proof,
                None => to_https(request, Some(https_port)),
            })
            .await;
            drop(place);
        });
    }
    clients.close();
    // Each has its limit.
    clients.wait().await;
}

/// Answers one client that speaks plain HTTP on the HTTPS port itself.
pub(crate) async fn on_the_wrong_port<S>(stream: S, peer: SocketAddr)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    tracing::debug!(%peer, "plain HTTP on the HTTPS port");
    answer_with(stream, |request| to_https(request, None)).await;
}

async fn answer_with<S>(stream: S, answer: impl Fn(&Request<hyper::body::Incoming>) -> Response<Full<Bytes>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let service = service_fn(|request| {
        let mut answer = answer(&request);
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        async { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(LIMIT)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = tokio::time::timeout(LIMIT, connection).await {
        tracing::debug!(%error, "a client of the plain port failed");
    }
}

/// What the ACME server wants to see.
fn proof<B>(request: &Request<B>, challenges: &Challenges) -> Option<Response<Full<Bytes>>> {
    let token = request.uri().path().strip_prefix(WELL_KNOWN)?;
    Some(match challenges.http(token) {
        Some(proof) => with(StatusCode::OK, "application/octet-stream", proof),
        None => with(
            StatusCode::NOT_FOUND,
            "text/plain; charset=utf-8",
            "No such challenge\n".to_owned(),
        ),
    })
}

/// A redirect for what is harmless to repeat. Anything else is refused: a client that sends secrets in the clear should notice. `port` is
/// where HTTPS is, `None` for the one the client has used.
fn to_https<B>(request: &Request<B>, port: Option<u16>) -> Response<Full<Bytes>> {
    let target = https_url(request, port);
    match target {
        Some(target) if request.method() == Method::GET || request.method() == Method::HEAD => {
            let mut answer = with(
                StatusCode::PERMANENT_REDIRECT,
                "text/plain; charset=utf-8",
                format!("This is served over HTTPS: {target}\n"),
            );
            if let Ok(target) = HeaderValue::from_str(&target) {
                answer.headers_mut().insert(LOCATION, target);
            }
            answer
        }
        target => {
            let hint = target.map(|target| format!(", such as {target}")).unwrap_or_default();
            with(
                StatusCode::BAD_REQUEST,
                "text/plain; charset=utf-8",
                format!("Plain HTTP came where HTTPS is spoken: use an https:// URL{hint}\n"),
            )
        }
    }
}

fn https_url<B>(request: &Request<B>, port: Option<u16>) -> Option<String> {
    let host = match request.uri().authority() {
        Some(authority) => authority.clone(),
        None => request.headers().get(HOST)?.to_str().ok()?.parse::<Authority>().ok()?,
    };
    // What stands before an @ is no part of a host.
    if host.as_str().contains('@') || host.host().is_empty() {
        return None;
    }
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    // `*` of `OPTIONS *`.
    let path = if path.starts_with('/') { path } else { "/" };
    let host = match port {
        None => host.to_string(),
        Some(443) => host.host().to_owned(),
        Some(port) => format!("{}:{port}", host.host()),
    };
    Some(format!("https://{host}{path}"))
}

fn with(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(method: &str, host: &str, port: Option<u16>) -> Response<Full<Bytes>> {
        let request = Request::builder().method(method).uri("/a?b=c").header(HOST, host);
        to_https(&request.body(()).unwrap(), port)
    }

    fn location(host: &str, port: Option<u16>) -> Option<String> {
        let answer = answer("GET", host, port);
        answer
            .headers()
            .get(LOCATION)
            .map(|target| target.to_str().unwrap().to_owned())
    }

    #[test]
    fn visitors_are_led_to_https() {
        assert_eq!(location("x.example:8443", None).unwrap(), "https://x.example:8443/a?b=c");
        assert_eq!(location("x.example:80", Some(443)).unwrap(), "https://x.example/a?b=c");
        assert_eq!(location("[::1]", Some(8443)).unwrap(), "https://[::1]:8443/a?b=c");
    }

    #[test]
    fn programs_that_send_something_are_refused() {
        let answer = answer("POST", "x.example", None);
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        assert!(!answer.headers().contains_key(LOCATION));
    }

    #[test]
    fn odd_hosts_get_no_redirect() {
        for host in ["", "a@evil.example", "a/b", "a b", ":80"] {
            assert_eq!(location(host, None), None, "{host}");
        }
    }

    proptest! {
        #[test]
        fn no_host_makes_it_panic_or_leave_the_host(host in "[ -~]{0,30}", port in prop::option::of(any::<u16>())) {
            if let Some(target) = location(&host, port) {
                prop_assert!(target.starts_with("https://") && !target[8..].contains('@'));
                prop_assert!(target.parse::<http::Uri>().is_ok());
            }
        }
    }
}
