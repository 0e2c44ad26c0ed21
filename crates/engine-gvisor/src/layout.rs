//! The directory of one instance, and what is written in it.
//!
//! ```text
//! <state_dir>/<instance>/
//!   record.json    what the instance is made of; written before anything is made
//!   alive          a pipe that the shim holds open as long as it lives
//!   shim.pid       the shim's process
//!   started.json   the sandbox's process; written when the sandbox runs
//!   pausing        there while the sandbox's tasks may be stopped without its cgroup being frozen
//!   exit.json      how the sandbox ended
//!   shim.log       last words of the shim
//!   runsc.log      last words of runsc
//!   bundle/        the OCI bundle
//!   runsc/         runsc's own state, with the control socket
//!   upper/         holds the (unlinked) file with the sandbox's writes
//! ```

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use dormouse_engine::{InstanceId, Resources};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{GvisorError, Result};

/// What an instance is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: InstanceId,
    /// Name of the network slot.
    pub(crate) slot: String,
    pub(crate) root: Root,
    pub(crate) resources: Resources,
    /// Path of the cgroup below the top of each hierarchy.
    pub(crate) cgroup: String,
    /// The runsc that made it.
    pub(crate) runsc: PathBuf,
    /// The snapshot to restore; none: a boot.
    pub(crate) snapshot: Option<PathBuf>,
}

/// The file system that instances of a template share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Root {
    /// An EROFS image: read by the sandbox's kernel from the host's page cache, without any other process.
    Image(PathBuf),
    /// A directory: read through a gofer process.
    Tree(PathBuf),
    /// Directories one over the other, put together by the shim with overlayfs, and written to through a gofer process.
    Layers {
        /// Lowest first.
        lower: Vec<PathBuf>,
        /// Gets the changes.
        upper: PathBuf,
        /// For overlayfs.
        work: PathBuf,
    },
}

impl Root {
    /// Whether a snapshot over `self` can wake over `other`.
    pub(crate) fn same_kind(&self, other: &Self) -> bool {
        matches!(
            (self, other),
            (Self::Image(_), Self::Image(_)) | (Self::Tree(_), Self::Tree(_))
        )
    }
}

/// The sandbox's process, as the shim saw it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Started {
    pub(crate) sandbox_pid: i32,
}

/// How the sandbox ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Exit {
    /// For people.
    pub(crate) how: String,
    pub(crate) out_of_memory: bool,
}

/// What the shim tells the daemon through its standard output, once.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Report {
    /// The sandbox runs.
    Started,
    /// runsc failed; its first line.
    Failed(String),
}

/// The directory of one instance.
#[derive(Clone, Debug)]
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub(crate) fn create(&self) -> Result<()> {
        for dir in [self.0.clone(), self.bundle(), self.runsc(), self.upper(), self.empty_root()] {
            fs::create_dir_all(&dir).map_err(GvisorError::file("create", &dir))?;
        }
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.0.join("record.json")
    }

    pub(crate) fn alive(&self) -> PathBuf {
        self.0.join("alive")
    }

    pub(crate) fn shim_pid(&self) -> PathBuf {
        self.0.join("shim.pid")
    }

    pub(crate) fn started(&self) -> PathBuf {
        self.0.join("started.json")
    }

    pub(crate) fn pausing(&self) -> PathBuf {
        self.0.join("pausing")
    }

    pub(crate) fn exit(&self) -> PathBuf {
        self.0.join("exit.json")
    }

    pub(crate) fn shim_log(&self) -> PathBuf {
        self.0.join("shim.log")
    }

    pub(crate) fn runsc_log(&self) -> PathBuf {
        self.0.join("runsc.log")
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.0.join("bundle")
    }

    pub(crate) fn spec(&self) -> PathBuf {
        self.bundle().join("config.json")
    }

    /// What the OCI configuration names as root when the real one is an image, and where layers are mounted.
    pub(crate) fn empty_root(&self) -> PathBuf {
        self.bundle().join("rootfs")
    }

    pub(crate) fn runsc(&self) -> PathBuf {
        self.0.join("runsc")
    }

    /// The directory and the name of the control socket, which runsc chooses.
    pub(crate) fn control_socket(&self, id: &InstanceId) -> (PathBuf, String) {
        (self.runsc(), format!("runsc-{id}.sock"))
    }

    pub(crate) fn pid_file(&self) -> PathBuf {
        self.0.join("sandbox.pid")
    }

    pub(crate) fn upper(&self) -> PathBuf {
        self.0.join("upper")
    }

    /// Kills the shim and the runsc that it may be waiting for: it leads a group with it. Call it while the shim holds its lifeline: the
    /// number is its own that long.
    pub(crate) fn kill_shim(&self) {
        let text = fs::read_to_string(self.shim_pid()).unwrap_or_default();
        if let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) {
            // It may end by itself meanwhile.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }

    /// Removes the directory and all in it. Not being there is fine.
    pub(crate) fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(GvisorError::file("remove", &self.0)(e)),
            _ => Ok(()),
        }
    }
}

/// Writes a file so that after a crash there is either all of it or none.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let bytes = serde_json::to_vec(value).map_err(|source| GvisorError::Damaged {
        path: path.to_path_buf(),
        source,
    })?;
    let temporary = path.with_extension("new");
    fs::File::create(&temporary)
        .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_data()))
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(GvisorError::file("write", path))
}

/// Reads what [`write_json`] wrote; none if there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(GvisorError::file("read", path)(e)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| GvisorError::Damaged {
            path: path.to_path_buf(),
            source,
        })
}
