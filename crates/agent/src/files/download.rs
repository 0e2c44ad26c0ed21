//! `GET /files` (contract 3.3).

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_compression::Level;
use async_compression::tokio::bufread::GzipEncoder;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use dormouse_agent_proto::signature::Operation;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::io::BufReader;
use tokio_util::io::ReaderStream;

use super::encoding::{Coding, negotiate};
use super::query::FilesQuery;
use super::range::{Part, Wanted, parse};
use super::{Caller, blocking, byteranges, reading};
use crate::agent::Agent;
use crate::failure::Failure;

/// A file up to this is read at once.
const SMALL: usize = 128 << 10;
/// Bytes on their way through the compressor.
const CHUNK: usize = 128 << 10;
/// Below this, a gzip header and a second buffer cost more than they save.
const WORTH_COMPRESSING: u64 = 1 << 10;

/// A file that is open for reading.
struct Source {
    file: File,
    metadata: Metadata,
    /// Files of the kernel say that they are empty and are not.
    unsized_content: bool,
}

/// Answers with a file's content.
pub(crate) async fn download(
    State(agent): State<Arc<Agent>>,
    query: FilesQuery,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let caller = Caller::admit(&agent, Operation::Read, &query, &headers)?;
    let path = caller.resolve(query.path.as_deref().unwrap_or_default())?;
    let coding = negotiate(&headers).ok_or_else(|| {
        Failure::new(
            StatusCode::NOT_ACCEPTABLE,
            "no acceptable encoding found, supported: identity, gzip",
        )
    })?;
    let name = disposition(&path);
    let source = blocking(move || open(&path)).await?;

    let mut response = answer(source, coding, &headers).await?;
    let common = response.headers_mut();
    common
        .entry(header::CONTENT_TYPE)
        .or_insert(HeaderValue::from_static("application/octet-stream"));
    common.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    common.extend(name.map(|name| (header::CONTENT_DISPOSITION, name)));
    Ok(response)
}

fn open(path: &Path) -> Result<Source, Failure> {
    let missing = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            Failure::new(StatusCode::NOT_FOUND, format!("path '{}' does not exist", path.display()))
        }
        _ => Failure::io("opening file", &error),
    };
    // Looking before opening: opening a pipe or a device can have effects, or wait for ever.
    let metadata = std::fs::metadata(path).map_err(missing)?;
    if metadata.is_dir() {
        return Err(Failure::bad_request(format!("path '{}' is a directory", path.display())));
    }
    if !metadata.is_file() {
        return Err(Failure::bad_request(format!(
            "path '{}' is not a regular file",
            path.display()
        )));
    }
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(missing)?;
    let metadata = file.metadata().map_err(|error| Failure::io("opening file", &error))?;
    let unsized_content = metadata.len() == 0 && matches!(file.read_at(&mut [0], 0), Ok(1));
    Ok(Source {
        file,
        metadata,
        unsized_content,
    })
}

