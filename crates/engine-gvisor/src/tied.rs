//! Connections that end with their instance.
//!
//! When a sandbox is killed its network disappears with it: nobody is left to tell the other end of a TCP connection. Without help a
//! reader would wait for as long as its own patience lasts.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use dormouse_engine::ExitReason;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

/// A stream whose reads fail when an instance is gone.
pub(crate) struct Tied<S> {
    stream: S,
    gone: BoxFuture<'static, ()>,
}

impl<S> Tied<S> {
    pub(crate) fn new(stream: S, mut exit: watch::Receiver<Option<ExitReason>>) -> Self {
        let gone = async move {
            let _ = exit.wait_for(Option::is_some).await;
        };
        Self {
            stream,
            gone: gone.boxed(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tied<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buffer) {
            return Poll::Ready(read);
        }
        // Only here: whoever copies in both directions waits here sooner or later, and two waiters would forget each other.
        self.gone.poll_unpin(cx).map(|()| Err(io::ErrorKind::ConnectionReset.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tied<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_read_ends_with_the_instance_but_keeps_what_came() {
        let exit = watch::Sender::new(None);
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut tied = Tied::new(ours, exit.subscribe());
        theirs.write_all(b"last words").await.expect("room");
        let reading = tokio::spawn(async move {
            let mut text = Vec::new();
            let error = tied.read_to_end(&mut text).await.expect_err("it is gone");
            (text, error.kind())
        });
        tokio::task::yield_now().await;
        exit.send_replace(Some(ExitReason::Destroyed));
        let (text, kind) = reading.await.expect("no panic");
        assert_eq!(text, b"last words");
        assert_eq!(kind, io::ErrorKind::ConnectionReset);
    }
}
