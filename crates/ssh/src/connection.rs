//! One client's connection, as the SSH library tells of it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use dormouse_control::Control;
use dormouse_store::{Store, TeamId};
use russh::keys::HashAlg;
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session as Protocol, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, ChannelWriteHalf, Pty, Sig};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::forward::Forward;
use crate::inbox::{self, Pressure, Receiver, Sender};
use crate::login::{Login, NoLogin};
use crate::outbox::Outbox;
use crate::session::{Program, Session, Terminal};

/// Bounds what a client can have kept before it starts anything.
const MOST_VARIABLES: usize = 256;
const LONGEST_VARIABLE: usize = 16 << 10;
const LONGEST_TERM: usize = 128;

/// Signals that wait for delivery; more are dropped.
const QUEUED_SIGNALS: usize = 16;

/// The other end of the open channels.
type Channels = Arc<Mutex<HashMap<ChannelId, OpenChannel>>>;

/// A client.
pub(crate) struct Connection {
    control: Arc<Control>,
    store: Store,
    most_channels: usize,
    peer: SocketAddr,
    local: SocketAddr,
    /// Cancelled when a registered key was shown.
    authenticated: CancellationToken,
    /// Cancelled when the connection is gone.
    gone: CancellationToken,
    tasks: TaskTracker,
    login: Result<Login, NoLogin>,
    teams: Arc<[TeamId]>,
    channels: Channels,
    pressure: Pressure,
}

struct OpenChannel {
    inbox: Sender,
    closed: CancellationToken,
    /// `None` for a forwarded connection.
    session: Option<Preparation>,
}

/// What a session has been told before it runs, and how it is spoken to afterwards.
struct Preparation {
    /// Taken by the start of the program.
    ends: Option<(ChannelWriteHalf<Msg>, Receiver)>,
    terminal: Option<Terminal>,
    size: Option<watch::Sender<(u32, u32)>>,
    variables: Vec<(String, String)>,
    signals: Option<mpsc::Sender<Sig>>,
}

