//! `POST /files` (contract 3.3).

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_compression::tokio::bufread::GzipDecoder;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use dormouse_agent_proto::rest::{WrittenFile, WrittenKind};
use dormouse_agent_proto::signature::Operation;
use futures::{StreamExt as _, TryStreamExt as _};
use http::{HeaderMap, header};
use tokio::io::AsyncWriteExt as _;
use tokio_util::io::{ReaderStream, StreamReader};

use super::encoding::{Coding, of_request};
use super::parts::{Content, Parts};
use super::query::FilesQuery;
use super::{Caller, blocking, target};
use crate::agent::Agent;
use crate::failure::Failure;
use crate::filesystem::metadata::{self, Metadata};

/// Writes the files in the request's body.
pub(crate) async fn upload(
    State(agent): State<Arc<Agent>>,
    query: FilesQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Vec<WrittenFile>>, Failure> {
    let caller = Caller::admit(&agent, Operation::Write, &query, &headers)?;
    let metadata = metadata::from_headers(&headers).map_err(|error| Failure::bad_request(error.to_string()))?;
    let path = query.path.as_deref().filter(|path| !path.is_empty());
    let content = decoded(body, &headers)?;
    let mut upload = Upload {
        caller,
        metadata,
        seen: HashSet::new(),
        written: Vec::new(),
    };
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/octet-stream" => {
            let path = path.ok_or_else(|| Failure::bad_request("path is required for application/octet-stream uploads"))?;
            upload.write(path, content).await?;
        }
        "multipart/form-data" => {
            let mut parts = Parts::new(content_type, content, path)?;
            while let Some(part) = parts.next().await? {
                upload.write(&part.path, part.content).await?;
            }
        }
        _ => return Err(Failure::bad_request(format!("unsupported content type: '{content_type}'"))),
    }
    Ok(Json(upload.written))
}

/// The body without its content coding.
fn decoded(body: Body, headers: &HeaderMap) -> Result<Content, Failure> {
    let raw = body.into_data_stream().map_err(io::Error::other);
    match of_request(headers) {
        Ok(Coding::Identity) => Ok(Box::pin(raw)),
        Ok(Coding::Gzip) => {
            let mut decoder = GzipDecoder::new(StreamReader::new(raw));
            // Concatenated gzip files are one gzip file.
            decoder.multiple_members(true);
            Ok(Box::pin(ReaderStream::with_capacity(decoder, 64 << 10)))
        }
        Err(coding) => Err(Failure::bad_request(format!("unsupported content encoding: '{coding}'"))),
    }
}

/// One request's work.
struct Upload {
    caller: Caller,
    metadata: Metadata,
    seen: HashSet<PathBuf>,
    written: Vec<WrittenFile>,
}

impl Upload {
    async fn write(&mut self, path: &str, mut content: Content) -> Result<(), Failure> {
        let path = self.caller.resolve(path)?;
        if !self.seen.insert(path.clone()) {
            let message = format!(
                "you cannot upload multiple files to the same path '{}' in one upload request",
                path.display()
            );
            return Err(Failure::bad_request(message));
        }
        let (user, metadata, target) = (self.caller.user.clone(), self.metadata.clone(), path.clone());
        let file = blocking(move || target::create(&target, &user, &metadata)).await?;
        let mut file = tokio::fs::File::from_std(file);
        while let Some(bytes) = content.next().await {
            let bytes =
                bytes.map_err(|error| Failure::bad_request(format!("error reading the upload: {}", root_cause(&error))))?;
            file.write_all(&bytes)
                .await
                .map_err(|error| Failure::io("writing file", &error))?;
        }
        // Writes happen behind our back; only this tells how the last one went.
        file.flush().await.map_err(|error| Failure::io("writing file", &error))?;
        self.written.push(describe(&path, self.metadata.clone()));
        Ok(())
    }
}

fn describe(path: &Path, metadata: Metadata) -> WrittenFile {
    let name = path.file_name().unwrap_or(path.as_os_str());
    WrittenFile {
        path: path.to_string_lossy().into_owned(),
        name: name.to_string_lossy().into_owned(),
        r#type: WrittenKind::File,
        metadata,
    }
}

fn root_cause(error: &io::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
