//! Starting a program: fork, become somebody else, exec.
//!
//! This is the agent's only unsafe code. The standard library cannot set supplementary groups or a controlling
//! terminal, and it waits for children itself, which a PID 1 that reaps every child must not have.
//!
//! # Safety argument
//! After `fork` in a process with several threads, the child owns a copy of one thread and of whatever locks the
//! others held. Between `fork` and `execve` this module therefore calls only async-signal-safe functions, on memory
//! that was prepared before: no allocation, no lock, no formatting, no destructor. Identity changes use the raw
//! system calls, because glibc's wrappers signal the process's other threads, which the child does not have. Every
//! pointer that is passed points into `Plan` or `Prepared`, which the parent keeps alive across the fork.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::OnceLock;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;

/// A program and the process it shall become.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Path of the program; `PATH` is not searched.
    pub program: CString,
    /// Arguments, the zeroth included.
    pub args: Vec<CString>,
    /// Environment, as `NAME=value`.
    pub envs: Vec<CString>,
    /// Working directory.
    pub cwd: CString,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Descriptors 0, 1 and 2.
    pub stdio: [OwnedFd; 3],
    /// Which of the descriptors becomes the controlling terminal, if any.
    pub controlling_terminal: Option<usize>,
}

/// Where a start failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForkError {
    /// No new process could be made.
    #[error("cannot make a process: {0}")]
    Fork(#[source] io::Error),
    /// The new process could not be set up.
    #[error("cannot {step}: {source}")]
    Setup {
        /// What it was doing.
        step: Step,
        /// Why it failed.
        source: io::Error,
    },
}

impl ForkError {
    /// Whether the user may not be where the program was to start.
    pub(crate) fn is_forbidden_directory(&self) -> bool {
        matches!(self, Self::Setup { step: Step::Directory, source } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// What a child does before it is the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Step {
    Session,
    Terminal,
    Descriptors,
    Groups,
    Group,
    User,
    Directory,
    Signals,
    Exec,
}

impl Step {
    const ALL: [Self; 9] = [
        Self::Session,
        Self::Terminal,
        Self::Descriptors,
        Self::Groups,
        Self::Group,
        Self::User,
        Self::Directory,
        Self::Signals,
        Self::Exec,
    ];
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Session => "start a session",
            Self::Terminal => "take the terminal",
            Self::Descriptors => "connect input and output",
            Self::Groups => "set the supplementary groups",
            Self::Group => "set the group",
            Self::User => "set the user",
            Self::Directory => "enter the working directory",
            Self::Signals => "reset signals",
            Self::Exec => "execute the program",
        })
    }
}

/// Pointer arrays for `execve`, made before the fork because the child may not allocate.
struct Prepared {
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    stdio: [RawFd; 3],
    terminal: Option<RawFd>,
    /// Signals that this process ignores.
    ignored: &'static [libc::c_int],
    report: RawFd,
}

/// Starts the program in a session of its own. Returns once it runs, or with the reason why it does not.
///
/// Blocks for as long as the system takes to load the program. The caller must reap the child, also when this fails
/// after the fork: [`ForkError::Setup`] leaves a child that ends by itself.
pub(crate) fn spawn(plan: &Plan) -> Result<Pid, ForkError> {
    let (report_read, report_write) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| ForkError::Fork(error.into()))?;
    let prepared = Prepared {
        argv: pointers(&plan.args),
        envp: pointers(&plan.envs),
        stdio: plan.stdio.each_ref().map(AsRawFd::as_raw_fd),
        terminal: plan
            .controlling_terminal
            .and_then(|index| plan.stdio.get(index))
            .map(AsRawFd::as_raw_fd),
        ignored: ignored_signals(),
        report: report_write.as_raw_fd(),
    };
    // SAFETY: the child calls nothing but `child`, which keeps to what may be called after a fork and never returns.
    let pid = match unsafe { libc::fork() } {
        -1 => return Err(ForkError::Fork(io::Error::last_os_error())),
        // SAFETY: we are the child of a fork, and `prepared` holds pointers into `plan`, null-terminated.
        0 => unsafe { child(plan, &prepared) },
        pid => pid,
    };
    drop(report_write);
    let Some(pid) = Pid::from_raw(pid) else {
        return Err(ForkError::Fork(Errno::INVAL.into()));
    };
    let mut report = [0_u8; 5];
    match read_report(&report_read, &mut report) {
        // The write end was closed by exec: the program runs.
        Ok(0) => Ok(pid),
        Ok(5) => {
            let [step, code @ ..] = report;
            let step = Step::ALL.get(usize::from(step)).copied().unwrap_or(Step::Exec);
            Err(ForkError::Setup {
                step,
                source: io::Error::from_raw_os_error(i32::from_ne_bytes(code)),
            })
        }
        Ok(_) => Err(ForkError::Fork(io::ErrorKind::UnexpectedEof.into())),
        Err(error) => Err(ForkError::Fork(error)),
    }
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    let ends = std::iter::once(ptr::null());
    strings.iter().map(|string| string.as_ptr()).chain(ends).collect()
}

