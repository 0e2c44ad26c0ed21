//! One HTTP/1.1 request and its answer over a stream of its own.

use bytes::Bytes;
use dormouse_agent_proto::rest::ErrorBody;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use crate::{Error, Stream};

/// More than any control answer needs; a sandbox must not be able to fill the daemon's memory.
const LARGEST_ANSWER: usize = 1 << 20;

/// Sends `request` and returns the head of the answer. The stream is closed when the answer's body is dropped.
pub(crate) async fn send<S, B>(stream: S, mut request: Request<B>) -> Result<Response<Incoming>, Error>
where
    S: Stream,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    request
        .headers_mut()
        .entry(header::HOST)
        .or_insert(http::HeaderValue::from_static("localhost"));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends by itself: with the exchange, with the stream, or by handing the stream over after an upgrade.
    tokio::spawn(connection.with_upgrades());
    Ok(sender.send_request(request).await?)
}

/// Sends `request` and returns the whole body of a successful answer.
pub(crate) async fn ask<S: Stream>(stream: S, request: Request<Full<Bytes>>) -> Result<Bytes, Error> {
    let answer = send(stream, request).await?;
    if answer.status().is_success() {
        collect(answer).await
    } else {
        Err(refusal(answer).await)
    }
}

/// The error that an unsuccessful answer stands for.
pub(crate) async fn refusal(answer: Response<Incoming>) -> Error {
    let status = answer.status();
    let body = collect(answer).await.unwrap_or_default();
    Error::Refused {
        status,
        message: message_of(status, &body),
    }
}

fn message_of(status: StatusCode, body: &[u8]) -> String {
    serde_json::from_slice::<ErrorBody>(body).map_or_else(
        |_| status.canonical_reason().unwrap_or("no reason given").to_owned(),
        |error| error.message,
    )
}

async fn collect(answer: Response<Incoming>) -> Result<Bytes, Error> {
    let body = Limited::new(answer.into_body(), LARGEST_ANSWER);
    match body.collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) => Err(match error.downcast::<hyper::Error>() {
            Ok(error) => Error::Transport(*error),
            Err(_) => Error::Nonsense("it is far too long"),
        }),
    }
}
