//! Everything the proxy answers itself (contract 4.5).

use dormouse_agent_proto::AGENT_PORT;
use dormouse_agent_proto::route::RESERVED_MESSAGE;
use dormouse_control::RouteError;
use dormouse_store::SandboxId;
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, RETRY_AFTER, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::Body;
use crate::body::full;
use crate::host::Unroutable;
use crate::pages::{self, Page};
use crate::routing::Target;

/// Seconds after which a client that was refused with 429 may try again (contract 9.6).
const RETRY_SECONDS: u16 = 1;

/// Why a request does not reach its sandbox, or gets no answer from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Unknown, killed, asleep for good, or gone while the request was under way.
    NotFound,
    /// Nothing listens on the port.
    PortClosed,
    /// Something listens, but what it said was no answer.
    NoAnswer,
    /// A control endpoint of the agent.
    Reserved(&'static str),
    /// The traffic access token is missing.
    TokenMissing,
    /// The traffic access token is wrong.
    TokenInvalid,
    /// Asleep, and the visitor may not wake it.
    ResumeRefused,
    /// Between states for too long.
    Transitioning,
    /// More connections to this sandbox than the limit, which is given.
    TooManyConnections(usize),
    /// More running sandboxes than allowed.
    TooManySandboxes(String),
    /// Waking it failed.
    Failed(String),
}

impl From<RouteError> for Refusal {
    fn from(error: RouteError) -> Self {
        match error {
            RouteError::NotFound => Self::NotFound,
            RouteError::TokenMissing => Self::TokenMissing,
            RouteError::TokenInvalid => Self::TokenInvalid,
            RouteError::ResumeRefused => Self::ResumeRefused,
            RouteError::Transitioning => Self::Transitioning,
            RouteError::TooMany(message) if message.is_empty() => Self::TooManySandboxes("Sandbox limit reached".to_owned()),
            RouteError::TooMany(message) => Self::TooManySandboxes(message),
            // What lies below is for the log, not for whoever is outside.
            RouteError::Failed { .. } => Self::Failed(error.to_string()),
        }
    }
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound | Self::PortClosed | Self::NoAnswer => StatusCode::BAD_GATEWAY,
            Self::Reserved(_) => StatusCode::NOT_FOUND,
            Self::TokenMissing | Self::TokenInvalid | Self::ResumeRefused => StatusCode::FORBIDDEN,
            Self::Transitioning => StatusCode::CONFLICT,
            Self::TooManyConnections(_) | Self::TooManySandboxes(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::NotFound => RouteError::NotFound.to_string(),
            Self::PortClosed => "The sandbox is running but port is not open".to_owned(),
            Self::NoAnswer => "The service in the sandbox closed the connection without an answer".to_owned(),
            Self::Reserved(_) => RESERVED_MESSAGE.to_owned(),
            Self::TokenMissing => RouteError::TokenMissing.to_string(),
            Self::TokenInvalid => RouteError::TokenInvalid.to_string(),
            Self::ResumeRefused => RouteError::ResumeRefused.to_string(),
            Self::Transitioning => RouteError::Transitioning.to_string(),
            Self::TooManyConnections(limit) => {
                format!("The sandbox has too many concurrent incoming connections (limit: {limit})")
            }
            Self::TooManySandboxes(message) => message.clone(),
            Self::Failed(message) => format!("Unexpected error when routing request: {message}"),
        }
    }

    fn json(&self, target: &Target) -> Value {
        let mut json = json!({ "message": self.message(), "code": self.status().as_u16() });
        match self {
            // The one body without an id: that is how clients know it (contract 3.2).
            Self::Reserved(path) => json["path"] = (*path).into(),
            _ => json["sandboxId"] = target.id.as_str().into(),
        }
        match self {
            Self::PortClosed | Self::NoAnswer => json["port"] = target.port.into(),
            Self::TooManyConnections(limit) => json["connectionLimit"] = (*limit).into(),
            _ => {}
        }
        json
    }

    fn page(&self, id: &SandboxId, port: u16) -> Option<String> {
        let message = self.message();
        let (title, text) = match self {
            Self::Reserved(_) | Self::Failed(_) => return None,
            Self::NotFound => (
                "Sandbox Not Found",
                "It has ended, was never here, or sleeps and does not wake for visitors.".to_owned(),
            ),
            Self::PortClosed => (
                "Closed Port",
                format!(
                    "The sandbox is running, but there is no service running on port {port}. Start one and reload this page."
                ),
            ),
            Self::NoAnswer => (
                "No Answer",
                format!("The service on port {port} closed the connection without an answer."),
            ),
            Self::TokenMissing => ("Missing Traffic Access Token", message),
            Self::TokenInvalid => ("Invalid Traffic Access Token", message),
            Self::ResumeRefused => ("Sandbox Is Asleep", message),
            Self::Transitioning => ("Sandbox Is Busy", message),
            Self::TooManyConnections(_) => ("Too Many Connections", message),
            Self::TooManySandboxes(_) => ("Sandbox Limit Reached", message),
        };
        Some(pages::render(&Page {
            title,
            text: &text,
            id,
            status: self.status(),
        }))
    }

    /// The answer, as a page for people and as JSON for programs.
    pub(crate) fn answer(&self, target: &Target, browser: bool) -> Response<Body> {
        let page = if browser { self.page(&target.id, target.port) } else { None };
        let (kind, body) = match page {
            Some(page) => ("text/html; charset=utf-8", page),
            None if matches!(self, Self::Failed(_)) => ("text/plain; charset=utf-8", self.message()),
            None => ("application/json; charset=utf-8", self.json(target).to_string()),
        };
        let mut answer = plain(self.status(), kind, body);
        let headers = answer.headers_mut();
        // Whether it is a page depends on these, and none of it is true for long.
        headers.insert(
            VARY,
            HeaderValue::from_static("accept, sec-fetch-mode, user-agent, x-requested-with"),
        );
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if browser {
            headers.insert(
                CONTENT_SECURITY_POLICY,
                HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'"),
            );
        }
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            answer.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS.into());
        }
        // An SDK in a browser asks the agent across origins; without this it could not see why it gets no answer (contract 3.2).
        if target.port == AGENT_PORT {
            answer
                .headers_mut()
                .insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        }
        answer
    }
}

