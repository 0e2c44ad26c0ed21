//! All processes that were started through the agent, and the latest ends.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dormouse_agent_proto::oneof::Selector;
use dormouse_agent_proto::rpc::process::ProcessInfo;
use tokio::sync::mpsc;

use super::exit::Ending;
use super::output::Event;
use super::running::Running;

/// Ends that are remembered for clients which connect too late.
const REMEMBERED: usize = 128;

/// A selector that selects nothing (contract 3.5).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoSuchProcess {
    #[error("process with pid {0} not found")]
    Pid(u32),
    #[error("process with tag {0} not found")]
    Tag(String),
    #[error("no process selected")]
    Unselected,
}

/// The processes.
#[derive(Debug, Default)]
pub(crate) struct Table {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: BTreeMap<u32, Arc<Running>>,
    ended: VecDeque<Ended>,
}

#[derive(Debug)]
struct Ended {
    pid: u32,
    tag: Option<String>,
    ending: Ending,
}

impl Table {
    /// Adds a process that has just been started. The kernel may have given it the id of a forgotten one.
    pub(crate) fn insert(&self, process: Arc<Running>) {
        let mut state = self.lock();
        state.ended.retain(|ended| ended.pid != process.pid());
        state.running.insert(process.pid(), process);
    }

    /// Turns a process into a memory.
    pub(crate) fn end(&self, process: &Arc<Running>, ending: &Ending) {
        let mut state = self.lock();
        let pid = process.pid();
        // Its id may already belong to another one, since output can outlast a process.
        if state.running.get(&pid).is_none_or(|current| Arc::ptr_eq(current, process)) {
            state.running.remove(&pid);
        }
        if state.ended.len() == REMEMBERED {
            state.ended.pop_front();
        }
        state.ended.push_back(Ended {
            pid,
            tag: process.tag().map(str::to_owned),
            ending: ending.clone(),
        });
    }

    /// Processes that still run, by id.
    pub(crate) fn list(&self) -> Vec<ProcessInfo> {
        let state = self.lock();
        let running = state.running.values().filter(|process| !process.has_exited());
        running.map(|process| process.info()).collect()
    }

    /// A process that still runs.
    pub(crate) fn get(&self, selector: Option<&Selector>) -> Result<Arc<Running>, NoSuchProcess> {
        let state = self.lock();
        let found = state.find(selector).filter(|process| !process.has_exited());
        found.ok_or_else(|| missing(selector))
    }

    /// Follows a process, or tells of its end.
    pub(crate) fn follow(&self, selector: Option<&Selector>) -> Result<(u32, mpsc::Receiver<Event>), NoSuchProcess> {
        let state = self.lock();
        if let Some(process) = state.find(selector) {
            return Ok((process.pid(), process.followers.follow()));
        }
        let ended = state.find_ended(selector).ok_or_else(|| missing(selector))?;
        let (sender, receiver) = mpsc::channel(1);
        // The queue is empty and its receiver at hand, so this cannot fail.
        let _ = sender.try_send(Event::End(ended.ending.clone()));
        Ok((ended.pid, receiver))
    }

    /// Whether a process has ended lately.
    pub(crate) fn has_ended(&self, selector: Option<&Selector>) -> bool {
        let state = self.lock();
        match state.find(selector) {
            Some(process) => process.has_exited(),
            None => state.find_ended(selector).is_some(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&self, selector: Option<&Selector>) -> Option<Arc<Running>> {
        match selector? {
            Selector::Pid(pid) => self.running.get(pid).cloned(),
            Selector::Tag(tag) => self
                .running
                .values()
                .rev()
                .find(|process| process.tag() == Some(tag.as_str()))
                .cloned(),
        }
    }

    fn find_ended(&self, selector: Option<&Selector>) -> Option<&Ended> {
        self.ended.iter().rev().find(|ended| match selector {
            Some(Selector::Pid(pid)) => ended.pid == *pid,
            Some(Selector::Tag(tag)) => ended.tag.as_ref() == Some(tag),
            None => false,
        })
    }
}

fn missing(selector: Option<&Selector>) -> NoSuchProcess {
    match selector {
        Some(Selector::Pid(pid)) => NoSuchProcess::Pid(*pid),
        Some(Selector::Tag(tag)) => NoSuchProcess::Tag(tag.clone()),
        None => NoSuchProcess::Unselected,
    }
}
