//! `POST /files` (contract 3.3).

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use async_compression::tokio::bufread::GzipDecoder;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use dormouse_agent_proto::rest::{WrittenFile, WrittenKind};
use dormouse_agent_proto::signature::Operation;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use http::{HeaderMap, header};
use multer::Multipart;
use tokio::io::AsyncWriteExt as _;
use tokio_util::io::{ReaderStream, StreamReader};

use super::encoding::{Coding, of_request};
use super::{Caller, FilesQuery, blocking, disposition, target};
use crate::agent::Agent;
use crate::failure::Failure;
use crate::filesystem::metadata::{self, Metadata};

/// The only part of a form that holds a file.
const FILE_FIELD: &str = "file";

type Content = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Writes the files in the request's body.
pub(crate) async fn upload(
    State(agent): State<Arc<Agent>>,
    Query(query): Query<FilesQuery>,
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
            let boundary = multer::parse_boundary(content_type)
                .map_err(|error| Failure::bad_request(format!("error parsing multipart form: {error}")))?;
            upload.write_parts(Multipart::new(content, boundary), path).await?;
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
    async fn write_parts(&mut self, mut parts: Multipart<'static>, path: Option<&str>) -> Result<(), Failure> {
        let broken = |error: multer::Error| Failure::bad_request(format!("error reading multipart form: {error}"));
        while let Some(part) = parts.next_field().await.map_err(broken)? {
            let header = part.headers().get(header::CONTENT_DISPOSITION);
            // Names are UTF-8, which a header's own text conversion refuses.
            let header = header.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
            let disposition = disposition::parse(&header.unwrap_or_default());
            if disposition.name.as_deref() != Some(FILE_FIELD) {
                continue;
            }
            let named = disposition.filename.filter(|name| !name.is_empty());
            let path = match path.or(named.as_deref()) {
                Some(path) => path.to_owned(),
                None => return Err(Failure::bad_request("path or a file name is required for every file")),
            };
            self.write(&path, part.map_err(into_io).boxed()).await?;
        }
        Ok(())
    }

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

fn into_io(error: multer::Error) -> io::Error {
    io::Error::other(error)
}

fn root_cause(error: &io::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
