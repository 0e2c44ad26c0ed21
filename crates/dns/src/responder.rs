//! The sockets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Header, HeaderCounts, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::Name;
use hickory_resolver::net::runtime::Time;
use hickory_server::Server;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};

use crate::TxtRecords;
use crate::zone::{Answer, Zones};

/// A TCP connection without a question for so long is closed.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Answers that may wait on one TCP connection.
const TCP_ANSWERS: usize = 64;
/// A port that the kernel chooses for UDP may be taken for TCP.
const ATTEMPTS: usize = 16;

/// What to answer, and where.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen, UDP and TCP; port 0 for one of the kernel's choice.
    pub listen: SocketAddr,
    /// The base domains.
    pub domains: Vec<String>,
    /// The addresses that names lead to; without any, it is the address of this host that the asking client reaches.
    pub addresses: Vec<IpAddr>,
}

/// The responder cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken, or not ours.
    #[error("Cannot listen for DNS on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// No domain name.
    #[error("`{domain}` is no domain name")]
    Domain {
        /// The text.
        domain: String,
    },
}

/// A running responder; it ends when dropped.
pub struct Responder {
    _server: Server<Handler>,
    address: SocketAddr,
    txt: TxtRecords,
}

impl Responder {
    /// Starts to answer.
    ///
    /// # Errors
    /// When it cannot listen, or a domain is none.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let zones = config.domains.iter().map(|domain| zone(domain)).collect::<Result<_, _>>()?;
        let (udp, tcp, address) = listen(config.listen).await.map_err(|source| Error::Listen {
            address: config.listen,
            source,
        })?;
        let txt = TxtRecords::default();
        let mut server = Server::new(Handler {
            zones: Zones::new(zones, txt.clone()),
            addresses: config.addresses,
        });
        server.register_socket(udp);
        server.register_listener(tcp, TCP_IDLE, TCP_ANSWERS);
        Ok(Self {
            _server: server,
            address,
            txt,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its TXT records, to be changed while it runs.
    #[must_use]
    pub fn txt(&self) -> TxtRecords {
        self.txt.clone()
    }
}

impl std::fmt::Debug for Responder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Responder")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

fn zone(domain: &str) -> Result<Name, Error> {
    let mut name = Name::from_ascii(domain).map_err(|_| Error::Domain {
        domain: domain.to_owned(),
    })?;
    name.set_fqdn(true);
    Ok(name)
}

async fn listen(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener, SocketAddr)> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let udp = UdpSocket::bind(address).await?;
        let bound = udp.local_addr()?;
        match TcpListener::bind(bound).await {
            Ok(tcp) => return Ok((udp, tcp, bound)),
            Err(error) if address.port() == 0 && attempt < ATTEMPTS && error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
}

struct Handler {
    zones: Zones,
    addresses: Vec<IpAddr>,
}

impl Handler {
    async fn answer(&self, request: &Request) -> Answer {
        let code = |code| Answer {
            code,
            ..Answer::default()
        };
        if request.metadata.op_code != OpCode::Query {
            return code(ResponseCode::NotImp);
        }
        let Ok(info) = request.request_info() else {
            return code(ResponseCode::FormErr);
        };
        let (name, class, kind) = (info.query.name(), info.query.query_class(), info.query.query_type());
        let addresses = if self.addresses.is_empty() {
            // No I/O: the kernel only looks a route up.
            towards(request.src()).await.into_iter().collect()
        } else {
            self.addresses.clone()
        };
        let answer = self.zones.answer(name, class, kind, &addresses);
        tracing::debug!(%name, %kind, code = %answer.code, records = answer.records.len(), "DNS question");
        answer
    }
}

/// The address of this host that a client reaches it by.
async fn towards(client: SocketAddr) -> Option<IpAddr> {
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    let any: SocketAddr = match client {
        SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await.ok()?;
    socket.connect(client).await.ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut response: R) -> ResponseInfo {
        let answer = self.answer(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = answer.code;
        metadata.authoritative = answer.code == ResponseCode::NoError;
        let message = MessageResponseBuilder::from_message_request(request).build(metadata, &answer.records, [], &answer.soa, []);
        match response.send_response(message).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "a DNS answer was not sent");
                ResponseInfo::from(Header {
                    metadata,
                    counts: HeaderCounts::default(),
                })
            }
        }
    }
}
