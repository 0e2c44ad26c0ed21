//! Layers as one file system, by Linux's overlayfs.
//!
//! Mounts are made in mount namespaces that nobody else sees and that end with a thread or a process: whatever happens to us, no mount
//! stays behind.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, mount_change, move_mount,
};

/// What is switched off is written into layers in ways that only the kernel that wrote them can read, or ties them to each other.
const OPTIONS: [(&str, &str); 3] = [("redirect_dir", "off"), ("metacopy", "off"), ("index", "off")];

/// Longest option text that mount(2) takes, bytes.
const PAGE: usize = 4095;

/// Mounts `lower` (lowest first) with `upper` over them at `at`, for the calling thread's mount namespace.
///
/// # Errors
/// What the kernel says; [`io::ErrorKind::ArgumentListTooLong`] for more layers than an old kernel can take.
pub fn mount(at: &Path, lower: &[PathBuf], upper: &Path, work: &Path) -> io::Result<()> {
    match mount_new(at, lower, upper, work) {
        // Kernels before 6.8 know neither `lowerdir+` nor, some of them, the call.
        Err(Errno::INVAL | Errno::NOSYS) => mount_old(at, lower, upper, work),
        other => Ok(other?),
    }
}

/// Layer by layer: there is no limit to the length of all their names.
fn mount_new(at: &Path, lower: &[PathBuf], upper: &Path, work: &Path) -> Result<(), Errno> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in lower.iter().rev() {
        fsconfig_set_string(fs.as_fd(), "lowerdir+", layer)?;
    }
    fsconfig_set_string(fs.as_fd(), "upperdir", upper)?;
    fsconfig_set_string(fs.as_fd(), "workdir", work)?;
    for (name, value) in OPTIONS {
        fsconfig_set_string(fs.as_fd(), name, value)?;
    }
    fsconfig_create(fs.as_fd())?;
    let mounted = fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    move_mount(
        mounted.as_fd(),
        "",
        rustix::fs::CWD,
        at,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}

fn mount_old(at: &Path, lower: &[PathBuf], upper: &Path, work: &Path) -> io::Result<()> {
    let mut options = b"lowerdir=".to_vec();
    for (n, layer) in lower.iter().rev().enumerate() {
        if n > 0 {
            options.push(b':');
        }
        escape(layer, &mut options);
    }
    for (name, path) in [(",upperdir=", upper), (",workdir=", work)] {
        options.extend_from_slice(name.as_bytes());
        escape(path, &mut options);
    }
    for (name, value) in OPTIONS {
        options.extend_from_slice(format!(",{name}={value}").as_bytes());
    }
    if options.len() > PAGE {
        return Err(io::ErrorKind::ArgumentListTooLong.into());
    }
    let options = std::ffi::CString::new(options)?;
    Ok(rustix::mount::mount(
        "overlay",
        at,
        "overlay",
        MountFlags::empty(),
        options.as_c_str(),
    )?)
}

fn escape(path: &Path, into: &mut Vec<u8>) {
    for &byte in path.as_os_str().as_bytes() {
        if matches!(byte, b'\\' | b':' | b',') {
            into.push(b'\\');
        }
        into.push(byte);
    }
}

/// Gives `work_in` the merged view of `lower` (lowest first) and `upper`, which gets its changes. Blocks.
///
/// The view is at `at`, an empty directory, and only for the thread in which `work_in` runs; it ends with it.
///
/// # Errors
/// The kernel refuses the mount, `work_in` fails, or it panics.
pub fn with_merged<T, E>(
    at: &Path,
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    work_in: impl FnOnce(&Path) -> Result<T, E> + Send,
) -> Result<T, E>
where
    T: Send,
    E: From<io::Error> + Send,
{
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // A mount namespace is entered by a thread that shares neither it nor its working directory with others.
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).map_err(io::Error::from)?;
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).map_err(io::Error::from)?;
            mount(at, lower, upper, work)?;
            work_in(at)
        });
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the work in the merged layers panicked").into()))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn changes_go_to_the_upper_layer_and_the_mount_ends() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: mounts need root");
            return;
        }
        let home = tempfile::tempdir().unwrap();
        let dir = |name: &str| {
            let path = home.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let (low, high, upper, work, at) = (dir("low"), dir("hi:gh,"), dir("upper"), dir("work"), dir("at"));
        fs::write(low.join("a"), "low").unwrap();
        fs::write(low.join("b"), "low").unwrap();
        fs::write(high.join("a"), "high").unwrap();

        let seen: io::Result<String> = with_merged(&at, &[low.clone(), high], &upper, &work, |root| {
            fs::write(root.join("new"), "x")?;
            fs::remove_file(root.join("b"))?;
            fs::read_to_string(root.join("a"))
        });

        assert_eq!(seen.unwrap(), "high");
        assert_eq!(fs::read_to_string(upper.join("new")).unwrap(), "x");
        assert!(crate::merge::is_whiteout(&fs::symlink_metadata(upper.join("b")).unwrap()));
        assert!(low.join("b").exists());
        assert_eq!(fs::read_dir(&at).unwrap().count(), 0);
    }
}
