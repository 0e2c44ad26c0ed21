//! A front on a port of its own, with a double of the control plane, and hands to play sandbox and client with.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dormouse_control::{Route, RouteError, RunEnd, Visitor};
use dormouse_engine::{ConnectError, Connection, InstanceId};
use dormouse_proxy::{Backend, Front, FrontConfig, serve};
use dormouse_store::SandboxId;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The sandbox that most tests talk to, and its host name for port 3000.
pub(crate) const ID: &str = "i1abc";
pub(crate) const HOST: &str = "3000-i1abc.box.example";

/// Longer than anything takes that works.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Fails the test when `future` hangs.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LONG, future).await.expect("it hangs")
}

type Refuse = Box<dyn Fn() -> RouteError + Send>;

/// One sandbox of the double.
pub(crate) struct Sandbox {
    pub(crate) ports: HashMap<u16, SocketAddr>,
    pub(crate) route: Route,
    pub(crate) refuse: Option<Refuse>,
}

/// What a route was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) id: String,
    pub(crate) port: u16,
    pub(crate) traffic_token: Option<String>,
    pub(crate) access_token: Option<String>,
}

/// A control plane without any control.
#[derive(Default)]
pub(crate) struct Double {
    pub(crate) sandboxes: Mutex<HashMap<String, Sandbox>>,
    pub(crate) asked: Mutex<Vec<Asked>>,
    pub(crate) dials: AtomicUsize,
}

#[async_trait]
impl Backend for Double {
    async fn route(&self, id: &SandboxId, visitor: Visitor<'_>) -> Result<Route, RouteError> {
        self.asked.lock().unwrap().push(Asked {
            id: id.to_string(),
            port: visitor.port,
            traffic_token: visitor.traffic_token.map(str::to_owned),
            access_token: visitor.access_token.map(str::to_owned),
        });
        match self.sandboxes.lock().unwrap().get(id.as_str()) {
            None => Err(RouteError::NotFound),
            Some(Sandbox {
                refuse: Some(refuse), ..
            }) => Err(refuse()),
            Some(sandbox) => Ok(sandbox.route.clone()),
        }
    }

    async fn dial(&self, route: &Route, port: u16) -> Result<Connection, ConnectError> {
        self.dials.fetch_add(1, Ordering::SeqCst);
        let to = {
            let sandboxes = self.sandboxes.lock().unwrap();
            let Some(sandbox) = sandboxes.values().find(|sandbox| sandbox.route.instance == route.instance) else {
                return Err(ConnectError::Gone(route.instance.clone()));
            };
            sandbox.ports.get(&port).copied()
        };
        let to = to.ok_or(ConnectError::Refused(port))?;
        let stream = TcpStream::connect(to).await.map_err(|_| ConnectError::Refused(port))?;
        stream.set_nodelay(true).unwrap();
        Ok(Box::new(stream))
    }
}

impl Double {
    pub(crate) fn dials(&self) -> usize {
        self.dials.load(Ordering::SeqCst)
    }

    /// How often a route was asked for.
    pub(crate) fn routes(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// A running sandbox whose ports lead to `ports`.
    pub(crate) fn run(&self, id: &str, ports: impl IntoIterator<Item = (u16, SocketAddr)>) -> RunEnd {
        let ended = RunEnd::default();
        let route = Route {
            instance: InstanceId::random(),
            run: 1,
            mask_host: None,
            ended: ended.clone(),
        };
        let sandbox = Sandbox {
            ports: ports.into_iter().collect(),
            route,
            refuse: None,
        };
        self.sandboxes.lock().unwrap().insert(id.to_owned(), sandbox);
        ended
    }

    pub(crate) fn change(&self, id: &str, change: impl FnOnce(&mut Sandbox)) {
        change(self.sandboxes.lock().unwrap().get_mut(id).unwrap());
    }

    pub(crate) fn refuse(&self, id: &str, error: impl Fn() -> RouteError + Send + 'static) {
        self.run(id, []);
        self.change(id, |sandbox| sandbox.refuse = Some(Box::new(error)));
    }

    /// Ends the sandbox as control does: no new routes first, then the end of the old one.
    pub(crate) fn kill(&self, id: &str) {
        let sandbox = self.sandboxes.lock().unwrap().remove(id).unwrap();
        sandbox.route.ended.cancel();
    }
}

/// A front that serves.
pub(crate) struct World {
    pub(crate) address: SocketAddr,
    pub(crate) double: Arc<Double>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) serving: JoinHandle<std::io::Result<()>>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut FrontConfig)) -> Self {
        let mut config = FrontConfig {
            domains: vec!["box.example".to_owned()],
            // Long enough to be tried, short enough to be waited for.
            dial_waits: vec![Duration::from_millis(1); 4],
            ..FrontConfig::default()
        };
        change(&mut config);
        let double = Arc::new(Double::default());
        let backend: Arc<dyn Backend> = double.clone();
        let front = Front::new(backend, api(), config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, front, shutdown.clone()));
        Self {
            address,
            double,
            shutdown,
            serving,
        }
    }

    /// A front with one running sandbox, whose port 3000 is played by the test.
    pub(crate) async fn with_player() -> (Self, Player) {
        let world = Self::new().await;
        let player = Player::new().await;
        world.double.run(ID, [(3000, player.address), (49983, player.address)]);
        (world, player)
    }

    /// A client's connection.
    pub(crate) async fn connect(&self) -> Wire {
        Wire(TcpStream::connect(self.address).await.unwrap())
    }

    /// Sends `request` (lines with `\n`) and returns everything that comes until the connection ends.
    pub(crate) async fn ask(&self, request: &str) -> String {
        let mut wire = self.connect().await;
        wire.say(request).await;
        wire.rest().await
    }

    /// Sends one request over a new HTTP/1.1 connection.
    pub(crate) async fn send(&self, request: Request<TestBody>) -> Response<Incoming> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        soon(sender.send_request(request)).await.unwrap()
    }

    /// An HTTP/2 connection.
    pub(crate) async fn http2(&self) -> http2::SendRequest<TestBody> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }
}

