//! What a process writes, and who hears of it.
//!
//! Every follower has a short queue. When one does not keep up, reading from the process stops until it does: memory
//! stays bounded and the process feels the back-pressure, as it would with a slow terminal. Without followers output
//! is read and dropped.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rustix::io::Errno;
use tokio::sync::{mpsc, watch};

use super::exit::Ending;
use crate::readiness::Watched;

/// Most bytes of one event from a pipe (contract 3.5).
pub(crate) const PIPE_CHUNK: usize = 32 << 10;
/// Most bytes of one event from a terminal (contract 3.5).
pub(crate) const TERMINAL_CHUNK: usize = 16 << 10;
/// Events that wait for one follower.
const QUEUE: usize = 4;
/// How long output must be silent, after a process was killed, before it counts as complete although a descendant
/// still holds the pipe.
const QUIET: Duration = Duration::from_millis(50);

/// Which stream bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Stdout,
    Stderr,
    Terminal,
}

/// What a follower is told.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Data(Source, Bytes),
    End(Ending),
}

/// The followers of one process.
#[derive(Debug, Default)]
pub(crate) struct Followers {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queues: Vec<mpsc::Sender<Event>>,
    ending: Option<Ending>,
}

impl Followers {
    /// Follows from now on. After the end the only event is the end.
    pub(crate) fn follow(&self) -> mpsc::Receiver<Event> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut state = self.lock();
        match &state.ending {
            // The queue is empty and its receiver at hand, so this cannot fail.
            Some(ending) => drop(sender.try_send(Event::End(ending.clone()))),
            None => state.queues.push(sender),
        }
        receiver
    }

    /// Tells all followers, waiting for the slowest.
    async fn publish(&self, source: Source, bytes: Bytes) {
        let queues = self.lock().queues.clone();
        let mut gone = false;
        for queue in &queues {
            gone |= queue.send(Event::Data(source, bytes.clone())).await.is_err();
        }
        if gone {
            self.lock().queues.retain(|queue| !queue.is_closed());
        }
    }

    /// Tells all followers that this was all.
    pub(crate) async fn finish(&self, ending: Ending) {
        let queues = {
            let mut state = self.lock();
            state.ending = Some(ending.clone());
            std::mem::take(&mut state.queues)
        };
        for queue in queues {
            // A follower that left needs no end.
            let _ = queue.send(Event::End(ending.clone())).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads one stream of a process until its end, or until it is quiet after `closing` has become true.
pub(crate) async fn pump(fd: &Watched, source: Source, to: &Followers, mut closing: watch::Receiver<bool>) {
    let largest = if source == Source::Terminal {
        TERMINAL_CHUNK
    } else {
        PIPE_CHUNK
    };
    loop {
        let ready = tokio::select! {
            biased;
            ready = fd.readable() => ready,
            () = quiet(&mut closing) => return,
        };
        let Ok(mut ready) = ready else {
            return;
        };
        // Lives for one burst: an idle process costs no buffer.
        let mut buffer = vec![0; largest];
        loop {
            match rustix::io::read(fd.get_ref(), &mut *buffer) {
                // A terminal whose last program is gone reports EIO.
                Ok(0) | Err(Errno::IO) => return,
                Ok(length) => {
                    let bytes = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
                    to.publish(source, bytes).await;
                    // A quick writer must not keep everybody else from running.
                    tokio::task::consume_budget().await;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    ready.clear_ready();
                    break;
                }
                Err(_) => return,
            }
        }
    }
}

/// Resolves when the stream has been quiet for long enough since closing began.
async fn quiet(closing: &mut watch::Receiver<bool>) {
    if closing.wait_for(|closing| *closing).await.is_err() {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(QUIET).await;
}
