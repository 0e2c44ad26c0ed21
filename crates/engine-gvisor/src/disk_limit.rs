//! The limit of what a sandbox may write.
//!
//! What a sandbox writes goes into a tmpfs of the sentry, the upper layer of its root, whose pages lie in one file on the host. A tmpfs
//! knows a limit (`size=`), counts its pages and says ENOSPC, and it shows the limit in `df`. But runsc mounts the upper layer with none:
//! 2^63 - 1 bytes, a constant in `tmpfs.FilesystemType.GetFilesystem`. Later versions have an option for it, this one has not. So a sandbox
//! runs a copy of runsc in which the constant is its limit. There is one copy for each limit in use, which is to say for each size that
//! templates have; sandboxes of the same limit share the copy's pages in memory.
//!
//! The limit is a part of the tmpfs, and so of every snapshot: what wakes, and every clone, keeps the one it was created with. Snapshots of
//! sandboxes without a limit stay without.
//!
//! The host's own means were no better. A limit of the file's size (`RLIMIT_FSIZE`) would end the sentry with SIGXFSZ, counts in steps of
//! 1 GiB and meets memory too. A file system of its own for each sandbox costs a mount and a loop device, and a full one means SIGBUS to
//! whoever writes.
//!
//! The same constant limits the shared memory of the sandbox's processes (`memfd_create`, shared anonymous mappings): each of the two may
//! be as large as the limit, and memory has its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::config::GvisorConfig;
use crate::error::{GvisorError, Result};
use crate::tune::{bytes, find, write_program};

/// `if disableDefaultSizeLimit || usage.MaximumTotalMemoryBytes == 0 { size = math.MaxInt64 }`: `movabs rdx,0x7fffffffffffffff`. What
/// follows looks for `size` in the options.
const UNLIMITED: &str =
    "0f b6 54 24 37 84 d2 75 0c 48 8b 15 ?? ?? ?? ?? 48 85 d2 75 0a 48 ba ff ff ff ff ff ff ff 7f 48 89 54 24 50";
/// Where the number is in [`UNLIMITED`].
const NUMBER: usize = 23;

/// Programs that limit the disk.
#[derive(Debug)]
pub(crate) struct DiskLimits {
    runsc: PathBuf,
    /// Where the number is in the program; none: this build is not known.
    place: Option<usize>,
    dir: PathBuf,
    /// By the limit in MiB.
    copies: Mutex<BTreeMap<u32, PathBuf>>,
}

impl DiskLimits {
    /// Prepares copies of the configured runsc.
    pub(crate) async fn open(config: &GvisorConfig) -> Result<Self> {
        let (runsc, dir) = (config.runsc.clone(), config.copies_dir.clone());
        tokio::task::spawn_blocking(move || Self::prepare(runsc, dir))
            .await
            .map_err(|_| GvisorError::Panicked)?
    }

    fn prepare(runsc: PathBuf, dir: PathBuf) -> Result<Self> {
        let program = fs::read(&runsc).map_err(GvisorError::file("read", &runsc))?;
        let place = find(&program, &bytes(UNLIMITED)).map(|place| place + NUMBER);
        if place.is_none() {
            tracing::warn!(runsc = %runsc.display(), "this build of runsc is not known: what a sandbox writes is not limited");
        }
        // Those of an earlier daemon: of an earlier runsc, or of limits that nobody uses any more. What runs of them keeps running.
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(GvisorError::file("remove", &dir)(e)),
            _ => {}
        }
        Ok(Self {
            runsc,
            place,
            dir,
            copies: Mutex::default(),
        })
    }

    /// The program for sandboxes that may write this much. Blocks, some tens of milliseconds the first time.
    pub(crate) fn runsc_for(&self, disk_mib: u32) -> Result<PathBuf> {
        let Some(place) = self.place else {
            return Ok(self.runsc.clone());
        };
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(copy) = copies.get(&disk_mib).filter(|copy| copy.exists()) {
            return Ok(copy.clone());
        }
        let mut program = fs::read(&self.runsc).map_err(GvisorError::file("read", &self.runsc))?;
        let number = program.get_mut(place..place + 8).ok_or_else(|| GvisorError::File {
            action: "find the place for the limit in",
            path: self.runsc.clone(),
            source: std::io::ErrorKind::InvalidData.into(),
        })?;
        number.copy_from_slice(&(u64::from(disk_mib) << 20).to_le_bytes());
        fs::create_dir_all(&self.dir).map_err(GvisorError::file("create", &self.dir))?;
        let copy = self.dir.join(format!("runsc-{disk_mib}"));
        write_program(&copy, &program)?;
        copies.insert(disk_mib, copy.clone());
        Ok(copy)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Limits for a program with `count` places.
    fn limits(dir: &Path, count: usize) -> DiskLimits {
        let runsc = dir.join("runsc");
        let mut program = vec![0x90; 100];
        for _ in 0..count {
            program.extend(bytes(UNLIMITED).into_iter().map(|byte| byte.unwrap_or(0x5a)));
        }
        fs::write(&runsc, program).expect("written");
        DiskLimits::prepare(runsc, dir.join("copies")).expect("prepared")
    }

    #[test]
    fn each_limit_has_a_copy_that_differs_in_the_number_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let limits = limits(dir.path(), 1);
        let original = fs::read(&limits.runsc).expect("readable");
        for mib in [1, 1024, u32::MAX] {
            let copy = fs::read(limits.runsc_for(mib).expect("made")).expect("readable");
            let at = 100 + NUMBER;
            assert_eq!(copy[at..at + 8], (u64::from(mib) << 20).to_le_bytes());
            assert_eq!((&copy[..at], &copy[at + 8..]), (&original[..at], &original[at + 8..]));
        }
        let one = limits.runsc_for(1).expect("there");
        fs::remove_file(&one).expect("removed");
        assert_eq!(limits.runsc_for(1).expect("made again"), one);
        assert!(one.exists());
    }

    #[test]
    fn copies_do_not_outlive_the_next_start() {
        let dir = tempfile::tempdir().expect("a directory");
        let copy = limits(dir.path(), 1).runsc_for(7).expect("made");
        let again = limits(dir.path(), 1);
        assert!(!copy.exists());
        again.runsc_for(7).expect("made again");
    }

    #[test]
    fn an_unknown_or_ambiguous_program_is_used_as_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        for count in [0, 2] {
            let limits = limits(dir.path(), count);
            assert_eq!(limits.runsc_for(1024).expect("no error"), limits.runsc);
        }
    }

    #[test]
    fn the_installed_program_is_known() {
        let Ok(program) = fs::read("/usr/bin/runsc") else {
            eprintln!("skipped: no runsc on this machine");
            return;
        };
        let place = find(&program, &bytes(UNLIMITED)).expect("known") + NUMBER;
        assert_eq!(program[place..place + 8], i64::MAX.to_le_bytes());
    }
}