fn api() -> axum::Router {
    use axum::routing::{any, get};
    axum::Router::new()
        .route(
            "/peer",
            get(|axum::Extension(peer): axum::Extension<SocketAddr>| async move { peer.ip().to_string() }),
        )
        .fallback(any(|request: axum::extract::Request| async move {
            format!("api {} {}", request.method(), request.uri().path())
        }))
}

pub(crate) type TestBody = BoxBody<Bytes, Infallible>;

pub(crate) fn empty() -> TestBody {
    Empty::new().boxed()
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> TestBody {
    Full::new(bytes.into()).boxed()
}

pub(crate) fn get(path: &str) -> Request<TestBody> {
    Request::get(path).header("host", HOST).body(empty()).unwrap()
}

pub(crate) async fn text(response: Response<Incoming>) -> String {
    let bytes = soon(response.into_body().collect()).await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(crate) async fn json(response: Response<Incoming>) -> serde_json::Value {
    serde_json::from_str(&text(response).await).unwrap()
}

/// A TCP connection that the test speaks on, byte by byte.
pub(crate) struct Wire(pub(crate) TcpStream);

impl Wire {
    /// Writes `text` with every `\n` as `\r\n`.
    pub(crate) async fn say(&mut self, text: &str) {
        self.write(text.replace('\n', "\r\n").as_bytes()).await;
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        soon(self.0.write_all(bytes)).await.unwrap();
    }

    /// Reads exactly `text`, `\n` standing for `\r\n`.
    pub(crate) async fn hear(&mut self, text: &str) {
        let expected = text.replace('\n', "\r\n");
        let mut got = vec![0; expected.len()];
        soon(self.0.read_exact(&mut got)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&got), expected);
    }

    pub(crate) async fn read(&mut self, length: usize) -> Vec<u8> {
        let mut got = vec![0; length];
        soon(self.0.read_exact(&mut got)).await.unwrap();
        got
    }

    /// Reads the head of a message, with `\n` for `\r\n`.
    pub(crate) async fn head(&mut self) -> String {
        let mut got = Vec::new();
        while !got.ends_with(b"\r\n\r\n") {
            got.push(soon(self.0.read_u8()).await.unwrap());
        }
        String::from_utf8(got).unwrap().replace("\r\n", "\n")
    }

    /// Reads until the other side closes, or breaks the connection.
    pub(crate) async fn rest(&mut self) -> String {
        let mut got = Vec::new();
        let mut part = [0; 4096];
        while let Ok(count @ 1..) = soon(self.0.read(&mut part)).await {
            got.extend_from_slice(&part[..count]);
        }
        String::from_utf8_lossy(&got).replace("\r\n", "\n")
    }
}

/// A port of a sandbox that the test speaks for.
pub(crate) struct Player {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl Player {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    /// The next connection from the proxy.
    pub(crate) async fn accept(&self) -> Wire {
        Wire(soon(self.listener.accept()).await.unwrap().0)
    }

    /// The next connection, with the head of its first request.
    pub(crate) async fn request(&self) -> (Wire, String) {
        let mut wire = self.accept().await;
        let head = wire.head().await;
        (wire, head)
    }
}

/// A server in a sandbox that answers every request with `answer`.
pub(crate) async fn server<F, A, B>(answer: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Response<B>> + Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = hyper::service::service_fn(move |request| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades(),
            );
        }
    });
    address
}
