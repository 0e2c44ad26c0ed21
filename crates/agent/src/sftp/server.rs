//! What is done about a request.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, ReadDir};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::attributes::Attributes;
use super::extended;
use super::request::Request;
use super::status::{Code, Status};
use super::wire::Writer;
use crate::users::Accounts;

/// The protocol's version.
const VERSION: u32 = 3;

/// Most open files and directories.
pub(super) const MOST_HANDLES: usize = 512;

/// Most bytes of one read: what fits into a packet.
pub(super) const LONGEST_READ: u32 = (super::LONGEST_PACKET - 1024) as u32;

/// Entries of one answer to a readdir, and most bytes that they may take.
const ENTRIES: usize = 128;
const ENTRIES_LENGTH: usize = 128 << 10;

const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRIBUTES: u8 = 105;

/// What a request comes to: a packet, or a status.
pub(super) type Answer = Result<Vec<u8>, Status>;

/// An open file or directory.
#[derive(Debug)]
pub(super) enum Handle {
    File(File),
    Directory(Directory),
}

/// A directory that is being listed.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// Names that come before the directory's own, and one that did not fit into the last answer.
    first: VecDeque<OsString>,
    rest: ReadDir,
}

/// The state of one client's session.
#[derive(Debug, Default)]
pub(super) struct Server {
    handles: HashMap<u32, Handle>,
    next_handle: u32,
    accounts: Option<Accounts>,
}

impl Server {
    /// Does what a packet asks for; the result is a packet with its length.
    pub(super) fn answer(&mut self, packet: &[u8]) -> Vec<u8> {
        match Request::parse(packet) {
            None => Status::new(Code::BadMessage, "Malformed request").packet(0),
            Some((id, request)) => {
                let answer = request.map_err(Status::from).and_then(|request| self.act(id, &request));
                answer.unwrap_or_else(|status| status.packet(id))
            }
        }
    }

    fn act(&mut self, id: u32, request: &Request<'_>) -> Answer {
        match *request {
            Request::Init => Ok(extended::version(VERSION)),
            Request::Open {
                path,
                flags,
                ref attributes,
            } => self.open(id, path, flags, attributes),
            Request::Close(handle) => {
                let number = number_of(handle)?;
                self.handles.remove(&number).ok_or_else(no_handle)?;
                ok(id)
            }
            Request::Read { handle, offset, length } => read(id, self.file(handle)?, offset, length),
            Request::Write { handle, offset, data } => {
                self.file(handle)?.write_all_at(data, offset)?;
                ok(id)
            }
            Request::Lstat(path) => attributes_of(id, &fs::symlink_metadata(path_of(path))?),
            Request::Stat(path) => attributes_of(id, &fs::metadata(path_of(path))?),
            Request::Fstat(handle) => attributes_of(id, &self.metadata(handle)?),
            Request::Setstat { path, ref attributes } => {
                set(path_of(path), attributes, true)?;
                ok(id)
            }
            Request::Fsetstat { handle, ref attributes } => {
                set_open(self.file(handle)?, attributes)?;
                ok(id)
            }
            Request::Opendir(path) => {
                let path = path_of(path);
                let rest = fs::read_dir(path)?;
                self.keep(
                    id,
                    Handle::Directory(Directory {
                        path: path.to_owned(),
                        first: VecDeque::from([OsString::from("."), OsString::from("..")]),
                        rest,
                    }),
                )
            }
            Request::Readdir(handle) => self.list(id, handle),
            Request::Remove(path) => {
                rustix::fs::unlink(path_of(path))?;
                ok(id)
            }
            Request::Mkdir { path, ref attributes } => {
                rustix::fs::mkdir(path_of(path), mode_of(attributes, 0o777))?;
                ok(id)
            }
            Request::Rmdir(path) => {
                rustix::fs::rmdir(path_of(path))?;
                ok(id)
            }
            Request::Realpath(path) => name(id, real_path(path_of(path))?.as_os_str().as_bytes()),
            Request::Rename { from, to } => {
                rename(path_of(from), path_of(to))?;
                ok(id)
            }
            Request::Readlink(path) => name(id, fs::read_link(path_of(path))?.as_os_str().as_bytes()),
            Request::Symlink { target, link } => {
                rustix::fs::symlink(path_of(target), path_of(link))?;
                ok(id)
            }
            Request::Extended { name, data } => self.extended(id, name, data),
            Request::Unknown => Err(Status::new(Code::Unsupported, "Unknown request")),
        }
    }

