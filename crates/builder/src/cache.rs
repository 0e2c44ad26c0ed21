//! Layers of earlier builds, found by the hash of all that led to them (contract 5.3).
//!
//! A layer appears under its name when it is complete. After a crash of the host (not of the daemon) its files may be missing all the
//! same, so a layer says during which run of the kernel it was written, and does not count after another one unless it was synced.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use dormouse_rootfs::usage;
use dormouse_store::TeamId;
use rand::Rng as _;
use serde::{Deserialize, Serialize};

use crate::context::Context;

const META: &str = "layer.json";
const DIFF: &str = "diff";
const SYNCED: &str = "synced";
/// Where the kernel tells its run.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The hash chain (contract 5.3): a link names a state of a build.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Link(String);

impl Link {
    /// The first link, of a base that its identity tells apart from all others.
    pub(crate) fn base(identity: &str) -> Self {
        Self(digest(&["base", identity]))
    }

    /// The link after a step.
    pub(crate) fn next(&self, kind: &str, args: &[String], files_hash: Option<&str>) -> Self {
        Self(digest(&[&self.0, kind, &args.join(" "), files_hash.unwrap_or_default()]))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// 128 bits are enough: whoever could make two states alike would only mislead his own team.
fn digest(parts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

/// What is known of a finished step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// The context after it.
    pub(crate) context: Context,
    /// Whether it changed files: there is a `diff`.
    pub(crate) changes: bool,
    /// Bytes of its `diff`.
    bytes: u64,
    /// The kernel's run in which it was written.
    boot: String,
}

/// All layers, and where what is being made is.
#[derive(Debug)]
pub(crate) struct Layers {
    dir: PathBuf,
    work: PathBuf,
    /// Layers that builds stand on, and by how many.
    pins: Arc<Mutex<HashMap<PathBuf, usize>>>,
    boot: String,
}

/// Keeps a layer from being removed.
#[derive(Debug)]
pub(crate) struct Pin {
    path: PathBuf,
    pins: Arc<Mutex<HashMap<PathBuf, usize>>>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = pins.get_mut(&self.path) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.path);
            }
        }
    }
}

/// A finished step, kept as long as this is.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) meta: Meta,
    /// The directory with its changes, if it made any.
    pub(crate) diff: Option<PathBuf>,
    _pin: Pin,
}

impl Layers {
    /// Opens the directories; `work` is emptied.
    pub(crate) fn open(dir: PathBuf, work: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        set_aside(&work)?;
        fs::create_dir_all(&work)?;
        Ok(Self {
            dir,
            work,
            pins: Arc::default(),
            boot: fs::read_to_string(BOOT_ID)?.trim().to_owned(),
        })
    }

    fn home(&self, team: TeamId, link: &Link) -> PathBuf {
        self.dir.join(team.to_string()).join(link.as_str())
    }

    fn pin(&self, path: &Path) -> Pin {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        *pins.entry(path.to_owned()).or_default() += 1;
        Pin {
            path: path.to_owned(),
            pins: Arc::clone(&self.pins),
        }
    }

    /// The finished step of this name, if it is there.
    pub(crate) fn get(&self, team: TeamId, link: &Link) -> Option<Layer> {
        let home = self.home(team, link);
        // First: what is pinned is not removed between the look and the use.
        let pin = self.pin(&home);
        let meta: Meta = serde_json::from_slice(&fs::read(home.join(META)).ok()?).ok()?;
        if meta.boot != self.boot && !home.join(SYNCED).exists() {
            return None;
        }
        // Its age is counted from its last use.
        if let Ok(file) = fs::File::open(home.join(META)) {
            let _ = file.set_modified(SystemTime::now());
        }
        Some(Layer {
            diff: meta.changes.then(|| home.join(DIFF)),
            meta,
            _pin: pin,
        })
    }

    /// A place for a step's changes.
    pub(crate) fn draft(&self) -> io::Result<Draft> {
        let number: u64 = rand::rng().random();
        let home = self.work.join(format!("layer-{number:016x}"));
        for name in [DIFF, "work", "at", "files"] {
            fs::create_dir_all(home.join(name))?;
        }
        // The root directory of the layer stands for that of the tree.
        Ok(Draft { home, kept: false })
    }

