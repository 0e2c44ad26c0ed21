//! The key that clients recognise the server by.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use russh::keys::ssh_key::{LineEnding, private::Ed25519Keypair, private::KeypairData};
use russh::keys::{HashAlg, PrivateKey};

/// The server's Ed25519 key.
#[derive(Clone, Debug)]
pub struct HostKey(PrivateKey);

/// Why there is no host key.
#[derive(Debug, thiserror::Error)]
pub enum HostKeyError {
    /// The file cannot be read or written.
    #[error("Cannot use the SSH host key {path}")]
    File {
        /// Where it is, or was to be.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{path} is no SSH host key: restore it, or remove it and clients will be told that the host has changed")]
    Invalid {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: russh::keys::ssh_key::Error,
    },
}

impl HostKey {
    /// Reads the key from `path`; makes it, readable by its owner only, when there is none. The format is OpenSSH's.
    ///
    /// # Errors
    /// [`HostKeyError`].
    pub fn load_or_make(path: &Path) -> Result<Self, HostKeyError> {
        match fs::read(path) {
            Ok(text) => Self::parse(path, &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(path),
            Err(source) => Err(file_error(path, source)),
        }
    }

    fn parse(path: &Path, text: &[u8]) -> Result<Self, HostKeyError> {
        PrivateKey::from_openssh(text)
            .map(Self)
            .map_err(|source| HostKeyError::Invalid {
                path: path.to_owned(),
                source,
            })
    }

    fn make(path: &Path) -> Result<Self, HostKeyError> {
        let invalid = |source| HostKeyError::Invalid {
            path: path.to_owned(),
            source,
        };
        let pair = Ed25519Keypair::from_seed(&rand::random());
        let key = PrivateKey::new(KeypairData::Ed25519(pair), "dormouse").map_err(invalid)?;
        let text = key.to_openssh(LineEnding::LF).map_err(invalid)?;
        // Under a name of its own first: a key that was cut short by a crash would be no key.
        let temporary = path.with_extension("tmp");
        let written = (|| {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, path)
        })();
        written.map_err(|source| file_error(path, source))?;
        Ok(Self(key))
    }

    /// `SHA256:…`, as clients show it before they trust a host.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.0.fingerprint(HashAlg::Sha256).to_string()
    }

    pub(crate) fn key(&self) -> PrivateKey {
        self.0.clone()
    }
}

fn file_error(path: &Path, source: io::Error) -> HostKeyError {
    HostKeyError::File {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_first_start_makes_the_key_and_later_ones_keep_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ssh-host-key");
        let made = HostKey::load_or_make(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let read = HostKey::load_or_make(&path).unwrap();
        assert_eq!(read.fingerprint(), made.fingerprint());
        assert!(made.fingerprint().starts_with("SHA256:"));
    }

    #[test]
    fn a_broken_key_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ssh-host-key");
        fs::write(&path, "not a key").unwrap();
        assert!(matches!(HostKey::load_or_make(&path), Err(HostKeyError::Invalid { .. })));
        assert_eq!(fs::read(&path).unwrap(), b"not a key");
    }
}
