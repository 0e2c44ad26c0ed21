//! Signals under their three names: SSH's (RFC 4254, 6.9), the shell's, and the agent's words for how a process ended (contract 3.5).

use russh::Sig;

/// The agent's words and SSH's name. Go's words, which E2B's agent uses.
const ENDINGS: &[(&str, Sig)] = &[
    ("aborted", Sig::ABRT),
    ("alarm clock", Sig::ALRM),
    ("floating point exception", Sig::FPE),
    ("hangup", Sig::HUP),
    ("illegal instruction", Sig::ILL),
    ("interrupt", Sig::INT),
    ("killed", Sig::KILL),
    ("broken pipe", Sig::PIPE),
    ("quit", Sig::QUIT),
    ("segmentation fault", Sig::SEGV),
    ("terminated", Sig::TERM),
    ("user defined signal 1", Sig::USR1),
];

/// The signal that a status such as `signal: killed` speaks of; `None` for a process that ended by itself.
pub(crate) fn of_status(status: &str) -> Option<Sig> {
    let words = status.strip_prefix("signal: ")?;
    let words = words.strip_suffix(" (core dumped)").unwrap_or(words);
    let known = ENDINGS.iter().find(|(name, _)| *name == words);
    // RFC 4254 gives names to these only; others are private ones, and `ssh` shows any.
    Some(known.map_or_else(|| Sig::Custom("UNKNOWN@dormouse".to_owned()), |(_, signal)| signal.clone()))
}

/// The name that `kill -s` takes; `None` for one that no kernel knows.
pub(crate) fn shell_name(signal: &Sig) -> Option<&'static str> {
    Some(match signal {
        Sig::ABRT => "ABRT",
        Sig::ALRM => "ALRM",
        Sig::FPE => "FPE",
        Sig::HUP => "HUP",
        Sig::ILL => "ILL",
        Sig::INT => "INT",
        Sig::KILL => "KILL",
        Sig::PIPE => "PIPE",
        Sig::QUIT => "QUIT",
        Sig::SEGV => "SEGV",
        Sig::TERM => "TERM",
        Sig::USR1 => "USR1",
        Sig::Custom(name) if name == "USR2" => "USR2",
        Sig::Custom(name) if name == "WINCH" => "WINCH",
        Sig::Custom(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_recognised() {
        assert!(matches!(of_status("signal: killed"), Some(Sig::KILL)));
        assert!(matches!(
            of_status("signal: segmentation fault (core dumped)"),
            Some(Sig::SEGV)
        ));
        assert!(of_status("exit status 3").is_none());
        assert!(matches!(of_status("signal: something new"), Some(Sig::Custom(_))));
    }

    #[test]
    fn only_names_of_ours_reach_a_shell() {
        assert_eq!(shell_name(&Sig::Custom("INT; reboot".to_owned())), None);
    }
}
