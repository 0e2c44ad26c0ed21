//! Ids in paths. Routes match on the raw path, so a `%2F` inside an id does not end it; what is captured is decoded here.

use axum::extract::{FromRequestParts, RawPathParams};
use dormouse_store::SandboxId;
use http::request::Parts;

use crate::error::ApiError;
use crate::state::ApiState;

/// The first captured segment as a sandbox id (contract 2.1): `<id>` or `<id>-<clientID>`, the second part ignored.
#[derive(Debug)]
pub(crate) struct SandboxPath(pub(crate) SandboxId);

impl FromRequestParts<ApiState> for SandboxPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let invalid = || ApiError::bad_request("Invalid sandbox ID");
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| invalid())?;
        let segment = params.iter().next().map(|(_, value)| value);
        segment.and_then(sandbox_id).map(Self).ok_or_else(invalid)
    }
}

/// The first captured segment as text.
#[derive(Debug)]
pub(crate) struct Segment(pub(crate) String);

impl FromRequestParts<ApiState> for Segment {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let invalid = || ApiError::bad_request("Invalid path");
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| invalid())?;
        params
            .iter()
            .next()
            .map(|(_, value)| Self(value.to_owned()))
            .ok_or_else(invalid)
    }
}

/// All captured segments as text, in the order of the path.
#[derive(Debug)]
pub(crate) struct Segments<const N: usize>(pub(crate) [String; N]);

impl<const N: usize> FromRequestParts<ApiState> for Segments<N> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let invalid = || ApiError::bad_request("Invalid path");
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| invalid())?;
        let segments: Vec<String> = params.iter().map(|(_, value)| value.to_owned()).collect();
        segments.try_into().map(Self).map_err(|_| invalid())
    }
}

fn sandbox_id(segment: &str) -> Option<SandboxId> {
    let id = match segment.split_once('-') {
        None => segment,
        Some((id, client)) => {
            let known = !client.is_empty() && client.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            known.then_some(id)?
        }
    };
    id.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_id_is_dropped_and_nothing_else_is_forgiven() {
        for (segment, id) in [("abc", "abc"), ("i0-6532622b", "i0")] {
            assert_eq!(sandbox_id(segment).unwrap().as_str(), id);
        }
        for segment in [
            "", "-", "a-", "-b", "a-b-c", "A", "a_b", "a/b", "..", "a.b", "ä", "a b", "a-B", "a\0",
        ] {
            assert_eq!(sandbox_id(segment), None, "{segment}");
        }
        assert_eq!(sandbox_id(&"a".repeat(65)), None);
    }
}
