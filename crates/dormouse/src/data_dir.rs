//! The data directory: where everything lies, its lock, and the first API key.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};
use rand::Rng as _;

/// Paths below the data directory.
#[derive(Clone, Debug)]
pub(crate) struct DataDir {
    root: PathBuf,
}

impl DataDir {
    /// Opens (and makes, if need be) the directory. Only its owner may look inside.
    pub(crate) fn open(root: &Path) -> anyhow::Result<Self> {
        let dir = Self { root: root.to_owned() };
        for dir in [root, &dir.run()] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(dir)
                .with_context(|| format!("Cannot make {}", dir.display()))?;
        }
        Ok(dir)
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.root.join("dormouse.db")
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn templates(&self) -> PathBuf {
        self.root.join("templates")
    }

    pub(crate) fn sandboxes(&self) -> PathBuf {
        self.root.join("sandboxes")
    }

    /// The local authority and certificates.
    pub(crate) fn tls(&self) -> PathBuf {
        self.root.join("tls")
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// Where a running server says how it is reached.
    pub(crate) fn server(&self) -> PathBuf {
        self.run().join("server.json")
    }

    /// The key that SSH clients recognise the server by.
    pub(crate) fn ssh_host_key(&self) -> PathBuf {
        self.root.join("ssh-host-key")
    }

    fn key_file(&self) -> PathBuf {
        self.root.join("api-key")
    }

    /// Keeps a second server off the directory for as long as the lock is held.
    pub(crate) fn lock(&self) -> anyhow::Result<Flock<File>> {
        let path = self.run().join("lock");
        let file = File::create(&path).with_context(|| format!("Cannot make {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(lock),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => bail!("Another dormouse serves {} already", self.root.display()),
            Err((_, error)) => Err(error).with_context(|| format!("Cannot lock {}", path.display())),
        }
    }

    /// The API key that the first start made, `None` before it.
    pub(crate) fn key(&self) -> anyhow::Result<Option<String>> {
        let path = self.key_file();
        match fs::read_to_string(&path) {
            Ok(key) => Ok(Some(key.trim().to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("Cannot read {}", path.display())),
        }
    }

    /// The API key; made when there is none: `e2b_` and 40 hexadecimal digits (contract 1.1), readable by the owner only.
    pub(crate) fn key_or_make(&self) -> anyhow::Result<String> {
        if let Some(key) = self.key()? {
            return Ok(key);
        }
        let secret: [u8; 20] = rand::rng().random();
        let key = format!("e2b_{}", hex(&secret));
        write_private(&self.key_file(), format!("{key}\n").as_bytes())?;
        Ok(key)
    }
}

/// Lowercase hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a file that only its owner can read, all of it or nothing.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let temporary = path.with_extension("tmp");
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    written.with_context(|| format!("Cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_key_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let dir = DataDir::open(root.path()).unwrap();
        assert_eq!(dir.key().unwrap(), None);
        let key = dir.key_or_make().unwrap();
        assert_eq!(key.len(), 44);
        assert!(
            key.strip_prefix("e2b_")
                .unwrap()
                .bytes()
                .all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
        );
        assert_eq!(dir.key_or_make().unwrap(), key);
    }

    #[test]
    fn second_lock_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let dir = DataDir::open(root.path()).unwrap();
        let _held = dir.lock().unwrap();
        assert!(dir.lock().is_err());
    }
}
