//! Who a block of addresses belongs to, so that a later daemon can take back what nobody will ever use again.
//!
//! A daemon that was killed leaves its devices, rules and namespaces to its next start, which finds them by its data directory. When that
//! directory is gone there is no next start, and they would hold their block of addresses until the host reboots. So every daemon writes
//! its directory into `/run/dormouse-network/<prefix>` and holds a lock on that file as long as it lives. Whoever starts removes what
//! belongs to an owner that is dead (nobody holds the lock) and gone (its data directory is not there).
//!
//! All of this happens under the lock of `host`, one daemon at a time.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::config::{NetworkConfig, Prefix};
use crate::error::{NetworkError, Result};

const DIR: &str = "/run/dormouse-network";

/// A daemon's hold on its entry. It ends with the daemon.
#[derive(Debug)]
pub(crate) struct Owner {
    _lock: Flock<File>,
}

/// What an entry says.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    /// The network namespace of the daemon: its devices are not to be found from any other.
    netns: String,
    data_dir: PathBuf,
    run_dir: PathBuf,
}

/// An owner that is dead and gone.
#[derive(Debug)]
pub(crate) struct Gone {
    pub(crate) prefix: Prefix,
    pub(crate) run_dir: PathBuf,
    data_dir: PathBuf,
    file: PathBuf,
    _lock: Flock<File>,
}

/// Enters this daemon. None when another process of the same data directory is entered: it goes on without.
pub(crate) fn enter(config: &NetworkConfig) -> Result<Option<Owner>> {
    let path = file_of(&config.prefix);
    let failed = |e| NetworkError::system(format!("write {}", path.display()), e);
    fs::create_dir_all(DIR).map_err(failed)?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(failed)?;
    let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
        return Ok(None);
    };
    let entry = Entry {
        netns: netns().map_err(failed)?,
        data_dir: config.data_dir.clone(),
        run_dir: std::path::absolute(&config.run_dir).map_err(failed)?,
    };
    lock.set_len(0)
        .and_then(|()| (&*lock).write_all(&entry.to_bytes()))
        .map_err(failed)?;
    Ok(Some(Owner { _lock: lock }))
}

/// Removes the entry of a daemon that leaves nothing on the host.
pub(crate) fn leave(prefix: &Prefix) {
    // A file without a lock and without devices is no more than a file.
    let _ = fs::remove_file(file_of(prefix));
}

/// The owners in this network namespace that are dead and gone.
pub(crate) fn gone(mine: &Prefix) -> Vec<Gone> {
    let (Ok(entries), Ok(netns)) = (fs::read_dir(DIR), netns()) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| look(&entry.path(), mine, &netns))
        .collect()
}

fn look(path: &Path, mine: &Prefix, netns: &str) -> Option<Gone> {
    let prefix = Prefix::parse(path.file_name()?.to_str()?).filter(|prefix| prefix != mine)?;
    let file = File::open(path).ok()?;
    let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
    let mut bytes = Vec::new();
    lock.read_to_end(&mut bytes).ok()?;
    let Entry {
        netns: theirs,
        data_dir,
        run_dir,
    } = Entry::parse(&bytes)?;
    (theirs == netns && is_gone(&data_dir, &run_dir)).then(|| Gone {
        prefix,
        run_dir,
        data_dir,
        file: path.to_path_buf(),
        _lock: lock,
    })
}

/// Whether a data directory is gone. What is mounted in the run directory stays there when somebody deletes the data directory, so that
/// alone does not count.
fn is_gone(data_dir: &Path, run_dir: &Path) -> bool {
    match fs::read_dir(data_dir) {
        Ok(entries) => entries.flatten().all(|entry| run_dir.starts_with(entry.path())),
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    }
}

impl Gone {
    /// Removes what is left of its directories and its entry, after all else.
    pub(crate) fn forget(self) -> Result<()> {
        for dir in [&self.run_dir, &self.data_dir] {
            // Whatever else is in there is not ours.
            let _ = fs::remove_dir(dir);
        }
        fs::remove_file(&self.file).map_err(|e| NetworkError::system(format!("remove {}", self.file.display()), e))
    }
}

impl Entry {
    /// Lines that end with a zero byte: a path may hold any other.
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in [
            self.netns.as_bytes(),
            self.data_dir.as_os_str().as_bytes(),
            self.run_dir.as_os_str().as_bytes(),
        ] {
            bytes.extend_from_slice(part);
            bytes.push(0);
        }
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut parts = bytes.split(|byte| *byte == 0);
        let netns = String::from_utf8(parts.next()?.to_vec()).ok()?;
        let mut path = || Some(PathBuf::from(std::ffi::OsString::from_vec(parts.next()?.to_vec())));
        let (data_dir, run_dir) = (path()?, path()?);
        // The byte that ends the last part: without it the entry is not whole.
        (parts.next()?.is_empty() && data_dir.is_absolute() && run_dir.is_absolute()).then_some(Self {
            netns,
            data_dir,
            run_dir,
        })
    }
}

fn file_of(prefix: &Prefix) -> PathBuf {
    Path::new(DIR).join(prefix.as_str())
}

/// Names the network namespace of the calling thread.
fn netns() -> std::io::Result<String> {
    let metadata = fs::metadata("/proc/thread-self/ns/net")?;
    Ok(format!("{}:{}", metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_bytes_and_halves_are_refused() {
        let entry = Entry {
            netns: "4:4026531840".to_owned(),
            data_dir: "/a b\n/c".into(),
            run_dir: "/a b\n/c/run".into(),
        };
        let bytes = entry.to_bytes();
        assert_eq!(Entry::parse(&bytes), Some(entry));
        for length in 0..bytes.len() {
            assert_eq!(Entry::parse(&bytes[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn a_data_directory_is_gone_when_nothing_but_mounts_is_left() {
        let dir = tempfile::tempdir().expect("a directory");
        let (data, run) = (dir.path().join("data"), dir.path().join("data/run"));
        assert!(is_gone(&data, &run));
        fs::create_dir_all(run.join("netns")).expect("made");
        assert!(is_gone(&data, &run));
        fs::write(data.join("dormouse.db"), b"").expect("written");
        assert!(!is_gone(&data, &run));
    }
}
