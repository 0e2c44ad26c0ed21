//! The agent's HTTP server: HTTP/1.1 and HTTP/2 without TLS, on one port.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use connectrpc::{ConnectRpcService, Limits};
use dormouse_agent_proto::route;
use http::{Method, StatusCode};
use tokio::net::TcpListener;
use tower_http::cors::{Any, CorsLayer};

use crate::agent::Agent;
use crate::filesystem::FilesystemService;
use crate::process::ProcessService;
use crate::{access, files, init, metrics, tunnel};

/// Largest RPC message. Clients put whole inputs into one `SendInput`.
const LARGEST_MESSAGE: usize = 64 << 20;

/// Serves until the listener fails.
pub(crate) async fn serve(agent: Arc<Agent>, listener: TcpListener) -> io::Result<()> {
    let app = router(agent).into_make_service_with_connect_info::<SocketAddr>();
    let listener = listener.tap_io(|stream| {
        // Events are small and somebody waits for each. A socket that refuses this still works.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, app).await
}

/// Everything that is served.
pub(crate) fn router(agent: Arc<Agent>) -> Router {
    let guard = axum::middleware::from_fn_with_state(Arc::clone(&agent), access::guard);
    Router::new()
        .route(route::HEALTH, get(async || StatusCode::NO_CONTENT))
        .route(route::METRICS, get(metrics::metrics))
        .route(route::ENVS, get(envs))
        .route(route::FILES, get(files::download).post(files::upload))
        .route(route::COMPOSE, post(files::compose))
        .route(route::INIT, post(init::init))
        .route(route::TUNNEL, get(tunnel::tunnel))
        .with_state(Arc::clone(&agent))
        .fallback_service(rpc(agent))
        .layer(guard)
        .layer(cors())
}

fn rpc(agent: Arc<Agent>) -> ConnectRpcService {
    let limits = Limits::unlimited()
        .with_max_request_body_size(LARGEST_MESSAGE)
        .with_max_message_size(LARGEST_MESSAGE);
    let services = connectrpc::Router::new()
        .add_service(Arc::new(ProcessService::new(Arc::clone(&agent))))
        .add_service(Arc::new(FilesystemService::new(agent)));
    ConnectRpcService::new(services).with_limits(limits)
}

/// Browsers may call from anywhere: the token is what protects a sandbox (contract 3.2).
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([
            Method::HEAD,
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ])
        .allow_headers(Any)
        .expose_headers(Any)
        .max_age(Duration::from_secs(7200))
}

/// `GET /envs` (contract 3.3).
async fn envs(State(agent): State<Arc<Agent>>) -> Json<std::collections::BTreeMap<String, String>> {
    Json(agent.identity.get().environment.clone())
}
