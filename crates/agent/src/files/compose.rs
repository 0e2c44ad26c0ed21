//! `POST /files/compose`: one file out of several (contract 3.3).
//!
//! Clients that upload in parallel send the pieces of a file as files and have them joined here.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use dormouse_agent_proto::rest::ComposeRequest;
use dormouse_agent_proto::rpc::filesystem::EntryInfo;
use http::StatusCode;

use super::{Caller, blocking, target};
use crate::agent::Agent;
use crate::failure::Failure;
use crate::filesystem::entry_info;
use crate::filesystem::metadata::Metadata;

/// Joins the sources, removes them and answers with the result's entry.
pub(crate) async fn compose(
    State(agent): State<Arc<Agent>>,
    Json(request): Json<ComposeRequest>,
) -> Result<Json<EntryInfo>, Failure> {
    let caller = Caller::named(&agent, agent.identity.get(), request.username.as_deref().unwrap_or_default())?;
    if request.source_paths.is_empty() {
        return Err(Failure::bad_request("source_paths must not be empty"));
    }
    if request.destination.is_empty() {
        return Err(Failure::bad_request("destination must not be empty"));
    }
    let sources = request
        .source_paths
        .iter()
        .map(|path| caller.resolve(path))
        .collect::<Result<Vec<_>, _>>()?;
    let destination = caller.resolve(&request.destination)?;
    blocking(move || join(&sources, &destination, &caller)).await.map(Json)
}

fn join(sources: &[PathBuf], destination: &Path, caller: &Caller) -> Result<EntryInfo, Failure> {
    // All are opened before anything is changed: a missing piece must not cost the others.
    let opened = sources.iter().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?;
    if destination.is_dir() {
        return Err(Failure::bad_request(format!(
            "path is a directory: {}",
            destination.display()
        )));
    }
    // Beside the destination first, because the destination may be one of the sources.
    let temporary = temporary_beside(destination);
    let joined = fill(&temporary, opened, caller)
        .and_then(|()| std::fs::rename(&temporary, destination).map_err(|error| Failure::io("renaming file", &error)));
    if let Err(failure) = joined {
        let _ = std::fs::remove_file(&temporary);
        return Err(failure);
    }
    for source in sources.iter().filter(|source| *source != destination) {
        // Named twice, it is gone at the second time.
        let _ = std::fs::remove_file(source);
    }
    entry_info(destination, &caller.accounts).map_err(|error| Failure::io("reading the result", &error))
}

fn open(path: &Path) -> Result<File, Failure> {
    let metadata = std::fs::metadata(path);
    match metadata {
        Ok(metadata) if metadata.is_file() => File::open(path).map_err(|error| Failure::io("opening file", &error)),
        Ok(_) => Err(Failure::bad_request(format!(
            "path '{}' is not a regular file",
            path.display()
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Failure::new(
            StatusCode::NOT_FOUND,
            format!("path '{}' does not exist", path.display()),
        )),
        Err(error) => Err(Failure::io("opening file", &error)),
    }
}

fn fill(path: &Path, sources: Vec<File>, caller: &Caller) -> Result<(), Failure> {
    let mut target = target::create(path, &caller.user, &Metadata::new())?;
    for mut source in sources {
        io::copy(&mut source, &mut target).map_err(|error| Failure::io("writing file", &error))?;
    }
    Ok(())
}

fn temporary_beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.part", std::process::id()));
    path.with_file_name(name)
}
