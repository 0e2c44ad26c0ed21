//! A DNS server to be forwarded to, and a DNS client that can be used from any namespace.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, Metadata, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::net::runtime::Time;
use hickory_server::Server;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::TcpListener;

use super::inside;

/// What every `A` question for a name that exists is answered with.
pub(crate) const ANSWER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);

/// The server. Knows all names but those that begin with `missing`; has a large `TXT` record for each.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    asked: Arc<AtomicUsize>,
    _server: Server<Handler>,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        let udp = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("loopback");
        let address = udp.local_addr().expect("bound");
        let tcp = TcpListener::bind(address)
            .await
            .expect("the same port is free in a namespace of our own");
        let asked = Arc::new(AtomicUsize::new(0));
        let mut server = Server::new(Handler {
            asked: Arc::clone(&asked),
        });
        server.register_socket(udp);
        server.register_listener(tcp, Duration::from_secs(5), 8);
        Self {
            address,
            asked,
            _server: server,
        }
    }

    /// How many questions came.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

struct Handler {
    asked: Arc<AtomicUsize>,
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut response: R) -> ResponseInfo {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let query = request.request_info().expect("one question").query;
        let name = Name::from(query.name().clone());
        let mut metadata = Metadata::response_from_request(&request.metadata);
        let answers = match query.query_type() {
            _ if name.to_string().starts_with("missing") => {
                metadata.response_code = ResponseCode::NXDomain;
                Vec::new()
            }
            RecordType::A => vec![Record::from_rdata(name, 300, RData::A(A(ANSWER)))],
            RecordType::TXT => {
                let long = vec!["x".repeat(250); 8];
                vec![Record::from_rdata(name, 300, RData::TXT(TXT::new(long)))]
            }
            _ => Vec::new(),
        };
        let answer = MessageResponseBuilder::from_message_request(request).build(metadata, &answers, [], [], []);
        response.send_response(answer).await.expect("the client listens")
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_str(name).expect("a name"), kind));
    message
}

/// Asks the sandbox's DNS server over UDP, from inside. Off the runtime: the server runs there.
pub(crate) async fn ask(netns: &Path, name: &str, kind: RecordType) -> Message {
    let (netns, message) = (netns.to_path_buf(), question(name, kind).to_vec().expect("a message"));
    let answer = tokio::task::spawn_blocking(move || {
        inside(&netns, || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
            socket.send_to(&message, "169.254.77.1:53").expect("sends");
            let mut answer = vec![0; 65536];
            let length = socket.recv(&mut answer).expect("an answer");
            answer.truncate(length);
            answer
        })
    });
    Message::from_vec(&answer.await.expect("no panic")).expect("a message")
}

/// The same over TCP.
pub(crate) async fn ask_tcp(netns: &Path, name: &str, kind: RecordType) -> Message {
    let (netns, message) = (netns.to_path_buf(), question(name, kind).to_vec().expect("a message"));
    let answer = tokio::task::spawn_blocking(move || {
        inside(&netns, || {
            let mut stream = TcpStream::connect("169.254.77.1:53").expect("a connection");
            let length = u16::try_from(message.len()).expect("short");
            stream.write_all(&length.to_be_bytes()).expect("writes");
            stream.write_all(&message).expect("writes");
            let mut length = [0; 2];
            stream.read_exact(&mut length).expect("an answer");
            let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut answer).expect("an answer");
            answer
        })
    });
    Message::from_vec(&answer.await.expect("no panic")).expect("a message")
}
