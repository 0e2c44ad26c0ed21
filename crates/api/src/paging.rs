//! Pages by key: a token names the last item of a page, so that what comes and goes in between neither repeats nor hides others
//! (contract 2.1).

use std::cmp::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderName, HeaderValue};
use jiff::Timestamp;

use crate::error::ApiError;

/// There is more: the token of the next page.
pub(crate) const NEXT_TOKEN: HeaderName = HeaderName::from_static("x-next-token");

const MAX_LIMIT: usize = 100;

/// By time, then by id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Order {
    /// Oldest first.
    Ascending,
    /// Newest first.
    #[default]
    Descending,
}

impl Order {
    /// The `order` parameter.
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        match text {
            "asc" => Ok(Self::Ascending),
            "desc" => Ok(Self::Descending),
            _ => Err(ApiError::bad_request(format!(
                "Invalid order `{text}`: it is `asc` or `desc`"
            ))),
        }
    }
}

/// Where an item stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) at: Timestamp,
    pub(crate) id: String,
}

/// Which page is asked for.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) order: Order,
    pub(crate) limit: usize,
    pub(crate) after: Option<Key>,
}

impl Default for Page {
    fn default() -> Self {
        Self {
            order: Order::default(),
            limit: MAX_LIMIT,
            after: None,
        }
    }
}

/// The `limit` parameter: more than the most is the most.
pub(crate) fn limit(text: &str) -> Result<usize, ApiError> {
    // A number too long for any integer is still a number.
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(0) => {}
        Ok(limit) => return Ok(MAX_LIMIT.min(limit)),
        Err(_) if digits => return Ok(MAX_LIMIT),
        Err(_) => {}
    }
    Err(ApiError::bad_request(format!(
        "Invalid limit `{text}`: it is a number from 1 to {MAX_LIMIT}"
    )))
}

impl Page {
    /// The items of this page, sorted, and the token of the next one if there is one.
    pub(crate) fn cut<T>(&self, mut items: Vec<T>, key: impl Fn(&T) -> Key) -> (Vec<T>, Option<HeaderValue>) {
        let compare = |a: &Key, b: &Key| match self.order {
            Order::Ascending => a.cmp(b),
            Order::Descending => b.cmp(a),
        };
        if let Some(after) = &self.after {
            items.retain(|item| compare(&key(item), after) == Ordering::Greater);
        }
        items.sort_by(|a, b| compare(&key(a), &key(b)));
        let more = items.len() > self.limit;
        items.truncate(self.limit);
        let last = items.last().filter(|_| more);
        let token = last.and_then(|last| HeaderValue::try_from(self.token(&key(last))).ok());
        (items, token)
    }

    fn token(&self, last: &Key) -> String {
        let order = match self.order {
            Order::Ascending => "__asc",
            Order::Descending => "",
        };
        URL_SAFE_NO_PAD.encode(format!("{:.9}__{}{order}", last.at, last.id))
    }
}

/// The `nextToken` parameter, which belongs to an order.
pub(crate) fn parse_token(token: &str, order: Order) -> Result<Key, ApiError> {
    let parse = || {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        let text = match order {
            Order::Ascending => text.strip_suffix("__asc")?,
            Order::Descending => &text,
        };
        let (at, id) = text.split_once("__")?;
        let known = !id.is_empty() && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        known.then_some(Key {
            at: at.parse().ok()?,
            id: id.to_owned(),
        })
    };
    parse().ok_or_else(|| ApiError::bad_request("Invalid next token"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(&(seconds, id): &(i64, u8)) -> Key {
        Key {
            at: Timestamp::new(seconds, 5).expect("in range"),
            id: format!("i{id:03}"),
        }
    }

    proptest! {
        /// Turning pages visits everything once, in order, and the last page has no token.
        #[test]
        fn pages_together_are_the_whole(
            items in proptest::collection::hash_set((0_i64..5, any::<u8>()), 0..40),
            limit in 1_usize..7,
            ascending: bool,
        ) {
            let items: Vec<_> = items.into_iter().collect();
            let order = if ascending { Order::Ascending } else { Order::Descending };
            let mut seen = Vec::new();
            let mut page = Page { order, limit, after: None };
            loop {
                let (found, token) = page.cut(items.clone(), key);
                prop_assert!(found.len() <= limit);
                seen.extend(found);
                match token {
                    None => break,
                    Some(token) => page.after = Some(parse_token(token.to_str().unwrap(), order).unwrap()),
                }
            }
            let mut expected = items;
            expected.sort_by_key(key);
            if !ascending { expected.reverse(); }
            prop_assert_eq!(seen, expected);
        }

        #[test]
        fn no_text_breaks_the_token_parser(text in ".*", ascending: bool) {
            let order = if ascending { Order::Ascending } else { Order::Descending };
            let _ = parse_token(&text, order);
            let _ = parse_token(&URL_SAFE_NO_PAD.encode(text), order);
        }
    }

    #[test]
    fn a_token_of_the_other_order_is_refused() {
        let page = Page::default();
        let token = page.token(&key(&(1, 1)));
        assert_eq!(parse_token(&token, Order::Descending).unwrap(), key(&(1, 1)));
        assert_eq!(
            parse_token(&token, Order::Ascending),
            Err(ApiError::bad_request("Invalid next token"))
        );
        let ascending = Page {
            order: Order::Ascending,
            ..page
        };
        let token = ascending.token(&key(&(1, 1)));
        assert_eq!(
            parse_token(&token, Order::Descending),
            Err(ApiError::bad_request("Invalid next token"))
        );
    }

    #[test]
    fn limits_are_clamped_or_refused() {
        assert_eq!(limit("1"), Ok(1));
        assert_eq!(limit("100"), Ok(100));
        assert_eq!(limit("101"), Ok(100));
        assert_eq!(limit("99999999999999999999999999"), Ok(100));
        for text in ["0", "-1", "", "x", "1.5", " 1"] {
            assert!(limit(text).is_err(), "{text}");
        }
    }
}
