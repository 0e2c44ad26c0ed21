//! TCP connections from a client to ports of the sandbox (`ssh -L`, `-W`, `-D` and `-J`; RFC 4254, 7.2).

use std::sync::Arc;

use bytes::BytesMut;
use dormouse_agent_proto::AGENT_PORT;
use dormouse_control::Control;
use dormouse_engine::{ConnectError, Connection};
use dormouse_store::TeamId;
use russh::ChannelOpenFailure;
use russh::server::ChannelOpenHandle;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio_util::sync::CancellationToken;

use crate::inbox::Receiver;
use crate::login::Login;
use crate::outbox::Outbox;
use crate::sandbox::OpenSandbox;

/// Bytes read from a port at once: what fits into one packet of the protocol.
const CHUNK: usize = 32 << 10;

/// What is needed to answer an open request.
pub(crate) struct Forward {
    pub(crate) control: Arc<Control>,
    pub(crate) teams: Arc<[TeamId]>,
    pub(crate) login: Login,
    pub(crate) host: String,
    pub(crate) port: u32,
    pub(crate) inbox: Receiver,
    pub(crate) outbox: Outbox,
    /// The client has closed the channel, or is gone.
    pub(crate) closed: CancellationToken,
}

/// The port, if forwarding to it is allowed: one of the sandbox's own, and not the agent's.
fn allowed(login: &Login, host: &str, port: u32) -> Option<u16> {
    let local = matches!(host, "localhost" | "127.0.0.1" | "::1" | "0.0.0.0" | "::" | "") || host == login.sandbox.as_str();
    let port = u16::try_from(port).ok().filter(|&port| port != 0 && port != AGENT_PORT)?;
    local.then_some(port)
}

impl Forward {
    /// Connects, answers the request, and carries bytes until both sides are done or the sandbox goes away.
    pub(crate) async fn run(self, reply: ChannelOpenHandle) {
        let Some(port) = allowed(&self.login, &self.host, self.port) else {
            return reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
        };
        let opened = OpenSandbox::open(&self.control, &self.teams, &self.login).await;
        let sandbox = match opened {
            Ok(sandbox) => sandbox,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "no sandbox to forward to");
                return reply.reject(ChannelOpenFailure::ConnectFailed).await;
            }
        };
        let connection = match sandbox.dial(port).await {
            Ok(connection) => connection,
            Err(error) => {
                if !matches!(error, ConnectError::Refused(_)) {
                    tracing::debug!(error = &error as &dyn std::error::Error, port, "forwarding failed");
                }
                return reply.reject(ChannelOpenFailure::ConnectFailed).await;
            }
        };
        reply.accept().await;
        let ended = sandbox.route.ended.clone();
        tokio::select! {
            biased;
            () = self.closed.cancelled() => return,
            () = ended.cancelled() => {}
            () = carry(connection, self.inbox, &self.outbox) => {}
        }
        self.outbox.close().await;
    }
}

/// Both directions, each until its end.
async fn carry(connection: Connection, inbox: Receiver, outbox: &Outbox) {
    let (reader, writer) = tokio::io::split(connection);
    tokio::join!(inward(inbox, writer), outward(reader, outbox));
}

async fn inward(mut inbox: Receiver, mut writer: WriteHalf<Connection>) {
    while let Some(bytes) = inbox.next().await {
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = writer.shutdown().await;
}

async fn outward(mut reader: ReadHalf<Connection>, outbox: &Outbox) {
    loop {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        match reader.read_buf(&mut buffer).await {
            Ok(1..) => {
                if outbox.send(buffer.freeze()).await.is_err() {
                    return;
                }
            }
            Ok(0) | Err(_) => break,
        }
    }
    outbox.end().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ports_of_the_sandbox_itself_and_never_the_agents() {
        let login = Login::parse("i0").unwrap();
        for host in ["localhost", "127.0.0.1", "::1", "i0"] {
            assert_eq!(allowed(&login, host, 8080), Some(8080), "{host}");
        }
        for (host, port) in [
            ("localhost", u32::from(AGENT_PORT)),
            ("i0", u32::from(AGENT_PORT)),
            ("localhost", 0),
            ("localhost", 65_536 + 8080),
            ("169.254.77.1", 80),
            ("i1", 80),
            ("example.com", 80),
        ] {
            assert_eq!(allowed(&login, host, port), None, "{host}:{port}");
        }
    }
}
