//! Requests as an SDK sends them, over kept connections.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use dormouse_agent_client::{Caller, Command};
use dormouse_agent_proto::AGENT_PORT;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// A client of the server under measurement.
#[derive(Clone, Debug)]
pub(super) struct Client {
    server: SocketAddr,
    key: String,
    http: Http<HttpConnector, Full<Bytes>>,
}

/// A sandbox and the token to it.
#[derive(Clone, Debug)]
pub(super) struct Sandbox {
    pub(super) id: String,
    pub(super) token: Option<String>,
}

impl Client {
    pub(super) fn new(server: SocketAddr, key: String) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self {
            server,
            key,
            http: Http::builder(TokioExecutor::new()).build(connector),
        }
    }

    pub(super) async fn create(&self) -> anyhow::Result<Sandbox> {
        let body = json!({ "templateID": "base", "timeout": 600, "autoPause": true, "autoResume": { "enabled": true } });
        let made: Value = serde_json::from_slice(&self.api(Method::POST, "/v2/sandboxes", body).await?)?;
        let text = |name: &str| made.get(name).and_then(Value::as_str).map(str::to_owned);
        Ok(Sandbox {
            id: text("sandboxID").context("No sandbox id in the answer")?,
            token: text("envdAccessToken"),
        })
    }

    pub(super) async fn pause(&self, sandbox: &Sandbox) -> anyhow::Result<()> {
        self.api(Method::POST, &format!("/sandboxes/{}/pause", sandbox.id), json!({}))
            .await
            .map(drop)
    }

    pub(super) async fn kill(&self, sandbox: &Sandbox) -> anyhow::Result<()> {
        self.api(Method::DELETE, &format!("/sandboxes/{}", sandbox.id), Value::Null)
            .await
            .map(drop)
    }

    /// Runs `/bin/true` inside, to its end.
    pub(super) async fn run_true(&self, sandbox: &Sandbox) -> anyhow::Result<()> {
        let stream = TcpStream::connect(self.server).await?;
        stream.set_nodelay(true)?;
        let caller = Caller {
            access_token: sandbox.token.as_deref(),
            sandbox: Some(&sandbox.id),
            user: None,
        };
        let mut events = Command::new("/bin/true", Vec::<String>::new()).start(stream, caller).await?;
        while events.next().await?.is_some() {}
        Ok(())
    }

    /// The agent's `/health`, through the proxy: the smallest request that wakes a sandbox.
    pub(super) async fn touch(&self, sandbox: &Sandbox) -> anyhow::Result<()> {
        let mut request = Request::builder()
            .uri(format!("http://{}/health", self.server))
            .header("e2b-sandbox-id", &sandbox.id)
            .header("e2b-sandbox-port", AGENT_PORT);
        if let Some(token) = &sandbox.token {
            request = request.header("x-access-token", token);
        }
        let answer = self.http.request(request.body(Full::default())?).await?;
        if answer.status() != StatusCode::NO_CONTENT {
            bail!("{} instead of an answer from the sandbox", answer.status());
        }
        Ok(())
    }

    async fn api(&self, method: Method, path: &str, body: Value) -> anyhow::Result<Bytes> {
        let body = if body.is_null() {
            Bytes::new()
        } else {
            body.to_string().into()
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.server))
            .header("x-api-key", &self.key)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        let answer = self.http.request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            bail!("{path}: {status} {}", String::from_utf8_lossy(&body));
        }
        Ok(body)
    }
}
