//! Signatures that let a bare URL read or write one file (contract 3.3).
//!
//! A signature is a SHA-256 over the path, the operation, the user and the sandbox's access token, so whoever can make
//! one knows the token, and one for reading `/a` opens nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// What a signed URL may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `GET /files`.
    Read,
    /// `POST /files`.
    Write,
}

impl Operation {
    fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// Why a request was refused. The text is what clients are told (contract 3.3, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `X-Access-Token` was sent and is wrong; a signature does not make up for it.
    #[error("access token present in header but does not match")]
    WrongToken,
    /// Neither a token nor a signature.
    #[error("missing signature query parameter")]
    Missing,
    /// Signed for something else.
    #[error("invalid signature")]
    Invalid,
    /// Right, but too late.
    #[error("signature is already expired")]
    Expired,
}

/// What a caller shows to get at a file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credentials<'a> {
    /// Header `X-Access-Token`.
    pub token: Option<&'a str>,
    /// Query parameter `signature`.
    pub signature: Option<&'a str>,
    /// Query parameter `signature_expiration`, in Unix seconds.
    pub expiration: Option<i64>,
}

/// Signs one operation on one path.
///
/// `path` and `user` are the query parameters as the client sends them, before any resolution; empty when absent.
#[must_use]
pub fn sign(path: &str, operation: Operation, user: &str, token: &str, expiration: Option<i64>) -> String {
    let mut hash = Sha256::new();
    for part in [path, ":", operation.word(), ":", user, ":", token] {
        hash.update(part.as_bytes());
    }
    if let Some(expiration) = expiration {
        hash.update(format!(":{expiration}").as_bytes());
    }
    format!("v1_{}", STANDARD_NO_PAD.encode(hash.finalize()))
}

/// Decides whether a caller may do `operation` on `path`. `secret` is the sandbox's token, `now` Unix seconds.
///
/// # Errors
/// Says which check failed, in the order in which clients expect them.
pub fn check(
    path: &str,
    operation: Operation,
    user: &str,
    secret: Option<&str>,
    shown: Credentials<'_>,
    now: i64,
) -> Result<(), Refusal> {
    let Some(secret) = secret else {
        return Ok(());
    };
    if let Some(token) = shown.token {
        return if token_matches(token, secret) {
            Ok(())
        } else {
            Err(Refusal::WrongToken)
        };
    }
    let signature = shown.signature.ok_or(Refusal::Missing)?;
    let expected = sign(path, operation, user, secret, shown.expiration);
    if !token_matches(signature, &expected) {
        return Err(Refusal::Invalid);
    }
    match shown.expiration {
        Some(expiration) if expiration < now => Err(Refusal::Expired),
        _ => Ok(()),
    }
}

/// Compares secrets in a time that does not depend on where they differ.
#[must_use]
pub fn token_matches(given: &str, expected: &str) -> bool {
    given.as_bytes().ct_eq(expected.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOKEN: &str = "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0";
    const SIGNED: &str = "v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E";

    #[test]
    fn signs_as_the_clients_do() {
        assert_eq!(sign("hello.txt", Operation::Read, "user", TOKEN, None), SIGNED);
    }

    fn check_read(shown: Credentials<'_>) -> Result<(), Refusal> {
        check("hello.txt", Operation::Read, "user", Some(TOKEN), shown, 1_000)
    }

    #[test]
    fn answers_in_the_clients_order() {
        let shown = Credentials::default();
        assert_eq!(check("p", Operation::Read, "", None, shown, 0), Ok(()), "no token set");
        assert_eq!(check_read(shown), Err(Refusal::Missing));
        let signed = Credentials {
            signature: Some(SIGNED),
            ..shown
        };
        assert_eq!(check_read(signed), Ok(()));
        let wrong_token = Credentials {
            token: Some("x"),
            ..signed
        };
        assert_eq!(check_read(wrong_token), Err(Refusal::WrongToken));
        let right_token = Credentials {
            token: Some(TOKEN),
            signature: Some("x"),
            ..shown
        };
        assert_eq!(check_read(right_token), Ok(()));
        let other_operation = check("hello.txt", Operation::Write, "user", Some(TOKEN), signed, 0);
        assert_eq!(other_operation, Err(Refusal::Invalid));
    }

    #[test]
    fn expiry_is_part_of_what_is_signed() {
        let signature = sign("hello.txt", Operation::Read, "user", TOKEN, Some(999));
        let shown = Credentials {
            token: None,
            signature: Some(&signature),
            expiration: Some(999),
        };
        assert_eq!(check_read(shown), Err(Refusal::Expired));
        let moved = Credentials {
            expiration: Some(2_000),
            ..shown
        };
        assert_eq!(check_read(moved), Err(Refusal::Invalid));
        let signature = sign("hello.txt", Operation::Read, "user", TOKEN, Some(1_000));
        let shown = Credentials {
            signature: Some(&signature),
            expiration: Some(1_000),
            ..shown
        };
        assert_eq!(check_read(shown), Ok(()), "the last second counts");
    }

    proptest! {
        #[test]
        fn opens_only_what_was_signed(path in ".*", other in ".*", user in ".*", at in any::<Option<i64>>()) {
            let signature = sign(&path, Operation::Write, &user, TOKEN, at);
            let shown = Credentials { token: None, signature: Some(&signature), expiration: at };
            let now = at.unwrap_or(0);
            prop_assert_eq!(check(&path, Operation::Write, &user, Some(TOKEN), shown, now), Ok(()));
            prop_assert_eq!(check(&other, Operation::Write, &user, Some(TOKEN), shown, now).is_ok(), path == other);
        }
    }
}