    /// Gives a step its name. One that another build has finished meanwhile stays, and is used.
    pub(crate) fn publish(&self, team: TeamId, link: &Link, draft: Option<Draft>, context: &Context) -> io::Result<Layer> {
        let mut draft = match draft {
            Some(draft) => draft,
            None => {
                let mut draft = self.draft()?;
                draft.drop_changes()?;
                draft
            }
        };
        let diff = draft.home.join(DIFF);
        let changes = diff.exists();
        let meta = Meta {
            context: context.clone(),
            changes,
            bytes: if changes { usage::of(&diff)?.bytes } else { 0 },
            boot: self.boot.clone(),
        };
        for name in ["work", "at", "files"] {
            remove(&draft.home.join(name))?;
        }
        let text = serde_json::to_vec(&meta).map_err(io::Error::other)?;
        fs::write(draft.home.join(META), text)?;
        let home = self.home(team, link);
        let pin = self.pin(&home);
        if let Some(parent) = home.parent() {
            fs::create_dir_all(parent)?;
        }
        let old = self.work.join(format!("old-{:016x}", rand::rng().random::<u64>()));
        // A forced build takes the place of what is there. Who stands on that keeps it until the end of the build.
        match fs::rename(&draft.home, &home) {
            Ok(()) => {}
            Err(error) if is_in_the_way(&error) => {
                if self.is_used_by_others(&home) {
                    // Kept as long as the build: under a name of its own.
                    draft.kept = true;
                    return Ok(Layer {
                        diff: changes.then(|| draft.home.join(DIFF)),
                        meta,
                        _pin: pin,
                    });
                }
                fs::rename(&home, &old)?;
                fs::rename(&draft.home, &home)?;
                remove(&old)?;
            }
            Err(error) => return Err(error),
        }
        draft.kept = true;
        Ok(Layer {
            diff: changes.then(|| home.join(DIFF)),
            meta,
            _pin: pin,
        })
    }

    fn is_used_by_others(&self, home: &Path) -> bool {
        let pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        pins.get(home).is_some_and(|count| *count > 1)
    }

    /// Marks layers as durable. The caller has synced the file system.
    pub(crate) fn synced(&self, layers: &[Layer]) {
        for layer in layers {
            // Without the mark it only counts for less.
            let _ = fs::write(layer._pin.path.join(SYNCED), b"");
        }
    }

    /// Removes the layers that were not used for longest, until no more than `most` bytes are left.
    pub(crate) fn trim(&self, most: u64) -> io::Result<()> {
        let mut found = Vec::new();
        let mut total = 0;
        for team in list(&self.dir)? {
            for home in list(&team)? {
                let meta = fs::read(home.join(META)).ok();
                let used = fs::metadata(home.join(META)).and_then(|meta| meta.modified());
                let bytes = meta
                    .and_then(|text| serde_json::from_slice::<Meta>(&text).ok())
                    .map(|meta| meta.bytes);
                match (used, bytes) {
                    (Ok(used), Some(bytes)) => {
                        total += bytes;
                        found.push((used, bytes, home));
                    }
                    _ => remove(&home)?,
                }
            }
        }
        found.sort();
        for (_, bytes, home) in found {
            if total <= most {
                break;
            }
            let pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
            if pins.contains_key(&home) {
                continue;
            }
            // Under the lock: nobody finds it half-removed.
            let old = self.work.join(format!("old-{:016x}", rand::rng().random::<u64>()));
            fs::rename(&home, &old)?;
            drop(pins);
            remove(&old)?;
            total -= bytes;
        }
        Ok(())
    }
}

/// Empties what an earlier daemon worked in. An instance of a build that it left may still be writing there until it is destroyed: what
/// cannot be removed yet is removed by the next start.
fn set_aside(work: &Path) -> io::Result<()> {
    let old = work.with_extension("old");
    fs::create_dir_all(&old)?;
    match fs::rename(work, old.join(format!("{:016x}", rand::rng().random::<u64>()))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Err(error) = remove(&old) {
        tracing::warn!(%error, path = %old.display(), "what earlier builds left cannot be removed yet");
    }
    Ok(())
}

fn is_in_the_way(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists)
}

fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect()
}

pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A step's changes while it runs. Removed when dropped.
#[derive(Debug)]
pub(crate) struct Draft {
    home: PathBuf,
    kept: bool,
}

impl Draft {
    /// Gets the changes.
    pub(crate) fn diff(&self) -> PathBuf {
        self.home.join(DIFF)
    }

    /// For overlayfs.
    pub(crate) fn work(&self) -> PathBuf {
        self.home.join("work")
    }

