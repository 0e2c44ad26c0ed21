//! Access tokens.

use rand::Rng as _;
use rand::distr::Alphanumeric;

/// Letters and digits of a token: 190 bits of randomness.
const LENGTH: usize = 32;

/// A fresh token from the thread's cryptographic generator.
pub(crate) fn random() -> String {
    rand::rng().sample_iter(Alphanumeric).take(LENGTH).map(char::from).collect()
}
