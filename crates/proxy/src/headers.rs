//! Which headers go on, and which belong to one connection only.

use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Version};

/// The original host of a request whose host is masked (contract 4.5).
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Headers that are about one connection (RFC 9110 7.6.1). `Trailer` is not among them: trailers are passed on.
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    http::header::PROXY_AUTHENTICATE,
    http::header::PROXY_AUTHORIZATION,
    TE,
    UPGRADE,
];

/// Makes the headers of a request fit for the connection to the sandbox.
///
/// `body` tells whether there is one. Returns the protocols that the client would like to change to.
pub(crate) fn to_sandbox(headers: &mut HeaderMap, version: Version, body: bool) -> Option<HeaderValue> {
    let upgrade = if version < Version::HTTP_2 {
        wanted_upgrade(headers)
    } else {
        None
    };
    let trailers = tokens(headers, &TE).any(|token| {
        token
            .split(';')
            .next()
            .is_some_and(|name| name.trim().eq_ignore_ascii_case("trailers"))
    });
    let chunked = headers.contains_key(TRANSFER_ENCODING);
    strip(headers);
    if version == Version::HTTP_2 {
        join_cookies(headers);
    }
    // With both lengths given, the other one counts and this one is a trick (RFC 9112 6.3).
    if chunked {
        headers.remove(CONTENT_LENGTH);
    }
    headers.remove(TRANSFER_ENCODING);
    if body && !headers.contains_key(CONTENT_LENGTH) {
        // Said here, because hyper drops bodies of unknown length from GET otherwise.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocols) = &upgrade {
        set_upgrade(headers, protocols);
    }
    upgrade
}

/// Makes the headers of an answer fit for the connection to the client. `upgrade` tells whether the protocol changes with it.
pub(crate) fn to_client(headers: &mut HeaderMap, upgrade: bool) {
    let protocol = if upgrade { headers.get(UPGRADE).cloned() } else { None };
    strip(headers);
    if headers.remove(TRANSFER_ENCODING).is_some() {
        headers.remove(CONTENT_LENGTH);
    }
    if let Some(protocol) = protocol {
        set_upgrade(headers, &protocol);
    }
}

/// Sets the host that the sandbox sees: the client's, or the mask with the port filled in (contract 4.5).
pub(crate) fn set_host(headers: &mut HeaderMap, original: Option<&str>, mask: Option<&str>, port: u16) {
    let value = |text: &str| HeaderValue::from_str(text).ok();
    let original = original.and_then(value);
    let masked = mask.and_then(|mask| value(&mask.replace("${PORT}", &port.to_string())));
    let host = match (masked, original) {
        (Some(mask), original) => {
            if let Some(original) = original {
                headers.insert(FORWARDED_HOST, original);
            }
            mask
        }
        (None, Some(original)) => original,
        (None, None) => HeaderValue::from_static("localhost"),
    };
    headers.insert(HOST, host);
}

fn wanted_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let wanted = tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    if wanted { headers.get(UPGRADE).cloned() } else { None }
}

/// HTTP/2 may cut cookies into several lines, HTTP/1.1 may not (RFC 9113 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(COOKIE, whole);
    }
}

fn set_upgrade(headers: &mut HeaderMap, protocols: &HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocols.clone());
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, &CONNECTION).filter_map(|token| token.parse().ok()).collect();
    for name in named {
        // Naming these would take away what the message cannot do without.
        if ![HOST, CONTENT_LENGTH, TRANSFER_ENCODING].contains(&name) {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn what_belongs_to_the_connection_stays_behind() {
        let mut got = headers(&[
            ("connection", "close, x-private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic x"),
            ("te", "gzip"),
            ("upgrade", "websocket"),
            ("authorization", "Bearer x"),
            ("trailer", "x-sum"),
        ]);
        assert_eq!(to_sandbox(&mut got, Version::HTTP_11, false), None);
        assert_eq!(got, headers(&[("authorization", "Bearer x"), ("trailer", "x-sum")]));
    }

    #[test]
    fn an_upgrade_is_asked_for_again() {
        let mut got = headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
        ]);
        assert_eq!(to_sandbox(&mut got, Version::HTTP_11, false).unwrap(), "websocket");
        assert_eq!(
            got,
            headers(&[
                ("connection", "upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-version", "13")
            ])
        );
    }

    #[test]
    fn only_one_length_is_passed_on() {
        let mut got = headers(&[("content-length", "3"), ("transfer-encoding", "chunked")]);
        to_sandbox(&mut got, Version::HTTP_11, true);
        assert_eq!(got, headers(&[("transfer-encoding", "chunked")]));
        let mut got = headers(&[("content-length", "3")]);
        to_sandbox(&mut got, Version::HTTP_11, true);
        assert_eq!(got, headers(&[("content-length", "3")]));
        let mut got = headers(&[("connection", "content-length, host"), ("content-length", "3"), ("host", "a")]);
        to_sandbox(&mut got, Version::HTTP_11, true);
        assert_eq!(got, headers(&[("content-length", "3"), ("host", "a")]));
    }

    #[test]
    fn trailers_may_be_asked_for() {
        let mut got = headers(&[("te", "gzip, trailers"), ("connection", "te")]);
        to_sandbox(&mut got, Version::HTTP_11, false);
        assert_eq!(got, headers(&[("te", "trailers")]));
    }

    #[test]
    fn crumbs_become_one_cookie() {
        let mut got = headers(&[("cookie", "a=1"), ("cookie", "b=2")]);
        to_sandbox(&mut got, Version::HTTP_2, false);
        assert_eq!(got, headers(&[("cookie", "a=1; b=2")]));
    }

    #[test]
    fn a_mask_hides_the_host_and_tells_it() {
        let mut got = headers(&[("host", "a"), ("x-forwarded-host", "forged")]);
        set_host(&mut got, Some("3000-i1.example"), Some("box.example:${PORT}"), 3000);
        assert_eq!(
            got,
            headers(&[("host", "box.example:3000"), ("x-forwarded-host", "3000-i1.example")])
        );
        let mut got = headers(&[("host", "a")]);
        set_host(&mut got, Some("3000-i1.example"), None, 3000);
        assert_eq!(got, headers(&[("host", "3000-i1.example")]));
    }
}
