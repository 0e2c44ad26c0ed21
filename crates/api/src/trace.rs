//! A name for each request, in the log and in the answer (`X-E2B-Trace-ID`, contract 1.5).

use std::time::Instant;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderName, HeaderValue};
use tracing::Instrument as _;

const TRACE_ID: HeaderName = HeaderName::from_static("x-e2b-trace-id");

/// Runs the request in a span with its trace id, and logs how it ended.
pub(crate) async fn follow(request: Request, next: Next) -> Response {
    let id = format!("{:016x}", rand::random::<u64>());
    let span = tracing::info_span!("api", trace = id, method = %request.method(), path = request.uri().path());
    async move {
        let start = Instant::now();
        let mut response = next.run(request).await;
        let status = response.status();
        let ms = start.elapsed().as_secs_f64() * 1000.0;
        tracing::debug!(status = status.as_u16(), ms, "answered");
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(TRACE_ID, id);
        }
        response
    }
    .instrument(span)
    .await
}
