//! The service of the one listener.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt as _};

use crate::body::boxed;
use crate::forward::Forwarder;
use crate::routing::Way;
use crate::{Backend, Body, BoxError, FrontConfig, errors, preflight, routing};

/// Answers every request that comes in, by handing it to the API or by carrying it to a sandbox. Cheap to clone.
///
/// It is a [`hyper::service::Service`] and a [`tower::Service`], and never fails: what goes wrong is an answer.
///
/// Every request handed to the API has the client's [`SocketAddr`](std::net::SocketAddr) among its extensions when it came through
/// [`serve`](crate::serve).
#[derive(Clone)]
pub struct Front {
    shared: Arc<Shared>,
}

struct Shared {
    config: FrontConfig,
    forwarder: Forwarder,
    api: BoxCloneSyncService<Request<Incoming>, Response<Body>, Infallible>,
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front")
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

impl Front {
    /// A front before `api` (an axum `Router` fits) and the sandboxes of `backend`.
    pub fn new<A, B>(backend: Arc<dyn Backend>, api: A, config: FrontConfig) -> Self
    where
        A: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
        A::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let forwarder = Forwarder::new(backend, &config);
        let api = BoxCloneSyncService::new(api.map_response(|response: Response<B>| response.map(boxed)));
        Self {
            shared: Arc::new(Shared { config, forwarder, api }),
        }
    }

    /// What was set.
    #[must_use]
    pub fn config(&self) -> &FrontConfig {
        &self.shared.config
    }

    /// Answers one request.
    pub async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        let Shared { config, forwarder, api } = self.shared.as_ref();
        if request.method() == Method::CONNECT {
            return errors::no_connect();
        }
        match routing::way(&request, &config.domains) {
            Ok(Way::Sandbox(target)) => match preflight::answer(&target, &request) {
                Some(answer) => answer,
                None => forwarder.forward(config, &target, request).await,
            },
            Ok(Way::Api) => match api.clone().oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
            Err(error) => errors::unroutable(error),
        }
    }
}

impl hyper::service::Service<Request<Incoming>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let front = self.clone();
        Box::pin(async move { Ok(front.handle(request).await) })
    }
}

impl Service<Request<Incoming>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        hyper::service::Service::call(self, request)
    }
}
