//! OpenSSH's extensions (its file PROTOCOL, section 4).

use rustix::fs::{CWD, StatVfs};

use super::attributes::Attributes;
use super::server::{Answer, LONGEST_READ, MOST_HANDLES, Server, expand, name, ok, path_of, real_path, set};
use super::status::{Code, Status};
use super::wire::{Reader, Writer};

const VERSION: u8 = 2;
const EXTENDED_REPLY: u8 = 201;

/// What is announced, with versions.
const ANNOUNCED: &[(&str, &str)] = &[
    ("posix-rename@openssh.com", "1"),
    ("statvfs@openssh.com", "2"),
    ("fstatvfs@openssh.com", "2"),
    ("hardlink@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
    ("lsetstat@openssh.com", "1"),
    ("limits@openssh.com", "1"),
    ("expand-path@openssh.com", "1"),
];

/// The answer to a client's first packet.
pub(super) fn version(version: u32) -> Vec<u8> {
    let mut packet = Writer::new(VERSION);
    packet.u32(version);
    for (name, version) in ANNOUNCED {
        packet.string(name.as_bytes()).string(version.as_bytes());
    }
    packet.finish()
}

impl Server {
    pub(super) fn extended(&self, id: u32, extension: &[u8], mut data: Reader<'_>) -> Answer {
        match extension {
            b"posix-rename@openssh.com" => {
                let (from, to) = (data.string()?, data.string()?);
                rustix::fs::rename(path_of(from), path_of(to))?;
                ok(id)
            }
            b"hardlink@openssh.com" => {
                let (from, to) = (data.string()?, data.string()?);
                rustix::fs::linkat(CWD, path_of(from), CWD, path_of(to), rustix::fs::AtFlags::empty())?;
                ok(id)
            }
            b"fsync@openssh.com" => {
                self.file(data.string()?)?.sync_all()?;
                ok(id)
            }
            b"lsetstat@openssh.com" => {
                let path = data.string()?;
                set(path_of(path), &Attributes::read(&mut data)?, false)?;
                ok(id)
            }
            b"statvfs@openssh.com" => Ok(file_system(id, &rustix::fs::statvfs(path_of(data.string()?))?)),
            b"fstatvfs@openssh.com" => Ok(file_system(id, &rustix::fs::fstatvfs(self.file(data.string()?)?)?)),
            b"limits@openssh.com" => {
                let mut packet = Writer::new(EXTENDED_REPLY);
                packet.u32(id).u64(super::LONGEST_PACKET as u64);
                packet
                    .u64(LONGEST_READ.into())
                    .u64(LONGEST_READ.into())
                    .u64(MOST_HANDLES as u64);
                Ok(packet.finish())
            }
            b"expand-path@openssh.com" => {
                let path = real_path(&expand(data.string()?))?;
                name(id, std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()))
            }
            _ => Err(Status::new(Code::Unsupported, "Unknown extension")),
        }
    }
}

fn file_system(id: u32, it: &StatVfs) -> Vec<u8> {
    let mut packet = Writer::new(EXTENDED_REPLY);
    packet.u32(id);
    let flags = it.f_flag.bits() & 3;
    for value in [
        it.f_bsize,
        it.f_frsize,
        it.f_blocks,
        it.f_bfree,
        it.f_bavail,
        it.f_files,
        it.f_ffree,
        it.f_favail,
        it.f_fsid,
        flags,
        it.f_namemax,
    ] {
        packet.u64(value);
    }
    packet.finish()
}
