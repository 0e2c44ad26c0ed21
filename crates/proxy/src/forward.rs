//! Carries one request to a sandbox and brings the answer back.

use std::sync::Arc;

use dormouse_agent_proto::AGENT_PORT;
use dormouse_agent_proto::route::ACCESS_TOKEN_HEADER;
use dormouse_control::{Route, RouteError, Visitor};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, request};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use crate::body::{boxed, full};
use crate::dial::{DialError, dial};
use crate::envelope::Envelopes;
use crate::errors::{Refusal, is_browser};
use crate::limit::{Entered, Limit};
use crate::payload::{Gatekeeper, Payload};
use crate::pool::{Key, Pool, Upstream};
use crate::relay::Relay;
use crate::reserved::reserved;
use crate::routing::{Target, named_host};
use crate::upgrade::{Listener, tunnel};
use crate::{Backend, Body, FrontConfig, headers};

/// The traffic access token (contract 4.5).
const TRAFFIC_TOKEN: &str = "e2b-traffic-access-token";

/// Most routes tried for one request. A second one is needed when the sandbox falls asleep between the route and the dial.
const MOST_ROUTES: usize = 3;

/// What forwarding needs.
pub(crate) struct Forwarder {
    backend: Arc<dyn Backend>,
    pool: Arc<Pool>,
    limit: Arc<Limit>,
}

/// A request while it is tried.
struct Outgoing {
    /// Taken while it is under way.
    request: Option<Request<Payload>>,
    /// For a request that may be sent twice, because it changes nothing and has no body.
    spare: Option<request::Parts>,
    /// What wakes and opens the sandbox.
    tokens: Tokens,
    /// The host that the client named.
    host: Option<String>,
    /// Set when the client asked for another protocol.
    upgrade: Option<OnUpgrade>,
    listener: Option<Listener>,
    gatekeeper: Option<Gatekeeper>,
}

/// A sandbox's answer, and where it came from.
struct Answered {
    answer: Response<Incoming>,
    upstream: Upstream,
    route: Route,
    entered: Entered,
}

impl Forwarder {
    pub(crate) fn new(backend: Arc<dyn Backend>, config: &FrontConfig) -> Self {
        Self {
            backend,
            pool: Pool::new(config.upstream_idle),
            limit: Limit::new(config.connections_per_sandbox),
        }
    }

    /// Answers `request` with what the target says to it, or with why it says nothing.
    pub(crate) async fn forward(&self, config: &FrontConfig, target: &Target, request: Request<Incoming>) -> Response<Body> {
        let browser = is_browser(request.headers());
        let path = if target.port == AGENT_PORT {
            reserved(request.uri().path())
        } else {
            None
        };
        let mut outgoing = Outgoing::new(request);
        let answered = match path {
            Some(path) => Err(Refusal::Reserved(path)),
            None => self.exchange(config, target, &mut outgoing).await,
        };
        match answered.and_then(|answered| outgoing.answer(target, answered)) {
            Ok(answer) => answer,
            Err(refusal) => {
                if let Some(request) = outgoing.request {
                    request.into_body().drain();
                }
                refusal.answer(target, browser)
            }
        }
    }

    async fn exchange(&self, config: &FrontConfig, target: &Target, outgoing: &mut Outgoing) -> Result<Answered, Refusal> {
        let mut route = self.route(target, &outgoing.tokens).await?;
        let entered = self.limit.enter(&target.id).map_err(Refusal::TooManyConnections)?;
        outgoing.address(&route, target.port);
        // A kept connection may be closed by the other side at the moment we write to it. That can be undone for a request that may be
        // sent twice; for others it is only risked with our own agent, which does not close connections.
        let mut keep = outgoing.spare.is_some() || target.port == AGENT_PORT;
        let mut routes = 1;
        loop {
            match self.upstream(config, &route, target.port, keep).await {
                Ok((mut upstream, reused)) => {
                    let Some(request) = outgoing.request.take() else {
                        return Err(Refusal::NoAnswer);
                    };
                    let mut error = match upstream.sender.try_send_request(request).await {
                        Ok(answer) => {
                            return Ok(Answered {
                                answer,
                                upstream,
                                route,
                                entered,
                            });
                        }
                        Err(error) => error,
                    };
                    outgoing.request = error.take_message().or_else(|| outgoing.again());
                    let gone = route.ended.is_cancelled();
                    tracing::debug!(error = %error.into_error(), sandbox = %target.id, port = target.port, gone, reused, "no answer");
                    if outgoing.request.is_none() || !(gone || reused) {
                        return Err(if gone { Refusal::NotFound } else { Refusal::NoAnswer });
                    }
                    // One such surprise is enough.
                    keep = false;
                    if !gone {
                        continue;
                    }
                }
                Err(DialError::Gone) => {}
                Err(DialError::Closed) => return Err(Refusal::PortClosed),
            }
            if routes == MOST_ROUTES {
                return Err(Refusal::NotFound);
            }
            routes += 1;
            route = self.route(target, &outgoing.tokens).await?;
        }
    }