/// What this process ignores: SIGPIPE, because Rust does, and what its starter turned off. Asked once, since every
/// system call between fork and exec delays a command. Not read from `/proc`, where gVisor does not tell.
pub(crate) fn ignored_signals() -> &'static [libc::c_int] {
    static IGNORED: OnceLock<Vec<libc::c_int>> = OnceLock::new();
    IGNORED.get_or_init(|| (1..32).filter(|signal| is_ignored(*signal)).collect())
}

fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: an all-zero `sigaction` is a valid one to be overwritten; without a new action nothing is changed.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Keeps the descriptors that this process was started with (above 2) from every program that it starts. Those that it
/// opens itself are marked from the beginning.
pub(crate) fn hide_inherited_descriptors() {
    // SAFETY: marks descriptors to be closed on exec, which no other code can notice before an exec. Where the call
    // does not exist, what was inherited stays visible, as it would without this.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}

fn read_report(pipe: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::io::read(pipe, &mut *buffer) {
            Ok(length) => return Ok(length),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The child's life up to the program. Reports the step that failed and exits.
///
/// # Safety
/// Only in the child of a fork. The pointer arrays must be null-terminated and live.
unsafe fn child(plan: &Plan, prepared: &Prepared) -> ! {
    // SAFETY: passed on from the caller.
    let step = unsafe { become_program(plan, prepared) };
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    let code = errno.to_ne_bytes();
    let report = [step as u8, code[0], code[1], code[2], code[3]];
    // SAFETY: writes five bytes from the stack to an open descriptor and ends the process without destructors.
    unsafe {
        libc::write(prepared.report, report.as_ptr().cast(), report.len());
        libc::_exit(127)
    }
}

/// Returns the step that failed, with errno set; does not return otherwise.
///
/// # Safety
/// As for [`child`].
unsafe fn become_program(plan: &Plan, prepared: &Prepared) -> Step {
    // SAFETY: every call below is async-signal-safe, takes integers or pointers that the caller keeps alive, and
    // changes only this process.
    unsafe {
        if libc::setsid() == -1 {
            return Step::Session;
        }
        if let Some(terminal) = prepared.terminal
            && libc::ioctl(terminal, libc::TIOCSCTTY, 0) == -1
        {
            return Step::Terminal;
        }
        // The caller's descriptors are all above 2, so no copy overwrites a later source.
        for (target, source) in (0..).zip(prepared.stdio) {
            if libc::dup2(source, target) == -1 {
                return Step::Descriptors;
            }
        }
        if libc::syscall(libc::SYS_setgroups, plan.groups.len(), plan.groups.as_ptr()) == -1 {
            return Step::Groups;
        }
        if libc::syscall(libc::SYS_setresgid, plan.gid, plan.gid, plan.gid) == -1 {
            return Step::Group;
        }
        if libc::syscall(libc::SYS_setresuid, plan.uid, plan.uid, plan.uid) == -1 {
            return Step::User;
        }
        if libc::chdir(plan.cwd.as_ptr()) == -1 {
            return Step::Directory;
        }
        // Ignoring survives exec, and programs expect to die of what they do not handle.
        for signal in prepared.ignored {
            if libc::signal(*signal, libc::SIG_DFL) == libc::SIG_ERR {
                return Step::Signals;
            }
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) == -1 {
            return Step::Signals;
        }
        libc::execve(plan.program.as_ptr(), prepared.argv.as_ptr(), prepared.envp.as_ptr());
        Step::Exec
    }
}