    fn open(&mut self, id: u32, path: &[u8], flags: u32, attributes: &Attributes) -> Answer {
        let has = |flag: u32| flags & flag != 0;
        let mut how = match (has(1), has(2)) {
            (true, true) => OFlags::RDWR,
            (false, true) => OFlags::WRONLY,
            _ => OFlags::RDONLY,
        };
        for (flag, its) in [
            (4, OFlags::APPEND),
            (8, OFlags::CREATE),
            (16, OFlags::TRUNC),
            (32, OFlags::EXCL),
        ] {
            how.set(its, has(flag));
        }
        let how = how | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = rustix::fs::open(path_of(path), how, mode_of(attributes, 0o666))?;
        self.keep(id, Handle::File(file.into()))
    }

    fn keep(&mut self, id: u32, handle: Handle) -> Answer {
        if self.handles.len() >= MOST_HANDLES {
            return Err(Status::new(Code::Failure, "Too many open files"));
        }
        while self.handles.contains_key(&self.next_handle) {
            self.next_handle = self.next_handle.wrapping_add(1);
        }
        let number = self.next_handle;
        self.next_handle = number.wrapping_add(1);
        self.handles.insert(number, handle);
        let mut packet = Writer::new(HANDLE);
        packet.u32(id).string(&number.to_be_bytes());
        Ok(packet.finish())
    }

    /// The open file that a client means.
    pub(super) fn file(&self, handle: &[u8]) -> Result<&File, Status> {
        match self.handles.get(&number_of(handle)?) {
            Some(Handle::File(file)) => Ok(file),
            _ => Err(no_handle()),
        }
    }

    fn metadata(&self, handle: &[u8]) -> Result<Metadata, Status> {
        match self.handles.get(&number_of(handle)?) {
            Some(Handle::File(file)) => Ok(file.metadata()?),
            Some(Handle::Directory(directory)) => Ok(fs::metadata(&directory.path)?),
            None => Err(no_handle()),
        }
    }

    fn list(&mut self, id: u32, handle: &[u8]) -> Answer {
        let accounts = self.accounts.get_or_insert_with(accounts);
        let Some(Handle::Directory(directory)) = self.handles.get_mut(&number_of(handle)?) else {
            return Err(no_handle());
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let mut entries = Vec::new();
        let mut length = 0;
        while entries.len() < ENTRIES && length < ENTRIES_LENGTH {
            let Some(name) = directory.next()? else { break };
            // It may be gone by now; then it is not there.
            let Ok(metadata) = fs::symlink_metadata(directory.path.join(&name)) else {
                continue;
            };
            let line = super::listing::line(name.as_bytes(), &metadata, accounts, now);
            length += name.len() + line.len();
            entries.push((name, line, Attributes::from(&metadata)));
        }
        if entries.is_empty() {
            return Err(Status::eof());
        }
        let mut packet = Writer::new(NAME);
        packet.u32(id).u32(u32::try_from(entries.len()).unwrap_or(0));
        for (name, line, attributes) in entries {
            packet.string(name.as_bytes()).string(&line);
            attributes.write(&mut packet);
        }
        Ok(packet.finish())
    }
}

impl Directory {
    fn next(&mut self) -> io::Result<Option<OsString>> {
        match self.first.pop_front() {
            Some(name) => Ok(Some(name)),
            None => Ok(self.rest.next().transpose()?.map(|entry| entry.file_name())),
        }
    }
}

fn accounts() -> Accounts {
    let text = |path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    Accounts::parse(&text("/etc/passwd"), &text("/etc/group"))
}

fn number_of(handle: &[u8]) -> Result<u32, Status> {
    handle.try_into().map(u32::from_be_bytes).map_err(|_| no_handle())
}

fn no_handle() -> Status {
    Status::new(Code::Failure, "No such handle")
}

/// A path of the client's; an empty one is the directory that it begins in.
pub(super) fn path_of(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(if path.is_empty() { b"." } else { path }))
}

