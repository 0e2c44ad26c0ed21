//! One HTTP exchange with the stand-in agent.

use anyhow::{Context as _, Result};
use dormouse_engine::{Engine, InstanceId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

pub(crate) async fn get(engine: &dyn Engine, id: &InstanceId, path: &str) -> Result<String> {
    exchange(engine, id, &format!("GET {path} HTTP/1.1\r\n\r\n")).await
}

pub(crate) async fn sh(engine: &dyn Engine, id: &InstanceId, script: &str) -> Result<String> {
    exchange(
        engine,
        id,
        &format!("POST /sh HTTP/1.1\r\ncontent-length: {}\r\n\r\n{script}", script.len()),
    )
    .await
}

async fn exchange(engine: &dyn Engine, id: &InstanceId, request: &str) -> Result<String> {
    let mut stream = engine.connect(id, 49983).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("no answer to {request:?}: {answer:?}"))?;
    Ok(body.to_owned())
}
