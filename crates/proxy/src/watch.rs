//! What a client's connection is doing: sending a request's head, waiting for an answer, or nothing.
//!
//! hyper has one clock for the head of a request and for the pause before it. Clients keep connections for minutes (contract 1.1), and
//! a head that takes minutes is an attack, so the two are told apart here.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::{Body, BoxError, FrontConfig};

/// How a connection begins that speaks HTTP/2.
const HTTP_2: &[u8] = b"PRI";

#[derive(Debug)]
enum Doing {
    /// Waits for a request that has begun, or for the first one.
    Head { since: Instant },
    /// Answers this many requests.
    Busy(usize),
    /// Has nothing to do.
    Idle { since: Instant },
}

#[derive(Debug)]
struct State {
    doing: Doing,
    /// `None` before the first bytes.
    http_2: Option<bool>,
}

/// What one connection is doing. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Activity(Arc<Mutex<State>>);

/// What is to be done with a connection now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// The client is too slow: close it.
    Slow,
    /// Nothing has happened for long: ask it to go.
    Idle,
    /// Look again after this time.
    Later(Duration),
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            doing: Doing::Head { since: Instant::now() },
            http_2: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn received(&self, bytes: &[u8]) {
        let mut state = self.state();
        let http_2 = *state.http_2.get_or_insert_with(|| bytes.starts_with(HTTP_2));
        // On HTTP/2 bytes may be anything; whether there are requests is all that counts.
        if !http_2 && matches!(state.doing, Doing::Idle { .. }) {
            state.doing = Doing::Head { since: Instant::now() };
        }
    }

    /// A request has come; it is answered when the result is dropped.
    pub(crate) fn begin(&self) -> Busy {
        let mut state = self.state();
        state.doing = match state.doing {
            Doing::Busy(count) => Doing::Busy(count + 1),
            Doing::Head { .. } | Doing::Idle { .. } => Doing::Busy(1),
        };
        Busy(self.clone())
    }

    /// What is to be done. Cheap, but not called for every request: a deadline may be noticed up to one `header_timeout` late.
    pub(crate) fn due(&self, config: &FrontConfig) -> Due {
        let left = |since: Instant, longest: Duration| longest.checked_sub(since.elapsed()).filter(|left| !left.is_zero());
        match self.state().doing {
            Doing::Busy(_) => Due::Later(config.header_timeout),
            Doing::Head { since } => left(since, config.header_timeout).map_or(Due::Slow, Due::Later),
            Doing::Idle { since } => {
                left(since, config.client_idle).map_or(Due::Idle, |left| Due::Later(left.min(config.header_timeout)))
            }
        }
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct Busy(Activity);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.doing = match state.doing {
            Doing::Busy(count) if count > 1 => Doing::Busy(count - 1),
            _ => Doing::Idle { since: Instant::now() },
        };
    }
}

/// A body that keeps its request counted.
#[derive(Debug)]
pub(crate) struct Watched {
    body: Body,
    _busy: Busy,
}

impl Watched {
    pub(crate) fn new(body: Body, busy: Busy) -> Self {
        Self { body, _busy: busy }
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A client's stream that notices what comes in.
#[derive(Debug)]
pub(crate) struct Noticing<S> {
    stream: S,
    activity: Activity,
}

impl<S> Noticing<S> {
    pub(crate) fn new(stream: S, activity: Activity) -> Self {
        Self { stream, activity }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Noticing<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let [_, ..] = buffer.filled()[before..] {
            self.activity.received(&buffer.filled()[before..]);
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noticing<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> FrontConfig {
        FrontConfig {
            header_timeout: Duration::from_secs(30),
            client_idle: Duration::from_secs(610),
            ..FrontConfig::default()
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_slow() {
        let activity = Activity::new();
        assert_eq!(activity.due(&config()), Due::Later(30 * SECOND));
        tokio::time::advance(30 * SECOND).await;
        assert_eq!(activity.due(&config()), Due::Slow);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickling_head_is_slow() {
        let activity = Activity::new();
        for _ in 0..30 {
            activity.received(b"x");
            tokio::time::advance(SECOND).await;
        }
        assert_eq!(activity.due(&config()), Due::Slow);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_and_pauses_may_last() {
        let activity = Activity::new();
        activity.received(b"GET / HTTP/1.1\r\n\r\n");
        let (first, second) = (activity.begin(), activity.begin());
        tokio::time::advance(9000 * SECOND).await;
        assert_eq!(activity.due(&config()), Due::Later(30 * SECOND));
        drop(first);
        activity.received(b"more of the body");
        assert_eq!(activity.due(&config()), Due::Later(30 * SECOND));
        drop(second);
        tokio::time::advance(600 * SECOND).await;
        assert_eq!(activity.due(&config()), Due::Later(10 * SECOND));
        activity.received(b"G");
        tokio::time::advance(29 * SECOND).await;
        assert_eq!(activity.due(&config()), Due::Later(SECOND));
        tokio::time::advance(SECOND).await;
        assert_eq!(activity.due(&config()), Due::Slow);
    }

    #[tokio::test(start_paused = true)]
    async fn pings_do_not_make_http_2_slow_or_busy() {
        let activity = Activity::new();
        activity.received(b"PRI * HTTP/2.0\r\n");
        drop(activity.begin());
        tokio::time::advance(609 * SECOND).await;
        activity.received(b"a ping");
        assert_eq!(activity.due(&config()), Due::Later(SECOND));
        tokio::time::advance(SECOND).await;
        assert_eq!(activity.due(&config()), Due::Idle);
    }
}
