//! Request bodies. Any content type, with or without a length (the JavaScript SDK sends every body chunked), unknown fields ignored.

use std::error::Error as _;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use http::StatusCode;
use http_body_util::LengthLimitError;
use serde::de::DeserializeOwned;

use crate::error::ApiError;
use crate::state::ApiState;

/// A body that takes longer than this is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// A JSON body that must be there.
pub(crate) struct Json<T>(pub(crate) T);

/// A JSON body; an absent or empty one counts as `{}`.
pub(crate) struct OptionalJson<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<ApiState> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, ApiError> {
        parse(&read(request.into_body(), state.config.max_body).await?).map(Self)
    }
}

impl<T: DeserializeOwned> FromRequest<ApiState> for OptionalJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, ApiError> {
        let body = read(request.into_body(), state.config.max_body).await?;
        if body.trim_ascii().is_empty() {
            parse(b"{}").map(Self)
        } else {
            parse(&body).map(Self)
        }
    }
}

/// The whole body, if it is not too long.
pub(crate) async fn read(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    match tokio::time::timeout(READ_TIMEOUT, axum::body::to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if error.source().is_some_and(|source| source.is::<LengthLimitError>()) => Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("The request body is longer than {limit} bytes"),
        )),
        Ok(Err(error)) => Err(ApiError::unparsable(format!("the body was cut off: {error}"))),
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "The request body did not arrive in time",
        )),
    }
}

/// JSON into a type; the error names the field.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    match body.trim_ascii_start().first() {
        None => return Err(ApiError::unparsable("the body is empty")),
        // Serde would take an array for a struct, its items in the order of the fields.
        Some(b'[') => return Err(ApiError::unparsable("the body is an array, not an object")),
        Some(_) => {}
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        // `.` is the body as a whole (a missing field is named by the text), `?` what could not be read far enough to have a name.
        match path.trim_end_matches(['.', '?']) {
            "" => ApiError::unparsable(error.into_inner()),
            path => ApiError::unparsable(format!("{path}: {}", error.into_inner())),
        }
    })?;
    json.end().map_err(ApiError::unparsable)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;
    use http_body_util::BodyExt as _;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Sample {
        #[serde(rename = "templateID")]
        _template_id: String,
        _timeout: Option<i32>,
        #[serde(rename = "network")]
        _network: Option<Network>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Network {
        #[serde(rename = "denyOut")]
        _deny_out: Vec<String>,
    }

    async fn check(body: &str, expected: &str) {
        let error = parse::<Sample>(body.as_bytes()).expect_err(body);
        let bytes = error.into_response().into_body().collect().await.unwrap().to_bytes();
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value["message"], format!("Error when parsing request: {expected}"));
    }

    #[tokio::test]
    async fn errors_name_the_field() {
        check("", "the body is empty").await;
        check("  \n", "the body is empty").await;
        check("{}", "missing field `templateID` at line 1 column 2").await;
        check(
            r#"{"templateID":7}"#,
            "templateID: invalid type: integer `7`, expected a string at line 1 column 15",
        )
        .await;
        check(
            r#"{"templateID":"x","network":{"denyOut":["a",5]}}"#,
            "network.denyOut[1]: invalid type: integer `5`, expected a string at line 1 column 45",
        )
        .await;
        check(r#"["x"]"#, "the body is an array, not an object").await;
        check("7", "invalid type: integer `7`, expected struct Sample at line 1 column 1").await;
        check(r#"{"templateID":"x"} x"#, "trailing characters at line 1 column 20").await;
        check(r#"{"templateID":"x""#, "EOF while parsing an object at line 1 column 17").await;
    }

    #[test]
    fn unknown_fields_are_ignored() {
        assert!(parse::<Sample>(br#"{"templateID":"x","forceUpload":true,"n":{"m":[1,2]}}"#).is_ok());
    }

    #[tokio::test]
    async fn a_long_body_is_refused() {
        let error = read(Body::from(vec![b'x'; 11]), 10).await.expect_err("too long");
        assert_eq!(error.into_response().status(), 413);
        assert_eq!(read(Body::from(vec![b'x'; 10]), 10).await.unwrap().len(), 10);
    }
}