pub(super) fn ok(id: u32) -> Answer {
    Ok(Status::new(Code::Ok, "Success").packet(id))
}

/// One name, without attributes.
pub(super) fn name(id: u32, name: &[u8]) -> Answer {
    let mut packet = Writer::new(NAME);
    packet.u32(id).u32(1).string(name).string(name);
    Attributes::default().write(&mut packet);
    Ok(packet.finish())
}

fn attributes_of(id: u32, metadata: &Metadata) -> Answer {
    let mut packet = Writer::new(ATTRIBUTES);
    packet.u32(id);
    Attributes::from(metadata).write(&mut packet);
    Ok(packet.finish())
}

fn read(id: u32, file: &File, offset: u64, length: u32) -> Answer {
    let mut buffer = vec![0; length.min(LONGEST_READ) as usize];
    let mut filled = 0;
    // Short answers cost a client another question each; pipes and terminals give what they have.
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if filled > 0 => break,
            Err(error) => return Err(error.into()),
        }
    }
    if filled == 0 && !buffer.is_empty() {
        return Err(Status::eof());
    }
    let mut packet = Writer::new(DATA);
    packet.u32(id).string(&buffer[..filled]);
    Ok(packet.finish())
}

fn mode_of(attributes: &Attributes, default: u32) -> Mode {
    Mode::from_raw_mode(attributes.mode.unwrap_or(default) & 0o7777)
}

fn times_of((accessed, modified): (u32, u32)) -> Timestamps {
    let time = |seconds: u32| Timespec {
        tv_sec: seconds.into(),
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time(accessed),
        last_modification: time(modified),
    }
}

/// Changes what is given. The owner comes before the mode, because a change of owner clears setuid bits.
pub(super) fn set(path: &Path, attributes: &Attributes, follow: bool) -> Result<(), Status> {
    let flags = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
    if let Some(size) = attributes.size {
        File::options().write(true).open(path)?.set_len(size)?;
    }
    if let Some((user, group)) = attributes.owner {
        rustix::fs::chownat(CWD, path, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)), flags)?;
    }
    if attributes.mode.is_some() {
        rustix::fs::chmodat(CWD, path, mode_of(attributes, 0), flags)?;
    }
    if let Some(times) = attributes.times {
        rustix::fs::utimensat(CWD, path, &times_of(times), flags)?;
    }
    Ok(())
}

fn set_open(file: &File, attributes: &Attributes) -> Result<(), Status> {
    if let Some(size) = attributes.size {
        file.set_len(size)?;
    }
    if let Some((user, group)) = attributes.owner {
        rustix::fs::fchown(file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
    }
    if let Some(mode) = attributes.mode {
        file.set_permissions(fs::Permissions::from_mode(mode & 0o7777))?;
    }
    if let Some(times) = attributes.times {
        rustix::fs::futimens(file, &times_of(times))?;
    }
    Ok(())
}

/// Renames without replacing, as the protocol says; OpenSSH's extension replaces.
fn rename(from: &Path, to: &Path) -> Result<(), Status> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot promise it.
        Err(Errno::INVAL | Errno::NOSYS) => {
            if fs::symlink_metadata(to).is_ok() {
                return Err(Errno::EXIST.into());
            }
            Ok(rustix::fs::rename(from, to)?)
        }
        done => Ok(done?),
    }
}

/// The absolute path without links, of which the last part need not exist.
pub(super) fn real_path(path: &Path) -> io::Result<PathBuf> {
    let error = match fs::canonicalize(path) {
        Ok(found) => return Ok(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => error,
        Err(error) => return Err(error),
    };
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Err(error),
    };
    let last = path.file_name().ok_or(error)?;
    Ok(fs::canonicalize(parent)?.join(last))
}

/// The path that a client wrote with `~`, made absolute.
pub(super) fn expand(path: &[u8]) -> PathBuf {
    let home = || std::env::var_os("HOME").unwrap_or_else(|| "/".into());
    match path.strip_prefix(b"~") {
        Some(b"") => home().into(),
        Some([b'/', rest @ ..]) => Path::new(&home()).join(OsStr::from_bytes(rest)),
        _ => PathBuf::from(OsString::from_vec(path_of(path).as_os_str().as_bytes().to_vec())),
    }
}
