//! Byte streams to the sandbox's loopback ports.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use dormouse_agent_proto::route;
use http::{HeaderValue, Method, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::control::request_to;
use crate::exchange::{refusal, send};
use crate::{Error, Stream};

/// Turns a stream to the agent into one to `port` on the sandbox's 127.0.0.1 or `[::1]` (contract 3.7).
///
/// # Errors
/// [`Error::PortClosed`] when nothing listens there.
pub async fn open_tunnel<S: Stream>(stream: S, port: u16) -> Result<Tunnel<S>, Error> {
    let mut request = request_to(Method::GET, &format!("{}?port={port}", route::TUNNEL), Bytes::new());
    let headers = request.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(route::TUNNEL_PROTOCOL));
    let answer = send(stream, request).await?;
    match answer.status() {
        StatusCode::SWITCHING_PROTOCOLS => {}
        StatusCode::BAD_GATEWAY => return Err(Error::PortClosed { port }),
        _ => return Err(refusal(answer).await),
    }
    let upgraded = hyper::upgrade::on(answer).await?;
    let parts = upgraded
        .downcast::<TokioIo<S>>()
        .map_err(|_| Error::Nonsense("the upgraded stream is not the one that was given"))?;
    Ok(Tunnel {
        early: parts.read_buf,
        stream: parts.io.into_inner(),
    })
}

/// A stream to a port inside the sandbox: the stream that was given, past the agent's answer.
#[derive(Debug)]
pub struct Tunnel<S> {
    /// Bytes from inside that came along with the agent's answer.
    early: Bytes,
    stream: S,
}

impl<S: Stream> AsyncRead for Tunnel<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let length = self.early.len().min(buffer.remaining());
        buffer.put_slice(&self.early[..length]);
        self.early.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: Stream> AsyncWrite for Tunnel<S> {
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn tunnel_through(answer: &'static [u8]) -> Result<Tunnel<tokio::io::DuplexStream>, Error> {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            let _ = theirs.read(&mut buffer).await;
            let _ = theirs.write_all(answer).await;
            let (mut reader, mut writer) = tokio::io::split(theirs);
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        });
        open_tunnel(ours, 8080).await
    }

    #[tokio::test]
    async fn bytes_behind_the_answer_are_not_lost() {
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: dormouse-tunnel\r\n\r\nearly ";
        let mut tunnel = tunnel_through(answer).await.expect("open");
        tunnel.write_all(b"late").await.expect("writable");
        let mut read = [0; 10];
        tunnel.read_exact(&mut read).await.expect("readable");
        assert_eq!(&read, b"early late");
    }

    #[tokio::test]
    async fn closed_port_is_its_own_error() {
        let error = tunnel_through(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")
            .await
            .expect_err("closed");
        assert!(matches!(error, Error::PortClosed { port: 8080 }), "{error}");
    }
}
