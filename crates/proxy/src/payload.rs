//! The body of a request on its way into a sandbox.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::watch;

use crate::BoxError;

/// How long a sandbox may take to say whether it wants a body, before it gets it unasked (RFC 9110 10.1.1).
const PATIENCE: Duration = Duration::from_secs(1);

/// Most that is read of a body which goes nowhere, and for how long.
const DRAIN_BYTES: usize = 4 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// The client's body, passed on frame by frame, and held back for as long as the client waits for `100 Continue`.
pub(crate) struct Payload {
    /// `None` for a body that is known to be empty.
    body: Option<Incoming>,
    /// Resolves to whether the body is wanted.
    gate: Option<BoxFuture<'static, bool>>,
}

/// What has been heard from the sandbox about a body that is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Nothing,
    Continue,
    /// A final answer: the body is not wanted, and the exchange ends with the answer.
    Answer,
}

/// The other side of a body that is held back. The body is given up when the last one is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Gatekeeper(Arc<watch::Sender<Heard>>);

impl Gatekeeper {
    /// A final answer has come.
    pub(crate) fn answered(&self) {
        self.0.send_if_modified(|heard| {
            let silent = *heard == Heard::Nothing;
            if silent {
                *heard = Heard::Answer;
            }
            silent
        });
    }
}

impl Payload {
    /// The body as it comes.
    pub(crate) fn new(body: Incoming) -> Self {
        Self {
            body: (!body.is_end_stream()).then_some(body),
            gate: None,
        }
    }

    /// No body.
    pub(crate) fn empty() -> Self {
        Self { body: None, gate: None }
    }

    /// Reads on for a while, into nothing, so that a client which is still sending hears the answer instead of a reset connection.
    ///
    /// Not for a client that waits to be told to send.
    pub(crate) fn drain(self) {
        let (Some(mut body), None) = (self.body, self.gate) else {
            return;
        };
        tokio::spawn(tokio::time::timeout(DRAIN_TIME, async move {
            let mut read = 0;
            while let Some(Ok(frame)) = body.frame().await {
                read += frame.data_ref().map_or(0, Bytes::len);
                if read > DRAIN_BYTES {
                    break;
                }
            }
        }));
    }

    /// Holds the body of `request` back until the sandbox asks for it.
    ///
    /// Not reading it is what keeps our own server from telling the client to go on.
    pub(crate) fn hold_back(request: &mut Request<Self>) -> Gatekeeper {
        let (sender, receiver) = watch::channel(Heard::Nothing);
        let keeper = Gatekeeper(Arc::new(sender));
        request.body_mut().gate = Some(Box::pin(wanted(receiver)));
        let informed = keeper.clone();
        hyper::ext::on_informational(request, move |answer| {
            if answer.status() == StatusCode::CONTINUE {
                informed.0.send_replace(Heard::Continue);
            }
        });
        keeper
    }
}

async fn wanted(mut heard: watch::Receiver<Heard>) -> bool {
    let word = tokio::time::timeout(PATIENCE, heard.wait_for(|heard| *heard != Heard::Nothing)).await;
    match word.map(|word| word.map(|heard| *heard)) {
        Err(_) | Ok(Ok(Heard::Continue)) => true,
        Ok(Err(_)) => false,
        Ok(Ok(Heard::Nothing | Heard::Answer)) => {
            // The answer may still be on its way through this connection: giving the body up earlier would cut it.
            while heard.changed().await.is_ok() {}
            false
        }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(gate) = &mut self.gate {
            let wanted = ready!(gate.as_mut().poll(cx));
            self.gate = None;
            if !wanted {
                return Poll::Ready(Some(Err("the body was not wanted".into())));
            }
        }
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Incoming::size_hint)
    }
}
