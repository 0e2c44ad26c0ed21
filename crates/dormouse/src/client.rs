//! A client of a running server, for the `sandbox` commands.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::config::Config;
use crate::data_dir::DataDir;

/// A server and the key to it.
#[derive(Debug)]
pub(crate) struct Server {
    url: String,
    key: String,
}

impl Server {
    /// The server of this data directory.
    pub(crate) fn of(config: &Config) -> anyhow::Result<Self> {
        let data = DataDir::open(&config.data_dir)?;
        let key = data
            .key()?
            .with_context(|| format!("No API key in {}: has a server run there?", config.data_dir.display()))?;
        Ok(Self {
            url: Self::url(config, &data),
            key,
        })
    }

    /// The same server with another key.
    #[must_use]
    pub(crate) fn with_key(mut self, key: Option<String>) -> Self {
        if let Some(key) = key {
            self.key = key;
        }
        self
    }

    /// Where it serves: what the running server has written down, or what is configured.
    pub(crate) fn url(config: &Config, data: &DataDir) -> String {
        written(data, "url").unwrap_or_else(|| format!("http://{}", reachable(config.listen)))
    }

    /// The port of HTTPS, as for [`url`](Self::url); `None` when it is not served.
    pub(crate) fn https_port(config: &Config, data: &DataDir) -> Option<u16> {
        let running = written(data, "tls").and_then(|address| address.parse::<SocketAddr>().ok());
        running
            .or(config.tls.as_ref().map(|tls| tls.listen))
            .map(|address| address.port())
    }

    /// One request to the API. Refusals are errors with the server's words.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Bytes> {
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("X-API-Key", &self.key);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let answer = client
            .request(request.body(Full::new(body))?)
            .await
            .with_context(|| format!("Cannot reach {}", self.url))?;
        let status = answer.status();
        let body = answer
            .into_body()
            .collect()
            .await
            .context("The server's answer breaks off")?
            .to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        let message = serde_json::from_slice::<Value>(&body)
            .ok()
            .and_then(|error| error.get("message")?.as_str().map(str::to_owned));
        bail!(
            "{} ({status})",
            message.unwrap_or_else(|| String::from_utf8_lossy(&body).into_owned())
        );
    }

    /// As [`ask`](Self::ask), for answers in JSON.
    pub(crate) async fn ask_json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<T> {
        let answer = self.ask(method, path, body).await?;
        serde_json::from_slice(&answer).context("The server's answer is not what was expected")
    }

    /// Brings bytes to where the server has said (contract 5.1 step 2).
    pub(crate) async fn put(&self, url: &str, body: Bytes) -> anyhow::Result<()> {
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let request = Request::builder().method(Method::PUT).uri(url).body(Full::new(body))?;
        let answer = client
            .request(request)
            .await
            .with_context(|| format!("Cannot reach {}", self.url))?;
        if answer.status().is_success() {
            return Ok(());
        }
        bail!("The server does not take the files ({})", answer.status());
    }

    /// A connection to the server, for streams.
    pub(crate) async fn connect(&self) -> anyhow::Result<TcpStream> {
        let url = url::Url::parse(&self.url)?;
        let addresses = url.socket_addrs(|| None)?;
        let stream = TcpStream::connect(&*addresses)
            .await
            .with_context(|| format!("Cannot reach {}", self.url))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// What the running server has written down.
fn written(data: &DataDir, what: &str) -> Option<String> {
    let text = std::fs::read(data.server()).ok()?;
    let server: Value = serde_json::from_slice(&text).ok()?;
    server.get(what)?.as_str().map(str::to_owned)
}

/// An address that a client on this host can use: a wildcard address stands for loopback.
pub(crate) fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}
