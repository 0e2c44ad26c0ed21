//! A file's bytes as a stream.
//!
//! Going to another thread and back costs more in a sandbox than reading does, so one visit reads a large piece; the next
//! piece is read while this one is sent. Two pieces are in memory at a time, however large the file is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use axum::body::Bytes;
use futures::{Stream, StreamExt as _};

/// Bytes that one visit to the file reads.
pub(crate) const PIECE: usize = 512 << 10;

/// `length` bytes from `start`. A file that has become shorter meanwhile ends the stream with an error.
pub(crate) fn stream(file: Arc<File>, start: u64, length: u64) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let end = start.saturating_add(length);
    let starts = (0..)
        .map(move |index: u64| start + index * PIECE as u64)
        .take_while(move |at| *at < end);
    futures::stream::iter(starts)
        .map(move |at| {
            let file = Arc::clone(&file);
            let length = PIECE.min(usize::try_from(end - at).unwrap_or(PIECE));
            async move {
                let read = tokio::task::spawn_blocking(move || {
                    let mut piece = vec![0; length];
                    file.read_exact_at(&mut piece, at)?;
                    Ok(Bytes::from(piece))
                });
                read.await.unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()))
            }
        })
        .buffered(2)
}
