//! The body of an answer on its way out of a sandbox.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use dormouse_control::RunEnd;
use dormouse_store::SandboxId;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::BoxError;
use crate::envelope::{self, Envelopes};
use crate::limit::Entered;
use crate::payload::Gatekeeper;
use crate::pool::Upstream;

/// The sandbox's body, passed on frame by frame. When the sandbox goes away in the middle, a Connect stream between two messages gets
/// a proper end (contract 4.5), and everything else breaks off.
pub(crate) struct Relay {
    body: Incoming,
    /// Set for Connect streams.
    envelopes: Option<Envelopes>,
    state: State,
    id: SandboxId,
    ended: RunEnd,
    /// Goes back to the pool when the body has been read to its end.
    upstream: Option<Upstream>,
    _gatekeeper: Option<Gatekeeper>,
    _entered: Entered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Read to its end.
    Complete,
    /// Ended by us, or failed.
    Broken,
}

impl Relay {
    pub(crate) fn new(
        body: Incoming,
        envelopes: Option<Envelopes>,
        id: SandboxId,
        ended: RunEnd,
        upstream: Upstream,
        keepers: (Option<Gatekeeper>, Entered),
    ) -> Self {
        Self {
            // A body of known length cannot get an envelope more.
            envelopes: envelopes.filter(|_| body.size_hint().exact().is_none()),
            body,
            state: State::Open,
            id,
            ended,
            upstream: Some(upstream),
            _gatekeeper: keepers.0,
            _entered: keepers.1,
        }
    }

    /// What happened, in the words that clients of every language look for and show (contract 4.5, 6.11).
    fn message(&self) -> String {
        let id = &self.id;
        if self.ended.is_pause() {
            format!("The sandbox was paused ({id})")
        } else if self.ended.is_cancelled() {
            format!("The sandbox was killed or reached its end of life ({id})")
        } else {
            format!("The sandbox {id} closed the connection")
        }
    }

    /// What the client gets when no more comes from the sandbox.
    fn broken_off(&mut self, error: hyper::Error) -> Result<Frame<Bytes>, BoxError> {
        self.state = State::Broken;
        if self.envelopes.as_ref().is_some_and(Envelopes::takes_another) {
            return Ok(Frame::data(envelope::unavailable(&self.message())));
        }
        let reason: BoxError = if self.ended.is_cancelled() {
            "the sandbox is no longer running".into()
        } else {
            error.into()
        };
        Err(io::Error::other(reason).into())
    }
}

impl Body for Relay {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.state != State::Open {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if let (Some(envelopes), Some(data)) = (&mut self.envelopes, frame.data_ref()) {
                    envelopes.pass(data);
                }
                if frame.is_trailers() {
                    self.state = State::Complete;
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => Some(self.broken_off(error)),
            None => {
                self.state = State::Complete;
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.state != State::Open || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.state == State::Open {
            self.body.size_hint()
        } else {
            SizeHint::with_exact(0)
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let complete = self.state == State::Complete || self.state == State::Open && self.body.is_end_stream();
        if complete && let Some(upstream) = self.upstream.take() {
            upstream.keep();
        }
        // Otherwise dropping the sender and the body closes the connection: what is left of the answer is of no use to anybody.
    }
}
