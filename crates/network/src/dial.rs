//! Connections from the daemon into sandboxes.
//!
//! A socket belongs to the namespace where it was made. One thread of the daemon goes from router to router, makes a
//! socket in each on request, and hands it out; the connection itself is then made by the runtime.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::thread;

use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};

use crate::error::{NetworkError, Result};
use crate::netns::{self, Netns};
use crate::slot::SANDBOX_ADDRESS;

/// How many requests may wait for the thread, each some tens of microseconds long.
const QUEUE: usize = 1024;

struct Request {
    router: Arc<Netns>,
    answer: oneshot::Sender<io::Result<TcpSocket>>,
}

/// The thread that makes sockets. It ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct SocketMaker {
    requests: mpsc::Sender<Request>,
}

impl SocketMaker {
    pub(crate) fn start() -> Result<Self> {
        let (requests, mut queue) = mpsc::channel::<Request>(QUEUE);
        let home: OwnedFd = netns::current()?;
        thread::Builder::new()
            .name("dm-dial".to_owned())
            .spawn(move || {
                while let Some(Request { router, answer }) = queue.blocking_recv() {
                    // Nobody waits any more: the caller gave up.
                    let _ = answer.send(make_socket(&router));
                    // Not to keep a released slot's namespace alive by standing in it.
                    drop(router);
                    let _ = netns::enter(&home);
                }
            })
            .map_err(|e| NetworkError::system("start a thread", e))?;
        Ok(Self { requests })
    }

    async fn socket(&self, router: Arc<Netns>) -> io::Result<TcpSocket> {
        let gone = |_| io::Error::other("the dialing thread has ended");
        let (answer, wait) = oneshot::channel();
        self.requests
            .send(Request { router, answer })
            .await
            .map_err(|e| gone(e.to_string()))?;
        wait.await.map_err(|e| gone(e.to_string()))?
    }
}

fn make_socket(router: &Netns) -> io::Result<TcpSocket> {
    netns::enter(router.fd())?;
    let socket = TcpSocket::new_v4()?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// Opens TCP connections into one slot's sandbox. Cheap to clone; keeps working until the slot is released.
#[derive(Debug, Clone)]
pub struct Dialer {
    maker: SocketMaker,
    router: Weak<Netns>,
}

impl Dialer {
    pub(crate) fn new(maker: SocketMaker, router: &Arc<Netns>) -> Self {
        Self {
            maker,
            router: Arc::downgrade(router),
        }
    }

    /// Connects to a port of the sandbox, with `TCP_NODELAY` set.
    ///
    /// There is no time limit: drop the future to give up.
    ///
    /// # Errors
    /// What `connect` says (refused when nothing listens), or [`io::ErrorKind::NotConnected`] once the slot is
    /// released.
    pub async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let router = self
            .router
            .upgrade()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the slot was released"))?;
        let socket = self.maker.socket(router).await?;
        socket.connect(SocketAddr::from((SANDBOX_ADDRESS, port))).await
    }
}
