//! Several parts of a file in one answer: `multipart/byteranges` (RFC 9110 14.6).

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse as _, Response};
use futures::{Stream, StreamExt as _};
use http::{HeaderValue, StatusCode, header};

use super::range::Part;
use super::reading;

/// The answer with these parts of a file of `size` bytes.
pub(crate) fn answer(file: File, parts: &[Part], size: u64) -> Response {
    let boundary = boundary();
    let mut length = 0;
    let mut pieces = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let mut head = String::new();
        // Writing to a string cannot fail.
        let _ = write!(
            head,
            "{}--{boundary}\r\nContent-Range: {}\r\nContent-Type: application/octet-stream\r\n\r\n",
            if index > 0 { "\r\n" } else { "" },
            part.header(size),
        );
        length += head.len() as u64 + part.length;
        pieces.push((head, *part));
    }
    let end = format!("\r\n--{boundary}--\r\n");
    length += end.len() as u64;

    let mut response = (StatusCode::PARTIAL_CONTENT, Body::from_stream(body(file, pieces, end))).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, length.into());
    let kind = HeaderValue::try_from(format!("multipart/byteranges; boundary={boundary}"));
    headers.extend(kind.ok().map(|kind| (header::CONTENT_TYPE, kind)));
    response
}

fn body(file: File, pieces: Vec<(String, Part)>, end: String) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let file = Arc::new(file);
    let parts = futures::stream::iter(pieces).flat_map(move |(head, part)| {
        let content = reading::stream(Arc::clone(&file), part.start, part.length);
        futures::stream::once(async move { Ok(head.into()) }).chain(content)
    });
    parts.chain(futures::stream::once(async move { Ok(end.into()) }))
}

/// A line that is in no file, but by a chance of one in 2^128.
fn boundary() -> String {
    let mut random = [0_u8; 16];
    // Where there is no randomness, a fixed line is as good as can be had.
    let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    random.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
