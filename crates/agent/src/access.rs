//! Who may ask what (contract 3.2).
//!
//! Three doors: control routes open to the control peer only, files check a token or a signature themselves, and
//! everything else needs the sandbox's token once it has one.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use dormouse_agent_proto::{route, signature};
use http::{HeaderMap, Method, StatusCode};
use serde::Serialize;

use crate::agent::Agent;
use crate::failure::Failure;

/// What a caller without the token reads.
const UNAUTHORIZED: &str = "unauthorized access, please provide a valid access token or method signing if supported";

/// Lets a request pass, or answers it.
pub(crate) async fn guard(State(agent): State<Arc<Agent>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if route::RESERVED.contains(&path) {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let control = peer.is_some_and(|peer| agent.config.is_control(peer.0.ip()));
        return if control { next.run(request).await } else { reserved(path) };
    }
    let identity = agent.identity.get();
    let allowed = match identity.token() {
        None => true,
        Some(_) if is_exempt(request.method(), path) => true,
        Some(token) => shown_token(request.headers()).is_some_and(|shown| signature::token_matches(shown, token)),
    };
    if allowed {
        next.run(request).await
    } else {
        Failure::unauthorized(UNAUTHORIZED).into_response()
    }
}

/// Whether an endpoint needs no token, or checks for itself. Browsers ask for permission without one.
fn is_exempt(method: &Method, path: &str) -> bool {
    *method == Method::OPTIONS
        || path == route::HEALTH
        || (path == route::FILES && matches!(*method, Method::GET | Method::HEAD | Method::POST))
}

/// The token that a request carries.
pub(crate) fn shown_token(headers: &HeaderMap) -> Option<&str> {
    headers.get(route::ACCESS_TOKEN_HEADER)?.to_str().ok()
}

#[derive(Serialize)]
struct Reserved<'a> {
    message: &'static str,
    path: &'a str,
    code: u16,
}

/// How the public proxy answers for these paths too.
fn reserved(path: &str) -> Response {
    let body = Reserved {
        message: route::RESERVED_MESSAGE,
        path,
        code: StatusCode::NOT_FOUND.as_u16(),
    };
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}
