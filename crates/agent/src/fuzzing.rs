//! What the fuzz targets call (see `fuzz/`): the agent's own parsers, with nothing behind them that could change this host.
//!
//! Only compiled with `--cfg fuzzing`. Every function takes any bytes, and panics when something holds that must not.

use std::convert::Infallible;
use std::io;
use std::sync::OnceLock;

use axum::body::{Body, Bytes};
use axum::response::Response;
use dormouse_agent_proto::signature::{self, Credentials, Operation};
use futures::{StreamExt as _, TryStreamExt as _};
use http::{HeaderMap, HeaderValue, Request, header};
use tower_service::Service as _;

use crate::agent::Agent;
use crate::config::Config;
use crate::files::parts::Parts;
use crate::files::query::FilesQuery;
use crate::files::{disposition, encoding, range};
use crate::filesystem::metadata;
use crate::{paths, server};

/// RPCs that change nothing when there is no such process or watcher, and there is none.
const HARMLESS: [&str; 9] = [
    "/process.Process/List",
    "/process.Process/Connect",
    "/process.Process/Update",
    "/process.Process/StreamInput",
    "/process.Process/SendInput",
    "/process.Process/SendSignal",
    "/process.Process/CloseStdin",
    "/filesystem.Filesystem/GetWatcherEvents",
    "/filesystem.Filesystem/RemoveWatcher",
];

const CODECS: [&str; 4] = [
    "application/json",
    "application/proto",
    "application/connect+json",
    "application/connect+proto",
];

/// One thread, as in a sandbox.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime can be made")
    });
    runtime.block_on(work)
}

/// `data` in pieces of `size`, as a network might deliver it.
fn pieces(data: &[u8], size: usize) -> Vec<Result<Bytes, io::Error>> {
    let pieces = data.chunks(size.max(1));
    pieces.map(|piece| Ok(Bytes::copy_from_slice(piece))).collect()
}

/// A request's body for the Connect services: the first three bytes choose the method, the codec and how the body is cut.
pub fn connect(data: &[u8]) {
    let [method, codec, size, body @ ..] = data else {
        return;
    };
    let method = HARMLESS[usize::from(*method) % HARMLESS.len()];
    let codec = CODECS[usize::from(*codec) % CODECS.len()];
    let request = Request::post(method)
        .header(header::CONTENT_TYPE, codec)
        .header("connect-protocol-version", "1")
        .body(Body::from_stream(futures::stream::iter(pieces(body, (*size).into()))))
        .expect("a valid request");
    let answer = block_on(answer(request));
    if answer.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == codec) && codec.contains("connect+") {
        let body = block_on(async { axum::body::to_bytes(answer.into_body(), usize::MAX).await });
        assert_ends_once(&body.expect("the answer can be read"));
    }
}

async fn answer(request: Request<Body>) -> Response {
    static ROUTER: OnceLock<axum::Router> = OnceLock::new();
    let router = ROUTER.get_or_init(|| server::router(Agent::new(Config::default()).expect("an agent can be made")));
    match router.clone().call(request).await {
        Ok(answer) => answer,
        Err(never) => {
            let never: Infallible = never;
            match never {}
        }
    }
}

/// A stream of envelopes has exactly one end, at its end.
fn assert_ends_once(mut stream: &[u8]) {
    loop {
        let (head, rest) = stream.split_at_checked(5).expect("an envelope has a head");
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let (_, rest) = rest.split_at_checked(length).expect("an envelope is whole");
        if head[0] & 2 != 0 {
            assert!(rest.is_empty(), "something follows the end");
            return;
        }
        stream = rest;
    }
}

/// A form as `POST /files` gets it. With an even first byte the rest is the form itself; else it is the files' names and
/// contents, which must come out as they went in.
pub fn multipart(data: &[u8]) {
    let [first, size, body @ ..] = data else {
        return;
    };
    let size = usize::from(*size);
    if first % 2 == 0 {
        for (path, content) in read_form(body, size) {
            assert!(content.len() <= body.len());
            assert_plain(&path);
        }
        return;
    }
    let files = split_files(body);
    let mut form = Vec::new();
    for (name, content) in &files {
        let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
        form.extend(
            format!("--BOUNDARY\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{quoted}\"\r\n\r\n").bytes(),
        );
        form.extend_from_slice(content);
        form.extend(b"\r\n");
    }
    form.extend(b"--BOUNDARY--\r\n");
    let read = read_form(&form, size);
    assert_eq!(read, files, "what was sent is what is read");
}

