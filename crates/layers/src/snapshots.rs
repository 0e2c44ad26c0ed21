//! The directory of snapshots.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use dormouse_store::SnapshotId;
use tokio::fs;

/// Marks a directory that is still being written.
const TEMPORARY: &str = "tmp-";

/// The file system refused.
#[derive(Debug, thiserror::Error)]
#[error("Cannot {what} {path}")]
pub struct LayerError {
    what: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl LayerError {
    fn at<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |source| Self {
            what,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether the disk is full or the quota used up.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// All snapshots of a data directory.
#[derive(Clone, Debug)]
pub struct SnapshotStore {
    dir: PathBuf,
}

impl SnapshotStore {
    /// Opens (and makes, if need be) the directory.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub async fn open(dir: impl Into<PathBuf>) -> Result<Self, LayerError> {
        let dir = dir.into();
        fs::create_dir_all(&dir).await.map_err(LayerError::at("make", &dir))?;
        Ok(Self { dir })
    }

    /// Where a complete snapshot lies.
    #[must_use]
    pub fn path(&self, id: &SnapshotId) -> PathBuf {
        self.dir.join(id.as_str())
    }

    /// Begins a snapshot: an empty directory under a temporary name.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub async fn begin(&self) -> Result<Draft, LayerError> {
        let id = SnapshotId::random();
        let path = self.dir.join(format!("{TEMPORARY}{id}"));
        fs::create_dir(&path).await.map_err(LayerError::at("make", &path))?;
        Ok(Draft {
            store: self.clone(),
            id,
            path,
        })
    }

    /// Removes a snapshot. One that does not exist is not an error.
    ///
    /// # Errors
    /// The directory cannot be removed.
    pub async fn remove(&self, id: &SnapshotId) -> Result<(), LayerError> {
        remove_tree(&self.path(id)).await
    }

    /// Removes everything that is not in `keep`: drafts that a crash left, snapshots whose row is gone. Returns how many.
    ///
    /// # Errors
    /// The directory cannot be read, or an entry cannot be removed.
    pub async fn sweep(&self, keep: &HashSet<SnapshotId>) -> Result<usize, LayerError> {
        let mut removed = 0;
        let mut entries = fs::read_dir(&self.dir).await.map_err(LayerError::at("list", &self.dir))?;
        while let Some(entry) = entries.next_entry().await.map_err(LayerError::at("list", &self.dir))? {
            let kept = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
                .is_some_and(|id| keep.contains(&id));
            if !kept {
                remove_tree(&entry.path()).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

async fn remove_tree(path: &Path) -> Result<(), LayerError> {
    match fs::remove_dir_all(path).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(LayerError::at("remove", path)),
    }
}

/// A snapshot that is being written. [`publish`](Self::publish) it or [`discard`](Self::discard) it; one that is merely dropped is
/// removed by the next sweep.
#[derive(Debug)]
#[must_use]
pub struct Draft {
    store: SnapshotStore,
    id: SnapshotId,
    path: PathBuf,
}

impl Draft {
    /// The directory to write into.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Publishes the snapshot under its id. On return the name is on stable storage.
    ///
    /// # Errors
    /// The rename or the sync failed; the draft is void and nothing of it is left.
    pub async fn publish(self) -> Result<SnapshotId, LayerError> {
        let target = self.store.path(&self.id);
        let published = self.rename_durably(&target).await;
        if published.is_err() {
            // Under either name: it is not known how far the rename came. What cannot be removed is swept by the next start.
            let _ = remove_tree(&self.path).await;
            let _ = remove_tree(&target).await;
        }
        published.map(|()| self.id)
    }

    async fn rename_durably(&self, target: &Path) -> Result<(), LayerError> {
        fs::rename(&self.path, target)
            .await
            .map_err(LayerError::at("publish", &self.path))?;
        let dir = &self.store.dir;
        let handle = fs::File::open(dir).await.map_err(LayerError::at("open", dir))?;
        handle.sync_all().await.map_err(LayerError::at("sync", dir))
    }

    /// Removes what was written.
    ///
    /// # Errors
    /// The directory cannot be removed.
    pub async fn discard(self) -> Result<(), LayerError> {
        remove_tree(&self.path).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn store() -> (tempfile::TempDir, SnapshotStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(dir.path().join("snapshots")).await.unwrap();
        (dir, store)
    }

    #[tokio::test]
    async fn published_snapshot_holds_what_was_written() {
        let (_dir, store) = store().await;
        let draft = store.begin().await.unwrap();
        std::fs::write(draft.path().join("pages"), b"x").unwrap();
        let id = draft.publish().await.unwrap();
        assert_eq!(std::fs::read(store.path(&id).join("pages")).unwrap(), b"x");
    }

    #[tokio::test]
    async fn sweep_removes_drafts_and_unknown_snapshots_only() {
        let (_dir, store) = store().await;
        let kept = store.begin().await.unwrap().publish().await.unwrap();
        let lost = store.begin().await.unwrap().publish().await.unwrap();
        let draft = store.begin().await.unwrap();
        let removed = store.sweep(&HashSet::from([kept.clone()])).await.unwrap();
        assert_eq!(removed, 2);
        assert!(store.path(&kept).exists());
        assert!(!store.path(&lost).exists());
        assert!(!draft.path().exists());
    }

    #[tokio::test]
    async fn removing_twice_is_no_error() {
        let (_dir, store) = store().await;
        let id = store.begin().await.unwrap().publish().await.unwrap();
        store.remove(&id).await.unwrap();
        store.remove(&id).await.unwrap();
    }
}
