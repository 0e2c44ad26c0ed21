//! What a client has sent to a channel and nobody has taken yet.
//!
//! The SSH library widens a channel's window as soon as data has come, whether or not somebody has read it, and reads nothing more from
//! the client while it waits for us. So waiting is how a sandbox that does not read is made to hold back its client, and it must not be
//! done when output waits as well: a command that copies its input to its output would then wait for itself. The rule:
//!
//! - up to [`SOFT`] bytes are taken at once;
//! - up to [`HARD`] bytes while output of the connection waits to be sent;
//! - beyond, the whole connection waits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// What a channel holds at ease.
pub(crate) const SOFT: usize = 4 << 20;

/// What it holds at most.
pub(crate) const HARD: usize = 32 << 20;

/// How much output of a connection waits. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pressure(Arc<PressureState>);

#[derive(Debug, Default)]
struct PressureState {
    waiting: AtomicUsize,
    changed: Notify,
}

/// Output that waits to be sent.
#[derive(Debug)]
pub(crate) struct Waiting(Pressure);

impl Pressure {
    /// Counts output that is about to be sent, until the result is dropped.
    pub(crate) fn wait(&self) -> Waiting {
        self.0.waiting.fetch_add(1, Ordering::SeqCst);
        self.0.changed.notify_waiters();
        Waiting(self.clone())
    }

    fn is_high(&self) -> bool {
        self.0.waiting.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    /// No more will come.
    ended: bool,
    /// Nobody will take it.
    abandoned: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    filled: Notify,
    drained: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The protocol's end.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    shared: Arc<Shared>,
    pressure: Pressure,
}

/// The sandbox's end.
#[derive(Debug)]
pub(crate) struct Receiver(Arc<Shared>);

/// An empty inbox of a connection with this pressure.
pub(crate) fn inbox(pressure: Pressure) -> (Sender, Receiver) {
    let shared = Arc::<Shared>::default();
    let sender = Sender {
        shared: Arc::clone(&shared),
        pressure,
    };
    (sender, Receiver(shared))
}

impl Sender {
    /// Takes `bytes`, and then waits if there are too many.
    pub(crate) async fn push(&self, bytes: Bytes) {
        {
            let mut state = self.shared.state();
            if state.abandoned || state.ended || bytes.is_empty() {
                return;
            }
            state.bytes += bytes.len();
            state.chunks.push_back(bytes);
        }
        self.shared.filled.notify_one();
        loop {
            // Both are listened to before they are looked at, so that no change is missed.
            let drained = self.shared.drained.notified();
            let pressed = self.pressure.0.changed.notified();
            let mut pressed = std::pin::pin!(pressed);
            pressed.as_mut().enable();
            if self.may_go_on() {
                return;
            }
            tokio::select! { () = drained => {} () = pressed => {} }
        }
    }

    fn may_go_on(&self) -> bool {
        let state = self.shared.state();
        let most = if self.pressure.is_high() { HARD } else { SOFT };
        state.abandoned || state.bytes <= most
    }

    /// No more will come.
    pub(crate) fn end(&self) {
        self.shared.state().ended = true;
        self.shared.filled.notify_one();
    }
}

impl Receiver {
    /// The next bytes; `None` when no more will come.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        loop {
            {
                let mut state = self.0.state();
                if let Some(bytes) = state.chunks.pop_front() {
                    state.bytes -= bytes.len();
                    drop(state);
                    self.0.drained.notify_one();
                    return Some(bytes);
                }
                if state.ended {
                    return None;
                }
            }
            self.0.filled.notified().await;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.abandoned = true;
        state.chunks.clear();
        state.bytes = 0;
        drop(state);
        self.0.drained.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    fn chunk(length: usize) -> Bytes {
        Bytes::from(vec![0; length])
    }

    #[tokio::test]
    async fn bytes_come_in_order_and_the_end_comes_last() {
        let (sender, mut receiver) = inbox(Pressure::default());
        sender.push(Bytes::from_static(b"a")).await;
        sender.push(Bytes::from_static(b"b")).await;
        sender.end();
        assert_eq!(receiver.next().await.unwrap(), "a");
        assert_eq!(receiver.next().await.unwrap(), "b");
        assert_eq!(receiver.next().await, None);
    }

    #[tokio::test]
    async fn a_full_inbox_waits_until_it_is_emptied_or_output_waits_or_nobody_reads() {
        let pressure = Pressure::default();
        let (sender, mut receiver) = inbox(pressure.clone());
        let mut full = std::pin::pin!(sender.push(chunk(SOFT + 1)));
        assert_eq!(futures::poll!(full.as_mut()), Poll::Pending);
        receiver.next().await.unwrap();
        full.await;

        let mut again = std::pin::pin!(sender.push(chunk(SOFT + 1)));
        assert_eq!(futures::poll!(again.as_mut()), Poll::Pending);
        let waiting = pressure.wait();
        again.await;

        let mut hard = std::pin::pin!(sender.push(chunk(HARD)));
        assert_eq!(futures::poll!(hard.as_mut()), Poll::Pending);
        drop(waiting);
        drop(receiver);
        hard.await;
        sender.push(chunk(HARD)).await;
    }
}
