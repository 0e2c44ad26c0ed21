//! `POST /sandboxes` and `POST /v2/sandboxes` (contract 2.3, 2.4, 4.1).

use std::collections::{BTreeMap, HashMap};

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use dormouse_control::NewSandbox;
use dormouse_store::OnTimeout;
use http::StatusCode;
use serde::Deserialize;
use serde::de::IgnoredAny;
use utoipa::ToSchema;

use super::connect::positive;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::network::NetworkBody;
use crate::openapi::Error;
use crate::state::ApiState;
use crate::{idempotency, json, wire};

/// Time to live when the client asks for none.
const DEFAULT_V1: i32 = 15;
const DEFAULT_V2: i32 = 300;

const MAX_IAM_TOKENS: usize = 5;

/// `NewSandbox` of both versions; v2 has no `secure`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewSandbox)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewSandboxBody {
    /// An id or a name, with a tag if need be: `base`, `base:v2`.
    #[serde(rename = "templateID")]
    template_id: String,
    /// Seconds to its end. 300 without it, 15 in the older route.
    #[schema(minimum = 1, maximum = 2147483647)]
    timeout: Option<i32>,
    /// At its end it is paused instead of killed.
    auto_pause: Option<bool>,
    auto_pause_memory: Option<bool>,
    /// Whether traffic wakes it.
    auto_resume: Option<AutoResume>,
    /// Accepted, and without effect: every sandbox is secured.
    secure: Option<bool>,
    #[serde(rename = "allow_internet_access")]
    allow_internet_access: Option<bool>,
    network: Option<NetworkBody>,
    metadata: Option<BTreeMap<String, String>>,
    /// Environment of every process.
    env_vars: Option<BTreeMap<String, String>>,
    iam: Option<Iam>,
    #[schema(value_type = Option<Vec<Object>>)]
    volume_mounts: Option<Vec<IgnoredAny>>,
}

#[derive(Debug, Deserialize, ToSchema)]
struct AutoResume {
    enabled: bool,
}

#[derive(Debug, Deserialize, ToSchema)]
struct Iam {
    tokens: Option<HashMap<String, IamToken>>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct IamToken {
    audience: String,
    token_type: String,
}

/// `POST /sandboxes`. Sandboxes are secured whatever `secure` says, as in the newest servers (contract 2.4).
#[utoipa::path(
    post, path = "/sandboxes", operation_id = "createSandboxV1", tag = "sandboxes",
    request_body = NewSandboxBody,
    responses(
        (status = 201, body = wire::Handle, description = "It runs"),
        (status = 404, body = Error, description = "No such template or tag"),
        (status = 409, body = Error, description = "The template was built for another engine"),
        (status = 429, body = Error, description = "As many sandboxes run as may"),
        (status = 501, body = Error, description = "A setting that this server cannot keep yet")
    )
)]
pub(super) async fn v1(caller: Caller, State(state): State<ApiState>, request: Request) -> Result<Response, ApiError> {
    let body = json::read(request.into_body(), state.config.max_body).await?;
    let body: NewSandboxBody = json::parse(&body)?;
    if body.secure == Some(false) && body.network.as_ref().is_some_and(|network| !network.is_public()) {
        return Err(ApiError::invalid(
            "network.allowPublicTraffic",
            "must not be false when secure is false",
        ));
    }
    let new = body.into_new(DEFAULT_V1)?;
    Ok(create(caller, state, new).await)
}

/// `POST /v2/sandboxes`, with an optional `Idempotency-Key`.
#[utoipa::path(
    post, path = "/v2/sandboxes", operation_id = "createSandbox", tag = "sandboxes",
    request_body = NewSandboxBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key and body get the same answer for a day", min_length = 1, max_length = 255, pattern = "^[a-z0-9-]+$")),
    responses(
        (status = 201, body = wire::Handle, description = "It runs"),
        (status = 404, body = Error, description = "No such template or tag"),
        (status = 409, body = Error, description = "The template was built for another engine, or the idempotency key is in use"),
        (status = 429, body = Error, description = "As many sandboxes run as may"),
        (status = 501, body = Error, description = "A setting that this server cannot keep yet"),
        (status = 422, body = Error, description = "An idempotency key of unknown outcome")
    )
)]
pub(super) async fn v2(caller: Caller, State(state): State<ApiState>, request: Request) -> Result<Response, ApiError> {
    let key = idempotency::key(request.headers())?;
    let bytes = json::read(request.into_body(), state.config.max_body).await?;
    let new = json::parse::<NewSandboxBody>(&bytes)?.into_new(DEFAULT_V2)?;
    let (store, team) = (state.store.clone(), caller.owner.team);
    let work = create(caller, state, new);
    match key {
        None => Ok(work.await),
        Some(key) => idempotency::once(&store, team, key, &bytes, work).await,
    }
}

