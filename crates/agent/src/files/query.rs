//! The query of both methods of `/files` (contract 3.3).

use axum::extract::{FromRequestParts, Query};
use http::Uri;
use http::request::Parts;
use percent_encoding::percent_decode_str;
use serde::Deserialize;

use crate::failure::Failure;

/// What a request for a file says about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct FilesQuery {
    pub path: Option<String>,
    pub username: Option<String>,
    pub signature: Option<String>,
    pub signature_expiration: Option<i64>,
}

impl FilesQuery {
    /// Reads the query of `uri`.
    pub(crate) fn read(uri: &Uri) -> Result<Self, Failure> {
        // The form decoder would put other characters in the place of what is no text, and so name another file.
        if percent_decode_str(uri.query().unwrap_or_default()).decode_utf8().is_err() {
            return Err(Failure::bad_request("the query is not valid UTF-8"));
        }
        let query = Query::try_from_uri(uri);
        query
            .map(|Query(query)| query)
            .map_err(|rejection| Failure::bad_request(rejection.body_text()))
    }
}

impl<S: Sync> FromRequestParts<S> for FilesQuery {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        Self::read(&parts.uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<FilesQuery, Failure> {
        FilesQuery::read(&format!("/files?{query}").parse().expect("a URI"))
    }

    #[test]
    fn text_arrives_as_it_was() {
        let query = read("path=%2Ftmp%2F%C3%BC%20b+c&username=user&signature_expiration=12").expect("valid");
        assert_eq!(query.path.as_deref(), Some("/tmp/ü b c"));
        assert_eq!(
            (query.username.as_deref(), query.signature_expiration),
            (Some("user"), Some(12))
        );
        assert_eq!(read("other=1"), Ok(FilesQuery::default()));
    }

    #[test]
    fn what_is_no_text_is_refused() {
        for query in [
            "path=%ff%fe",
            "path=a&username=%c0%ae",
            "signature_expiration=soon",
            "path=1&path=2",
        ] {
            assert_eq!(read(query).map_err(|failure| failure.status.as_u16()), Err(400), "{query}");
        }
    }
}
