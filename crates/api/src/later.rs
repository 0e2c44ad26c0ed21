//! Routes of the contract that Dormouse does not serve yet. They say so with a 501: a 404 would make an SDK tell its user that the
//! sandbox is gone, and a 2xx would be a lie.

use axum::routing::{MethodFilter, MethodRouter, on};
use utoipa::openapi::HttpMethod;
use utoipa::openapi::path::{Operation, OperationBuilder};
use utoipa_axum::router::OpenApiRouter;

use crate::auth::Caller;
use crate::error::ApiError;
use crate::openapi;
use crate::state::ApiState;

const ANY: MethodFilter = MethodFilter::GET
    .or(MethodFilter::POST)
    .or(MethodFilter::PUT)
    .or(MethodFilter::PATCH)
    .or(MethodFilter::DELETE);

/// The methods of [`ANY`] as the OpenAPI document names them.
const METHODS: &[(MethodFilter, HttpMethod)] = &[
    (MethodFilter::GET, HttpMethod::Get),
    (MethodFilter::POST, HttpMethod::Post),
    (MethodFilter::PUT, HttpMethod::Put),
    (MethodFilter::PATCH, HttpMethod::Patch),
    (MethodFilter::DELETE, HttpMethod::Delete),
];

/// Path, methods, and what is missing.
const ROUTES: &[(&str, MethodFilter, &str)] = &[
    ("/sandboxes/metrics", MethodFilter::GET, "Sandbox metrics"),
    ("/sandboxes/{id}/metrics", MethodFilter::GET, "Sandbox metrics"),
    ("/sandboxes/{id}/fork", MethodFilter::POST, "Fork"),
    ("/sandboxes/{id}/snapshots", MethodFilter::POST, "Snapshots"),
    (
        "/sandboxes/{id}/network",
        MethodFilter::PUT,
        "Changing the network settings of a sandbox",
    ),
    ("/v2/sandboxes/{id}/logs", MethodFilter::GET, "Filtered sandbox logs"),
    ("/snapshots", MethodFilter::GET, "Snapshots"),
    ("/volumes", ANY, "Volumes"),
    ("/volumes/{id}", ANY, "Volumes"),
    ("/secrets", ANY, "Secrets"),
    ("/secrets/{id}", ANY, "Secrets"),
    ("/teams/{id}/metrics", MethodFilter::GET, "Team metrics"),
    ("/teams/{id}/metrics/max", MethodFilter::GET, "Team metrics"),
    ("/api-keys", ANY, "Managing API keys over the API"),
    ("/api-keys/{id}", ANY, "Managing API keys over the API"),
    ("/events/sandboxes", MethodFilter::GET, "Events"),
    ("/events/sandboxes/{id}", MethodFilter::GET, "Events"),
    ("/events/webhooks", ANY, "Webhooks"),
    ("/events/webhooks/{id}", ANY, "Webhooks"),
];

pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    let mut router = OpenApiRouter::new();
    for &(path, methods, what) in ROUTES {
        router = router.route(path, refuse(methods, what));
        for (filter, method) in METHODS {
            if methods.or(*filter) == methods {
                let operation = describe(what);
                router
                    .get_openapi_mut()
                    .paths
                    .add_path_operation(path, vec![method.clone()], operation);
            }
        }
    }
    router
}

fn refuse(methods: MethodFilter, what: &'static str) -> MethodRouter<ApiState> {
    on(methods, async move |_: Caller| ApiError::not_implemented(what))
}

fn describe(what: &str) -> Operation {
    OperationBuilder::new()
        .tag("later")
        .summary(Some(format!("{what}: not supported yet")))
        .response("501", openapi::refusal("Not supported yet"))
        .build()
}
