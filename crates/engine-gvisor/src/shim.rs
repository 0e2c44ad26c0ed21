//! The shim: one small process for every instance, between the daemon and the sandbox.
//!
//! It is what makes an instance outlive the daemon, and what knows how the instance ended:
//!
//! - It leads a session of its own, outside the daemon's cgroup.
//! - It holds a private mount namespace for runsc (see [`hide_net_sysctls`]).
//! - It is the subreaper of everything that runsc starts, so that killed processes end at once instead of waiting for the host's init.
//! - It writes down how the sandbox ended, and ends itself when nothing of the sandbox is left. The daemon watches the shim's pidfd.
//!
//! It is told all it needs by the instance's directory, reports once on its standard output, and then needs nobody.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::process::ExitCode;

use dormouse_rootfs::overlay;
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Pid, WaitOptions, WaitStatus, set_child_subreaper, setsid, wait};

use crate::cgroup::{Cgroup, Hierarchy};
use crate::error::{GvisorError, Result};
use crate::layout::{Dir, Exit, Record, Report, Root, Started, read_json, write_json};
use crate::lifeline::Held;
use crate::runsc::{self, Action};

/// Memory that a sandbox's own kernel may use besides the guest's: a fixed part, and an eighth of the guest's.
const OWN_MEMORY: u64 = 192 << 20;

/// Runs as a shim until its instance has ended. For the hidden subcommand of the daemon's program; the one argument is the instance's
/// directory. The process must have no other thread.
#[must_use]
pub fn shim_main(arguments: &[OsString]) -> ExitCode {
    let [dir] = arguments else {
        report(&Report::Failed(
            "the shim takes one argument, the directory of its instance".to_owned(),
        ));
        return ExitCode::from(2);
    };
    let dir = Dir::new(dir);
    match Shim::enter(&dir).and_then(Shim::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(&dir, &error);
            let mut chain = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                chain = format!("{chain}: {cause}");
                source = cause.source();
            }
            report(&Report::Failed(chain));
            ExitCode::FAILURE
        }
    }
}

struct Shim {
    dir: Dir,
    record: Record,
    cgroup: Cgroup,
    _alive: Held,
}

impl Shim {
    /// Takes leave of the daemon.
    fn enter(dir: &Dir) -> Result<Self> {
        setsid().map_err(GvisorError::system("start a session"))?;
        let alive = Held::take(&dir.alive())?;
        let record: Record = read_json(&dir.record())?.ok_or_else(|| GvisorError::File {
            action: "read",
            path: dir.record(),
            source: io::ErrorKind::NotFound.into(),
        })?;
        let hierarchy = Hierarchy::detect()?;
        // The parent of the instance's own cgroup has a sibling for the shims.
        let parent = record.cgroup.rsplit_once('/').map_or("dormouse", |(parent, _)| parent);
        hierarchy.leave_for(&format!("{parent}/shims"))?;
        set_child_subreaper(Some(rustix::process::getpid())).map_err(GvisorError::system("become a subreaper"))?;
        hide_net_sysctls()?;
        if let Root::Layers { lower, upper, work } = &record.root {
            // In the namespace of our own: the mount is gone when this process and what it started are.
            overlay::mount(&dir.empty_root(), lower, upper, work)
                .map_err(GvisorError::system("put the layers of the root together"))?;
        }
        // Last: from here on the daemon knows us.
        let pid = dir.shim_pid();
        fs::write(&pid, std::process::id().to_string()).map_err(GvisorError::file("write", &pid))?;
        let cgroup = Cgroup::new(hierarchy, record.cgroup.clone());
        Ok(Self {
            dir: dir.clone(),
            record,
            cgroup,
            _alive: alive,
        })
    }