    async fn route(&self, target: &Target, tokens: &Tokens) -> Result<Route, Refusal> {
        let route = self.backend.route(&target.id, tokens.visitor(target.port)).await;
        route.map_err(|error| {
            if let RouteError::Failed { .. } = error {
                tracing::warn!(error = &error as &dyn std::error::Error, sandbox = %target.id, "traffic could not wake a sandbox");
            }
            error.into()
        })
    }

    /// A connection, and whether it has carried requests before.
    async fn upstream(&self, config: &FrontConfig, route: &Route, port: u16, keep: bool) -> Result<(Upstream, bool), DialError> {
        let key = Key::new(route, port);
        if keep && let Some(upstream) = self.pool.take(&key) {
            return Ok((upstream, true));
        }
        let stream = dial(self.backend.as_ref(), config, route, port).await?;
        match self.pool.open(stream, key, route.ended.clone()).await {
            Ok(upstream) => Ok((upstream, false)),
            Err(_) => Err(DialError::Closed),
        }
    }
}

impl Outgoing {
    fn new(mut incoming: Request<Incoming>) -> Self {
        let tokens = Tokens::of(incoming.headers());
        // It was readable when the way was chosen.
        let host = named_host(&incoming).ok().flatten().map(str::to_owned);
        let on_upgrade = hyper::upgrade::on(&mut incoming);
        let (mut parts, body) = incoming.into_parts();
        let listener = parts.extensions.remove();
        let payload = Payload::new(body);
        let has_body = !http_body::Body::is_end_stream(&payload);
        let upgrade = headers::to_sandbox(&mut parts.headers, parts.version, has_body).map(|_| on_upgrade);
        // The token opens the door, and what runs inside has no business with it.
        parts.headers.remove(TRAFFIC_TOKEN);
        parts.version = Version::HTTP_11;
        // In origin form: the authority is in the host header.
        parts.uri = parts
            .uri
            .path_and_query()
            .cloned()
            .map_or_else(|| Uri::from_static("/"), Uri::from);
        let spare = (!has_body && parts.method.is_safe() && parts.method != Method::CONNECT).then(|| parts.clone());
        let waits = has_body && expects_continue(&parts.headers);
        let mut request = Request::from_parts(parts, payload);
        Self {
            gatekeeper: waits.then(|| Payload::hold_back(&mut request)),
            request: Some(request),
            spare,
            tokens,
            host,
            upgrade,
            listener,
        }
    }

    /// Sets the host that the sandbox sees.
    fn address(&mut self, route: &Route, port: u16) {
        let mask = route.mask_host.as_deref().filter(|_| port != AGENT_PORT);
        let headers = self.request.as_mut().map(Request::headers_mut);
        for headers in headers.into_iter().chain(self.spare.as_mut().map(|parts| &mut parts.headers)) {
            headers::set_host(headers, self.host.as_deref(), mask, port);
        }
    }

    /// The same request once more, if that does no harm.
    fn again(&self) -> Option<Request<Payload>> {
        let parts = self.spare.clone()?;
        Some(Request::from_parts(parts, Payload::empty()))
    }

    /// Makes a sandbox's answer one for the client.
    fn answer(&mut self, target: &Target, answered: Answered) -> Result<Response<Body>, Refusal> {
        let Answered {
            mut answer,
            upstream,
            route,
            entered,
        } = answered;
        *answer.version_mut() = Version::HTTP_11;
        if let Some(keeper) = &self.gatekeeper {
            keeper.answered();
        }
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            // Without having been asked it is nonsense.
            let client = self.upgrade.take().ok_or(Refusal::NoAnswer)?;
            let sandbox = hyper::upgrade::on(&mut answer);
            headers::to_client(answer.headers_mut(), true);
            tokio::spawn(tunnel(client, sandbox, route.ended, self.listener.take(), entered));
            return Ok(answer.map(|_| full("")));
        }
        headers::to_client(answer.headers_mut(), false);
        let envelopes = Envelopes::of(answer.headers());
        let keepers = (self.gatekeeper.take(), entered);
        Ok(answer.map(|body| boxed(Relay::new(body, envelopes, target.id.clone(), route.ended, upstream, keepers))))
    }
}

fn expects_continue(headers: &HeaderMap) -> bool {
    headers
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// The credentials in a request.
struct Tokens {
    traffic: Option<HeaderValue>,
    access: Option<HeaderValue>,
}

impl Tokens {
    fn of(headers: &HeaderMap) -> Self {
        Self {
            traffic: headers.get(TRAFFIC_TOKEN).cloned(),
            access: headers.get(ACCESS_TOKEN_HEADER).cloned(),
        }
    }

    fn visitor(&self, port: u16) -> Visitor<'_> {
        Visitor {
            port,
            traffic_token: self.traffic.as_ref().and_then(|value| value.to_str().ok()),
            access_token: self.access.as_ref().and_then(|value| value.to_str().ok()),
        }
    }
}