/// Files out of arbitrary bytes: names that a quoted string can hold, contents without the boundary.
fn split_files(data: &[u8]) -> Vec<(String, Vec<u8>)> {
    let fields: Vec<&[u8]> = data.split(|byte| *byte == 0xff).collect();
    fields
        .chunks_exact(2)
        .filter_map(|pair| {
            let name = std::str::from_utf8(pair[0]).ok()?;
            let holds = !name.is_empty() && !name.chars().any(char::is_control) && !name.contains('%') && name.len() < 1000;
            let content = pair[1];
            let clear = !content.windows(8).any(|window| window == b"BOUNDARY");
            (holds && clear).then(|| (name.to_owned(), content.to_vec()))
        })
        .collect()
}

/// The files of a form, up to what is wrong with it.
fn read_form(form: &[u8], size: usize) -> Vec<(String, Vec<u8>)> {
    let content = futures::stream::iter(pieces(form, size)).boxed();
    let mut read = Vec::new();
    let Ok(mut parts) = Parts::new("multipart/form-data; boundary=BOUNDARY", content, None) else {
        return read;
    };
    block_on(async {
        while let Ok(Some(part)) = parts.next().await {
            let content = part.content.try_fold(Vec::new(), |mut all, bytes| async move {
                all.extend_from_slice(&bytes);
                Ok(all)
            });
            match content.await {
                Ok(content) => read.push((part.path, content)),
                Err(_) => break,
            }
        }
    });
    read
}

/// A path that a client names becomes an absolute one without tricks, or an error.
fn assert_plain(path: &str) {
    if let Ok(resolved) = paths::resolve(path, "/home/user", None) {
        assert!(resolved.is_absolute());
        let text = resolved.to_str().expect("made of text");
        assert!(!text.contains('\0'));
        assert!(
            !text.split('/').any(|part| part == ".." || part == "."),
            "{path:?} became {text:?}"
        );
        assert_eq!(paths::clean(&resolved), resolved);
    }
}

/// The lines are the headers and the query of a request for a file.
pub fn file_request(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let text = |line: &[u8]| String::from_utf8_lossy(line).into_owned();

    assert_plain(&text(next()));
    let size = next()
        .iter()
        .fold(0_u64, |size, byte| size.wrapping_mul(31).wrapping_add((*byte).into()));
    if let range::Wanted::Parts(parts) = range::parse(&text(next()), size) {
        assert!(!parts.is_empty());
        let mut sum = 0_u64;
        for part in &parts {
            assert!(part.length > 0 && part.start < size && part.length <= size - part.start);
            sum = sum.checked_add(part.length).expect("no more than the file");
        }
        assert!(sum <= size, "parts are never more than the whole");
    }
    disposition::parse(&text(next()));
    let mut headers = HeaderMap::new();
    for (name, line) in [(header::ACCEPT_ENCODING, next()), (header::CONTENT_ENCODING, next())] {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.insert(name, value);
        }
    }
    if let Ok(value) = HeaderValue::from_bytes(next()) {
        headers.insert("x-metadata-key", value);
    }
    encoding::negotiate(&headers);
    let _ = encoding::of_request(&headers);
    if let Ok(found) = metadata::from_headers(&headers) {
        assert!(
            found
                .values()
                .all(|value| value.bytes().all(|byte| (0x20..0x7f).contains(&byte)))
        );
    }
    if let Ok(uri) = text(next()).parse::<http::Uri>() {
        if let Ok(FilesQuery { path: Some(path), .. }) = FilesQuery::read(&uri) {
            assert_plain(&path);
        }
    }
}

/// Lines: path, user, secret, signature, expiration. Only what was signed, and in time, is let in.
pub fn signature(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.split('\n');
    let mut next = || lines.next().unwrap_or_default();
    let (path, user, secret, shown) = (next(), next(), next(), next());
    let expiration = next().parse().ok();
    let now = 1_800_000_000;
    let credentials = Credentials {
        token: None,
        signature: Some(shown),
        expiration,
    };
    let right = signature::sign(path, Operation::Read, user, secret, expiration);
    let in_time = expiration.is_none_or(|expiration| expiration >= now);
    let allowed = signature::check(path, Operation::Read, user, Some(secret), credentials, now).is_ok();
    assert_eq!(allowed, shown == right && in_time);
    let credentials = Credentials {
        signature: Some(&right),
        ..credentials
    };
    let check =
        |path: &str, operation, secret: &str| signature::check(path, operation, user, Some(secret), credentials, now).is_ok();
    assert_eq!(check(path, Operation::Read, secret), in_time);
    assert!(!check(path, Operation::Write, secret), "a link for reading does not write");
    assert!(!check(&format!("{path}x"), Operation::Read, secret), "a link is for one path");
    assert!(
        !check(path, Operation::Read, &format!("{secret}x")),
        "a link is for one sandbox"
    );
}