    /// For a mount.
    pub(crate) fn at(&self) -> PathBuf {
        self.home.join("at")
    }

    /// For files on their way.
    pub(crate) fn files(&self) -> PathBuf {
        self.home.join("files")
    }

    fn drop_changes(&mut self) -> io::Result<()> {
        remove(&self.diff())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = remove(&self.home)
        {
            tracing::warn!(%error, path = %self.home.display(), "an unfinished layer could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers() -> (tempfile::TempDir, Layers) {
        let home = tempfile::tempdir().unwrap();
        let layers = Layers::open(home.path().join("layers"), home.path().join("work")).unwrap();
        (home, layers)
    }

    fn args(text: &str) -> Vec<String> {
        vec![text.to_owned()]
    }

    fn make(layers: &Layers, link: &Link, content: &str) -> Layer {
        let draft = layers.draft().unwrap();
        fs::write(draft.diff().join("f"), content).unwrap();
        layers.publish(TeamId::FIRST, link, Some(draft), &Context::default()).unwrap()
    }

    #[test]
    fn every_part_changes_the_chain() {
        let base = Link::base("x");
        let one = base.next("RUN", &args("a"), None);
        assert_eq!(one, Link::base("x").next("RUN", &args("a"), None));
        for other in [
            Link::base("y").next("RUN", &args("a"), None),
            base.next("ENV", &args("a"), None),
            base.next("RUN", &args("b"), None),
            base.next("RUN", &args("a"), Some("h")),
            one.next("RUN", &args("a"), None),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn a_layer_is_found_by_its_team_only() {
        let (_home, layers) = layers();
        let link = Link::base("x").next("RUN", &args("a"), None);
        assert!(layers.get(TeamId::FIRST, &link).is_none());
        drop(make(&layers, &link, "1"));
        let found = layers.get(TeamId::FIRST, &link).unwrap();
        assert_eq!(fs::read_to_string(found.diff.unwrap().join("f")).unwrap(), "1");
        assert!(layers.get(TeamId::random(), &link).is_none());
        assert_eq!(fs::read_dir(&layers.work).unwrap().count(), 0);
    }

    #[test]
    fn a_forced_layer_takes_the_place_of_the_old_one_unless_that_is_in_use() {
        let (_home, layers) = layers();
        let link = Link::base("x");
        let old = make(&layers, &link, "old");
        let beside = make(&layers, &link, "beside");
        assert_eq!(fs::read_to_string(old.diff.as_ref().unwrap().join("f")).unwrap(), "old");
        assert_eq!(fs::read_to_string(beside.diff.as_ref().unwrap().join("f")).unwrap(), "beside");
        drop((old, beside));
        drop(make(&layers, &link, "new"));
        let found = layers.get(TeamId::FIRST, &link).unwrap();
        assert_eq!(fs::read_to_string(found.diff.unwrap().join("f")).unwrap(), "new");
    }

    #[test]
    fn layers_of_another_run_of_the_kernel_count_only_when_synced() {
        let (home, layers) = layers();
        let (synced, lost) = (Link::base("a"), Link::base("b"));
        let kept = make(&layers, &synced, "1");
        layers.synced(std::slice::from_ref(&kept));
        drop(kept);
        drop(make(&layers, &lost, "1"));
        let mut later = Layers::open(home.path().join("layers"), home.path().join("work")).unwrap();
        later.boot = "another".to_owned();
        assert!(later.get(TeamId::FIRST, &synced).is_some());
        assert!(later.get(TeamId::FIRST, &lost).is_none());
    }

    #[test]
    fn the_least_recently_used_go_first_and_pinned_ones_stay() {
        let (_home, layers) = layers();
        let links = ["a", "b", "c"].map(Link::base);
        for (age, link) in links.iter().enumerate() {
            let layer = make(&layers, link, &"x".repeat(10_000));
            let meta = fs::File::open(layer._pin.path.join(META)).unwrap();
            let used = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(age as u64);
            meta.set_modified(used).unwrap();
        }
        let pinned = layers.get(TeamId::FIRST, &links[2]).unwrap();
        layers.trim(25_000).unwrap();
        assert!(layers.get(TeamId::FIRST, &links[0]).is_none());
        layers.trim(0).unwrap();
        assert!(layers.get(TeamId::FIRST, &links[1]).is_none());
        assert!(layers.get(TeamId::FIRST, &links[2]).is_some());
        drop(pinned);
    }
}
