//! Identity, health and metrics.

use std::future::Future;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use dormouse_agent_proto::rest::Metrics;
use dormouse_agent_proto::{InitRequest, route};
use http::{Method, Request, header};
use http_body_util::Full;
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use tokio::time::Instant;

use crate::exchange::ask;
use crate::{Error, Stream};

/// Bytes of randomness for one sandbox: as many as Linux keys its generator with.
const ENTROPY: usize = 32;

/// Gives the sandbox its identity, replacing any earlier one (contract 3.3, `/init`), and fresh randomness with it.
///
/// # Errors
/// [`Error::Refused`] when the agent does not take this caller for the control peer, or cannot apply the request.
pub async fn init<S: Stream>(stream: S, request: &InitRequest) -> Result<(), Error> {
    let mut request = request.clone();
    let mut random = [0; ENTROPY];
    // A host without randomness could not have come this far; a sandbox without ours still has its kernel's.
    if request.entropy.is_none() && OsRng.try_fill_bytes(&mut random).is_ok() {
        request.entropy = Some(STANDARD.encode(random));
    }
    let body = serde_json::to_vec(&request).map_err(|_| Error::Nonsense("the request cannot be written as JSON"))?;
    let mut post = request_to(Method::POST, route::INIT, body.into());
    post.headers_mut()
        .insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    ask(stream, post).await.map(drop)
}

/// Asks once whether the agent is there (contract 3.3, `/health`).
///
/// # Errors
/// Any error means that it is not.
pub async fn healthy<S: Stream>(stream: S) -> Result<(), Error> {
    ask(stream, request_to(Method::GET, route::HEALTH, Bytes::new()))
        .await
        .map(drop)
}

/// Opens streams with `connect` until one leads to a healthy agent.
///
/// The pauses between attempts start at one millisecond: a sandbox that boots is ready at an unknown moment, and
/// there is nothing inside it yet that could tell us. Not for waking a snapshot, whose agent listens already.
///
/// # Errors
/// [`Error::NotReady`] after `patience`.
pub async fn wait_healthy<S, C, F>(mut connect: C, patience: Duration) -> Result<(), Error>
where
    S: Stream,
    C: FnMut() -> F,
    F: Future<Output = std::io::Result<S>>,
{
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_millis(1);
    loop {
        let attempt = async { healthy(connect().await.map_err(Error::Connect)?).await };
        match tokio::time::timeout_at(deadline, attempt).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(_)) if Instant::now() + pause < deadline => tokio::time::sleep(pause).await,
            _ => return Err(Error::NotReady(patience)),
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Reads the sandbox's metrics (contract 3.3, `/metrics`). `access_token` is the sandbox's, if it has one.
///
/// # Errors
/// [`Error::Refused`] with 401 when the token is wrong.
pub async fn metrics<S: Stream>(stream: S, access_token: Option<&str>) -> Result<Metrics, Error> {
    let mut get = request_to(Method::GET, route::METRICS, Bytes::new());
    if let Some(token) = access_token {
        let token = token
            .parse()
            .map_err(|_| Error::Nonsense("the access token is no header value"))?;
        get.headers_mut().insert(route::ACCESS_TOKEN_HEADER, token);
    }
    let body = ask(stream, get).await?;
    serde_json::from_slice(&body).map_err(|_| Error::Nonsense("these are no metrics"))
}

pub(crate) fn request_to(method: Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    // A path without scheme and host is what HTTP/1.1 puts on the wire, and all of ours are valid.
    *request.uri_mut() = path.parse().unwrap_or_default();
    request
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    /// An agent that gives the same answer to everything, and what it was asked.
    fn agent(answer: &'static str) -> (DuplexStream, tokio::task::JoinHandle<String>) {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let asked = tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            let length = theirs.read(&mut buffer).await.expect("a request");
            theirs.write_all(answer.as_bytes()).await.expect("an open stream");
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        });
        (ours, asked)
    }

    #[tokio::test]
    async fn init_posts_json() {
        let (stream, asked) = agent("HTTP/1.1 204 No Content\r\n\r\n");
        let request = InitRequest {
            sandbox_id: "i1".into(),
            ..InitRequest::default()
        };
        init(stream, &request).await.expect("accepted");
        let asked = asked.await.expect("no panic").to_lowercase();
        assert!(asked.starts_with("post /init http/1.1\r\n"), "{asked}");
        assert!(asked.contains("content-type: application/json\r\n"), "{asked}");
        assert!(asked.contains("host: localhost\r\n"), "{asked}");
    }

    #[tokio::test]
    async fn refusals_keep_the_agents_words() {
        let (stream, _) = agent("HTTP/1.1 404 Not Found\r\ncontent-length: 27\r\n\r\n{\"code\":404,\"message\":\"no\"}");
        let error = healthy(stream).await.expect_err("refused");
        assert_eq!(error.to_string(), "the sandbox's agent refused: no (404 Not Found)");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_gives_up_in_time() {
        let start = Instant::now();
        let connect = || async { Err::<DuplexStream, _>(std::io::ErrorKind::ConnectionRefused.into()) };
        let error = wait_healthy(connect, Duration::from_secs(1)).await.expect_err("nobody there");
        assert!(matches!(error, Error::NotReady(_)), "{error}");
        assert!(start.elapsed() <= Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_survives_early_refusals() {
        let mut attempts = 0;
        let connect = || {
            attempts += 1;
            let ready = attempts > 3;
            async move {
                if ready {
                    Ok(agent("HTTP/1.1 204 No Content\r\n\r\n").0)
                } else {
                    Err(std::io::ErrorKind::ConnectionRefused.into())
                }
            }
        };
        wait_healthy(connect, Duration::from_secs(1))
            .await
            .expect("healthy in the end");
    }
}
