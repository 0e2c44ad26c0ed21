//! What a host name says about where a request goes (contract 1.2).

use std::net::{IpAddr, Ipv6Addr};

use dormouse_store::SandboxId;

/// The label of the API's host, as in `api.example.com`.
const API: &str = "api";
/// The label of the host that all sandboxes share, told apart by headers.
const SHARED: &str = "sandbox";

/// What a host stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// `localhost` or an address: the routing headers decide, and without them it is the API's.
    Bare,
    /// `sandbox.<domain>`: the routing headers decide, and there must be some.
    Shared,
    /// `api.<domain>`, or a base domain itself.
    Api,
    /// `<port>-<sandboxID>[-<ignored>].<anything>`.
    Sandbox {
        /// The port inside the sandbox.
        port: u16,
        /// The sandbox.
        id: SandboxId,
    },
    /// A name that says nothing: like [`Host::Bare`].
    Other,
}

/// The host, the sandbox or the port in a request makes no sense. The texts are the contract's (4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unroutable {
    /// One of the two routing headers came without the other, or none where they are needed.
    #[error("missing header")]
    MissingHeader,
    /// No host, a malformed one, or one below a base domain that names nothing.
    #[error("Invalid host")]
    Host,
    /// A malformed sandbox id.
    #[error("Invalid sandbox ID")]
    Sandbox,
    /// A malformed port.
    #[error("Invalid sandbox port")]
    Port,
}

/// Reads a `Host` header or an authority. `domains` are the base domains that are ours.
pub(crate) fn parse(text: &str, domains: &[String]) -> Result<Host, Unroutable> {
    let name = without_port(text).ok_or(Unroutable::Host)?.to_ascii_lowercase();
    if let Some(v6) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return v6.parse::<Ipv6Addr>().map(|_| Host::Bare).map_err(|_| Unroutable::Host);
    }
    if name.parse::<IpAddr>().is_ok() {
        return Ok(Host::Bare);
    }
    // The root's dot is legal at the end of a name and means nothing here.
    let name = name.strip_suffix('.').unwrap_or(&name);
    if !is_name(name) {
        return Err(Unroutable::Host);
    }
    if name == "localhost" {
        return Ok(Host::Bare);
    }
    let (label, rest) = name.split_once('.').unwrap_or((name, ""));
    match label {
        API if !rest.is_empty() => return Ok(Host::Api),
        SHARED if !rest.is_empty() => return Ok(Host::Shared),
        _ if is_one_of(name, domains) => return Ok(Host::Api),
        _ => {}
    }
    let ours = domains.iter().any(|domain| is_below(name, domain));
    match label.split_once('-') {
        Some((port, tail)) if ours || is_number(port) => Ok(Host::Sandbox {
            port: parse_port(port)?,
            id: parse_id(tail)?,
        }),
        _ if ours => Err(Unroutable::Host),
        _ => Ok(Host::Other),
    }
}

/// A port of a sandbox: 1 to 65535, digits only.
pub(crate) fn parse_port(text: &str) -> Result<u16, Unroutable> {
    match text.parse() {
        // The standard parser takes a leading plus.
        Ok(port) if port > 0 && is_number(text) => Ok(port),
        _ => Err(Unroutable::Port),
    }
}

