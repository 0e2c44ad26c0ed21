//! Whose request it is (contract 1.3, 2.1): the key's SHA-256 is looked up, the key itself is nowhere.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use dormouse_control::Owner;
use dormouse_store::KeyRecord;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, HeaderName, StatusCode};
use sha2::{Digest as _, Sha256};

use crate::error::ApiError;
use crate::state::ApiState;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// How long a deleted key may still work: the `dormouse key` command changes the database behind the server's back.
const KEPT: Duration = Duration::from_secs(5);

/// Entries of the cache. Only keys that exist are kept, so that guesses cannot fill it.
const ENTRIES: usize = 1024;

/// What a valid key stands for.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The team and its limits.
    pub(crate) owner: Owner,
    /// The key as it was sent.
    pub(crate) key: String,
}

impl FromRequestParts<ApiState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let refused = |message: &str| ApiError::new(StatusCode::UNAUTHORIZED, message);
        let key = credentials(&parts.headers)
            .ok_or_else(|| refused("Missing API key: send it in the header X-API-Key"))?
            .to_owned();
        let hash = hash(&key);
        if let Some(owner) = state.keys.get(&hash) {
            return Ok(Self { owner, key });
        }
        let found = state.store.key(&hash).await?;
        let owner = owner(&found.ok_or_else(|| refused("Invalid API key"))?);
        state.keys.put(hash, owner.clone());
        Ok(Self { owner, key })
    }
}

/// `X-API-Key: <key>`, or `Authorization: Bearer <key>` for clients that know only that.
fn credentials(headers: &HeaderMap) -> Option<&str> {
    let key = match headers.get(API_KEY) {
        Some(key) => key.to_str().ok()?,
        None => headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?,
    };
    let key = key.trim();
    (!key.is_empty()).then_some(key)
}

/// Lowercase hex SHA-256, as the store has it.
fn hash(key: &str) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(key.as_bytes()) {
        // Writing into a string does not fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

fn owner(key: &KeyRecord) -> Owner {
    Owner {
        team: key.team,
        max_run: key.max_run,
    }
}

/// Keys seen a moment ago.
#[derive(Debug, Default)]
pub(crate) struct KeyCache {
    entries: Mutex<HashMap<String, (Instant, Owner)>>,
}

impl KeyCache {
    fn get(&self, hash: &str) -> Option<Owner> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries
            .get(hash)
            .filter(|(at, _)| at.elapsed() < KEPT)
            .map(|(_, owner)| owner.clone())
    }

    fn put(&self, hash: String, owner: Owner) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= ENTRIES {
            entries.retain(|_, (at, _)| at.elapsed() < KEPT);
        }
        if entries.len() < ENTRIES {
            entries.insert(hash, (Instant::now(), owner));
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_hash_is_sha_256_in_hex() {
        assert_eq!(
            hash("abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn the_key_is_in_either_header() {
        let with = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))])
        };
        assert_eq!(credentials(&with("x-api-key", "e2b_1")), Some("e2b_1"));
        assert_eq!(credentials(&with("authorization", "Bearer e2b_1")), Some("e2b_1"));
        assert_eq!(credentials(&with("authorization", "Basic e2b_1")), None);
        assert_eq!(credentials(&with("x-api-key", " ")), None);
        assert_eq!(credentials(&HeaderMap::new()), None);
        let binary = HeaderMap::from_iter([(API_KEY, HeaderValue::from_bytes(b"\xff").unwrap())]);
        assert_eq!(credentials(&binary), None);
    }
}
