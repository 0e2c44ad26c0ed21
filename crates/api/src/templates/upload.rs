//! Archives of files for COPY (contract 5.1 step 2).

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use dormouse_builder::{UploadError, UploadTicket};
use http::{HeaderMap, StatusCode, Uri, header};
use http_body_util::BodyExt as _;
use serde::Serialize;
use url::form_urlencoded;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{builder, own};
use crate::auth::Caller;
use crate::error::ApiError;
use crate::openapi::Error;
use crate::path::Segments;
use crate::state::ApiState;

pub(super) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(link, upload))
}

/// `TemplateBuildFileUpload`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TemplateBuildFileUpload)]
struct Link {
    present: bool,
    url: String,
}

/// `GET /templates/{id}/files/{hash}`: where the archive goes. There is always a link: the client may want to replace what is there.
#[utoipa::path(
    get, path = "/templates/{id}/files/{hash}", operation_id = "getTemplateFilesUpload", tag = "templates",
    responses(
        (status = 201, body = Link, description = "Whether the archive is there, and where to put it")
    )
)]
async fn link(
    caller: Caller,
    State(state): State<ApiState>,
    Segments([template, hash]): Segments<2>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let template = own(&state, &caller, &template, StatusCode::NOT_FOUND).await?;
    let (present, ticket) = builder(&state)?.upload_ticket(caller.owner.team, &hash)?;
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("team", &ticket.team.to_string())
        .append_pair("expires", &ticket.expires.to_string())
        .append_pair("signature", &ticket.signature)
        .finish();
    let origin = origin(&uri, &headers).ok_or_else(|| ApiError::bad_request("The request has no host"))?;
    let url = format!("{origin}/templates/{}/files/{hash}?{query}", template.id);
    Ok((StatusCode::CREATED, axum::Json(Link { present, url })).into_response())
}

/// Where the client has found this server.
fn origin(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let host = match uri.authority() {
        Some(authority) => authority.as_str(),
        None => headers.get(header::HOST)?.to_str().ok()?,
    };
    // A proxy in front says how it was reached.
    let forwarded = headers.get("x-forwarded-proto").and_then(|scheme| scheme.to_str().ok());
    let scheme = forwarded
        .or(uri.scheme_str())
        .filter(|scheme| *scheme == "https")
        .unwrap_or("http");
    Some(format!("{scheme}://{host}"))
}

/// `PUT`, by the link alone: without a key, of any content type.
#[utoipa::path(
    put, path = "/templates/{id}/files/{hash}", operation_id = "uploadTemplateFiles", tag = "templates",
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "A tar archive, compressed with gzip"),
    params(
        ("team" = String, Query, description = "From the link"),
        ("expires" = i64, Query, description = "From the link"),
        ("signature" = String, Query, description = "From the link")
    ),
    responses(
        (status = 200, description = "The archive is there"),
        (status = 403, body = Error, description = "The link is not valid, or no longer")
    ),
    security(())
)]
async fn upload(
    State(state): State<ApiState>,
    Segments([_, hash]): Segments<2>,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let bad = || ApiError::new(StatusCode::FORBIDDEN, UploadError::BadTicket.to_string());
    let (mut team, mut expires, mut signature) = (None, None, String::new());
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*name {
            "team" => team = value.parse().ok(),
            "expires" => expires = value.parse().ok(),
            "signature" => signature = value.into_owned(),
            _ => {}
        }
    }
    let ticket = UploadTicket {
        team: team.ok_or_else(bad)?,
        hash,
        expires: expires.ok_or_else(bad)?,
        signature,
    };
    let mut upload = builder(&state)?.receive(&ticket).await.map_err(refused)?;
    let mut body = body;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::unparsable(format!("the body was cut off: {error}")))?;
        if let Some(bytes) = frame.data_ref() {
            upload.write(bytes).await.map_err(refused)?;
        }
    }
    upload.finish().await.map_err(refused)?;
    Ok(StatusCode::OK)
}

fn refused(error: UploadError) -> ApiError {
    match error {
        UploadError::BadTicket => ApiError::new(StatusCode::FORBIDDEN, error.to_string()),
        UploadError::TooBig(_) => ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()),
        other => ApiError::internal("The archive could not be stored", &other),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn links_lead_back_to_where_the_client_came_from() {
        let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("127.0.0.1:3000"))]);
        assert_eq!(origin(&Uri::from_static("/x"), &headers).unwrap(), "http://127.0.0.1:3000");
        let uri = Uri::from_static("https://api.example.com/x");
        assert_eq!(origin(&uri, &HeaderMap::new()).unwrap(), "https://api.example.com");
        let mut behind = headers;
        behind.insert("x-forwarded-proto", HeaderValue::from_static("https"));
        assert_eq!(origin(&Uri::from_static("/x"), &behind).unwrap(), "https://127.0.0.1:3000");
        assert_eq!(origin(&Uri::from_static("/x"), &HeaderMap::new()), None);
    }
}
