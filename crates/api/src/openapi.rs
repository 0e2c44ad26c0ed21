//! The OpenAPI document: what every handler declares beside its code, completed by what holds for all of them.
//!
//! The document is checked in as `docs/openapi.json` and served at `GET /openapi.json`, without a key: it holds nothing that the source
//! does not say. A test fails when the two differ.

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse as _;
use axum::routing::get;
use serde::Serialize;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Components, ContentBuilder, OpenApi as Document, Ref, RefOr, Required};
use utoipa::{Modify, OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use crate::state::ApiState;

/// Every refusal and failure.
#[derive(Serialize, ToSchema)]
pub(crate) struct Error {
    /// The HTTP status once more.
    #[schema(minimum = 400, maximum = 599)]
    code: u16,
    /// For people.
    message: String,
    /// Tells refusals of one status apart.
    #[schema(nullable = false)]
    error_code: Option<String>,
}

/// What stands above all routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Dormouse",
        description = "Sandboxes over E2B's control API. What runs inside of one is reached at its own host name, not here.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(Error)),
    security(("apiKey" = []), ("bearer" = [])),
    modifiers(&Keys)
)]
struct Base;

struct Keys;

impl Modify for Keys {
    fn modify(&self, document: &mut Document) {
        let components = document.components.get_or_insert_with(Components::default);
        let key = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key")));
        components.add_security_scheme("apiKey", key);
        components.add_security_scheme("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

/// The document before any route is added.
pub(crate) fn base() -> Document {
    Base::openapi()
}

/// Adds what holds for many routes: parameters of paths, and refusals.
pub(crate) fn complete(document: &mut Document) {
    for (path, item) in &mut document.paths.paths {
        for (changes, operation) in operations(item) {
            add_parameters(path, operation);
            let keyless = operation.security.is_some();
            let has_body = operation.request_body.is_some();
            let has_id = path.contains('{');
            let bounded = operation.parameters.as_ref().is_some_and(|all| !all.is_empty());
            let refusals = [
                (400, "Malformed: a body, a parameter or an id", has_body || bounded),
                (401, "No API key, or a wrong one", !keyless),
                (404, "Missing, or another team's", has_id),
                (408, "The body did not arrive in time", has_body),
                (413, "The body is too long", has_body),
                (500, "Something failed; the reason is in the server's log", !keyless),
                (
                    503,
                    "The server is shutting down, or the host has no room",
                    changes && !keyless,
                ),
            ];
            for (status, what, _) in refusals.into_iter().filter(|(_, _, applies)| *applies) {
                refuse(operation, status, what);
            }
        }
    }
}

/// The operations of a path; the first says whether it changes something.
fn operations(item: &mut PathItem) -> impl Iterator<Item = (bool, &mut Operation)> {
    let PathItem {
        get,
        put,
        post,
        delete,
        patch,
        ..
    } = item;
    [(false, get), (true, put), (true, post), (true, delete), (true, patch)]
        .into_iter()
        .filter_map(|(changes, operation)| Some((changes, operation.as_mut()?)))
}

/// The placeholders of a path that the handler does not describe itself.
fn add_parameters(path: &str, operation: &mut Operation) {
    let parameters = operation.parameters.get_or_insert_with(Vec::new);
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    for name in names {
        let described = |parameter: &RefOr<Parameter>| matches!(parameter, RefOr::T(parameter) if parameter.name == name);
        if !parameters.iter().any(described) {
            parameters.push(RefOr::T(path_parameter(path, name)));
        }
    }
}

fn path_parameter(path: &str, name: &str) -> Parameter {
    let sandbox = name == "id" && path.contains("/sandboxes/");
    let (what, pattern) = if sandbox {
        (
            "The sandbox; what follows a `-` is ignored",
            Some("^[a-z0-9]{1,64}(-[a-z0-9]+)?$"),
        )
    } else {
        ("", None)
    };
    let schema = ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::String))
        .pattern(pattern);
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description((!what.is_empty()).then_some(what))
        .schema(Some(schema))
        .build()
}

/// Adds a refusal to an operation that does not describe it itself.
fn refuse(operation: &mut Operation, status: u16, what: &str) {
    let responses = &mut operation.responses.responses;
    responses.entry(status.to_string()).or_insert_with(|| RefOr::T(refusal(what)));
}

/// An answer whose body is an [`Error`].
pub(crate) fn refusal(what: &str) -> Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Error"))).build();
    ResponseBuilder::new()
        .description(what)
        .content("application/json", content)
        .build()
}

/// Serves the document.
pub(crate) fn serve(document: &Document) -> OpenApiRouter<ApiState> {
    let text: &'static str = text(document).leak();
    OpenApiRouter::new().route(
        "/openapi.json",
        get(async move || ([(CONTENT_TYPE, "application/json")], text).into_response()),
    )
}

/// The document as it is checked in.
pub(crate) fn text(document: &Document) -> String {
    // Made of strings and numbers only: it cannot fail.
    document.to_pretty_json().unwrap_or_default() + "\n"
}
