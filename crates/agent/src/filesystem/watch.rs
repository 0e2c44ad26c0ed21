//! Watching a directory for a client (contract 3.6, `WatchDir` and `CreateWatcher`).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use connectrpc::ConnectError;
use dormouse_agent_proto::rpc::filesystem::{EventType, FilesystemEvent};

use super::entry::entry_info;
use super::inotify::Changes;
use crate::agent::Agent;

/// File systems whose changes the kernel may not see, because others make them elsewhere.
const NETWORK: [u32; 5] = [
    0x6969,      // NFS
    0xff53_4d42, // CIFS
    0x517b,      // SMB
    0xfe53_4d42, // SMB2
    0x6573_5546, // FUSE
];

/// A directory that cannot be watched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    #[error("path {0} not found")]
    NotFound(PathBuf),
    #[error("path {0} not a directory")]
    NotADirectory(PathBuf),
    #[error("cannot watch path on network filesystem: {0}")]
    Network(PathBuf),
    #[error("error watching path {0}: {1}")]
    Io(PathBuf, #[source] io::Error),
}

impl From<WatchError> for ConnectError {
    fn from(error: WatchError) -> Self {
        let message = error.to_string();
        match error {
            WatchError::NotFound(_) => Self::not_found(message),
            WatchError::NotADirectory(_) | WatchError::Network(_) => Self::invalid_argument(message),
            WatchError::Io(_, error) if error.raw_os_error() == Some(libc::ENAMETOOLONG) => Self::invalid_argument(message),
            WatchError::Io(..) => Self::internal(message),
        }
    }
}

/// What a client wants to hear of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub recursive: bool,
    pub include_entry: bool,
    pub allow_network_mounts: bool,
}

/// A watched directory.
#[derive(Debug)]
pub(crate) struct Watch {
    changes: Changes,
    root: PathBuf,
    include_entry: bool,
    agent: Arc<Agent>,
}

impl Watch {
    /// Watches `path`, from now on.
    pub(crate) fn of(agent: Arc<Agent>, path: PathBuf, wish: Wish) -> Result<Self, WatchError> {
        let metadata = match std::fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(WatchError::NotFound(path));
            }
            Err(error) => return Err(WatchError::Io(path, error)),
        };
        if !metadata.is_dir() {
            return Err(WatchError::NotADirectory(path));
        }
        if !wish.allow_network_mounts && is_network(&path) {
            return Err(WatchError::Network(path));
        }
        match Changes::of(&path, wish.recursive) {
            Ok(changes) => Ok(Self {
                changes,
                root: path,
                include_entry: wish.include_entry,
                agent,
            }),
            Err(error) => Err(WatchError::Io(path, error)),
        }
    }

    /// The next event.
    pub(crate) async fn next(&mut self) -> io::Result<FilesystemEvent> {
        let change = self.changes.next().await?;
        let lasting = matches!(
            change.kind,
            EventType::EVENT_TYPE_CREATE | EventType::EVENT_TYPE_WRITE | EventType::EVENT_TYPE_CHMOD
        );
        let entry = if self.include_entry && lasting {
            // It may be gone by now; the event stays true.
            entry_info(&self.root.join(&change.name), &self.agent.users.accounts()).ok()
        } else {
            None
        };
        Ok(FilesystemEvent {
            name: change.name.to_string_lossy().into_owned(),
            r#type: change.kind.into(),
            entry: entry.into(),
            ..FilesystemEvent::default()
        })
    }
}

fn is_network(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|info| {
        // The kernel's constants are 32 bits; the field is wider and may have been sign-extended.
        NETWORK.contains(&(info.f_type as u32))
    })
}
