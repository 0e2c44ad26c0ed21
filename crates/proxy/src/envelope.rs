//! Finds the borders between the messages of a Connect stream (contract 3.4) while its bytes go by.

use bytes::Bytes;
use http::{HeaderMap, header};

/// Flag bit of the envelope that ends a stream.
const END_OF_STREAM: u8 = 2;
/// One byte of flags and four of length.
const HEADER: u8 = 5;

/// Where in the sequence of envelopes a body is.
#[derive(Debug, Default)]
pub(crate) struct Envelopes {
    /// Bytes of the current envelope's header that have been seen.
    header: u8,
    flags: u8,
    /// While in the header the part of the length that has been seen, after that the bytes that are still to come.
    left: u32,
    ended: bool,
}

impl Envelopes {
    /// For an answer that is a stream of envelopes with its bytes unchanged.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        let kind = kind.split(';').next()?.trim();
        let streams = ["application/connect+json", "application/connect+proto"];
        let plain = headers
            .get(header::CONTENT_ENCODING)
            .is_none_or(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
        (plain && streams.iter().any(|stream| kind.eq_ignore_ascii_case(stream))).then(Self::default)
    }

    /// Takes note of bytes that pass.
    pub(crate) fn pass(&mut self, mut bytes: &[u8]) {
        while let [first, rest @ ..] = bytes {
            match self.header {
                0 => {
                    self.flags = *first;
                    self.left = 0;
                    self.header = 1;
                    bytes = rest;
                }
                1..HEADER => {
                    self.left = self.left << 8 | u32::from(*first);
                    self.header += 1;
                    bytes = rest;
                }
                _ => {
                    let part = bytes.len().min(self.left as usize);
                    // `part` is at most `left`, which is a u32.
                    self.left -= part as u32;
                    bytes = &bytes[part..];
                }
            }
            if self.header == HEADER && self.left == 0 {
                self.ended |= self.flags & END_OF_STREAM != 0;
                self.header = 0;
            }
        }
    }

    /// Whether the stream is between two envelopes and has not ended: another one may follow.
    pub(crate) fn takes_another(&self) -> bool {
        self.header == 0 && !self.ended
    }
}

/// The envelope that ends a stream whose sandbox went away (contract 4.5). It is JSON in both encodings of the protocol.
pub(crate) fn unavailable(message: &str) -> Bytes {
    let json = serde_json::json!({ "error": { "code": "unavailable", "message": message } }).to_string();
    let mut envelope = Vec::with_capacity(json.len() + usize::from(HEADER));
    envelope.push(END_OF_STREAM);
    // A few dozen bytes.
    envelope.extend((json.len() as u32).to_be_bytes());
    envelope.extend(json.as_bytes());
    envelope.into()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn envelope(flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut all = vec![flags];
        all.extend((payload.len() as u32).to_be_bytes());
        all.extend(payload);
        all
    }

    #[test]
    fn borders_are_before_the_first_and_after_every_whole_envelope() {
        let mut seen = Envelopes::default();
        assert!(seen.takes_another());
        seen.pass(&[0, 0, 0, 0]);
        assert!(!seen.takes_another());
        seen.pass(&[2, b'{']);
        assert!(!seen.takes_another());
        seen.pass(b"}");
        assert!(seen.takes_another());
    }

    #[test]
    fn nothing_follows_the_end() {
        let mut seen = Envelopes::default();
        seen.pass(&envelope(2, b"{}"));
        assert!(!seen.takes_another());
    }

    #[test]
    fn empty_envelopes_count() {
        let mut seen = Envelopes::default();
        seen.pass(&envelope(0, b""));
        assert!(seen.takes_another());
        seen.pass(&envelope(3, b""));
        assert!(!seen.takes_another());
    }

    #[test]
    fn only_connect_streams_are_followed() {
        let check = |kind: &'static str, encoding: Option<&'static str>, expected: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            if let Some(encoding) = encoding {
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
            }
            assert_eq!(Envelopes::of(&headers).is_some(), expected, "{kind} {encoding:?}");
        };
        check("application/connect+json", None, true);
        check("Application/Connect+JSON; charset=utf-8", None, true);
        check("application/connect+proto", Some("identity"), true);
        check("application/connect+json", Some("gzip"), false);
        check("application/json", None, false);
        check("application/grpc-web", None, false);
    }

    #[test]
    fn the_end_is_one_whole_envelope_with_the_id() {
        let end = unavailable("The sandbox is gone (i1abc)");
        let mut seen = Envelopes::default();
        seen.pass(&end);
        assert!(!seen.takes_another());
        assert_eq!(seen.header, 0);
        let json: serde_json::Value = serde_json::from_slice(&end[5..]).unwrap();
        assert_eq!(json["error"]["code"], "unavailable");
        assert_eq!(json["error"]["message"], "The sandbox is gone (i1abc)");
    }

    proptest! {
        #[test]
        fn where_the_bytes_are_cut_does_not_matter(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6), cuts in prop::collection::vec(1usize..9, 1..400)) {
            let all: Vec<u8> = payloads.iter().flat_map(|payload| envelope(0, payload)).collect();
            let mut borders = vec![0];
            for payload in &payloads {
                borders.push(borders[borders.len() - 1] + 5 + payload.len());
            }
            let mut seen = Envelopes::default();
            let mut at = 0;
            for cut in cuts {
                let end = all.len().min(at + cut);
                seen.pass(&all[at..end]);
                at = end;
                prop_assert_eq!(seen.takes_another(), borders.contains(&at));
            }
        }
    }
}
