//! Telling programs that their terminal has another size.
//!
//! A kernel does that itself, with SIGWINCH for the terminal's foreground. gVisor does not, nor does it tell what the
//! foreground is, so there every process of the terminal's session is told: those that do not care ignore it.

use std::fs;
use std::os::fd::AsFd;

use rustix::process::{Pid, Signal};

/// Whether the kernel tells programs of a new size. Those that do can name the foreground to the agent's side, too.
pub(crate) fn kernel_tells(master: impl AsFd) -> bool {
    rustix::termios::tcgetpgrp(master).is_ok()
}

/// Tells every process in the session of `leader`.
pub(crate) fn tell_session(leader: Pid) {
    let Ok(processes) = fs::read_dir("/proc") else {
        return;
    };
    for process in processes.filter_map(Result::ok) {
        let pid = process.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else {
            continue;
        };
        let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        if session_of(&stat) == Some(leader.as_raw_nonzero().get()) {
            // It may have ended meanwhile.
            let _ = rustix::process::kill_process(pid, Signal::WINCH);
        }
    }
}

/// The session in a line of `/proc/<pid>/stat`. The program's name, in parentheses, can hold anything.
fn session_of(stat: &str) -> Option<i32> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn finds_the_session() {
        assert_eq!(session_of("9 (a) b) R 8 7 6 0 0 0"), Some(6));
        assert_eq!(session_of("9 (cat)"), None);
    }

    proptest! {
        #[test]
        fn takes_any_line(line in ".*") {
            session_of(&line);
        }
    }
}