async fn create(caller: Caller, state: ApiState, new: NewSandbox) -> Response {
    match state.control.create(&caller.owner, new).await {
        Ok(sandbox) => {
            let handle = wire::Handle::new(sandbox, state.config.domain.as_deref());
            (StatusCode::CREATED, Json(handle)).into_response()
        }
        Err(error) => ApiError::from(error).into_response(),
    }
}

impl NewSandboxBody {
    fn into_new(self, default_timeout: i32) -> Result<NewSandbox, ApiError> {
        let timeout = positive(self.timeout.unwrap_or(default_timeout))?;
        let given_timeout = self.timeout.map(|_| timeout);
        let template = self.template_id.trim().to_lowercase();
        if template.is_empty() {
            return Err(ApiError::invalid("templateID", "must not be empty"));
        }
        let on_timeout = if self.auto_pause == Some(true) {
            OnTimeout::Pause
        } else {
            OnTimeout::Kill
        };
        let auto_resume = self.auto_resume.is_some_and(|auto_resume| auto_resume.enabled);
        check_auto_pause_memory(self.auto_pause_memory, on_timeout, auto_resume)?;
        let env = self.env_vars.unwrap_or_default();
        check_env(&env)?;
        check_iam(self.iam)?;
        if self.volume_mounts.is_some_and(|mounts| !mounts.is_empty()) {
            return Err(ApiError::not_implemented("volumeMounts"));
        }
        let allow_internet = self.allow_internet_access;
        let network = self.network.map(|network| network.accept(allow_internet)).transpose()?;
        Ok(NewSandbox {
            template,
            timeout,
            given_timeout,
            on_timeout,
            auto_resume,
            secure: true,
            allow_internet,
            network,
            metadata: self.metadata.unwrap_or_default(),
            env,
        })
    }
}

fn check_auto_pause_memory(memory: Option<bool>, on_timeout: OnTimeout, auto_resume: bool) -> Result<(), ApiError> {
    if memory != Some(false) {
        return Ok(());
    }
    if on_timeout != OnTimeout::Pause {
        return Err(ApiError::invalid(
            "autoPauseMemory",
            "can only be false when autoPause is true",
        ));
    }
    if auto_resume {
        return Err(ApiError::invalid(
            "autoPauseMemory",
            "cannot be false when autoResume is enabled",
        ));
    }
    Err(ApiError::not_implemented("Pausing without memory (autoPauseMemory: false)"))
}

/// What no process can have in its environment.
fn check_env(env: &BTreeMap<String, String>) -> Result<(), ApiError> {
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(ApiError::invalid("envVars", format_args!("{name:?} is not a name")));
        }
        if value.contains('\0') {
            return Err(ApiError::invalid(
                "envVars",
                format_args!("the value of {name:?} contains a NUL"),
            ));
        }
    }
    Ok(())
}

