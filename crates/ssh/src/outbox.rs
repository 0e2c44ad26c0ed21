//! What a sandbox sends to a client over one channel.

use bytes::Bytes;
use russh::server::Handle;
use russh::server::Msg;
use russh::{ChannelWriteHalf, Sig};

use crate::inbox::Pressure;

/// The number of standard error among a channel's streams (RFC 4254, 5.2).
const STDERR: u32 = 1;

/// What a session that the gateway itself ended reports; as `ssh` does for its own failures.
const OURS: u32 = 255;

/// A channel's way out. It sends no more than the client has room for, so that one client's channel does not hold up its others.
#[derive(Debug)]
pub(crate) struct Outbox {
    channel: ChannelWriteHalf<Msg>,
    handle: Handle,
    pressure: Pressure,
}

/// The connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Disconnected;

impl Outbox {
    pub(crate) fn new(channel: ChannelWriteHalf<Msg>, handle: Handle, pressure: Pressure) -> Self {
        Self {
            channel,
            handle,
            pressure,
        }
    }

    /// Sends to standard output, or to a terminal, or to the other end of a connection.
    pub(crate) async fn send(&self, bytes: Bytes) -> Result<(), Disconnected> {
        let _waiting = self.pressure.wait();
        self.channel.data_bytes(bytes).await.map_err(|_| Disconnected)
    }

    /// Sends to standard error.
    pub(crate) async fn send_error(&self, bytes: Bytes) -> Result<(), Disconnected> {
        let _waiting = self.pressure.wait();
        self.channel
            .extended_data_bytes(STDERR, bytes)
            .await
            .map_err(|_| Disconnected)
    }

    /// No more will be sent.
    pub(crate) async fn end(&self) {
        let _ = self.channel.eof().await;
    }

    /// Closes the channel.
    pub(crate) async fn close(&self) {
        let _ = self.channel.close().await;
    }

    /// Reports how a command ended, and closes the channel.
    pub(crate) async fn exit(&self, status: u32) {
        let _ = self.channel.exit_status(status).await;
        self.end().await;
        self.close().await;
    }

    /// Reports the signal that ended a command, and closes the channel.
    pub(crate) async fn exit_signal(&self, signal: Sig) {
        let id = self.channel.id();
        let _ = self
            .handle
            .exit_signal_request(id, signal, false, String::new(), String::new())
            .await;
        self.end().await;
        self.close().await;
    }

    /// Ends a session with words of ours. On a terminal they begin a new line.
    pub(crate) async fn fail(&self, terminal: bool, message: &str) {
        if terminal {
            let _ = self.send(format!("\r\ndormouse: {message}\r\n").into()).await;
        } else {
            let _ = self.send_error(format!("dormouse: {message}\n").into()).await;
        }
        self.exit(OURS).await;
    }
}
