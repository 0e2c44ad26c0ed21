//! The `metadata` filter of lists, which clients encode more than once (contract 1.3).
//!
//! Keys and values are percent-encoded, the pairs form-encoded, and the result is one query parameter. The query string's own decoding
//! has been done when it comes here; two are left: pairs, then keys and values.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use url::form_urlencoded;

use crate::error::ApiError;

/// The labels that a `metadata` parameter asks for.
pub(super) fn parse(value: &str) -> Result<BTreeMap<String, String>, ApiError> {
    let decode = |text: &str| percent_decode_str(text).decode_utf8().map(std::borrow::Cow::into_owned);
    form_urlencoded::parse(value.as_bytes())
        .map(|(key, value)| Ok((decode(&key)?, decode(&value)?)))
        .collect::<Result<_, std::str::Utf8Error>>()
        .map_err(|_| ApiError::bad_request("Invalid metadata filter: it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    fn from_query(query: &str) -> BTreeMap<String, String> {
        let (_, value) = form_urlencoded::parse(query.as_bytes()).next().unwrap();
        parse(&value).unwrap()
    }

    #[test]
    fn the_captured_query_is_understood() {
        let expected = BTreeMap::from([("a b".to_owned(), "c&d".to_owned())]);
        assert_eq!(from_query("metadata=a%252520b%3Dc%252526d"), expected);
    }

    #[test]
    fn a_query_written_by_hand_is_understood() {
        let expected = BTreeMap::from([("user".to_owned(), "abc".to_owned()), ("app".to_owned(), "prod".to_owned())]);
        assert_eq!(from_query("metadata=user%3Dabc%26app%3Dprod"), expected);
        assert_eq!(parse("").unwrap(), BTreeMap::new());
    }

    #[test]
    fn what_is_not_text_is_refused() {
        assert!(parse("a=%25ff").is_err());
    }

    proptest! {
        #[test]
        fn whatever_a_client_encodes_comes_back(labels in proptest::collection::btree_map(".+", ".*", 0..5)) {
            let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            let mut pairs = form_urlencoded::Serializer::new(String::new());
            for (key, value) in &labels {
                pairs.append_pair(&encode(key), &encode(value));
            }
            let query = format!("metadata={}", encode(&pairs.finish()));
            prop_assert_eq!(from_query(&query), labels);
        }

        #[test]
        fn no_text_breaks_it(text in ".*") {
            let _ = parse(&text);
        }
    }
}