fn check_iam(iam: Option<Iam>) -> Result<(), ApiError> {
    let tokens = iam.and_then(|iam| iam.tokens).unwrap_or_default();
    if tokens.len() > MAX_IAM_TOKENS {
        return Err(ApiError::invalid("iam.tokens", format_args!("more than {MAX_IAM_TOKENS}")));
    }
    for (name, token) in &tokens {
        if token.audience.is_empty() {
            return Err(ApiError::invalid("iam.tokens", format_args!("`{name}` has no audience")));
        }
        if token.token_type != "JWT-SVID" {
            return Err(ApiError::invalid(
                "iam.tokens",
                format_args!("`{name}`: tokenType must be JWT-SVID"),
            ));
        }
    }
    if tokens.is_empty() {
        Ok(())
    } else {
        Err(ApiError::not_implemented("iam.tokens"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};

    use super::*;

    fn parse(body: &Value) -> Result<NewSandbox, ApiError> {
        json::parse::<NewSandboxBody>(body.to_string().as_bytes())?.into_new(DEFAULT_V2)
    }

    async fn refused(body: Value, status: u16, message: &str) {
        let response = parse(&body).expect_err("refused").into_response();
        assert_eq!(response.status(), status, "{body}");
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let answer: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(answer["code"], status);
        assert!(answer["message"].as_str().unwrap().starts_with(message), "{answer}");
    }

    #[test]
    fn what_the_sdks_send_is_understood() {
        let new = parse(&json!({
            "templateID": " Base ", "metadata": {"a": "b"}, "envVars": {"C": "d"}, "timeout": 60,
            "network": {"denyOut": ["0.0.0.0/0"], "allowPublicTraffic": false},
            "autoPause": true, "autoResume": {"enabled": true}, "mcp": null, "later": [1],
        }))
        .unwrap();
        assert_eq!(new.template, "base");
        assert_eq!(
            (new.timeout, new.given_timeout),
            (Duration::from_secs(60), Some(Duration::from_secs(60)))
        );
        assert_eq!((new.on_timeout, new.auto_resume, new.secure), (OnTimeout::Pause, true, true));
        assert_eq!(new.network.unwrap().allow_public_traffic, Some(false));
        let new = parse(&json!({"templateID": "base", "metadata": null, "volumeMounts": [], "iam": {}})).unwrap();
        assert_eq!((new.timeout, new.given_timeout), (Duration::from_secs(300), None));
        assert_eq!((new.on_timeout, new.auto_resume), (OnTimeout::Kill, false));
    }

    #[tokio::test]
    async fn bad_timeouts_are_400() {
        for timeout in [0, -1, i64::from(i32::MIN)] {
            refused(
                json!({"templateID": "base", "timeout": timeout}),
                400,
                "Timeout must be greater than 0",
            )
            .await;
        }
        for timeout in [
            json!(i64::MAX),
            json!(2_147_483_648_i64),
            json!(1e300),
            json!("60"),
            json!(1.5),
        ] {
            let body = json!({"templateID": "base", "timeout": timeout});
            refused(body, 400, "Error when parsing request: timeout: invalid ").await;
        }
    }

    #[tokio::test]
    async fn rules_between_fields_are_kept() {
        let body = json!({"templateID": "base", "autoPauseMemory": false});
        refused(body, 400, "validation error: autoPauseMemory").await;
        let body = json!({"templateID": "base", "autoPauseMemory": false, "autoPause": true, "autoResume": {"enabled": true}});
        refused(body, 400, "validation error: autoPauseMemory").await;
        let body = json!({"templateID": "base", "autoPauseMemory": false, "autoPause": true});
        refused(body, 501, "Pausing without memory").await;
    }

    #[tokio::test]
    async fn what_cannot_be_kept_is_refused() {
        refused(
            json!({"templateID": "base", "volumeMounts": [{"name": "v", "path": "/v"}]}),
            501,
            "volumeMounts",
        )
        .await;
        let token = |kind: &str| json!({"templateID": "base", "iam": {"tokens": {"t": {"audience": "a", "tokenType": kind}}}});
        refused(token("JWT-SVID"), 501, "iam.tokens").await;
        refused(token("JWT"), 400, "validation error: iam.tokens").await;
    }

    #[tokio::test]
    async fn bad_names_are_named() {
        refused(json!({"templateID": " "}), 400, "validation error: templateID").await;
        refused(
            json!({"templateID": "base", "envVars": {"a=b": ""}}),
            400,
            "validation error: envVars: \"a=b\"",
        )
        .await;
        refused(
            json!({"templateID": "base", "envVars": {"a": "\0"}}),
            400,
            "validation error: envVars",
        )
        .await;
        let body = json!({"templateID": "base", "metadata": {"a": 1}});
        refused(body, 400, "Error when parsing request: metadata.a: invalid type: integer `1`").await;
        refused(
            json!({"templateID": "base", "autoResume": {}}),
            400,
            "Error when parsing request: autoResume: missing field `enabled`",
        )
        .await;
    }
}
