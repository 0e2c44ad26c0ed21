//! Which way a request goes (contract 1.2, 4.5, 9.1).

use dormouse_agent_proto::AGENT_PORT;
use dormouse_store::SandboxId;
use http::{HeaderMap, Request, Version, header};

use crate::host::{self, Host, Unroutable};

/// Names the sandbox when the host does not.
const SANDBOX_HEADER: &str = "e2b-sandbox-id";
/// Names the port when the host does not.
const PORT_HEADER: &str = "e2b-sandbox-port";

/// Only calls of the API carry it (contract 1.3).
const API_KEY_HEADER: &str = "x-api-key";

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the API.
    Api,
    /// To a port of a sandbox.
    Sandbox(Target),
}

/// A port of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The sandbox.
    pub(crate) id: SandboxId,
    /// The port inside it.
    pub(crate) port: u16,
}

/// Decides by the host and, where the host does not tell, by the routing headers.
pub(crate) fn way<B>(request: &Request<B>, domains: &[String]) -> Result<Way, Unroutable> {
    let headers = request.headers();
    let host = match named_host(request)? {
        Some(text) => host::parse(text, domains)?,
        // Health checks speak HTTP/1.0 and name no host.
        None if request.version() <= Version::HTTP_10 => Host::Bare,
        None => return Err(Unroutable::Host),
    };
    match host {
        Host::Api => Ok(Way::Api),
        Host::Sandbox { port, id } => Ok(Way::Sandbox(Target { id, port })),
        Host::Shared => by_headers(headers)?.map(Way::Sandbox).ok_or(Unroutable::MissingHeader),
        Host::Bare | Host::Other => Ok(by_headers(headers)?
            .filter(|target| !is_misaddressed(request, target))
            .map_or(Way::Api, Way::Sandbox)),
    }
}

/// Paths of the API, by their first part, that the agent does not have.
const API_PATHS: &[&str] = &["sandboxes", "snapshots", "teams", "templates", "v2", "v3"];

/// Some SDKs (Python 2.8 among them) name a sandbox in calls of the API about it too. Where API and sandboxes have hosts of their own
/// nobody notices; on one host the call must not go to the agent.
fn is_misaddressed<B>(request: &Request<B>, target: &Target) -> bool {
    let first = request
        .uri()
        .path()
        .trim_start_matches('/')
        .split('/')
        .next()
        .unwrap_or_default();
    target.port == AGENT_PORT && request.headers().contains_key(API_KEY_HEADER) && API_PATHS.contains(&first)
}

/// The host that the client asked for. An absolute target overrules the header, as RFC 9112 3.2.2 wants; HTTP/2 has only the target.
pub(crate) fn named_host<B>(request: &Request<B>) -> Result<Option<&str>, Unroutable> {
    if let Some(authority) = request.uri().authority() {
        return Ok(Some(authority.as_str()));
    }
    match only(request.headers(), header::HOST.as_str()) {
        Ok(Some("")) => Ok(None),
        other => other.map_err(|Unreadable| Unroutable::Host),
    }
}

fn by_headers(headers: &HeaderMap) -> Result<Option<Target>, Unroutable> {
    let id = only(headers, SANDBOX_HEADER).map_err(|Unreadable| Unroutable::Sandbox)?;
    let port = only(headers, PORT_HEADER).map_err(|Unreadable| Unroutable::Port)?;
    match (id, port) {
        (None, None) => Ok(None),
        (Some(id), Some(port)) => Ok(Some(Target {
            id: host::parse_id(id)?,
            port: host::parse_port(port)?,
        })),
        _ => Err(Unroutable::MissingHeader),
    }
}

/// A header came twice, or is not text.
struct Unreadable;