/// The answer to a request that names no place to go to.
pub(crate) fn unroutable(error: Unroutable) -> Response<Body> {
    plain(StatusCode::BAD_REQUEST, "text/plain; charset=utf-8", error.to_string())
}

/// `CONNECT` asks for a kind of proxy that this is not.
pub(crate) fn no_connect() -> Response<Body> {
    plain(
        StatusCode::METHOD_NOT_ALLOWED,
        "text/plain; charset=utf-8",
        "CONNECT is not supported".to_owned(),
    )
}

fn plain(status: StatusCode, kind: &'static str, body: String) -> Response<Body> {
    let mut answer = Response::new(full(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// Whether a person looks at the answer (contract 4.5).
pub(crate) fn is_browser(headers: &HeaderMap) -> bool {
    const NAMES: [&str; 7] = ["mozilla", "chrome", "safari", "firefox", "edge", "opera", "msie"];
    const PROGRAMS: [&str; 4] = ["cors", "no-cors", "same-origin", "websocket"];
    let lower = |name: &str| {
        headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase())
            .unwrap_or_default()
    };
    let agent = lower(header::USER_AGENT.as_str());
    let accept = lower(header::ACCEPT.as_str());
    let wants_json = accept.contains("application/json") && !accept.contains("text/html");
    NAMES.iter().any(|name| agent.contains(name))
        && !wants_json
        && !PROGRAMS.contains(&lower("sec-fetch-mode").as_str())
        && !headers.contains_key("x-requested-with")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIREFOX: (&str, &str) = (
        "user-agent",
        "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
    );

    fn check(lines: &[(&str, &str)], expected: bool) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        assert_eq!(is_browser(&headers), expected, "{lines:?}");
    }

    #[test]
    fn people_get_pages() {
        check(&[FIREFOX], true);
        check(&[("user-agent", "OPERA")], true);
        check(&[FIREFOX, ("accept", "text/html,application/json")], true);
        check(&[FIREFOX, ("sec-fetch-mode", "navigate")], true);
    }

    #[test]
    fn programs_do_not() {
        check(&[], false);
        check(&[("user-agent", "curl/8")], false);
        check(&[FIREFOX, ("accept", "application/json")], false);
        check(&[FIREFOX, ("x-requested-with", "XMLHttpRequest")], false);
        for mode in ["cors", "no-cors", "same-origin", "websocket", "CORS"] {
            check(&[FIREFOX, ("sec-fetch-mode", mode)], false);
        }
    }
}
