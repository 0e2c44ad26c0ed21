//! The vocabulary of [`Engine`](crate::Engine).

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use rand::Rng as _;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

/// The kinds of engine, as written into snapshots and shown to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// gVisor's runsc: a user-space kernel, for hosts without usable KVM.
    Gvisor,
    /// A virtual machine for every sandbox.
    Microvm,
    /// The in-memory engine of the tests.
    Sim,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gvisor => "gvisor",
            Self::Microvm => "microvm",
            Self::Sim => "sim",
        })
    }
}

/// A fresh random name: `prefix`, then `tail` lowercase letters and digits, 5.1 bits of randomness each.
#[must_use]
pub fn random_name(prefix: &str, tail: usize) -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut rng = rand::rng();
    let tail = (0..tail).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]));
    prefix.chars().chain(tail).collect()
}

/// Names one instance: `x` and 15 lowercase letters and digits, so that it fits into interface, cgroup and container names.
///
/// An instance is not a sandbox: a pooled instance has no sandbox yet, and a sandbox that wakes from deep sleep gets a new instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId(String);

impl InstanceId {
    /// A fresh random id.
    #[must_use]
    pub fn random() -> Self {
        Self(random_name("x", 15))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is not an [`InstanceId`].
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not an instance id")]
pub struct InvalidInstanceId(String);

impl FromStr for InstanceId {
    type Err = InvalidInstanceId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid =
            text.len() == 16 && text.starts_with('x') && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidInstanceId(text.to_owned()))
        }
    }
}

impl TryFrom<String> for InstanceId {
    type Error = InvalidInstanceId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<InstanceId> for String {
    fn from(id: InstanceId) -> Self {
        id.0
    }
}

/// What an instance may use at most. Comes from the template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory the guest sees, MiB.
    pub memory_mib: u32,
    /// Space for files that the sandbox writes, MiB.
    pub disk_mib: u32,
    /// Processes and threads inside.
    pub pids: u32,
}

impl Default for Resources {
    /// E2B's default template size (contract 5.2).
    fn default() -> Self {
        Self {
            vcpus: 2,
            memory_mib: 1024,
            disk_mib: 10 * 1024,
            pids: 4096,
        }
    }
}

/// What an instance may reach. Private ranges and the host are never reachable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPolicy {
    /// Whether connections to the internet may be opened from inside.
    pub internet: bool,
}

impl Default for NetworkPolicy {
    fn default() -> Self {
        Self { internet: true }
    }
}

/// How an instance begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartFrom {
    /// A cold boot of the root tree: the agent starts as the first process.
    Boot,
    /// A snapshot directory that [`Engine::snapshot`](crate::Engine::snapshot) filled, of an instance over the same root tree.
    Snapshot(PathBuf),
    /// A cold boot of the root tree with layers over it, whose changes are kept: one step of a template's build.
    Layers(LayeredRoot),
}

/// A root made of layers, the topmost of which is written.
///
/// A layer is a directory in the form that Linux's overlayfs gives to its upper directory: what is new or changed, character devices
/// 0/0 for what was removed, the attribute `trusted.overlay.opaque` on a directory that hides what lies below it.
///
/// When the instance is destroyed, `changes` holds all that programs inside had written and synced: the caller has the guest sync
/// first. Such an instance has neither light sleep nor snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayeredRoot {
    /// What lies over [`StartRequest::root`], lowest first. Never written to.
    pub layers: Vec<PathBuf>,
    /// Gets the instance's changes. An empty directory, or one with a few prepared files.
    pub changes: PathBuf,
    /// An empty directory on the same file system as `changes`, for the engine.
    pub work: PathBuf,
}

/// Everything an engine needs to make an instance.
#[derive(Clone, Debug)]
pub struct StartRequest {
    /// The instance's name, chosen by the caller and never used before.
    pub id: InstanceId,
    /// The template's root tree. Shared by all instances over it and never written to.
    pub root: PathBuf,
    /// Boot or restore.
    pub from: StartFrom,
    /// Limits.
    pub resources: Resources,
    /// What it may reach until [`Engine::set_network`](crate::Engine::set_network) says otherwise.
    pub network: NetworkPolicy,
}

/// Who an instance is, as far as anything inside it can see (contract 3.5: environment, 3.7).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The sandbox's id; also the host name.
    pub sandbox_id: String,
    /// The template's id.
    pub template_id: String,
    /// The token that clients must show to the agent; `None` leaves it open.
    pub access_token: Option<String>,
    /// Environment of every process that the agent starts: the template's, then the sandbox's.
    pub env: BTreeMap<String, String>,
    /// User of requests that name none.
    pub default_user: Option<String>,
    /// Working directory of requests that name none.
    pub default_workdir: Option<String>,
}

/// What an instance uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InstanceStats {
    /// CPU time used since the instance began, microseconds.
    pub cpu_usec: u64,
    /// Memory it costs the host now, bytes: guest memory plus the engine's own for this instance.
    pub memory_bytes: u64,
}

/// What writing a snapshot cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotStats {
    /// Bytes on stable storage.
    pub bytes: u64,
}

/// Why an instance is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// [`Engine::destroy`](crate::Engine::destroy) was called, or nothing of that name exists.
    Destroyed,
    /// It used more memory than it may.
    OutOfMemory,
    /// It ended by itself: the engine's process died or was killed. The text says what is known.
    Died(String),
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Destroyed => f.write_str("destroyed"),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::Died(how) => write!(f, "the engine's process ended: {how}"),
        }
    }
}

/// An instance that outlived an earlier daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptedInstance {
    /// Its name.
    pub id: InstanceId,
    /// Whether it is suspended (a pause that was under way, light sleep, or a pooled instance).
    pub suspended: bool,
}

/// What [`Engine::adopt`](crate::Engine::adopt) found.
#[derive(Clone, Debug, Default)]
pub struct Adopted {
    /// Instances that live on.
    pub live: Vec<AdoptedInstance>,
    /// Remains of dead instances that were removed, by name.
    pub removed: Vec<String>,
}

/// A byte stream to a port inside an instance.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// A connection to a port inside an instance.
pub type Connection = Box<dyn Stream>;
