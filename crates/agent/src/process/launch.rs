//! From a request to a running process: user, directory, environment, pipes or terminal (contract 3.5).

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use dormouse_agent_proto::rpc::process::ProcessConfig;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::fork::{ForkError, Plan};
use crate::identity::Identity;
use crate::paths::{self, PathError};
use crate::users::{Accounts, User};

/// Used when the agent itself was started without one.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    /// The directory is not there.
    #[error("cwd '{0}' does not exist")]
    NoDirectory(String),
    /// The directory cannot be resolved.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Nothing of that name can be executed.
    #[error("error starting process: {0}: {1}")]
    NoProgram(String, &'static str),
    /// A string that no program can be given.
    #[error("error starting process: an argument or variable contains a NUL byte")]
    Nul,
    /// The system has no pipe or terminal to give.
    #[error("error starting process: cannot make its {0}: {1}")]
    Plumbing(&'static str, #[source] io::Error),
    /// The system refused.
    #[error("error starting process: {0}")]
    Fork(#[from] ForkError),
}

/// How a process's input and output are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wiring {
    /// Pipes; input only if asked for.
    Pipes { stdin: bool },
    /// A terminal of this size.
    Terminal { cols: u16, rows: u16 },
}

/// The agent's ends of a process's input and output.
#[derive(Debug)]
pub(crate) enum Ends {
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    Terminal {
        master: OwnedFd,
    },
}

/// Prepares everything that can be prepared without a new process.
pub(crate) fn plan(
    config: &ProcessConfig,
    wiring: Wiring,
    user: &User,
    accounts: &Accounts,
    identity: &Identity,
) -> Result<(Plan, Ends), LaunchError> {
    let cwd = working_directory(config.cwd.as_deref().unwrap_or_default(), user, identity)?;
    let environment = environment(user, identity, &config.envs);
    let path = environment.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let program = find_program(&config.cmd, path, &cwd)?;
    let (stdio, ends) = match wiring {
        Wiring::Pipes { stdin } => pipes(stdin).map_err(|error| LaunchError::Plumbing("pipes", error))?,
        Wiring::Terminal { cols, rows } => {
            terminal(cols, rows, user, accounts).map_err(|error| LaunchError::Plumbing("terminal", error))?
        }
    };
    let args = std::iter::once(&config.cmd).chain(&config.args);
    let plan = Plan {
        program: c_string(program.as_os_str().as_bytes())?,
        args: args.map(|arg| c_string(arg.as_bytes())).collect::<Result<_, _>>()?,
        envs: environment
            .iter()
            .map(|(name, value)| c_string(format!("{name}={value}").as_bytes()))
            .collect::<Result<_, _>>()?,
        cwd: c_string(cwd.as_os_str().as_bytes())?,
        uid: user.uid,
        gid: user.gid,
        groups: accounts.groups_of(user),
        stdio,
        controlling_terminal: matches!(wiring, Wiring::Terminal { .. }).then_some(0),
    };
    Ok((plan, ends))
}

fn working_directory(named: &str, user: &User, identity: &Identity) -> Result<PathBuf, LaunchError> {
    let chosen = paths::resolve(named, &user.home, identity.default_workdir.as_deref())?;
    if chosen.is_dir() {
        return Ok(chosen);
    }
    // Images have users without a home; a command that names no directory still runs.
    if named.is_empty() && identity.default_workdir.is_none() {
        return Ok("/".into());
    }
    Err(LaunchError::NoDirectory(chosen.display().to_string()))
}

/// The user's home, or the root where there is none.
pub(crate) fn home(user: &User) -> Result<CString, LaunchError> {
    let home = Path::new(&user.home);
    let chosen = if home.is_dir() { home } else { Path::new("/") };
    c_string(chosen.as_os_str().as_bytes())
}

/// What a process sees, later sources over earlier ones: the agent's PATH, the user, the sandbox, the request.
fn environment<'a>(
    user: &User,
    identity: &'a Identity,
    request: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> BTreeMap<String, String> {
    let path = std::env::var("PATH").ok().filter(|path| !path.is_empty());
    let mut environment = BTreeMap::from([
        ("PATH".to_owned(), path.unwrap_or_else(|| DEFAULT_PATH.to_owned())),
        ("HOME".to_owned(), user.home.clone()),
        ("USER".to_owned(), user.name.clone()),
        ("LOGNAME".to_owned(), user.name.clone()),
    ]);
    let sandbox = identity.environment.iter();
    environment.extend(sandbox.chain(request).map(|(name, value)| (name.clone(), value.clone())));
    environment
}

/// Finds what to execute, as a shell would.
pub(crate) fn find_program(name: &str, path: &str, cwd: &Path) -> Result<PathBuf, LaunchError> {
    let missing = |reason| LaunchError::NoProgram(name.to_owned(), reason);
    if name.is_empty() {
        return Err(missing("no command"));
    }
    if name.contains('/') {
        let program = cwd.join(name);
        return match is_executable(&program) {
            Some(true) => Ok(program),
            Some(false) => Err(missing("permission denied")),
            None => Err(missing("no such file or directory")),
        };
    }
    path.split(':')
        .map(|directory| cwd.join(directory).join(name))
        .find(|program| is_executable(program) == Some(true))
        .ok_or_else(|| missing("executable file not found in $PATH"))
}

/// None when there is no file.
fn is_executable(path: &Path) -> Option<bool> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn pipes(stdin: bool) -> io::Result<([OwnedFd; 3], Ends)> {
    let (stdout, child_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, child_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    let (child_stdin, stdin) = if stdin {
        let (child_end, our_end) = pipe_with(PipeFlags::CLOEXEC)?;
        (child_end, Some(our_end))
    } else {
        let nothing = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        (nothing, None)
    };
    for ours in [Some(&stdout), Some(&stderr), stdin.as_ref()].into_iter().flatten() {
        rustix::io::ioctl_fionbio(ours, true)?;
    }
    let stdio = [
        above_stdio(child_stdin)?,
        above_stdio(child_stdout)?,
        above_stdio(child_stderr)?,
    ];
    Ok((stdio, Ends::Pipes { stdin, stdout, stderr }))
}

fn terminal(cols: u16, rows: u16, user: &User, accounts: &Accounts) -> io::Result<([OwnedFd; 3], Ends)> {
    let (master, slave) = open_terminal(cols, rows)?;
    // A terminal belongs to who sits at it: screen, tmux and `mesg` check.
    let group = accounts.group_id("tty").unwrap_or(user.gid);
    let owner = rustix::fs::Uid::from_raw(user.uid);
    let group = rustix::fs::Gid::from_raw(group);
    // Refused where the terminals' file system belongs to another user namespace, and bearable there.
    let _ = rustix::fs::fchown(&slave, Some(owner), Some(group));
    rustix::io::ioctl_fionbio(&master, true)?;
    let slave = above_stdio(slave)?;
    let stdio = [
        rustix::io::fcntl_dupfd_cloexec(&slave, 3)?,
        rustix::io::fcntl_dupfd_cloexec(&slave, 3)?,
        slave,
    ];
    Ok((stdio, Ends::Terminal { master }))
}

/// Opens a terminal of this size: the agent's side, then the program's.
pub(crate) fn open_terminal(cols: u16, rows: u16) -> io::Result<(OwnedFd, OwnedFd)> {
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    let name = rustix::pty::ptsname(&master, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(name.as_c_str(), flags, Mode::empty())?;
    resize(&master, cols, rows)?;
    Ok((master, slave))
}

/// Changes the size of a terminal; the programs in its foreground get SIGWINCH.
pub(crate) fn resize(terminal: &OwnedFd, cols: u16, rows: u16) -> io::Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

/// Moves a descriptor out of the way of 0, 1 and 2, which the child overwrites one after the other.
pub(crate) fn above_stdio(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        Ok(fd)
    } else {
        Ok(rustix::io::fcntl_dupfd_cloexec(&fd, 3)?)
    }
}

pub(crate) fn c_string(bytes: &[u8]) -> Result<CString, LaunchError> {
    CString::new(bytes).map_err(|_| LaunchError::Nul)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(home: &str) -> User {
        User {
            name: "user".into(),
            uid: 1000,
            gid: 1000,
            home: home.into(),
            shell: "/bin/bash".into(),
        }
    }

    #[test]
    fn later_variables_win() {
        let mut identity = Identity::default();
        identity.environment.insert("A".into(), "sandbox".into());
        identity.environment.insert("B".into(), "sandbox".into());
        let request = BTreeMap::from([("B".to_owned(), "request".to_owned()), ("HOME".to_owned(), "/x".to_owned())]);
        let environment = environment(&user("/home/user"), &identity, &request);
        let get = |name: &str| environment.get(name).map(String::as_str);
        assert_eq!(
            (get("A"), get("B"), get("HOME")),
            (Some("sandbox"), Some("request"), Some("/x"))
        );
        assert_eq!((get("USER"), get("LOGNAME")), (Some("user"), Some("user")));
    }

    #[test]
    fn missing_directories_are_named() {
        let identity = Identity::default();
        let error = working_directory("nowhere", &user("/tmp"), &identity).expect_err("missing");
        assert_eq!(error.to_string(), "cwd '/tmp/nowhere' does not exist");
        let homeless = working_directory("", &user("/no/such/home"), &identity).expect("falls back");
        assert_eq!(homeless, Path::new("/"));
    }

    #[test]
    fn programs_are_searched_in_the_processes_path() {
        assert_eq!(
            find_program("sh", "/nowhere:/bin", Path::new("/")).expect("found"),
            Path::new("/bin/sh")
        );
        let error = find_program("no-such-thing", "/bin", Path::new("/")).expect_err("missing");
        let text = "error starting process: no-such-thing: executable file not found in $PATH";
        assert_eq!(error.to_string(), text);
        assert!(find_program("/etc/passwd", "/bin", Path::new("/")).is_err(), "not executable");
    }
}
