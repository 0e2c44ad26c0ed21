//! Connections into sandboxes, kept for the next request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use dormouse_control::{Route, RunEnd};
use dormouse_engine::{Connection, InstanceId};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::payload::Payload;

/// Most idle connections to one port of a sandbox.
const MOST_IDLE: usize = 32;

/// Bounds what a connection holds in memory when the other side does not read, and the size of an answer's head.
const BUFFER: usize = 128 << 10;

/// Most header lines of an answer.
const MOST_HEADERS: usize = 256;

/// What a connection leads to: one port in one run of one instance. Connections from before a sleep are never used after it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    instance: InstanceId,
    run: u64,
    port: u16,
}

impl Key {
    pub(crate) fn new(route: &Route, port: u16) -> Self {
        Self {
            instance: route.instance.clone(),
            run: route.run,
            port,
        }
    }
}

/// A connection that can carry a request.
pub(crate) struct Upstream {
    pub(crate) sender: SendRequest<Payload>,
    key: Key,
    pool: Arc<Pool>,
}

struct Idle {
    sender: SendRequest<Payload>,
    since: Instant,
}

#[derive(Default)]
struct Shelves {
    idle: HashMap<Key, Vec<Idle>>,
    /// Whether a task looks for connections that have been idle for too long.
    swept: bool,
}

/// The idle connections.
pub(crate) struct Pool {
    longest_idle: Duration,
    shelves: Mutex<Shelves>,
}

impl Pool {
    pub(crate) fn new(longest_idle: Duration) -> Arc<Self> {
        Arc::new(Self {
            longest_idle,
            shelves: Mutex::default(),
        })
    }

    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A kept connection, the one used last: it is the least likely to be closed by the other side.
    pub(crate) fn take(self: &Arc<Self>, key: &Key) -> Option<Upstream> {
        let mut shelves = self.shelves();
        let shelf = shelves.idle.get_mut(key)?;
        let mut found = None;
        while let Some(idle) = shelf.pop() {
            if idle.sender.is_ready() && idle.since.elapsed() < self.longest_idle {
                found = Some(idle.sender);
                break;
            }
        }
        if shelf.is_empty() {
            shelves.idle.remove(key);
        }
        found.map(|sender| Upstream {
            sender,
            key: key.clone(),
            pool: Arc::clone(self),
        })
    }

    /// Speaks HTTP/1.1 on a new connection, until it is closed or the route ends.
    pub(crate) async fn open(self: &Arc<Self>, stream: Connection, key: Key, ended: RunEnd) -> hyper::Result<Upstream> {
        let mut builder = http1::Builder::new();
        builder
            .max_buf_size(BUFFER)
            .max_headers(MOST_HEADERS)
            .preserve_header_case(true);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        let pool = Arc::downgrade(self);
        let its = key.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                result = connection.with_upgrades() => if let Err(error) = result {
                    tracing::debug!(%error, instance = %its.instance, port = its.port, "connection to a sandbox failed");
                },
                // Closes it: whoever waits for an answer or for more of one is told.
                () = ended.cancelled() => {}
            }
            if let Some(pool) = pool.upgrade() {
                pool.forget_closed(&its);
            }
        });
        Ok(Upstream {
            sender,
            key,
            pool: Arc::clone(self),
        })
    }

    fn put(self: &Arc<Self>, sender: SendRequest<Payload>, key: Key) {
        let mut shelves = self.shelves();
        let shelf = shelves.idle.entry(key).or_default();
        if shelf.len() < MOST_IDLE {
            shelf.push(Idle {
                sender,
                since: Instant::now(),
            });
        }
        if !std::mem::replace(&mut shelves.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self), self.longest_idle));
        }
    }

    fn forget_closed(&self, key: &Key) {
        self.retain(|its, idle| its != key || !idle.sender.is_closed());
    }

    fn retain(&self, keep: impl Fn(&Key, &Idle) -> bool) {
        self.shelves().idle.retain(|key, shelf| {
            shelf.retain(|idle| keep(key, idle));
            !shelf.is_empty()
        });
    }
}

/// Closes connections that nobody asked for in a while, until none is left.
async fn sweep(pool: Weak<Pool>, longest_idle: Duration) {
    loop {
        tokio::time::sleep(longest_idle / 2).await;
        let Some(pool) = pool.upgrade() else { return };
        pool.retain(|_, idle| idle.since.elapsed() < longest_idle);
        let mut shelves = pool.shelves();
        if shelves.idle.is_empty() {
            shelves.swept = false;
            return;
        }
    }
}

impl Upstream {
    /// Keeps the connection for another request, once it is done with this one.
    pub(crate) fn keep(self) {
        let Self { mut sender, key, pool } = self;
        if sender.is_ready() {
            pool.put(sender, key);
        } else if !sender.is_closed() {
            // The rest of the request may still be on its way in.
            tokio::spawn(async move {
                if sender.ready().await.is_ok() {
                    pool.put(sender, key);
                }
            });
        }
    }
}
