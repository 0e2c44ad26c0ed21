//! How requests fail (filexfer 7).

use std::io;

use super::wire::{Malformed, Writer};

const STATUS: u8 = 101;

/// The protocol's codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Code {
    Ok = 0,
    Eof = 1,
    NoSuchFile = 2,
    PermissionDenied = 3,
    Failure = 4,
    BadMessage = 5,
    Unsupported = 8,
}

/// A code with words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) code: Code,
    pub(super) message: String,
}

impl Status {
    pub(super) fn new(code: Code, message: &str) -> Self {
        Self {
            code,
            message: message.to_owned(),
        }
    }

    pub(super) fn eof() -> Self {
        Self::new(Code::Eof, "End of file")
    }

    pub(super) fn packet(&self, id: u32) -> Vec<u8> {
        let mut packet = Writer::new(STATUS);
        packet
            .u32(id)
            .u32(self.code as u32)
            .string(self.message.as_bytes())
            .string(b"en");
        packet.finish()
    }
}

impl From<io::Error> for Status {
    fn from(error: io::Error) -> Self {
        let code = match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::EBADF | libc::ELOOP) => Code::NoSuchFile,
            Some(libc::EPERM | libc::EACCES | libc::EROFS) => Code::PermissionDenied,
            Some(libc::ENAMETOOLONG | libc::EINVAL) => Code::BadMessage,
            Some(libc::ENOSYS | libc::EOPNOTSUPP) => Code::Unsupported,
            _ => Code::Failure,
        };
        let text = error.to_string();
        let message = text.split_once(" (os error").map_or(text.as_str(), |(words, _)| words);
        Self::new(code, message)
    }
}

impl From<rustix::io::Errno> for Status {
    fn from(error: rustix::io::Errno) -> Self {
        io::Error::from(error).into()
    }
}

impl From<Malformed> for Status {
    fn from(_: Malformed) -> Self {
        Self::new(Code::BadMessage, "Malformed request")
    }
}
