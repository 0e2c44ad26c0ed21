//! What the fuzz targets call (see `fuzz/`).
//!
//! Only compiled with `--cfg fuzzing`. Every function takes any bytes, and panics when something holds that must not.

use http::{HeaderValue, Request, header};

use crate::envelope::Envelopes;
use crate::host::{self, Host};
use crate::reserved::reserved;
use crate::routing::{self, Way};

/// A stream of envelopes, cut into pieces by its first byte; compared with a reader that has all of it at once.
pub fn envelopes(data: &[u8]) {
    let [size, stream @ ..] = data else {
        return;
    };
    let mut seen = Envelopes::default();
    let mut passed = 0;
    for piece in stream.chunks(usize::from(*size).max(1)) {
        seen.pass(piece);
        passed += piece.len();
        assert_eq!(seen.takes_another(), is_between(&stream[..passed]));
    }
}

/// Whether `stream` ends where an envelope ends, without the one that ends it all.
fn is_between(mut stream: &[u8]) -> bool {
    let mut ended = false;
    while let Some((head, rest)) = stream.split_at_checked(5) {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let Some((_, rest)) = rest.split_at_checked(length) else {
            return false;
        };
        ended |= head[0] & 2 != 0;
        stream = rest;
    }
    stream.is_empty() && !ended
}

/// A host name, with and without a base domain (the second line).
pub fn host(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (name, domain) = text.split_once('\n').unwrap_or((text, "box.example"));
    let free = host::parse(name, &[]);
    assert_eq!(
        host::parse(&name.to_ascii_uppercase(), &[]),
        free,
        "letter case does not matter"
    );
    if let Ok(Host::Sandbox { port, id }) = &free {
        assert!(*port > 0);
        let again = host::parse(&format!("{port}-{id}.box.example"), &[]);
        assert_eq!(again.as_ref(), free.as_ref(), "what was read leads to the same place");
    }
    let ours = host::parse(name, &[domain.to_owned()]);
    if let (Ok(Host::Sandbox { .. }), Ok(below)) = (&free, &ours) {
        assert!(
            matches!(below, Host::Sandbox { .. } | Host::Api),
            "a base domain makes no sandbox unreachable but by being its name"
        );
    }
}

/// Lines: path, host, sandbox header, port header.
pub fn routing(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let path = lines.next().unwrap_or_default();
    let mut request = Request::new(());
    if let Ok(uri) = path.try_into() {
        *request.uri_mut() = uri;
    }
    for name in [header::HOST.as_str(), "e2b-sandbox-id", "e2b-sandbox-port"] {
        if let Some(Ok(value)) = lines.next().map(HeaderValue::from_bytes) {
            request.headers_mut().insert(header::HeaderName::from_static(name), value);
        }
    }
    if let Ok(Way::Sandbox(target)) = routing::way(&request, &[]) {
        assert!(target.port > 0);
        assert!(!target.id.to_string().contains(['-', '.', '/']));
    }
    let path = String::from_utf8_lossy(path);
    if let Some(name) = reserved(&path) {
        // However it is dressed, it stays recognised.
        if path.starts_with('/') {
            assert_eq!(reserved(&format!("/.{path}")), Some(name));
        }
        assert_eq!(reserved(name), Some(name));
    }
}
