//! Answers browsers that ask, before a call across origins to the agent, whether they may make it (contract 3.2).
//!
//! The agent would say the same. But such a question carries no token, so it could not wake a sandbox that sleeps, and the SDK's call
//! behind it, which could, would never be made. Ports other than the agent's are asked themselves.

use dormouse_agent_proto::AGENT_PORT;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, VARY,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};

use crate::Body;
use crate::body::full;
use crate::routing::Target;

/// The answer, when `request` is such a question.
pub(crate) fn answer<B>(target: &Target, request: &Request<B>) -> Option<Response<Body>> {
    let asks = request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if !asks || target.port != AGENT_PORT {
        return None;
    }
    let mut answer = Response::new(full(""));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let headers = answer.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(
        ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("HEAD, GET, POST, PUT, PATCH, DELETE"),
    );
    // Spelled out: `*` does not stand for `authorization`.
    let asked = request.headers().get(ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    headers.insert(
        ACCESS_CONTROL_ALLOW_HEADERS,
        asked.unwrap_or_else(|| HeaderValue::from_static("*")),
    );
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("7200"));
    headers.insert(VARY, HeaderValue::from_static("access-control-request-headers"));
    Some(answer)
}