    fn run(self) -> Result<()> {
        let sandbox = match self.start() {
            Ok(sandbox) => sandbox,
            Err(error) => {
                self.end()?;
                return Err(error);
            }
        };
        report(&Report::Started);
        let status = wait_for(sandbox)?;
        let exit = Exit {
            how: status.map_or_else(|| "its process is gone".to_owned(), describe),
            out_of_memory: self.cgroup.out_of_memory(),
        };
        write_json(&self.dir.exit(), &exit)?;
        self.end()
    }

    /// Makes the sandbox and returns its process.
    fn start(&self) -> Result<Pid> {
        let action = Action::of(&self.record);
        let failed = |message| GvisorError::Runsc {
            action: action.word(),
            message,
            log: self.dir.runsc_log(),
        };
        let runsc = runsc::command(&self.dir, &self.record, action)
            .spawn()
            .map_err(GvisorError::file("start", &self.record.runsc))?;
        // Not by the handle: whoever else ends meanwhile is reaped too.
        let pid = i32::try_from(runsc.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| failed("it has no process".to_owned()))?;
        let status = wait_for(pid)?;
        if status.and_then(WaitStatus::exit_status) != Some(0) {
            return Err(failed(runsc::complaint(&self.dir)));
        }
        let pid_file = self.dir.pid_file();
        let text = fs::read_to_string(&pid_file).map_err(GvisorError::file("read", &pid_file))?;
        let sandbox_pid: i32 = text.trim().parse().map_err(|_| failed(format!("`{text}` is no process")))?;
        let sandbox = Pid::from_raw(sandbox_pid).ok_or_else(|| failed(format!("`{text}` is no process")))?;
        let guest = u64::from(self.record.resources.memory_mib) << 20;
        self.cgroup.set_memory_limit(guest + guest / 8 + OWN_MEMORY)?;
        write_json(&self.dir.started(), &Started { sandbox_pid })?;
        Ok(sandbox)
    }

    /// Kills what is left of the instance and waits for the end of all of it.
    fn end(&self) -> Result<()> {
        // In a thread-less process nobody else reaps, and the killed are only waited for as processes, not as zombies.
        self.cgroup.kill()?;
        while wait(WaitOptions::empty()).map_or_else(|e| e == rustix::io::Errno::INTR, |_| true) {}
        Ok(())
    }
}

/// Reaps children until this one has ended. None when it ended before anybody asked.
fn wait_for(pid: Pid) -> Result<Option<WaitStatus>> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended == pid => return Ok(Some(status)),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CHILD) => return Ok(None),
            Err(e) => return Err(GvisorError::system("wait for children")(e)),
        }
    }
}

fn describe(status: WaitStatus) -> String {
    match (status.terminating_signal(), status.exit_status()) {
        (Some(signal), _) => format!("killed by signal {signal}"),
        (None, Some(code)) => format!("exited with {code}"),
        (None, None) => "ended".to_owned(),
    }
}

/// Hides `/proc/sys/net` from runsc.
///
/// runsc decides whether it is in the host's network namespace by the existence of `/proc/sys/net/core/rmem_default`, which newer
/// kernels show in every network namespace; it then refuses to start. A mount on the directory above hides the file. The mount is in a
/// namespace of our own, so nobody else sees it.
fn hide_net_sysctls() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(GvisorError::system("make a mount namespace"))?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(GvisorError::system("keep mounts private"))?;
    mount("tmpfs", "/proc/sys/net", "tmpfs", MountFlags::RDONLY, None).map_err(GvisorError::system("hide /proc/sys/net"))
}

fn report(report: &Report) {
    // The daemon may be gone; the instance lives on without it.
    if let Ok(line) = serde_json::to_string(report) {
        let mut out = io::stdout();
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    }
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(null);
    }
}

fn log(dir: &Dir, error: &GvisorError) {
    let text = format!("{error:?}\n");
    let _ = File::options()
        .create(true)
        .append(true)
        .open(dir.shim_log())
        .and_then(|mut file| file.write_all(text.as_bytes()));
}
