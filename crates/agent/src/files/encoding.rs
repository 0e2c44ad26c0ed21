//! Content codings: what a client accepts, and what it sends (contract 3.3).

use http::{HeaderMap, HeaderValue, header};

/// How a body is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Identity,
    Gzip,
}

/// Chooses the coding of an answer. None when the client accepts neither.
///
/// Every HTTP library offers gzip by itself; between two processes on one machine it only costs time. So gzip is for
/// those who ask for it above all others, as the SDKs do when told to.
pub(crate) fn negotiate(headers: &HeaderMap) -> Option<Coding> {
    let mut gzip = None;
    let mut identity = None;
    let mut any = None;
    let mut others = false;
    for value in headers.get_all(header::ACCEPT_ENCODING) {
        for item in value.to_str().unwrap_or_default().split(',') {
            let (name, quality) = parse_item(item);
            match name.to_ascii_lowercase().as_str() {
                "" => {}
                "gzip" | "x-gzip" => gzip = Some(quality),
                "identity" => identity = Some(quality),
                "*" => any = Some(quality),
                _ => others |= quality > 0.0,
            }
        }
    }
    let gzip = gzip.or(any).unwrap_or(0.0);
    let identity_allowed = identity.or(any) != Some(0.0);
    let preferred = !others && any.is_none() && gzip > identity.unwrap_or(0.0);
    match (gzip > 0.0, identity_allowed) {
        (true, _) if preferred => Some(Coding::Gzip),
        (_, true) => Some(Coding::Identity),
        (true, false) => Some(Coding::Gzip),
        (false, false) => None,
    }
}

fn parse_item(item: &str) -> (&str, f32) {
    let mut parts = item.split(';');
    let name = parts.next().unwrap_or_default().trim();
    let quality = parts.find_map(|part| part.trim().strip_prefix("q=")?.trim().parse().ok());
    (name, quality.unwrap_or(1.0))
}

/// The coding of a request's body. The error is a coding that we cannot undo.
pub(crate) fn of_request(headers: &HeaderMap) -> Result<Coding, String> {
    let value = headers.get(header::CONTENT_ENCODING).map(HeaderValue::to_str);
    match value.map(|value| value.unwrap_or("?").trim().to_ascii_lowercase()).as_deref() {
        None | Some("" | "identity") => Ok(Coding::Identity),
        Some("gzip" | "x-gzip") => Ok(Coding::Gzip),
        Some(other) => Err(other.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(accepted: &str, expected: Option<Coding>) {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, accepted.parse().expect("a header value"));
        assert_eq!(negotiate(&headers), expected, "{accepted}");
    }

    #[test]
    fn gzip_is_for_those_who_mean_it() {
        assert_eq!(negotiate(&HeaderMap::new()), Some(Coding::Identity));
        check("gzip", Some(Coding::Gzip));
        check("gzip;q=1.0, identity;q=0.5", Some(Coding::Gzip));
        check("gzip, deflate", Some(Coding::Identity));
        check("zstd,gzip,br", Some(Coding::Identity));
        check("*", Some(Coding::Identity));
        check("identity", Some(Coding::Identity));
        check("gzip;q=0", Some(Coding::Identity));
        check("gzip, deflate, identity;q=0", Some(Coding::Gzip));
        check("deflate, identity;q=0", None);
        check("br, *;q=0", None);
    }

    proptest! {
        #[test]
        fn takes_any_header(text in "[ -~]*") {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, text.parse().expect("printable"));
            negotiate(&headers);
        }
    }
}
