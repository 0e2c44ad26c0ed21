//! The jail: what the process gives up before the guest runs its first instruction.
//!
//! Everything that the machine needs is open by then. In this order: cgroups, namespaces, a root directory of its own,
//! limits, another user without capabilities; then a system call filter on every thread ([`seccomp`]). Nothing of it
//! can be undone by the process.

pub mod seccomp;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount_bind_recursive, mount_change, mount_remount, unmount,
};
use rustix::process::{Resource, Rlimit, chdir, pivot_root, setrlimit};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets, Gid, Uid, UnshareFlags};
use serde::{Deserialize, Serialize};

/// How the process is jailed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JailConfig {
    /// The user that the process becomes; should be nobody else's.
    pub uid: u32,
    /// The group that it becomes.
    pub gid: u32,
    /// A directory that becomes its root; it should hold nothing but what the guest may reach (vsock's sockets).
    pub root: PathBuf,
    /// Directories of cgroups that it joins: one with cgroup v2, one for each controller with v1. They are the
    /// caller's, limits included.
    #[serde(default)]
    pub cgroups: Vec<PathBuf>,
    /// Most open files.
    #[serde(default = "JailConfig::default_files")]
    pub max_files: u64,
    /// Most bytes of a file that it may write; disks, console and snapshots count.
    #[serde(default)]
    pub max_file_size: Option<u64>,
}

impl JailConfig {
    fn default_files() -> u64 {
        // Each connection of the socket device needs one.
        2048
    }
}

/// A step of the jail failed; the process must end.
#[derive(Debug, thiserror::Error)]
#[error("cannot jail the process: {step}")]
pub struct JailError {
    step: &'static str,
    #[source]
    source: io::Error,
}

trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, JailError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &'static str) -> Result<T, JailError> {
        self.map_err(|error| JailError {
            step,
            source: error.into(),
        })
    }
}

/// Jails the process, which has only one thread yet and is root.
///
/// # Errors
/// [`JailError`] names the step. The process is then partly jailed and must end.
pub fn enter(config: &JailConfig) -> Result<(), JailError> {
    for cgroup in &config.cgroups {
        // "0" is the writer itself, in both versions.
        fs::write(cgroup.join("cgroup.procs"), "0").step("joining a cgroup")?;
    }
    let namespaces =
        UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS | UnshareFlags::NEWNET | UnshareFlags::NEWCGROUP;
    // SAFETY: the flags change no memory and no file table; there is one thread.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }.step("making namespaces")?;
    change_root(&config.root)?;
    limit(config)?;
    drop_rights(config)
}

/// Makes `root` the root directory, and everything else unreachable.
fn change_root(root: &Path) -> Result<(), JailError> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).step("making mounts private")?;
    mount_bind_recursive(root, root).step("mounting the new root")?;
    let flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_remount(root, flags, c"").step("restricting the new root")?;
    chdir(root).step("entering the new root")?;
    // The old root is put over the new one and taken away again (pivot_root(2), "pivot_root(".", ".")").
    pivot_root(".", ".").step("changing the root")?;
    unmount(".", UnmountFlags::DETACH).step("leaving the old root")?;
    chdir("/").step("entering the new root")
}

fn limit(config: &JailConfig) -> Result<(), JailError> {
    let set = |resource, value| {
        setrlimit(
            resource,
            Rlimit {
                current: Some(value),
                maximum: Some(value),
            },
        )
        .step("setting limits")
    };
    set(Resource::Nofile, config.max_files)?;
    // A dump would hold the guest's memory.
    set(Resource::Core, 0)?;
    set(Resource::Memlock, 0)?;
    set(Resource::Msgqueue, 0)?;
    config.max_file_size.map_or(Ok(()), |size| set(Resource::Fsize, size))
}

fn drop_rights(config: &JailConfig) -> Result<(), JailError> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    use rustix::thread::{
        clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits,
        set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    };
    let (uid, gid) = (Uid::from_raw(config.uid), Gid::from_raw(config.gid));
    for capability in CapabilitySet::all() {
        // Unknown to an older kernel, so not there to be dropped.
        let _ = remove_capability_from_bounding_set(capability);
    }
    clear_ambient_capability_set().step("dropping ambient capabilities")?;
    let locked = CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED;
    set_capabilities_secure_bits(locked).step("locking the rights of root")?;
    set_thread_groups(&[]).step("dropping groups")?;
    set_thread_res_gid(gid, gid, gid).step("changing the group")?;
    set_thread_res_uid(uid, uid, uid).step("changing the user")?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none).step("dropping capabilities")?;
    set_no_new_privs(true).step("forbidding new rights")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step("hiding the process's memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_defaults() {
        let config: JailConfig = serde_json::from_str(r#"{"uid":1,"gid":1,"root":"/r"}"#).unwrap();
        assert_eq!(
            (config.max_files, config.max_file_size, config.cgroups.len()),
            (2048, None, 0)
        );
    }
}
