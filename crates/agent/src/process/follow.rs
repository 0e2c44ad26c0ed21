//! The stream of events that a follower of a process reads (contract 3.4, 3.5).

use std::time::Duration;

use connectrpc::ConnectError;
use dormouse_agent_proto::oneof::{Output, ProcessEventKind};
use dormouse_agent_proto::rpc::process::ProcessEvent;
use dormouse_agent_proto::rpc::process::process_event::{DataEvent, EndEvent, KeepAlive, StartEvent};
use futures::Stream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::output::{Event, Source};

/// Where a follower stands.
enum State {
    Starting,
    Following,
    Ended,
}

/// `start`, then what happens, then `end`; a sign of life after every `keepalive` of silence.
///
/// At `deadline` the stream fails with `deadline_exceeded`.
pub(crate) fn events(
    pid: u32,
    queue: mpsc::Receiver<Event>,
    keepalive: Duration,
    deadline: Option<std::time::Instant>,
) -> impl Stream<Item = Result<ProcessEvent, ConnectError>> + Send + 'static {
    let deadline = deadline.map(Instant::from_std);
    futures::stream::unfold((State::Starting, queue), move |(state, mut queue)| async move {
        match state {
            State::Ended => None,
            State::Starting => Some((Ok(start_event(pid)), (State::Following, queue))),
            State::Following => {
                let (item, state) = tokio::select! {
                    biased;
                    // Before the events: the kill at the deadline makes one.
                    () = until(deadline) => (Err(timed_out()), State::Ended),
                    event = queue.recv() => match event {
                        Some(Event::Data(source, bytes)) => (Ok(data_event(source, bytes.into())), State::Following),
                        Some(Event::End(ending)) => (Ok(wrap(EndEvent::from(ending))), State::Ended),
                        // The agent itself is going down.
                        None => (Err(ConnectError::unavailable("the agent stopped following the process")), State::Ended),
                    },
                    () = tokio::time::sleep(keepalive) => (Ok(wrap(KeepAlive::default())), State::Following),
                };
                Some((item, (state, queue)))
            }
        }
    })
}

/// What a client reads whose time is up.
pub(crate) fn timed_out() -> ConnectError {
    ConnectError::deadline_exceeded("context deadline exceeded")
}

/// Waits for a deadline, for ever if there is none.
pub(crate) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn wrap(kind: impl Into<ProcessEventKind>) -> ProcessEvent {
    ProcessEvent {
        event: Some(kind.into()),
        ..ProcessEvent::default()
    }
}

fn start_event(pid: u32) -> ProcessEvent {
    wrap(StartEvent {
        pid,
        ..StartEvent::default()
    })
}

fn data_event(source: Source, bytes: Vec<u8>) -> ProcessEvent {
    let output = match source {
        Source::Stdout => Output::Stdout(bytes),
        Source::Stderr => Output::Stderr(bytes),
        Source::Terminal => Output::Pty(bytes),
    };
    wrap(DataEvent {
        output: Some(output),
        ..DataEvent::default()
    })
}
