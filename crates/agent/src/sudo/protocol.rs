//! What client and server of sudo say to each other: JSON, one message a line.
//!
//! The client's first message carries its standard descriptors, when it asks for a command.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// More than the kernel takes for arguments and environment together, in base64.
pub(crate) const LONGEST_LINE: usize = 8 << 20;

/// A string of the system's, which need not be text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Raw(pub Vec<u8>);

impl From<OsString> for Raw {
    fn from(string: OsString) -> Self {
        Self(string.into_vec())
    }
}

impl From<&str> for Raw {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<&std::path::Path> for Raw {
    fn from(path: &std::path::Path) -> Self {
        Self(path.as_os_str().as_bytes().to_vec())
    }
}

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD_NO_PAD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD_NO_PAD.decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// The client's first message.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// May I use sudo at all?
    Check,
    /// Start this.
    Start(Start),
}

/// A command with everything that makes it somebody else's.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    pub program: Raw,
    /// The zeroth included.
    pub args: Vec<Raw>,
    /// As `NAME=value`.
    pub envs: Vec<Raw>,
    pub cwd: Raw,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// Which of the three descriptors becomes the controlling terminal.
    pub terminal: Option<usize>,
    /// Whether it goes on when the client leaves.
    pub detached: bool,
}

/// What the client says later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Control {
    /// Signal the command.
    Signal(i32),
    /// Tell the command and what it started that the terminal has another size, where the kernel does not.
    Resized,
    /// Let a stopped command and what it started go on.
    Continue,
}

/// What the server says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Event {
    /// The caller may use sudo.
    Allowed,
    /// The caller may not.
    Refused { name: String },
    /// The command runs.
    Started,
    /// The command could not be started.
    Failed { message: String },
    /// The command ended by itself.
    Exited(i32),
    /// The command was ended by this signal.
    Killed(i32),
}

/// A message as a line.
pub(crate) fn to_line(message: &impl Serialize) -> Vec<u8> {
    // Nothing in these types can fail to become JSON.
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_survive(bytes: Vec<u8>) {
            let line = to_line(&Raw(bytes.clone()));
            prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            let back: Raw = serde_json::from_slice(&line).expect("JSON");
            prop_assert_eq!(back.0, bytes);
        }
    }
}
