//! A copy of runsc with some faults corrected.
//!
//! **It is never idle.** The systrap platform of gVisor tries again and again whether its *fast path* (spinning instead of sleeping between
//! the guest and the sentry) pays at the moment. It looks every 400 µs, for ever, also when the guest sleeps: every running sandbox costs 4
//! to 5 percent of a processor, and no flag turns it off. How often it looks is one number in the program; the copy has 50 ms there, which
//! leaves 0.4 percent. What the sandbox does is the same; only the moment at which a busy guest gets the fast path comes later.
//!
//! **A snapshot can go deaf.** An epoll instance keeps a linked list of the files that have news, and each file's entry knows whether it is
//! in the list. Both are saved. But saving itself makes news: it resets every TCP connection to the outside (`endpoint.beforeSave`), at a
//! time when the list is written already and the entry is not yet, or the other way round. After such a restore the list and the entries
//! disagree, entries are never put into the list again, and the program behind the epoll instance sleeps for ever. It hit our own agent in
//! one of five to ten snapshots that were taken while a connection was open, and it can hit any server or client with an event loop. The
//! restore marks every entry as having news anyway (`epollInterest.afterLoad`), so nothing of this needs saving: the copy saves an empty
//! list and entries that are in no list.
//!
//! **A program can crash right after a wake.** systrap guesses from a fault's address whether code or data was wanted: code if it is the
//! address of the instruction. An instruction that lies across the border of two pages, of which the second is not mapped yet, looks like
//! data. That costs other file systems nothing, because they allow a page everything that the mapping allows. EROFS allows only what was
//! asked for: the page becomes readable, not executable, the instruction faults again, that is taken for a write, and the program gets
//! SIGSEGV. After a restore nothing is mapped, so every program runs over many such borders; our agent died of it when it was asked for a
//! symbolic link first. In the copy EROFS always allows reading and executing.
//!
//! The places are found by the instructions around them. If they are not there exactly once (another version, another processor), nothing
//! is changed there, and the log says what to expect.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::error::{GvisorError, Result};

/// A correction of the program.
struct Change {
    /// What happens without it.
    without: &'static str,
    /// The instructions around the place, in hexadecimal; `??` are addresses, which differ between builds.
    code: &'static str,
    /// What to write, and where in the instructions.
    edits: &'static [(usize, &'static str)],
}

/// The loop of `controlFastPath`: `fastPathContextLimit = …`, `time.Sleep(400 µs)`, `curState(…)`. 400,000 becomes 50,000,000.
const IDLE: Change = Change {
    without: "running sandboxes use some processor time when idle",
    code: "48 d1 e1 89 0d ?? ?? ?? ?? b8 80 1a 06 00 e8 ?? ?? ?? ?? 48 8b 15 ?? ?? ?? ?? 48 8b 0a 48 8d 05",
    edits: &[(10, "80 f0 fa 02")],
};

/// In `(*epollInterest).StateSave`: `Save(4, &epi.ready)`, `Save(5, &epi.epollInterestEntry)`, `Save(6, …`. What is saved as the fields 4 and
/// 5 are zeroes ([`ZEROES`]): `lea rdx,[rsi+…]` becomes `mov edx,ZEROES`.
const EPOLL_ENTRY: Change = Change {
    without: "a program that waits with epoll may not wake after a deep sleep",
    code: "48 8b 74 24 48 48 8d 56 44 48 8b 44 24 28 48 8b 5c 24 30 b9 04 00 00 00 48 8d 3d ?? ?? ?? ?? 48 89 d6 0f 1f 40 00 e8 ?? ?? ?? ?? \
           48 8b 74 24 48 48 8d 56 48 48 8b 44 24 28 48 8b 5c 24 30 b9 05 00 00 00 48 8d 3d ?? ?? ?? ?? 48 89 d6 e8 ?? ?? ?? ?? \
           48 8b 74 24 48 48 8d 56 58 48 8b 44 24 28 48 8b 5c 24 30 b9 06 00 00 00",
    edits: &[(0, "ba 00 02 40 00 0f 1f 40 00"), (43, "ba 00 02 40 00 0f 1f 40 00")],
};

