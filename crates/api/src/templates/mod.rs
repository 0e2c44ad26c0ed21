//! Templates: lists and names, builds, uploads, tags, publishing, deletion (contract section 5).

mod builds;
mod list;
mod manage;
mod request;
mod tags;
mod upload;

use std::sync::Arc;

use dormouse_builder::{Builder, BuilderError, names};
use dormouse_store::{BuildId, TemplateRecord};
use http::StatusCode;
use utoipa_axum::router::OpenApiRouter;

use crate::auth::Caller;
use crate::error::ApiError;
use crate::state::ApiState;

pub(crate) fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .merge(list::routes())
        .merge(request::routes())
        .merge(builds::routes())
        .merge(upload::routes())
        .merge(tags::routes())
        .merge(manage::routes())
}

impl From<BuilderError> for ApiError {
    fn from(error: BuilderError) -> Self {
        match error {
            BuilderError::Invalid(message) => Self::bad_request(message),
            BuilderError::NotWaiting => Self::bad_request(error.to_string()),
            BuilderError::UnknownBuild(_) => Self::new(StatusCode::NOT_FOUND, error.to_string()),
            BuilderError::ShuttingDown => Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            BuilderError::Store(error) => error.into(),
            other => Self::internal("The template builder failed", &other),
        }
    }
}

/// The builder, where there is one.
fn builder(state: &ApiState) -> Result<&Arc<Builder>, ApiError> {
    state
        .builder
        .as_ref()
        .ok_or_else(|| ApiError::not_implemented("Building templates"))
}

fn unknown(reference: &str) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, format!("template '{reference}' not found"))
}

/// The caller's own template. Another team's is as good as none, or refused with `others`, where the contract says so.
async fn own(state: &ApiState, caller: &Caller, reference: &str, others: StatusCode) -> Result<TemplateRecord, ApiError> {
    let name = names::parse(reference).map_err(|_| unknown(reference))?.name;
    match state.store.template(caller.owner.team, &name).await? {
        Some(template) if template.team == caller.owner.team => Ok(template),
        found => {
            let exists = found.is_some() || state.store.template_exists(&name).await?;
            Err(if exists && others == StatusCode::FORBIDDEN {
                ApiError::new(
                    StatusCode::FORBIDDEN,
                    format!("You don't have access to the template '{reference}'"),
                )
            } else {
                unknown(reference)
            })
        }
    }
}

fn build_id(text: &str) -> Result<BuildId, ApiError> {
    text.parse()
        .map_err(|_| ApiError::bad_request(format!("Invalid build ID: '{text}'")))
}

/// A template's name with its namespace, as clients show it.
pub(crate) fn full_name(alias: &str) -> String {
    format!("{}/{alias}", names::NAMESPACE)
}
