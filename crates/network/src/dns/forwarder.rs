//! One pair of sockets that answers all slots: who asks is told by the uplink address that a query comes from.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::op::{Header, HeaderCounts, Metadata, ResponseCode};
use hickory_proto::rr::{LowerName, Name};
use hickory_resolver::net::runtime::Time;
use hickory_server::Server;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::{Catalog, MessageResponseBuilder};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;

use crate::config::{DnsConfig, SlotName};
use crate::dns::{Query, QueryPolicy, Verdict, upstream};
use crate::error::{NetworkError, Result};
use crate::host::{Host, MAX_SLOTS};
use crate::registry::Registry;

/// A TCP connection without a query for so long is closed.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Answers that may wait on one TCP connection.
const TCP_ANSWERS: usize = 64;
/// One slot gets at most this part of all queries in flight, so that it cannot silence the others.
const SHARE: usize = 8;

/// The running forwarder.
pub(crate) struct Forwarder {
    server: Server<Handler>,
    udp: SocketAddr,
    tcp: SocketAddr,
}

impl Forwarder {
    /// Starts to answer on the host's forwarder address, on ports of the kernel's choice: something else may listen
    /// on port 53 of all addresses. The host's rules lead queries there.
    pub(crate) async fn start(config: &DnsConfig, host: Arc<Host>, registry: Arc<Mutex<Registry>>) -> Result<Self> {
        let failed = |e| NetworkError::system(format!("listen for DNS on {}", host.dns), e);
        let udp = UdpSocket::bind((host.dns, 0)).await.map_err(failed)?;
        let tcp = TcpListener::bind((host.dns, 0)).await.map_err(failed)?;
        let addresses = (udp.local_addr().map_err(failed)?, tcp.local_addr().map_err(failed)?);
        let mut catalog = Catalog::new();
        catalog.upsert(LowerName::from(Name::root()), vec![Arc::new(upstream::handler(config)?)]);
        let mut server = Server::new(Handler {
            catalog,
            policy: Arc::clone(&config.policy),
            limits: Limits::new(config.max_in_flight),
            host,
            registry,
        });
        server.register_socket(udp);
        server.register_listener(tcp, TCP_IDLE, TCP_ANSWERS);
        Ok(Self {
            server,
            udp: addresses.0,
            tcp: addresses.1,
        })
    }

    /// Where it listens: UDP, TCP.
    pub(crate) fn addresses(&self) -> (SocketAddr, SocketAddr) {
        (self.udp, self.tcp)
    }

    /// Stops to answer. Dropping does so too.
    pub(crate) fn stop(&self) {
        self.server.shutdown_token().cancel();
    }
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarder")
            .field("udp", &self.udp)
            .field("tcp", &self.tcp)
            .finish_non_exhaustive()
    }
}

struct Handler {
    catalog: Catalog,
    policy: Arc<dyn QueryPolicy>,
    limits: Limits,
    host: Arc<Host>,
    registry: Arc<Mutex<Registry>>,
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, response: R) -> ResponseInfo {
        let Some(index) = self.source(request) else {
            return refuse(request, response, ResponseCode::Refused).await;
        };
        let Some(_turn) = self.limits.enter(index) else {
            tracing::debug!(index, "too many DNS queries at once");
            return refuse(request, response, ResponseCode::ServFail).await;
        };
        match self.verdict(request, index) {
            Verdict::Forward => self.catalog.handle_request::<R, T>(request, response).await,
            Verdict::Refuse => refuse(request, response, ResponseCode::Refused).await,
            Verdict::NotFound => refuse(request, response, ResponseCode::NXDomain).await,
        }
    }
}

impl Handler {
    fn source(&self, request: &Request) -> Option<u16> {
        match request.src().ip() {
            IpAddr::V4(address) => self.host.uplink_index(address),
            IpAddr::V6(_) => None,
        }
    }

    fn verdict(&self, request: &Request, index: u16) -> Verdict {
        // Anything but one plain question is for the catalog to complain about.
        let Ok(info) = request.request_info() else {
            return Verdict::Forward;
        };
        let slot: Option<SlotName> = self
            .registry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .by_index(index)
            .cloned();
        let (name, kind) = (info.query.name().to_string(), info.query.query_type().to_string());
        let verdict = self.policy.decide(Query {
            slot: slot.as_ref(),
            name: &name,
            kind: &kind,
        });
        tracing::debug!(slot = slot.as_ref().map(SlotName::as_str), name, kind, ?verdict, "DNS query");
        verdict
    }
}

/// Answers with a code and nothing else.
async fn refuse<R: ResponseHandler>(request: &Request, mut response: R, code: ResponseCode) -> ResponseInfo {
    let answer = MessageResponseBuilder::from_message_request(request).error_msg(&request.metadata, code);
    match response.send_response(answer).await {
        Ok(info) => info,
        Err(error) => {
            tracing::debug!(%error, "a DNS answer was not sent");
            let mut metadata = Metadata::response_from_request(&request.metadata);
            metadata.response_code = code;
            ResponseInfo::from(Header {
                metadata,
                counts: HeaderCounts::default(),
            })
        }
    }
}

/// How many queries are under way, in all and per slot.
struct Limits {
    all: Semaphore,
    per_slot: usize,
    slots: Box<[AtomicUsize]>,
}

/// One query's place. Given back on drop.
struct Turn<'a> {
    _permit: tokio::sync::SemaphorePermit<'a>,
    slot: &'a AtomicUsize,
}

impl Limits {
    fn new(all: usize) -> Self {
        Self {
            all: Semaphore::new(all),
            per_slot: (all / SHARE).max(1),
            slots: (0..=MAX_SLOTS).map(|_| AtomicUsize::new(0)).collect(),
        }
    }

    fn enter(&self, index: u16) -> Option<Turn<'_>> {
        let permit = self.all.try_acquire().ok()?;
        let slot = self.slots.get(usize::from(index))?;
        let turn = Turn { _permit: permit, slot };
        // Counted before it is compared, and uncounted by the drop of `turn` if it is one too many.
        let before = slot.fetch_add(1, Ordering::Relaxed);
        (before < self.per_slot).then_some(turn)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.slot.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slot_gets_a_share_of_the_queries() {
        let limits = Limits::new(2 * SHARE);
        let one = limits.enter(1);
        let two = limits.enter(1);
        assert!(one.is_some() && two.is_some());
        assert!(limits.enter(1).is_none());
        assert!(limits.enter(2).is_some());

        drop(one);
        assert!(limits.enter(1).is_some());
    }

    #[test]
    fn all_slots_together_are_bounded() {
        let limits = Limits::new(2);
        let _one = limits.enter(1);
        let _two = limits.enter(2);
        assert!(limits.enter(3).is_none());
    }
}