/// In `(*EpollInstance).StateSave`: `Save(5, &ep.interest)`, `Save(6, &ep.ready)`, `Save(7, &ep.readySeq)`. Field 6 likewise.
const EPOLL_LIST: Change = Change {
    without: EPOLL_ENTRY.without,
    code: "48 8b 74 24 48 48 8d 96 98 00 00 00 48 8b 44 24 28 48 8b 5c 24 30 b9 05 00 00 00 48 8d 3d ?? ?? ?? ?? 48 89 d6 e8 ?? ?? ?? ?? \
           48 8b 74 24 48 48 8d 96 a8 00 00 00 48 8b 44 24 28 48 8b 5c 24 30 b9 06 00 00 00 48 8d 3d ?? ?? ?? ?? 48 89 d6 e8 ?? ?? ?? ?? \
           48 8b 74 24 48 48 81 c6 b8 00 00 00",
    edits: &[(42, "ba 00 02 40 00 0f 1f 80 00 00 00 00")],
};

/// In `erofs.(*inode).Translate`: `Translation{…, File: &i.fs.mf, Offset: mr.Start + offset, Perms: at}`. Two of the three truth values of
/// `Perms`, Read and Execute, become true: `movzx edx,[rsp+…]` becomes `mov edx,1`.
const EROFS_PERMISSIONS: Change = Change {
    without: "programs in a sandbox may crash right after a wake",
    code: "48 83 c2 78 48 8b 5c 24 10 48 01 d9 83 3d ?? ?? ?? ?? 00 74 09 90 e8 ?? ?? ?? ?? 49 89 13 48 89 50 18 48 89 48 20 \
           0f b6 54 24 50 88 50 28 0f b6 54 24 51 88 50 29 0f b6 54 24 52 88 50 2a bb 01 00 00 00 48 89 d9 31 ff 31 f6",
    edits: &[(38, "ba 01 00 00 00"), (54, "ba 01 00 00 00")],
};

/// Corrections that are right only together.
const CHANGES: &[&[Change]] = &[&[IDLE], &[EPOLL_ENTRY, EPOLL_LIST], &[EROFS_PERMISSIONS]];

/// Where in the file there are zeroes for [`EPOLL_ENTRY`] and [`EPOLL_LIST`] to save: after the header of a program that Go linked, which
/// lies in memory from 0x400000 on and is never written.
const ZEROES: std::ops::Range<usize> = 0x200..0x220;

/// Makes a tuned copy of `runsc` in the directory `dir` and returns the program to use: the copy, or `runsc` itself where nothing of it is
/// known. Cheap when the copy is there already.
///
/// # Errors
/// When the program cannot be read or the copy not be written.
pub async fn tune(runsc: &Path, dir: &Path) -> Result<PathBuf> {
    let (from, copy) = (runsc.to_path_buf(), dir.join("runsc"));
    tokio::task::spawn_blocking(move || tuned_copy(&from, &copy))
        .await
        .map_err(|_| GvisorError::Panicked)?
}

/// Makes the copy, whole or not at all.
fn tuned_copy(runsc: &Path, copy: &Path) -> Result<PathBuf> {
    let original = fs::read(runsc).map_err(GvisorError::file("read", runsc))?;
    let mut program = original.clone();
    for together in CHANGES {
        if !apply(&mut program, together) {
            let expect = together.first().map_or("", |change| change.without);
            tracing::warn!(runsc = %runsc.display(), "this build of runsc is not known: {expect}");
        }
    }
    if program == original {
        return Ok(runsc.to_path_buf());
    }
    if fs::read(copy).is_ok_and(|existing| existing == program) {
        return Ok(copy.to_path_buf());
    }
    write_program(copy, &program)?;
    Ok(copy.to_path_buf())
}

/// Writes a program, whole or not at all.
pub(crate) fn write_program(path: &Path, program: &[u8]) -> Result<()> {
    // Not over the old one: it may be running.
    let new = path.with_extension("new");
    let written = fs::File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o755)
        .open(&new)
        .and_then(|mut file| {
            file.write_all(program)?;
            file.sync_all()
        });
    written
        .and_then(|()| fs::rename(&new, path))
        .map_err(GvisorError::file("write", path))
}

/// Makes all of the changes, or none: false when a place is not there exactly once.
fn apply(program: &mut [u8], changes: &[Change]) -> bool {
    if program.get(ZEROES).is_none_or(|zeroes| zeroes.iter().any(|byte| *byte != 0)) {
        return false;
    }
    let places: Option<Vec<usize>> = changes.iter().map(|change| find(program, &bytes(change.code))).collect();
    let Some(places) = places else { return false };
    for (change, place) in changes.iter().zip(places) {
        for (offset, edit) in change.edits {
            for (target, byte) in program[place + offset..].iter_mut().zip(bytes(edit)) {
                *target = byte.unwrap_or(*target);
            }
        }
    }
    true
}

/// The bytes of hexadecimal text, None for `??`.
pub(crate) fn bytes(text: &str) -> Vec<Option<u8>> {
    text.split_whitespace()
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect()
}

