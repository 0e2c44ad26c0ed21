//! A copy of runsc that is idle when its sandbox is.
//!
//! The systrap platform of gVisor tries again and again whether its *fast path* (spinning instead of sleeping between the guest and the
//! sentry) pays at the moment. It looks every 400 µs, for ever, also when the guest sleeps: every running sandbox costs 4 to 5 percent of a
//! processor, and no flag turns it off. How often it looks is one number in the program. This module makes a copy of the program with
//! another number there: 50 ms, which leaves 0.4 percent. What the sandbox does is the same; only the moment at which a busy guest gets the
//! fast path comes later.
//!
//! The place is found by the instructions around it. If they are not there exactly once (another version, another processor), nothing is
//! changed and the original is used.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::error::{GvisorError, Result};

/// How often the fast path is looked at, nanoseconds: the original's number and ours.
const ORIGINAL: u32 = 400_000;
const OURS: u32 = 50_000_000;

/// The loop of `controlFastPath`: `fastPathContextLimit = …`, `time.Sleep(400 µs)`, `curState(…)`. None: an address, which differs between
/// builds.
const LOOP: [Option<u8>; 33] = {
    const X: Option<u8> = None;
    const fn b(byte: u8) -> Option<u8> {
        Some(byte)
    }
    [
        // shl rcx,1; mov [rip+…],ecx; nop
        b(0x48),
        b(0xd1),
        b(0xe1),
        b(0x89),
        b(0x0d),
        X,
        X,
        X,
        X,
        // mov eax,400000
        b(0xb8),
        b(0x80),
        b(0x1a),
        b(0x06),
        b(0x00),
        // call time.Sleep
        b(0xe8),
        X,
        X,
        X,
        X,
        // mov rdx,[rip+…]; mov rcx,[rdx]; lea rax,[rip+…] (begin)
        b(0x48),
        b(0x8b),
        b(0x15),
        X,
        X,
        X,
        X,
        b(0x48),
        b(0x8b),
        b(0x0a),
        b(0x48),
        b(0x8d),
        b(0x05),
        X,
    ]
};
/// Where in [`LOOP`] the number is.
const NUMBER: usize = 10;

/// Makes a tuned copy of `runsc` in the directory `dir` and returns the program to use: the copy, or `runsc` itself where it is not of a
/// known build. Cheap when the copy is there already.
///
/// # Errors
/// When the program cannot be read or the copy not be written.
pub async fn tune(runsc: &Path, dir: &Path) -> Result<PathBuf> {
    let (from, copy) = (runsc.to_path_buf(), dir.join("runsc"));
    let tuned = tokio::task::spawn_blocking(move || tuned_copy(&from, &copy))
        .await
        .map_err(|_| GvisorError::Panicked)??;
    Ok(tuned.unwrap_or_else(|| {
        tracing::warn!(runsc = %runsc.display(), "this build of runsc is not known: running sandboxes use some processor time when idle");
        runsc.to_path_buf()
    }))
}

/// Makes the copy, whole or not at all. None: the original is not known.
fn tuned_copy(runsc: &Path, copy: &Path) -> Result<Option<PathBuf>> {
    let mut program = fs::read(runsc).map_err(GvisorError::file("read", runsc))?;
    let Some(at) = find(&program) else { return Ok(None) };
    program[at..at + 4].copy_from_slice(&OURS.to_le_bytes());
    if fs::read(copy).is_ok_and(|existing| existing == program) {
        return Ok(Some(copy.to_path_buf()));
    }
    // Not over the old one: it may be running.
    let new = copy.with_extension("new");
    let written = fs::File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o755)
        .open(&new)
        .and_then(|mut file| {
            file.write_all(&program)?;
            file.sync_all()
        });
    written
        .and_then(|()| fs::rename(&new, copy))
        .map_err(GvisorError::file("write", copy))?;
    Ok(Some(copy.to_path_buf()))
}

/// Where the number is, if the loop is there exactly once.
fn find(program: &[u8]) -> Option<usize> {
    let fits = |window: &[u8]| {
        window
            .iter()
            .zip(LOOP)
            .all(|(byte, wanted)| wanted.is_none_or(|wanted| *byte == wanted))
    };
    let mut found = program
        .windows(LOOP.len())
        .enumerate()
        .filter(|(_, window)| fits(window))
        .map(|(at, _)| at + NUMBER);
    let (at, next) = (found.next()?, found.next());
    let number = program
        .get(at..at + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u32::from_le_bytes);
    (next.is_none() && number == Some(ORIGINAL)).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> Vec<u8> {
        let code = LOOP.iter().map(|byte| byte.unwrap_or(0x5a));
        [0x90; 100].into_iter().chain(code).chain([0xcc; 50]).collect()
    }

    #[test]
    fn finds_the_number() {
        assert_eq!(find(&program()), Some(100 + NUMBER));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        assert_eq!(find(&[0x90; 1000]), None);
        let twice = [program(), program()].concat();
        assert_eq!(find(&twice), None, "ambiguous");
        let mut other = program();
        other[100 + NUMBER] = 0x81;
        assert_eq!(find(&other), None, "another number");
    }

    #[test]
    fn a_copy_differs_in_the_number_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let (from, to) = (dir.path().join("runsc"), dir.path().join("tuned"));
        fs::write(&from, program()).expect("written");
        assert_eq!(tuned_copy(&from, &to).expect("tuned"), Some(to.clone()));
        let (old, new) = (program(), fs::read(&to).expect("readable"));
        let changed: Vec<usize> = (0..old.len()).filter(|at| old[*at] != new[*at]).collect();
        assert!(changed.iter().all(|at| (110..114).contains(at)), "{changed:?}");
        assert_eq!(tuned_copy(&from, &to).expect("again"), Some(to));
    }

    #[test]
    fn an_unknown_program_is_used_as_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let from = dir.path().join("runsc");
        fs::write(&from, b"something else").expect("written");
        let to = dir.path().join("tuned");
        assert_eq!(tuned_copy(&from, &to).expect("no error"), None);
        assert!(!to.exists());
    }
}
