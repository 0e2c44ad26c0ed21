//! The files in a form that is uploaded (contract 3.3).

use std::io;
use std::pin::Pin;

use axum::body::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use http::header;
use multer::Multipart;

use super::disposition;
use crate::failure::Failure;

/// The only part of a form that holds a file.
const FILE_FIELD: &str = "file";

/// Bytes on their way in.
pub(crate) type Content = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Reads a form part by part.
pub(crate) struct Parts {
    form: Multipart<'static>,
    /// What the query says, for forms with a single file.
    path: Option<String>,
}

/// A file of the form. Its content is to be read before the next part.
pub(crate) struct Part {
    /// Where it goes, as the client names it.
    pub path: String,
    /// What is in it.
    pub content: Content,
}

impl Parts {
    /// The parts of `content`. `path` overrules the names in the form.
    pub(crate) fn new(content_type: &str, content: Content, path: Option<&str>) -> Result<Self, Failure> {
        let boundary = multer::parse_boundary(content_type)
            .map_err(|error| Failure::bad_request(format!("error parsing multipart form: {error}")))?;
        Ok(Self {
            form: Multipart::new(content, boundary),
            path: path.map(str::to_owned),
        })
    }

    /// The next file; other fields are passed over.
    pub(crate) async fn next(&mut self) -> Result<Option<Part>, Failure> {
        let broken = |error: multer::Error| Failure::bad_request(format!("error reading multipart form: {error}"));
        while let Some(part) = self.form.next_field().await.map_err(broken)? {
            let header = part.headers().get(header::CONTENT_DISPOSITION);
            // Names are UTF-8, which a header's own text conversion refuses.
            let header = header.map(|value| std::str::from_utf8(value.as_bytes())).transpose();
            let header = header.map_err(|_| Failure::bad_request("a file name is not valid UTF-8"))?;
            let disposition = disposition::parse(header.unwrap_or_default());
            if disposition.name.as_deref() != Some(FILE_FIELD) {
                continue;
            }
            let named = disposition.filename.filter(|name| !name.is_empty());
            let path = self.path.clone().or(named);
            let path = path.ok_or_else(|| Failure::bad_request("path or a file name is required for every file"))?;
            let content = part.map_err(io::Error::other).boxed();
            return Ok(Some(Part { path, content }));
        }
        Ok(None)
    }
}
