//! What both RPC services read from request headers (contract 3.2, 3.4).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use connectrpc::ConnectError;
use http::{HeaderMap, header};

use crate::agent::Agent;
use crate::identity::Identity;
use crate::users::{Accounts, User};

/// Silence after which a stream shows that it lives, unless the client asks for another.
const KEEPALIVE: Duration = Duration::from_secs(90);

/// The user that a request is for: the one in its Basic authorization, or the sandbox's default user.
pub(crate) fn user_of(agent: &Agent, identity: &Identity, headers: &HeaderMap) -> Result<(User, Arc<Accounts>), ConnectError> {
    let accounts = agent.users.accounts();
    let named = basic_user(headers);
    let name = named.as_deref().unwrap_or_else(|| identity.default_user(&accounts));
    let user = accounts
        .user(name)
        .map_err(|error| ConnectError::unauthenticated(format!("invalid username: '{}'", error.0)))?;
    Ok((user, accounts))
}

fn basic_user(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credentials) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(credentials.trim()).ok()?).ok()?;
    let (user, _password) = decoded.split_once(':')?;
    Some(user.to_owned()).filter(|user| !user.is_empty())
}

/// How long a stream may be silent, from `Keepalive-Ping-Interval` in seconds.
pub(crate) fn keepalive_of(headers: &HeaderMap) -> Duration {
    let asked = headers.get("keepalive-ping-interval").and_then(|value| value.to_str().ok());
    match asked.and_then(|value| value.trim().parse::<u32>().ok()) {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds.into()),
        _ => KEEPALIVE,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Ok(value) = value.parse() {
            headers.insert(name, value);
        }
        headers
    }

    #[test]
    fn reads_the_user() {
        let user = |value: &str| basic_user(&headers(header::AUTHORIZATION, value));
        assert_eq!(user("Basic cm9vdDo="), Some("root".into()));
        assert_eq!(user("basic cm9vdDo="), Some("root".into()));
        assert_eq!(user("Basic Og=="), None, "an empty name is none");
        assert_eq!(user("Bearer cm9vdDo="), None);
        assert_eq!(user("Basic !"), None);
    }

    #[test]
    fn reads_the_interval() {
        let interval = |value: &str| keepalive_of(&headers(header::HeaderName::from_static("keepalive-ping-interval"), value));
        assert_eq!(interval("50"), Duration::from_secs(50));
        assert_eq!(interval("0"), KEEPALIVE);
        assert_eq!(interval("soon"), KEEPALIVE);
        assert_eq!(keepalive_of(&HeaderMap::new()), KEEPALIVE);
    }

    proptest! {
        #[test]
        fn takes_any_header(value in ".*") {
            basic_user(&headers(header::AUTHORIZATION, &value));
        }
    }
}
