//! Collects ended children: those we started, and the orphans that a PID 1 inherits.
//!
//! One thread sleeps in `wait` for as long as there are children. Nothing else in this program may wait for a child.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus};
use tokio::sync::oneshot;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl From<WaitStatus> for Exit {
    fn from(status: WaitStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            // `wait` without WUNTRACED reports ends only.
            (None, None) => Self::Code(-1),
        }
    }
}

/// The collector. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Reaper {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    children: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<Pid, oneshot::Sender<Exit>>,
    /// Starts under way. While there are any, an unknown pid may be about to be claimed.
    starting: usize,
    unclaimed: HashMap<Pid, Exit>,
    /// A start has ended since the thread last found itself without children.
    news: bool,
}

impl Reaper {
    /// Starts the thread.
    pub(crate) fn start() -> std::io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let reaper = Self {
            shared: Arc::clone(&shared),
        };
        std::thread::Builder::new()
            .name("reaper".into())
            .stack_size(128 << 10)
            .spawn(move || shared.run())?;
        Ok(reaper)
    }

    /// Runs `spawn`, which makes one child, and returns it with the promise of its end.
    pub(crate) fn adopt<E>(&self, spawn: impl FnOnce() -> Result<Pid, E>) -> Result<(Pid, oneshot::Receiver<Exit>), E> {
        self.shared.lock().starting += 1;
        let result = spawn();
        let mut state = self.shared.lock();
        let adopted = result.map(|pid| {
            let (sender, receiver) = oneshot::channel();
            match state.unclaimed.remove(&pid) {
                // The receiver is at hand, so sending cannot fail.
                Some(exit) => drop(sender.send(exit)),
                None => drop(state.waiting.insert(pid, sender)),
            }
            (pid, receiver)
        });
        state.starting -= 1;
        if state.starting == 0 {
            state.unclaimed.clear();
        }
        // Also after a failure: a child that never became a program still is to be collected.
        state.news = true;
        drop(state);
        self.shared.children.notify_one();
        adopted
    }
}

impl Shared {
    fn run(&self) {
        loop {
            match rustix::process::wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) => self.ended(pid, status.into()),
                Ok(None) | Err(Errno::INTR) => {}
                // No children, and only a start can make one.
                Err(_) => self.sleep_until_started(),
            }
        }
    }

    fn ended(&self, pid: Pid, exit: Exit) {
        let mut state = self.lock();
        match state.waiting.remove(&pid) {
            // A receiver that is gone has lost interest; the child is reaped all the same.
            Some(sender) => drop(sender.send(exit)),
            None if state.starting > 0 => drop(state.unclaimed.insert(pid, exit)),
            None => {}
        }
    }

    fn sleep_until_started(&self) {
        let mut state = self
            .children
            .wait_while(self.lock(), |state| !state.news)
            .unwrap_or_else(PoisonError::into_inner);
        state.news = false;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    /// One for all tests of this program, as there is one in the agent: two would take each other's children.
    static REAPER: LazyLock<Reaper> = LazyLock::new(|| Reaper::start().expect("a thread"));

    /// A program that ends by itself, started behind the reaper's back except for its pid.
    fn child(script: &str) -> Result<Pid, std::io::Error> {
        let child = std::process::Command::new("/bin/sh").arg("-c").arg(script).spawn()?;
        Ok(Pid::from_child(&child))
    }

    #[tokio::test]
    async fn tells_how_a_child_ended() {
        for (script, expected) in [
            ("exit 3", Exit::Code(3)),
            ("kill -9 $$", Exit::Signal(9)),
            ("true", Exit::Code(0)),
        ] {
            let (_, end) = REAPER.adopt(|| child(script)).expect("started");
            assert_eq!(end.await, Ok(expected), "{script}");
        }
    }

    #[tokio::test]
    async fn claims_a_child_that_ended_early() {
        let slow = || {
            let pid = child("exit 7");
            std::thread::sleep(std::time::Duration::from_millis(50));
            pid
        };
        // A first child keeps the thread in `wait`, so that it sees the second one end before that is claimed.
        let (_, other) = REAPER.adopt(|| child("sleep 0.2")).expect("started");
        let (_, end) = REAPER.adopt(slow).expect("started");
        assert_eq!(end.await, Ok(Exit::Code(7)));
        assert_eq!(other.await, Ok(Exit::Code(0)));
    }
}
