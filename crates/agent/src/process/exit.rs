//! How the end of a process is told (contract 3.5, `EndEvent`).

use dormouse_agent_proto::rpc::process::process_event::EndEvent;

use super::reaper::Exit;

/// The end of a process, in the words that clients compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    /// -1 when a signal ended it.
    pub code: i32,
    /// Whether it ended by itself.
    pub exited: bool,
    /// `exit status 3` or `signal: killed`.
    pub status: String,
}

impl From<Exit> for Ending {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Code(code) => Self {
                code,
                exited: true,
                status: format!("exit status {code}"),
            },
            Exit::Signal(signal) => Self {
                code: -1,
                exited: false,
                status: format!("signal: {}", signal_name(signal)),
            },
        }
    }
}

impl From<Ending> for EndEvent {
    fn from(ending: Ending) -> Self {
        let failed = ending.code != 0 || !ending.exited;
        Self {
            exit_code: ending.code,
            exited: ending.exited,
            error: failed.then(|| ending.status.clone()),
            status: ending.status,
            ..Self::default()
        }
    }
}

/// The words of the original implementation; clients look for `signal: killed`.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        10 => "user defined signal 1",
        11 => "segmentation fault",
        12 => "user defined signal 2",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        _ => return format!("signal {signal}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(exit: Exit, code: i32, exited: bool, status: &str, error: Option<&str>) {
        let event = EndEvent::from(Ending::from(exit));
        assert_eq!((event.exit_code, event.exited, event.status.as_str()), (code, exited, status));
        assert_eq!(event.error.as_deref(), error);
    }

    #[test]
    fn clients_recognise_every_end() {
        check(Exit::Code(0), 0, true, "exit status 0", None);
        check(Exit::Code(3), 3, true, "exit status 3", Some("exit status 3"));
        check(Exit::Signal(9), -1, false, "signal: killed", Some("signal: killed"));
        check(Exit::Signal(40), -1, false, "signal: signal 40", Some("signal: signal 40"));
    }
}