/// A sandbox id with or without `-<clientID>` (and whatever else) behind it.
pub(crate) fn parse_id(text: &str) -> Result<SandboxId, Unroutable> {
    let id = text.split('-').next().unwrap_or(text);
    id.parse().map_err(|_| Unroutable::Sandbox)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Cuts `:port` off. `None` when what follows the colon is no port.
fn without_port(text: &str) -> Option<&str> {
    let start = text.rfind(']').map_or(0, |bracket| bracket + 1);
    match text[start..].find(':') {
        None => Some(text),
        Some(colon) => {
            let port = &text[start + colon + 1..];
            // `host:` is legal and means the default port.
            (port.is_empty() || port.parse::<u16>().is_ok() && is_number(port)).then(|| &text[..start + colon])
        }
    }
}

fn is_name(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

fn is_one_of(name: &str, domains: &[String]) -> bool {
    domains.iter().any(|domain| name.eq_ignore_ascii_case(domain))
}

fn is_below(name: &str, domain: &str) -> bool {
    name.len() > domain.len() + 1
        && name.as_bytes()[name.len() - domain.len() - 1] == b'.'
        && name[name.len() - domain.len()..].eq_ignore_ascii_case(domain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: &Result<Host, Unroutable>) {
        assert_eq!(&parse(text, &[]), expected, "{text} without base domains");
    }

    fn check_below(text: &str, expected: &Result<Host, Unroutable>) {
        let domains = ["box.example".to_owned(), "e2b.localhost".to_owned()];
        assert_eq!(&parse(text, &domains), expected, "{text} with base domains");
    }

    fn sandbox(port: u16, id: &str) -> Result<Host, Unroutable> {
        Ok(Host::Sandbox {
            port,
            id: id.parse().unwrap(),
        })
    }

    #[test]
    fn addresses_and_localhost_are_bare() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:3000",
            "localhost",
            "LocalHost:80",
            "[::1]",
            "[::1]:3000",
            "10.0.0.7:",
            "localhost.",
        ] {
            check(host, &Ok(Host::Bare));
            check_below(host, &Ok(Host::Bare));
        }
    }

    #[test]
    fn first_labels_name_the_api_and_the_shared_host() {
        check("api.box.example", &Ok(Host::Api));
        check("API.Box.Example:8443", &Ok(Host::Api));
        check("sandbox.box.example", &Ok(Host::Shared));
        check_below("box.example", &Ok(Host::Api));
        check_below("api.elsewhere.example", &Ok(Host::Api));
        check("api", &Ok(Host::Other));
        check("sandbox", &Ok(Host::Other));
    }

    #[test]
    fn a_port_and_an_id_name_a_sandbox_below_any_domain() {
        check("3000-i1abc.box.example", &sandbox(3000, "i1abc"));
        check("49983-i1abc-6532622b.box.example:8443", &sandbox(49983, "i1abc"));
        check("80-I1ABC-x-y-z.localhost", &sandbox(80, "i1abc"));
        check("80-i1abc", &sandbox(80, "i1abc"));
        check("65535-i1abc.example.", &sandbox(65535, "i1abc"));
        check_below("80-i1abc.custom.example", &sandbox(80, "i1abc"));
    }

    #[test]
    fn bad_ports_and_ids_are_told_apart() {
        check("0-i1abc.example", &Err(Unroutable::Port));
        check("65536-i1abc.example", &Err(Unroutable::Port));
        check("99999999999999999999-i1abc.example", &Err(Unroutable::Port));
        check("3000-.example", &Err(Unroutable::Sandbox));
        check("3000--x.example", &Err(Unroutable::Sandbox));
        check("3000-i1_abc.example", &Err(Unroutable::Sandbox));
        check_below("web-i1abc.box.example", &Err(Unroutable::Port));
        check_below("-i1abc.box.example", &Err(Unroutable::Port));
    }

    #[test]
    fn other_names_are_the_apis_unless_they_are_below_a_base_domain() {
        for host in [
            "my-box.lan:3000",
            "dormouse",
            "www.box.example",
            "host.docker.internal",
            "a.b.c.d.e",
        ] {
            check(host, &Ok(Host::Other));
        }
        check_below("www.box.example", &Err(Unroutable::Host));
        check_below("a.80-i1abc.box.example", &Err(Unroutable::Host));
        check_below("notbox.example", &Ok(Host::Other));
    }

    #[test]
    fn malformed_hosts_are_refused() {
        for host in [
            "",
            ":80",
            ".",
            "a..b",
            "a b",
            "a/b",
            "host:port",
            "host:+80",
            "host:70000",
            "[::1",
            "[zz]",
            "::1",
            "[::1]x:1",
            "hé.example",
            "user@host",
        ] {
            check(host, &Err(Unroutable::Host));
        }
        check(&"a".repeat(64), &Err(Unroutable::Host));
        check(&"a.".repeat(150), &Err(Unroutable::Host));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "\\PC*", domain in "\\PC{0,12}") {
            let _ = parse(&text, &[domain]);
        }

        #[test]
        fn every_port_and_id_comes_back(port in 1u16.., id in "[a-z0-9]{1,40}", rest in "(-[a-z0-9]{0,6}){0,2}", domain in "(\\.[a-z0-9]{1,10}){0,4}", outer in prop::option::of(any::<u16>())) {
            let mut host = format!("{port}-{id}{rest}{domain}");
            if let Some(outer) = outer {
                host = format!("{host}:{outer}");
            }
            prop_assert_eq!(parse(&host, &[]), sandbox(port, &id));
            prop_assert_eq!(parse(&host.to_ascii_uppercase(), &[]), sandbox(port, &id));
        }

        #[test]
        fn a_sandbox_is_only_found_in_the_first_label(prefix in "[a-z]{1,8}", port in 1u16.., id in "[a-z0-9]{1,20}") {
            prop_assume!(prefix != API && prefix != SHARED);
            let host = format!("{prefix}.{port}-{id}.example");
            prop_assert_eq!(parse(&host, &[]), Ok(Host::Other));
        }
    }
}
