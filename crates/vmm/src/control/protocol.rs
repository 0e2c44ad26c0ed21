//! Messages on the control socket: one JSON object a line, over a Unix stream.
//!
//! The server greets with [`Greeting`]. Each [`Request`] gets one [`Response`] with its id, in order. Between them come
//! [`Event`]s. Files for a snapshot travel with the bytes of its request (`SCM_RIGHTS`).

use serde::{Deserialize, Serialize};

use crate::machine::StopReason;
use crate::snapshot::{Kind, Saved};
use crate::virtio::VirtioMetrics;

/// Version of the protocol.
pub const PROTOCOL: u32 = 1;

/// The first line of every connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Greeting {
    /// Version of the protocol: [`PROTOCOL`].
    pub protocol: u32,
    /// Version of the program.
    pub version: String,
}

/// A line to the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Comes back in the answer.
    pub id: u64,
    /// What to do.
    #[serde(flatten)]
    pub operation: Operation,
}

/// What the server can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "camelCase")]
pub enum Operation {
    /// Tells whether the machine runs.
    Status,
    /// Stops vCPUs and devices. Nothing to do if they are.
    Pause,
    /// Lets them go on. Nothing to do if they run.
    Resume,
    /// Writes a layer of the machine into two empty files, which come with the request: first the one for the state,
    /// then the one for memory. A running machine is paused for the time of it.
    Snapshot {
        /// Which pages.
        kind: Kind,
    },
    /// Asks the guest to give up memory so that it keeps this much less than it has, in bytes.
    Balloon {
        /// Size of the balloon in bytes.
        target: u64,
    },
    /// Counters of all devices.
    Metrics,
    /// Ends the process, and with it the machine.
    Quit,
}

/// The answer to a request.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    /// The id of the request; 0 if it could not be read.
    pub id: u64,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What came of a request.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It was done.
    Ok(Reply),
    /// It was not.
    Error {
        /// What programs look at.
        code: ErrorCode,
        /// What people read.
        message: String,
    },
}

/// Kinds of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ErrorCode {
    /// The request cannot be understood, or lacks its files.
    BadRequest,
    /// The machine cannot do that as it is.
    Conflict,
    /// It was tried and failed. The machine is as before.
    Failed,
}

/// What an answer carries.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", untagged)]
pub enum Reply {
    /// Nothing more.
    Done {},
    /// To a status.
    Status(Status),
    /// To a snapshot.
    Snapshot {
        /// What was written.
        #[serde(flatten)]
        saved: Saved,
        /// How long the machine stood still for it, in microseconds.
        paused_us: u64,
    },
    /// To metrics.
    Metrics {
        /// Of the devices, by slot.
        devices: Vec<VirtioMetrics>,
    },
}

/// How the machine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Whether nothing of it runs.
    pub paused: bool,
    /// Number of vCPUs.
    pub vcpus: usize,
    /// Bytes of the guest's memory.
    pub memory: u64,
    /// Name of the layer that it was restored from.
    pub origin: Option<String>,
}

/// What the server says by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase")]
pub enum Event {
    /// The machine stopped by itself; the process ends.
    Stopped(StopReason),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_documented() {
        let read = |text: &str| serde_json::from_str::<Request>(text).unwrap();
        assert_eq!(
            read(r#"{"id":7,"op":"pause"}"#),
            Request {
                id: 7,
                operation: Operation::Pause
            }
        );
        assert_eq!(
            read(r#"{"id":8,"op":"snapshot","kind":"diff"}"#),
            Request {
                id: 8,
                operation: Operation::Snapshot { kind: Kind::Diff }
            }
        );
        assert!(serde_json::from_str::<Request>(r#"{"id":8,"op":"explode"}"#).is_err());
    }

    #[test]
    fn answers_and_events_are_written_as_documented() {
        let write = |response: &Response| serde_json::to_string(response).unwrap();
        assert_eq!(
            write(&Response {
                id: 1,
                outcome: Outcome::Ok(Reply::Done {})
            }),
            r#"{"id":1,"ok":{}}"#
        );
        let error = Outcome::Error {
            code: ErrorCode::Conflict,
            message: "no".to_owned(),
        };
        assert_eq!(
            write(&Response { id: 2, outcome: error }),
            r#"{"id":2,"error":{"code":"conflict","message":"no"}}"#
        );
        let event = Event::Stopped(StopReason::TripleFault { vcpu: 3 });
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"event":"stopped","reason":"tripleFault","vcpu":3}"#
        );
    }
}
