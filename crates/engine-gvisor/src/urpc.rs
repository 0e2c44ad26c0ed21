//! The control socket of a sandbox.
//!
//! The sandbox's kernel (the sentry) serves a small RPC protocol on a Unix stream socket: a request is one JSON object
//! `{"method": …, "arg": …}` without any framing, an answer is one JSON object `{"success": …, "err": …, "result": …}`. Files travel with
//! the first byte. The `runsc` program speaks it too, but starting it costs some 30 ms each time; a pause over the socket takes 0.2 ms.
//!
//! All calls block; the caller brings a thread.

use std::io::{self, IoSlice, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{GvisorError, Result};

/// The longest answer that makes sense; errors carry whole stack traces.
const LONGEST_ANSWER: usize = 4 << 20;

#[derive(Serialize)]
struct Request<'a> {
    method: &'static str,
    arg: &'a Value,
}

#[derive(Deserialize)]
struct Answer {
    success: bool,
    err: String,
}

/// Where a sandbox's control socket is.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    dir: PathBuf,
    name: String,
}

/// The files of a checkpoint, in the order in which the sentry wants them.
#[derive(Debug)]
pub(crate) struct CheckpointFiles<'a> {
    pub(crate) state: BorrowedFd<'a>,
    pub(crate) pages_meta: BorrowedFd<'a>,
    pub(crate) pages: BorrowedFd<'a>,
}

impl Control {
    pub(crate) fn new((dir, name): (PathBuf, String)) -> Self {
        Self { dir, name }
    }

    /// Stops all tasks of the sandbox and waits until they are stopped. Counts: as many [`resume`](Self::resume) undo it.
    pub(crate) fn pause(&self) -> Result<()> {
        self.call("containerManager.Pause", &Value::Null, &[])
    }

    /// Undoes one [`pause`](Self::pause). Without one **the sentry panics** and the sandbox is lost.
    pub(crate) fn resume(&self) -> Result<()> {
        self.call("containerManager.Resume", &Value::Null, &[])
    }

    /// Writes the sandbox into files. It goes on afterwards, or stays paused if it was; a failure leaves it as it was.
    pub(crate) fn checkpoint(&self, files: &CheckpointFiles<'_>) -> Result<()> {
        let arg = json!({
            "metadata": { "compression": "none" },
            "MemoryFileSaveOpts": { "ExcludeCommittedZeroPages": false },
            "have_pages_file": true,
            "Resume": true,
        });
        self.call(
            "containerManager.Checkpoint",
            &arg,
            &[files.state, files.pages_meta, files.pages],
        )
    }

    fn call(&self, method: &'static str, arg: &Value, files: &[BorrowedFd<'_>]) -> Result<()> {
        let answer = self
            .exchange(&Request { method, arg }, files)
            .map_err(|source| GvisorError::Control { method, source })?;
        if answer.success {
            Ok(())
        } else {
            Err(GvisorError::Refused {
                method,
                message: first_line(&answer.err),
            })
        }
    }

    fn exchange(&self, request: &Request<'_>, files: &[BorrowedFd<'_>]) -> io::Result<Answer> {
        let mut stream = self.connect()?;
        let bytes = serde_json::to_vec(request)?;
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let sent = sendmsg(&stream, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
        io::Write::write_all(&mut stream, &bytes[sent..])?;
        read_answer(&mut stream)
    }

    fn connect(&self) -> io::Result<UnixStream> {
        // Through the directory's descriptor: the path may be longer than a socket address can be.
        let dir = std::fs::File::open(&self.dir)?;
        UnixStream::connect(format!("/proc/self/fd/{}/{}", dir.as_fd().as_raw_fd(), self.name))
    }
}

/// Reads until there is one whole JSON object: the protocol has no other end of a message.
fn read_answer(stream: &mut UnixStream) -> io::Result<Answer> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 8192];
    loop {
        let length = stream.read(&mut chunk)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&chunk[..length]);
        if bytes.len() > LONGEST_ANSWER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer does not end"));
        }
        match serde_json::from_slice(&bytes) {
            Ok(answer) => return Ok(answer),
            Err(e) if e.is_eof() => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// What the sentry or runsc want to say; all further lines are stack traces.
pub(crate) fn first_line(text: &str) -> String {
    let line = text
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("(it said nothing)");
    line.trim().trim_end_matches(':').to_owned()
}
