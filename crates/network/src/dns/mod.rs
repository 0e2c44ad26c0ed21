//! The DNS forwarder that answers all sandboxes of a daemon, and the hook that decides on their queries.

mod forwarder;
mod upstream;

use std::fmt;

use crate::config::SlotName;

pub(crate) use self::forwarder::Forwarder;

/// One DNS question, as a [`QueryPolicy`] sees it.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// The slot that asks; `None` when the slot was released meanwhile.
    pub slot: Option<&'a SlotName>,
    /// The name asked for: lower case, with the final dot.
    pub name: &'a str,
    /// The record type as text, for example `A` or `HTTPS`.
    pub kind: &'a str,
}

/// What happens to a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Ask upstream.
    Forward,
    /// Answer `REFUSED`.
    Refuse,
    /// Answer that the name does not exist.
    NotFound,
}

/// Decides on every DNS query; called on the runtime, so it must not block.
pub trait QueryPolicy: fmt::Debug + Send + Sync + 'static {
    /// The verdict for one query.
    fn decide(&self, query: Query<'_>) -> Verdict;
}

/// The policy that forwards everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllowAll;

impl QueryPolicy for AllowAll {
    fn decide(&self, _query: Query<'_>) -> Verdict {
        Verdict::Forward
    }
}
