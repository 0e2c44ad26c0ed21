//! Access tokens.

use rand::Rng as _;
use rand::distr::Alphanumeric;
use subtle::ConstantTimeEq as _;

/// Letters and digits of a token: 190 bits of randomness.
const LENGTH: usize = 32;

/// A fresh token from the thread's cryptographic generator.
pub(crate) fn random() -> String {
    rand::rng().sample_iter(Alphanumeric).take(LENGTH).map(char::from).collect()
}

/// Whether a token that came is the one expected, in time that does not depend on where they differ.
pub(crate) fn matches(expected: &str, given: Option<&str>) -> bool {
    given.is_some_and(|given| bool::from(expected.as_bytes().ct_eq(given.as_bytes())))
}