impl Connection {
    pub(crate) fn new(
        (control, store): (Arc<Control>, Store),
        most_channels: usize,
        (peer, local): (SocketAddr, SocketAddr),
        authenticated: CancellationToken,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            control,
            store,
            most_channels,
            peer,
            local,
            authenticated,
            gone: CancellationToken::new(),
            tasks,
            login: Err(NoLogin),
            teams: Arc::default(),
            channels: Arc::default(),
            pressure: Pressure::default(),
        }
    }

    /// The teams that have registered this key.
    async fn teams_of(&self, key: &russh::keys::PublicKey) -> Vec<TeamId> {
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
        match self.store.teams_of_ssh_key(&fingerprint).await {
            Ok(teams) => teams,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "an SSH key could not be looked up");
                Vec::new()
            }
        }
    }

    fn open(&self, id: ChannelId, session: Option<Preparation>, inbox: Sender) -> Option<CancellationToken> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if channels.len() >= self.most_channels {
            return None;
        }
        let closed = self.gone.child_token();
        let channel = OpenChannel {
            inbox,
            closed: closed.clone(),
            session,
        };
        channels.insert(id, channel);
        Some(closed)
    }

    /// Does something with an open session.
    fn with_session<T>(&self, id: ChannelId, act: impl FnOnce(&mut Preparation) -> Option<T>) -> Option<T> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        act(channels.get_mut(&id)?.session.as_mut()?)
    }

    fn inbox(&self, id: ChannelId) -> Option<Sender> {
        let channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.get(&id).map(|channel| channel.inbox.clone())
    }

    /// Starts the program of a session; once for each.
    fn start(&self, id: ChannelId, program: Program, protocol: &mut Protocol) -> Result<(), russh::Error> {
        let closed = {
            let channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
            channels.get(&id).map(|channel| channel.closed.clone())
        };
        let (signals, receiver) = mpsc::channel(QUEUED_SIGNALS);
        let taken = self.with_session(id, |session| {
            let ends = session.ends.take()?;
            session.signals = Some(signals);
            // The SFTP server's bytes are no text.
            let terminal = session.terminal.take().filter(|_| program != Program::Sftp);
            Some((ends, terminal, std::mem::take(&mut session.variables)))
        });
        let (Some(closed), Some(((write, inbox), terminal, mut variables))) = (closed, taken) else {
            return protocol.channel_failure(id);
        };
        variables.push(("SSH_CONNECTION".to_owned(), self.ends_of_connection()));
        let session = Session {
            control: Arc::clone(&self.control),
            teams: Arc::clone(&self.teams),
            login: self.login.clone(),
            program,
            terminal,
            variables,
            inbox,
            outbox: Outbox::new(write, protocol.handle(), self.pressure.clone()),
            signals: receiver,
            closed,
        };
        protocol.channel_success(id)?;
        self.tasks.spawn(session.run());
        Ok(())
    }

    /// As sshd sets it: the client's address and port, and ours.
    fn ends_of_connection(&self) -> String {
        let Self { peer, local, .. } = self;
        format!("{} {} {} {}", peer.ip(), peer.port(), local.ip(), local.port())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey_offered(&mut self, _user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        Ok(if self.teams_of(offer.public_key).await.is_empty() {
            Auth::reject()
        } else {
            Auth::Accept
        })
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        let teams = self.teams_of(key.public_key).await;
        if teams.is_empty() {
            return Ok(Auth::reject());
        }
        self.teams = teams.into();
        self.login = Login::parse(user);
        self.authenticated.cancel();
        tracing::debug!(peer = %self.peer, user, "SSH login");
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _protocol: &mut Protocol,
    ) -> Result<(), Self::Error> {
        let id = channel.id();
        let (sender, receiver) = inbox::inbox(self.pressure.clone());
        // What comes in is taken in `data` below; the library's own queue would hold up the whole connection when it is full.
        let (_, write) = channel.split();
        let session = Preparation {
            ends: Some((write, receiver)),
            terminal: None,
            size: None,
            variables: Vec::new(),
            signals: None,
        };
        match self.open(id, Some(session), sender) {
            Some(_) => reply.accept().await,
            None => reply.reject(ChannelOpenFailure::ResourceShortage).await,
        }
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        protocol: &mut Protocol,
    ) -> Result<(), Self::Error> {
        let Ok(login) = self.login.clone() else {
            reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
            return Ok(());
        };
        let id = channel.id();
        let (sender, inbox) = inbox::inbox(self.pressure.clone());
        let (_, write) = channel.split();
        let Some(closed) = self.open(id, None, sender) else {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        };
        let forward = Forward {
            control: Arc::clone(&self.control),
            teams: Arc::clone(&self.teams),
            login,
            host: host.to_owned(),
            port,
            inbox,
            outbox: Outbox::new(write, protocol.handle(), self.pressure.clone()),
            closed: closed.clone(),
        };
        let channels = Arc::clone(&self.channels);
        self.tasks.spawn(async move {
            forward.run(reply).await;
            // A refused channel is not closed by the client.
            channels.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        });
        Ok(())
    }

    async fn data(&mut self, id: ChannelId, data: &[u8], _protocol: &mut Protocol) -> Result<(), Self::Error> {
        if let Some(inbox) = self.inbox(id) {
            inbox.push(Bytes::copy_from_slice(data)).await;
        }
        Ok(())
    }

    async fn channel_eof(&mut self, id: ChannelId, _protocol: &mut Protocol) -> Result<(), Self::Error> {
        if let Some(inbox) = self.inbox(id) {
            inbox.end();
        }
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _protocol: &mut Protocol) -> Result<(), Self::Error> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.remove(&id) {
            channel.closed.cancel();
        }
        Ok(())
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        term: &str,
        cols: u32,
        rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(Pty, u32)],
        protocol: &mut Protocol,
    ) -> Result<(), Self::Error> {
        let given = self.with_session(id, |session| {
            let fits = session.ends.is_some() && term.len() <= LONGEST_TERM && !term.contains('\0');
            fits.then(|| {
                let (sender, size) = watch::channel((cols, rows));
                let term = if term.is_empty() { "xterm-256color" } else { term };
                session.size = Some(sender);
                session.terminal = Some(Terminal {
                    term: term.to_owned(),
                    size,
                });
            })
        });
        match given {
            Some(()) => protocol.channel_success(id),
            None => protocol.channel_failure(id),
        }
    }

    async fn env_request(&mut self, id: ChannelId, name: &str, value: &str, protocol: &mut Protocol) -> Result<(), Self::Error> {
        let taken = self.with_session(id, |session| {
            let room = session.variables.len() < MOST_VARIABLES && name.len() + value.len() <= LONGEST_VARIABLE;
            let valid = !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0');
            (room && valid).then(|| session.variables.push((name.to_owned(), value.to_owned())))
        });
        match taken {
            Some(()) => protocol.channel_success(id),
            None => protocol.channel_failure(id),
        }
    }

    async fn shell_request(&mut self, id: ChannelId, protocol: &mut Protocol) -> Result<(), Self::Error> {
        self.start(id, Program::Shell, protocol)
    }

    async fn exec_request(&mut self, id: ChannelId, data: &[u8], protocol: &mut Protocol) -> Result<(), Self::Error> {
        match std::str::from_utf8(data) {
            Ok(command) if !command.contains('\0') => self.start(id, Program::Command(command.to_owned()), protocol),
            _ => protocol.channel_failure(id),
        }
    }

    async fn subsystem_request(&mut self, id: ChannelId, name: &str, protocol: &mut Protocol) -> Result<(), Self::Error> {
        if name == "sftp" {
            self.start(id, Program::Sftp, protocol)
        } else {
            protocol.channel_failure(id)
        }
    }

    async fn window_change_request(
        &mut self,
        id: ChannelId,
        cols: u32,
        rows: u32,
        _width: u32,
        _height: u32,
        _protocol: &mut Protocol,
    ) -> Result<(), Self::Error> {
        self.with_session(id, |session| {
            session.size.as_ref().map(|size| size.send_replace((cols, rows)))
        });
        Ok(())
    }

    async fn signal(&mut self, id: ChannelId, signal: Sig, _protocol: &mut Protocol) -> Result<(), Self::Error> {
        self.with_session(id, |session| {
            session.signals.as_ref().and_then(|signals| signals.try_send(signal).ok())
        });
        Ok(())
    }
}
