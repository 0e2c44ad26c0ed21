//! What the first process of a sandbox puts right before it serves.
//!
//! This is for gVisor, which mounts file systems of its own before it starts us; elsewhere there is nothing to do. A failure leaves a
//! sandbox that works, only with slower snapshots, so it is said and not more.

use std::fs;

use rustix::mount::{MountFlags, mount};

/// An option that only gVisor's proc has, and shows.
const CACHE_OPTION: &str = "dentry_cache_limit=";

/// How many entries of ended processes gVisor's proc keeps. The default is 1000, and each kept one adds milliseconds and 100 KiB to every
/// snapshot.
const CACHE: &std::ffi::CStr = c"dentry_cache_limit=8";

/// Does it, if this is the first process.
pub(crate) fn prepare() {
    if !rustix::process::getpid().is_init() {
        return;
    }
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    if mounts
        .lines()
        .any(|line| is(line, "/proc", "proc") && line.contains(CACHE_OPTION))
    {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        if let Err(error) = mount("proc", "/proc", "proc", flags, Some(CACHE)) {
            crate::complain(&format_args!("/proc keeps its large cache: {error}"));
        }
    }
}

/// Whether a line of `/proc/mounts` is the mount of this type at this place.
fn is(line: &str, place: &str, kind: &str) -> bool {
    let mut fields = line.split(' ').skip(1);
    fields.next() == Some(place) && fields.next() == Some(kind)
}

#[cfg(test)]
mod tests {
    use super::is;

    #[test]
    fn mounts_are_told_apart_by_place_and_type() {
        let line = "none /proc proc rw,noexec,nosuid,nodev,dentry_cache_limit=1000 0 0";
        assert!(is(line, "/proc", "proc"));
        assert!(!is(line, "/proc/sys", "proc"));
        assert!(!is(line, "/proc", "tmpfs"));
        assert!(!is("", "/proc", "proc"));
    }
}
