//! Every route, and what surrounds all of them.

use std::any::Any;

use axum::response::{IntoResponse as _, Response};
use axum::{Router, middleware};
use http::StatusCode;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::OpenApi as Document;
use utoipa_axum::router::OpenApiRouter;

use crate::error::ApiError;
use crate::state::ApiState;
use crate::{cors, health, later, openapi, sandboxes, ssh_keys, teams, templates, trace};

/// The control API. Every answer, refusals included, is JSON or empty.
pub fn router(state: ApiState) -> Router {
    let (routes, document) = parts();
    let (document, _) = openapi::serve(&document).split_for_parts();
    surround(routes.merge(document)).with_state(state)
}

/// The OpenAPI document of the API, as JSON.
#[must_use]
pub fn openapi_json() -> String {
    openapi::text(&parts().1)
}

fn parts() -> (Router<ApiState>, Document) {
    let (routes, mut document) = OpenApiRouter::with_openapi(openapi::base())
        .merge(health::routes())
        .merge(sandboxes::routes())
        .merge(templates::routes())
        .merge(teams::routes())
        .merge(ssh_keys::routes())
        .merge(later::routes())
        .split_for_parts();
    openapi::complete(&mut document);
    (routes, document)
}

fn surround<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    routes
        .fallback(async || ApiError::new(StatusCode::NOT_FOUND, "No such route"))
        .method_not_allowed_fallback(async || ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed"))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(trace::follow))
        .layer(middleware::from_fn(cors::allow))
}

// The layer passes the box by value.
#[expect(clippy::needless_pass_by_value)]
fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(message, "a handler panicked");
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error").into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use http::Request;
    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};
    use tower::ServiceExt as _;

    use super::*;

    async fn boom() {
        panic!("boom");
    }

    async fn check(method: &str, path: &str, status: u16, body: Value) -> http::HeaderMap {
        let router = surround(Router::new().route("/panic", get(boom)));
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), status);
        let headers = response.headers().clone();
        assert_eq!(headers["access-control-allow-origin"], "*");
        assert_eq!(headers["x-e2b-trace-id"].len(), 16);
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), body);
        headers
    }

    #[tokio::test]
    async fn panics_wrong_methods_and_unknown_routes_are_json() {
        let headers = check("GET", "/panic", 500, json!({"code": 500, "message": "Internal server error"})).await;
        assert_eq!(headers["should-retry"], "false");
        let headers = check("POST", "/panic", 405, json!({"code": 405, "message": "Method not allowed"})).await;
        assert_eq!(headers["allow"], "GET,HEAD");
        check("GET", "/nothing", 404, json!({"code": 404, "message": "No such route"})).await;
    }

    #[tokio::test]
    async fn a_preflight_is_204_and_allows_what_it_asks() {
        let router = surround(Router::new().route("/panic", get(boom)));
        let request = Request::options("/anything")
            .header("origin", "https://example.com")
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "x-api-key,keepalive-ping-interval")
            .body(Body::empty())
            .unwrap();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), 204);
        assert_eq!(response.headers()["access-control-allow-origin"], "*");
        assert_eq!(
            response.headers()["access-control-allow-headers"],
            "x-api-key,keepalive-ping-interval"
        );
        assert!(
            response.headers()["access-control-allow-methods"]
                .to_str()
                .unwrap()
                .contains("DELETE")
        );
    }
}
