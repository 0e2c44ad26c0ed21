//! A base domain: the part of a host name that is configured.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Leaves room for one label and its dot before the domain.
const LONGEST: usize = 253 - 64;

/// A base domain, lower case, without the root's dot: hosts are the domain itself and names with one label more.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(String);

/// A text is no base domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no base domain: {reason}")]
pub struct InvalidDomain {
    text: String,
    reason: &'static str,
}

impl Domain {
    /// The domain as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `name` is the domain or has exactly one label more. Wildcard certificates reach no deeper (RFC 9525, 6.3).
    #[must_use]
    pub fn holds(&self, name: &str) -> bool {
        name == self.0
            || name
                .split_once('.')
                .is_some_and(|(label, rest)| is_label(label) && rest == self.0)
    }

    /// Whether clients accept a wildcard below it: they refuse `*.localhost` as they refuse `*.com`.
    pub(crate) fn takes_wildcard(&self) -> bool {
        self.0.contains('.')
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Domain {
    type Err = InvalidDomain;

    fn from_str(text: &str) -> Result<Self, InvalidDomain> {
        let invalid = |reason| InvalidDomain {
            text: text.to_owned(),
            reason,
        };
        let name = text.trim().to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        if name.is_empty() {
            return Err(invalid("it is empty"));
        }
        if name.contains('/') {
            return Err(invalid("give the name alone, without https:// and path"));
        }
        if name.starts_with("*.") {
            return Err(invalid("leave the `*.` out, names below it are meant anyway"));
        }
        if !name.is_ascii() {
            return Err(invalid("write an international name in its xn-- form"));
        }
        if name.parse::<IpAddr>().is_ok() {
            return Err(invalid("it is an address, and no names can be below one"));
        }
        if name.contains(':') {
            return Err(invalid("leave the port out, clients are told it anyway"));
        }
        if name.len() > LONGEST {
            return Err(invalid("it is longer than 189 characters"));
        }
        if !name.split('.').all(is_label) {
            return Err(invalid(
                "labels are 1 to 63 letters, digits and hyphens, with no hyphen at an end",
            ));
        }
        // A URL's parser takes a name whose last label is a number for an address.
        if name
            .rsplit('.')
            .next()
            .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()))
        {
            return Err(invalid("its last label is a number"));
        }
        Ok(Self(name.to_owned()))
    }
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn case_and_the_roots_dot_do_not_matter() {
        assert_eq!("Box.Example.".parse::<Domain>().unwrap().as_str(), "box.example");
        assert_eq!("localhost".parse::<Domain>().unwrap().as_str(), "localhost");
    }

    #[test]
    fn mistakes_are_refused_with_what_to_do() {
        for (text, words) in [
            ("", "empty"),
            ("https://box.example", "without https://"),
            ("box.example/", "without https://"),
            ("*.box.example", "leave the `*.` out"),
            ("box.example:8443", "leave the port out"),
            ("127.0.0.1", "an address"),
            ("::1", "an address"),
            ("bücher.example", "xn--"),
            ("a..b", "labels"),
            ("-a.example", "labels"),
            ("a_b.example", "labels"),
            ("box.1", "a number"),
            (&"a.".repeat(96), "longer"),
        ] {
            let error = text.parse::<Domain>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn it_holds_itself_and_one_label_more() {
        let domain: Domain = "box.example".parse().unwrap();
        for name in ["box.example", "api.box.example", "3000-i1abc.box.example"] {
            assert!(domain.holds(name), "{name}");
        }
        for name in [
            "example",
            "a.b.box.example",
            "notbox.example",
            ".box.example",
            "*.box.example",
            "-.box.example",
        ] {
            assert!(!domain.holds(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "\\PC*", name in "\\PC*") {
            if let Ok(domain) = text.parse::<Domain>() {
                let _ = domain.holds(&name);
                prop_assert_eq!(domain.as_str().parse::<Domain>(), Ok(domain.clone()));
            }
        }

        #[test]
        fn a_label_below_is_held(label in "[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", name in "[a-z]{1,8}(\\.[a-z]{1,8}){0,3}") {
            let domain: Domain = name.parse().unwrap();
            let below = format!("{label}.{name}");
            let deeper = format!("x.{label}.{name}");
            prop_assert!(domain.holds(&below));
            prop_assert!(!domain.holds(&deeper));
        }
    }
}