async fn answer(source: Source, coding: Coding, headers: &HeaderMap) -> Result<Response, Failure> {
    let Source {
        file,
        metadata,
        unsized_content,
    } = source;
    if unsized_content {
        return Ok(Body::from_stream(ReaderStream::new(tokio::fs::File::from_std(file))).into_response());
    }
    let size = metadata.len();
    let modified = metadata.modified().ok();
    let wanted = match text(headers, header::RANGE) {
        Some(range) if range_still_applies(headers, modified) => parse(range, size),
        _ => Wanted::All,
    };
    let mut response = if is_unchanged(headers, modified) {
        StatusCode::NOT_MODIFIED.into_response()
    } else if is_changed(headers, modified) {
        return Ok(StatusCode::PRECONDITION_FAILED.into_response());
    } else {
        match wanted {
            Wanted::Unsatisfiable => {
                let mut failure = Failure::new(StatusCode::RANGE_NOT_SATISFIABLE, "invalid range").into_response();
                failure
                    .headers_mut()
                    .extend(header_value(format!("bytes */{size}")).map(|value| (header::CONTENT_RANGE, value)));
                return Ok(failure);
            }
            // Compressed bytes have no stable positions, so whoever works with ranges or times gets the file as it is.
            Wanted::All if coding == Coding::Gzip && size >= WORTH_COMPRESSING && !is_conditional(headers) => {
                let reader = BufReader::with_capacity(CHUNK, tokio::fs::File::from_std(file));
                let encoder = GzipEncoder::with_quality(reader, Level::Fastest);
                let mut response = Body::from_stream(ReaderStream::with_capacity(encoder, CHUNK)).into_response();
                response
                    .headers_mut()
                    .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                return Ok(response);
            }
            Wanted::All => bytes_of(file, Part { start: 0, length: size }, StatusCode::OK).await?,
            Wanted::Parts(parts) => match parts.as_slice() {
                [part] => {
                    let mut response = bytes_of(file, *part, StatusCode::PARTIAL_CONTENT).await?;
                    let range = header_value(part.header(size));
                    response
                        .headers_mut()
                        .extend(range.map(|value| (header::CONTENT_RANGE, value)));
                    response
                }
                parts => byteranges::answer(file, parts, size),
            },
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let modified = modified.and_then(|time| header_value(httpdate::fmt_http_date(time)));
    headers.extend(modified.map(|value| (header::LAST_MODIFIED, value)));
    Ok(response)
}

/// One part of a file, which may be all of it.
async fn bytes_of(file: File, part: Part, status: StatusCode) -> Result<Response, Failure> {
    let length = part.length;
    let body = match usize::try_from(length) {
        // The usual small file: one visit to the file instead of one for each step of a stream.
        Ok(small) if small <= SMALL => {
            let bytes = blocking(move || {
                let mut bytes = vec![0; small];
                file.read_exact_at(&mut bytes, part.start)
                    .map_err(|error| Failure::io("reading file", &error))?;
                Ok(bytes)
            });
            Body::from(bytes.await?)
        }
        _ => Body::from_stream(reading::stream(Arc::new(file), part.start, length)),
    };
    let mut response = (status, body).into_response();
    if status != StatusCode::OK || length > SMALL as u64 {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    Ok(response)
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn date(headers: &HeaderMap, name: header::HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(text(headers, name)?).ok()
}

fn is_conditional(headers: &HeaderMap) -> bool {
    [header::IF_MODIFIED_SINCE, header::IF_UNMODIFIED_SINCE, header::IF_RANGE]
        .iter()
        .any(|name| headers.contains_key(name))
}

/// HTTP dates have whole seconds.
fn is_newer(modified: SystemTime, than: SystemTime) -> bool {
    modified
        .duration_since(than)
        .is_ok_and(|newer| newer >= Duration::from_secs(1))
}

fn is_unchanged(headers: &HeaderMap, modified: Option<SystemTime>) -> bool {
    match (date(headers, header::IF_MODIFIED_SINCE), modified) {
        (Some(since), Some(modified)) => !is_newer(modified, since),
        _ => false,
    }
}

fn is_changed(headers: &HeaderMap, modified: Option<SystemTime>) -> bool {
    match (date(headers, header::IF_UNMODIFIED_SINCE), modified) {
        (Some(since), Some(modified)) => is_newer(modified, since),
        _ => false,
    }
}

/// `If-Range`: a range only makes sense for the file that the client knows.
fn range_still_applies(headers: &HeaderMap, modified: Option<SystemTime>) -> bool {
    if !headers.contains_key(header::IF_RANGE) {
        return true;
    }
    match (date(headers, header::IF_RANGE), modified) {
        (Some(known), Some(modified)) => !is_newer(modified, known),
        _ => false,
    }
}

/// The name under which a browser saves the file.
fn disposition(path: &Path) -> Option<HeaderValue> {
    let name = path.file_name()?.to_string_lossy();
    header_value(format!(
        "inline; filename*=UTF-8''{}",
        utf8_percent_encode(&name, NON_ALPHANUMERIC)
    ))
}

fn header_value(text: String) -> Option<HeaderValue> {
    HeaderValue::try_from(text).ok()
}
