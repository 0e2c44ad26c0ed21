//! A connection of the control socket: lines, and files that come with them.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// Most bytes of a line: requests are short.
const MAX_LINE: usize = 64 << 10;
/// Most files that wait for their request.
const MAX_FILES: usize = 8;

/// A connection of the control socket.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
    files: VecDeque<File>,
}

impl Connection {
    /// Takes over an accepted connection.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            received: Vec::new(),
            files: VecDeque::new(),
        }
    }

    /// Receives what is there. None at the end of the connection.
    ///
    /// # Errors
    /// Of the socket, or when the client sends too much without ending a line.
    pub fn receive(&mut self) -> io::Result<Option<Vec<String>>> {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let message = recvmsg(&self.stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)?;
        for control in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = control {
                self.files.extend(files.map(File::from));
            }
        }
        self.files.truncate(MAX_FILES);
        if message.bytes == 0 {
            return Ok(None);
        }
        self.received.extend_from_slice(&bytes[..message.bytes]);
        let mut lines = Vec::new();
        while let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.received.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(&line[..end]).into_owned());
        }
        if self.received.len() > MAX_LINE {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a line of the control socket is too long",
            ));
        }
        Ok(Some(lines))
    }

    /// The files that came first and were not taken.
    pub fn take_files<const N: usize>(&mut self) -> Option<[File; N]> {
        if self.files.len() < N {
            self.files.clear();
            return None;
        }
        self.files.drain(..N).collect::<Vec<_>>().try_into().ok()
    }

    /// Sends one message.
    ///
    /// # Errors
    /// Of the socket. Messages are short: a client that does not read them fails the write and is dropped.
    pub fn send(&mut self, message: &impl serde::Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.stream.write_all(&line)
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}