/// Where the code is, if it is there exactly once.
pub(crate) fn find(program: &[u8], code: &[Option<u8>]) -> Option<usize> {
    let fits = |window: &[u8]| {
        window
            .iter()
            .zip(code)
            .all(|(byte, wanted)| wanted.is_none_or(|wanted| *byte == wanted))
    };
    let mut found = program.windows(code.len()).enumerate().filter(|(_, window)| fits(window));
    let (place, _) = found.next()?;
    found.next().is_none().then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program with the code of `changes` in it.
    fn program(changes: &[&Change]) -> Vec<u8> {
        let mut program = vec![0; ZEROES.end];
        for change in changes {
            program.extend([0x90; 100]);
            program.extend(bytes(change.code).into_iter().map(|byte| byte.unwrap_or(0x5a)));
        }
        program.extend([0xcc; 50]);
        program
    }

    fn changed(old: &[u8], new: &[u8]) -> Vec<usize> {
        (0..old.len()).filter(|at| old[*at] != new[*at]).collect()
    }

    #[test]
    fn only_the_edited_bytes_change() {
        let old = program(&[&IDLE]);
        let mut new = old.clone();
        assert!(apply(&mut new, &[IDLE]));
        let number = ZEROES.end + 100 + 10;
        assert_eq!(new[number..number + 4], 50_000_000_u32.to_le_bytes());
        assert!(changed(&old, &new).iter().all(|at| (number..number + 4).contains(at)));
    }

    #[test]
    fn edits_stay_inside_their_code_and_replace_whole_instructions() {
        for change in CHANGES.iter().copied().flatten() {
            let code = bytes(change.code);
            for (offset, edit) in change.edits {
                assert!(offset + bytes(edit).len() <= code.len(), "{}", change.without);
            }
        }
        // `mov rsi,[rsp+…]; lea rdx,[rsi+…]` goes, what follows (`mov rax,[rsp+…]`) stays.
        for (change, edit) in [(&EPOLL_ENTRY, 0), (&EPOLL_ENTRY, 1), (&EPOLL_LIST, 0)] {
            let (offset, new) = change.edits[edit];
            let code = bytes(change.code);
            assert_eq!(code[offset..offset + 5], bytes("48 8b 74 24 48"));
            assert_eq!(code[offset + bytes(new).len()..][..5], bytes("48 8b 44 24 28"));
        }
        for (offset, _) in EROFS_PERMISSIONS.edits {
            let code = bytes(EROFS_PERMISSIONS.code);
            assert_eq!(code[*offset..offset + 4], bytes("0f b6 54 24"));
            assert_eq!(code[offset + 5..offset + 7], bytes("88 50"));
        }
    }

    #[test]
    fn unknown_and_ambiguous_places_are_left_alone() {
        let check = |mut program: Vec<u8>| {
            let old = program.clone();
            assert!(!apply(&mut program, &[EPOLL_ENTRY, EPOLL_LIST]));
            assert_eq!(program, old);
        };
        check(vec![0; 1000]);
        check(program(&[&EPOLL_ENTRY]));
        check(program(&[&EPOLL_ENTRY, &EPOLL_LIST, &EPOLL_LIST]));
        let mut no_zeroes = program(&[&EPOLL_ENTRY, &EPOLL_LIST]);
        no_zeroes[ZEROES.start] = 1;
        check(no_zeroes);
    }

    #[test]
    fn a_copy_is_made_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let (from, to) = (dir.path().join("runsc"), dir.path().join("tuned"));
        fs::write(&from, program(&[&IDLE, &EPOLL_ENTRY, &EPOLL_LIST])).expect("written");
        assert_eq!(tuned_copy(&from, &to).expect("tuned"), to);
        let made = fs::metadata(&to).and_then(|metadata| metadata.modified()).expect("a time");
        assert_eq!(tuned_copy(&from, &to).expect("again"), to);
        assert_eq!(
            fs::metadata(&to).and_then(|metadata| metadata.modified()).expect("a time"),
            made
        );
    }

    #[test]
    fn an_unknown_program_is_used_as_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let from = dir.path().join("runsc");
        fs::write(&from, b"something else").expect("written");
        let to = dir.path().join("tuned");
        assert_eq!(tuned_copy(&from, &to).expect("no error"), from);
        assert!(!to.exists());
    }

    #[test]
    fn the_installed_program_is_known() {
        let Ok(mut program) = fs::read("/usr/bin/runsc") else {
            eprintln!("skipped: no runsc on this machine");
            return;
        };
        for together in CHANGES {
            assert!(apply(&mut program, together), "{}", together[0].without);
        }
    }
}