/// The value of a header that must not come twice: two readers could pick different ones.
fn only<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, Unreadable> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(|text| Some(text.trim())).map_err(|_| Unreadable),
        (Some(_), Some(_)) => Err(Unreadable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `headers` are lines such as `host: localhost`.
    fn request(uri: &str, headers: &[&str]) -> Request<()> {
        let mut builder = Request::builder().uri(uri);
        for line in headers {
            let (name, value) = line.split_once(": ").unwrap();
            builder = builder.header(name, value);
        }
        builder.body(()).unwrap()
    }

    fn check(headers: &[&str], expected: &Result<Way, Unroutable>) {
        assert_eq!(
            &way(&request("/", headers), &["box.example".to_owned()]),
            expected,
            "{headers:?}"
        );
    }

    fn sandbox(port: u16, id: &str) -> Result<Way, Unroutable> {
        Ok(Way::Sandbox(Target {
            id: id.parse().unwrap(),
            port,
        }))
    }

    const ID: &str = "e2b-sandbox-id: i1abc";
    const PORT: &str = "E2b-Sandbox-Port: 49983";

    #[test]
    fn headers_decide_on_bare_shared_and_other_hosts() {
        for host in [
            "host: localhost:3000",
            "host: 127.0.0.1",
            "host: [::1]:3000",
            "host: sandbox.box.example",
            "host: dormouse:3000",
        ] {
            check(&[host, ID, PORT], &sandbox(49983, "i1abc"));
            check(&[host, ID], &Err(Unroutable::MissingHeader));
            check(&[host, PORT], &Err(Unroutable::MissingHeader));
        }
    }

    #[test]
    fn without_headers_bare_hosts_are_the_apis() {
        for host in [
            "host: localhost:3000",
            "host: 127.0.0.1",
            "host: api.box.example",
            "host: box.example",
            "host: dormouse:3000",
        ] {
            check(&[host], &Ok(Way::Api));
        }
        check(&["host: sandbox.box.example"], &Err(Unroutable::MissingHeader));
    }

    #[test]
    fn headers_do_not_matter_where_the_host_tells() {
        check(&["host: 3000-i2.box.example", ID, PORT], &sandbox(3000, "i2"));
        check(&["host: 3000-i2.box.example", ID], &sandbox(3000, "i2"));
        check(&["host: api.box.example", ID, PORT], &Ok(Way::Api));
    }

    #[test]
    fn header_values_are_checked() {
        let host = "host: localhost";
        check(&[host, "e2b-sandbox-id: i1abc-6532622b", PORT], &sandbox(49983, "i1abc"));
        check(&[host, "e2b-sandbox-id: ../x", PORT], &Err(Unroutable::Sandbox));
        check(&[host, "e2b-sandbox-id: I1ABC", PORT], &Err(Unroutable::Sandbox));
        check(&[host, ID, "e2b-sandbox-port: 0"], &Err(Unroutable::Port));
        check(&[host, ID, "e2b-sandbox-port: +80"], &Err(Unroutable::Port));
        check(&[host, ID, "e2b-sandbox-port: http"], &Err(Unroutable::Port));
        check(&[host, ID, ID, PORT], &Err(Unroutable::Sandbox));
        check(&[host, ID, PORT, "e2b-sandbox-port: 80"], &Err(Unroutable::Port));
    }

    #[test]
    fn hosts_must_be_there_once() {
        check(&[], &Err(Unroutable::Host));
        check(&["host: localhost", "host: 3000-i2.box.example"], &Err(Unroutable::Host));
        check(&["host: x.box.example"], &Err(Unroutable::Host));
        check(&["host: web-i2.box.example"], &Err(Unroutable::Port));
    }

    /// Python 2.8 sends them with `POST /sandboxes/{id}/connect`.
    #[test]
    fn calls_of_the_api_that_name_a_sandbox_are_the_apis() {
        let headers = ["host: localhost", ID, PORT, "x-api-key: e2b_1"];
        assert_eq!(way(&request("/sandboxes/i1abc/connect", &headers), &[]), Ok(Way::Api));
        assert_eq!(way(&request("/files?path=x", &headers), &[]), sandbox(49983, "i1abc"));
        assert_eq!(
            way(&request("/sandboxes/i1abc/connect", &headers[..3]), &[]),
            sandbox(49983, "i1abc")
        );
        let port = ["host: localhost", ID, "e2b-sandbox-port: 80", "x-api-key: e2b_1"];
        assert_eq!(way(&request("/sandboxes", &port), &[]), sandbox(80, "i1abc"));
    }

    #[test]
    fn http_1_0_may_name_no_host() {
        let mut request = request("/health", &[]);
        *request.version_mut() = Version::HTTP_10;
        assert_eq!(way(&request, &[]), Ok(Way::Api));
    }

    #[test]
    fn absolute_targets_overrule_the_header() {
        let request = request("http://3000-i2.box.example/x", &["host: localhost", ID, PORT]);
        assert_eq!(way(&request, &[]), sandbox(3000, "i2"));
    }
}
