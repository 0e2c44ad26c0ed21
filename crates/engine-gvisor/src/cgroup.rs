//! The cgroups of an instance: freezing, measuring, killing, removing.
//!
//! runsc makes them (it must put the sandbox into them before it starts), this module does the rest. Both versions are known: a pure
//! version 2 hierarchy, and version 1 or hybrid ones where every controller has a tree of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::{GvisorError, Result};

/// How long the kernel may take to stop the tasks of a cgroup. A task in an uninterruptible sleep (a slow disk) delays it.
const FREEZE_PATIENCE: Duration = Duration::from_secs(20);
/// How long killed processes may take to end.
const KILL_PATIENCE: Duration = Duration::from_secs(20);

/// Where the host's cgroups are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    /// One tree.
    V2(PathBuf),
    /// A tree for each controller, by the controller's name (`systemd` for the one that has none).
    V1(BTreeMap<String, PathBuf>),
}

impl Hierarchy {
    /// Reads the host's mounts.
    pub(crate) fn detect() -> Result<Self> {
        let mounts = Path::new("/proc/self/mounts");
        let text = fs::read_to_string(mounts).map_err(GvisorError::file("read", mounts))?;
        Self::parse(&text).ok_or_else(|| GvisorError::System {
            action: "find the host's cgroups (no hierarchy with a freezer is mounted)",
            source: io::ErrorKind::NotFound.into(),
        })
    }

    fn parse(mounts: &str) -> Option<Self> {
        let mut v1 = BTreeMap::new();
        let mut v2 = None;
        for line in mounts.lines() {
            let mut fields = line.split(' ').skip(1);
            let (Some(at), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            match kind {
                "cgroup2" => v2 = Some(PathBuf::from(at)),
                "cgroup" => {
                    for option in options.split(',') {
                        v1.entry(option.trim_start_matches("name=").to_owned())
                            .or_insert_with(|| PathBuf::from(at));
                    }
                }
                _ => {}
            }
        }
        if v1.contains_key("freezer") {
            Some(Self::V1(v1))
        } else {
            v2.map(Self::V2)
        }
    }

    fn trees(&self) -> Vec<&Path> {
        match self {
            Self::V2(top) => vec![top],
            Self::V1(trees) => {
                let mut all: Vec<&Path> = trees.values().map(PathBuf::as_path).collect();
                all.sort();
                all.dedup();
                all
            }
        }
    }

    /// The names of all cgroups below `path`, in any tree.
    pub(crate) fn children(&self, path: &str) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for tree in self.trees() {
            let dir = tree.join(path);
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(GvisorError::file("list", &dir)(e)),
            };
            for entry in entries {
                let entry = entry.map_err(GvisorError::file("list", &dir))?;
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    names.insert(entry.file_name().to_string_lossy().into_owned());
                }
            }
        }
        Ok(names)
    }

    /// Moves the calling process out of the daemon's cgroup, into `name` at the top. A service manager that stops the daemon kills
    /// what is left in the daemon's cgroup.
    pub(crate) fn leave_for(&self, name: &str) -> Result<()> {
        let pid = std::process::id().to_string();
        let trees = match self {
            Self::V2(top) => vec![top.as_path()],
            // Only the tree without a controller is the service manager's; freezing concerns us too.
            Self::V1(trees) => ["systemd", "freezer"]
                .iter()
                .filter_map(|name| trees.get(*name).map(PathBuf::as_path))
                .collect(),
        };
        for tree in trees {
            let dir = tree.join(name);
            fs::create_dir_all(&dir).map_err(GvisorError::file("create", &dir))?;
            let procs = dir.join("cgroup.procs");
            fs::write(&procs, &pid).map_err(GvisorError::file("write to", &procs))?;
        }
        Ok(())
    }
}

/// What a cgroup has used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) cpu_usec: u64,
    pub(crate) memory_bytes: u64,
}

/// The cgroups of one instance.
#[derive(Clone, Debug)]
pub(crate) struct Cgroup {
    hierarchy: Hierarchy,
    /// Path below the top of each tree.
    path: String,
}

impl Cgroup {
    pub(crate) fn new(hierarchy: Hierarchy, path: impl Into<String>) -> Self {
        Self {
            hierarchy,
            path: path.into(),
        }
    }

    /// The directory of a controller.
    fn dir(&self, controller: &str) -> Option<PathBuf> {
        match &self.hierarchy {
            Hierarchy::V2(top) => Some(top.join(&self.path)),
            Hierarchy::V1(trees) => trees.get(controller).map(|tree| tree.join(&self.path)),
        }
    }

    fn is_v2(&self) -> bool {
        matches!(self.hierarchy, Hierarchy::V2(_))
    }

    fn freezer_dir(&self) -> PathBuf {
        // `Hierarchy::parse` finds no hierarchy without a freezer.
        self.dir("freezer").unwrap_or_default()
    }

    /// Stops every process in the cgroup; when this returns, none of them executes.
    pub(crate) fn freeze(&self) -> Result<()> {
        let deadline = Instant::now() + FREEZE_PATIENCE;
        let dir = self.freezer_dir();
        if self.is_v2() {
            let file = dir.join("cgroup.freeze");
            fs::write(&file, "1").map_err(GvisorError::file("write to", &file))?;
            return self.wait_frozen_v2(deadline);
        }
        let file = dir.join("freezer.state");
        fs::write(&file, "FROZEN").map_err(GvisorError::file("write to", &file))?;
        // Version 1 has no event for the end of freezing: the state is worked out when it is read. It takes 0.3 to 3 ms.
        while !self.is_frozen()? {
            if Instant::now() > deadline {
                self.thaw()?;
                return Err(GvisorError::System {
                    action: "freeze the sandbox",
                    source: io::ErrorKind::TimedOut.into(),
                });
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    fn wait_frozen_v2(&self, deadline: Instant) -> Result<()> {
        let path = self.freezer_dir().join("cgroup.events");
        let events = fs::File::open(&path).map_err(GvisorError::file("open", &path))?;
        while !self.is_frozen()? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.thaw()?;
                return Err(GvisorError::System {
                    action: "freeze the sandbox",
                    source: io::ErrorKind::TimedOut.into(),
                });
            }
            // The kernel signals every change of the file with a priority event.
            let mut fds = [PollFd::new(&events, PollFlags::PRI)];
            let wait = Timespec {
                tv_sec: 0,
                tv_nsec: i64::from(left.min(Duration::from_millis(100)).subsec_nanos()),
            };
            poll(&mut fds, Some(&wait)).map_err(GvisorError::system("wait for a frozen cgroup"))?;
        }
        Ok(())
    }

    /// Lets the processes go on. Returns at once; the kernel runs them when it can.
    pub(crate) fn thaw(&self) -> Result<()> {
        let (file, word) = if self.is_v2() {
            ("cgroup.freeze", "0")
        } else {
            ("freezer.state", "THAWED")
        };
        let file = self.freezer_dir().join(file);
        fs::write(&file, word).map_err(GvisorError::file("write to", &file))
    }

    /// Whether all processes are stopped. A cgroup that is not there is not frozen.
    pub(crate) fn is_frozen(&self) -> Result<bool> {
        let file = self
            .freezer_dir()
            .join(if self.is_v2() { "cgroup.events" } else { "freezer.state" });
        match fs::read_to_string(&file) {
            Ok(text) => Ok(text.lines().any(|line| matches!(line, "frozen 1" | "FROZEN"))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(GvisorError::file("read", &file)(e)),
        }
    }

    /// What the instance has used.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let read = |controller: &str, file: &str| {
            let path = self.dir(controller).unwrap_or_default().join(file);
            fs::read_to_string(&path).map_err(GvisorError::file("read", &path))
        };
        if self.is_v2() {
            let cpu_usec = keyed(&read("", "cpu.stat")?, "usage_usec");
            return Ok(Usage {
                cpu_usec,
                memory_bytes: number(&read("", "memory.current")?),
            });
        }
        let cpu_usec = number(&read("cpuacct", "cpuacct.usage")?) / 1000;
        Ok(Usage {
            cpu_usec,
            memory_bytes: number(&read("memory", "memory.usage_in_bytes")?),
        })
    }

    /// Sets how much memory the instance may use on the host.
    pub(crate) fn set_memory_limit(&self, bytes: u64) -> Result<()> {
        let file = if self.is_v2() { "memory.max" } else { "memory.limit_in_bytes" };
        let Some(file) = self.dir("memory").map(|dir| dir.join(file)) else {
            return Ok(());
        };
        fs::write(&file, bytes.to_string()).map_err(GvisorError::file("write to", &file))
    }

    /// Whether the kernel killed a process of the instance for lack of memory.
    pub(crate) fn out_of_memory(&self) -> bool {
        let file = if self.is_v2() { "memory.events" } else { "memory.oom_control" };
        let text = self.dir("memory").and_then(|dir| fs::read_to_string(dir.join(file)).ok());
        text.is_some_and(|text| keyed(&text, "oom_kill") > 0)
    }

    /// Kills every process in the cgroup, frozen ones too, and returns when they have ended.
    pub(crate) fn kill(&self) -> Result<()> {
        let deadline = Instant::now() + KILL_PATIENCE;
        loop {
            let pids = self.processes()?;
            if pids.is_empty() {
                return Ok(());
            }
            // A process that forks while we look leaves a child for the next round.
            let ended: Vec<_> = pids
                .into_iter()
                .filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
                .collect();
            for process in &ended {
                // One that has ended meanwhile cannot be killed, which is what is wanted.
                let _ = pidfd_send_signal(process, Signal::KILL);
            }
            // Version 1 delivers signals to frozen processes only when they go on.
            self.thaw()?;
            for process in &ended {
                let left = deadline.saturating_duration_since(Instant::now());
                let wait = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
                let mut fds = [PollFd::new(process, PollFlags::IN)];
                if poll(&mut fds, Some(&wait)).map_err(GvisorError::system("wait for killed processes"))? == 0 {
                    return Err(GvisorError::System {
                        action: "kill the sandbox",
                        source: io::ErrorKind::TimedOut.into(),
                    });
                }
            }
        }
    }

    /// The processes in the cgroup. None when it is not there.
    pub(crate) fn processes(&self) -> Result<Vec<Pid>> {
        let file = self.freezer_dir().join("cgroup.procs");
        match fs::read_to_string(&file) {
            Ok(text) => Ok(text
                .lines()
                .filter_map(|line| line.parse().ok().and_then(Pid::from_raw))
                .collect()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            // The cgroup was removed while its file was open.
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => Ok(Vec::new()),
            Err(e) => Err(GvisorError::file("read", &file)(e)),
        }
    }

    /// Removes the cgroup from all trees; it must be empty. Not being there is fine.
    pub(crate) fn remove(&self) -> Result<()> {
        for tree in self.hierarchy.trees() {
            let dir = tree.join(&self.path);
            match fs::remove_dir(&dir) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(GvisorError::file("remove", &dir)(e)),
                _ => {}
            }
        }
        Ok(())
    }
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// The number behind a name in a file of `name number` lines.
fn keyed(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
        .map_or(0, number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_pure_version_2_hierarchy() {
        let found = Hierarchy::parse("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n");
        assert_eq!(found, Some(Hierarchy::V2("/sys/fs/cgroup".into())));
    }

    #[test]
    fn prefers_version_1_where_the_freezer_is_there() {
        let found = Hierarchy::parse(
            "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
             cgroup /sys/fs/cgroup/freezer cgroup rw,freezer 0 0\n\
             cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\n\
             cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
        );
        let Some(Hierarchy::V1(trees)) = found else {
            panic!("{found:?}")
        };
        assert_eq!(trees["cpuacct"], Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(trees["systemd"], Path::new("/sys/fs/cgroup/systemd"));
    }

    #[test]
    fn takes_version_2_where_version_1_has_no_freezer() {
        let found = Hierarchy::parse("cgroup /c/systemd cgroup rw,name=systemd 0 0\ncgroup2 /c/unified cgroup2 rw 0 0\n");
        assert_eq!(found, Some(Hierarchy::V2("/c/unified".into())));
    }

    #[test]
    fn reads_keyed_files() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(keyed(text, "oom_kill"), 3);
        assert_eq!(keyed(text, "absent"), 0);
    }

    /// Freezes, thaws and kills a process in a cgroup of the given hierarchy.
    fn check_life(hierarchy: Hierarchy) {
        let cgroup = Cgroup::new(hierarchy, format!("dormouse-test-{}", std::process::id()));
        let dir = cgroup.freezer_dir();
        if let Err(error) = fs::create_dir(&dir) {
            eprintln!("skipped: no cgroup can be made: {error}");
            return;
        }
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep starts");
        fs::write(dir.join("cgroup.procs"), child.id().to_string()).expect("the child moves");
        assert_eq!(cgroup.processes().expect("readable").len(), 1);
        assert!(!cgroup.is_frozen().expect("readable"));
        cgroup.freeze().expect("frozen");
        assert!(cgroup.is_frozen().expect("readable"));
        cgroup.freeze().expect("frozen twice");
        cgroup.thaw().expect("thawed");
        cgroup.freeze().expect("frozen again");
        cgroup.kill().expect("killed while frozen");
        child.wait().expect("ended");
        cgroup.remove().expect("empty");
        cgroup.remove().expect("already gone");
        assert!(!dir.exists());
        assert!(cgroup.processes().expect("none").is_empty());
        cgroup.kill().expect("nothing to kill");
    }

    #[test]
    fn this_hosts_cgroups_freeze_and_end() {
        match Hierarchy::detect() {
            Ok(hierarchy) => check_life(hierarchy),
            Err(error) => eprintln!("skipped: {error}"),
        }
    }

    #[test]
    fn a_version_2_tree_freezes_and_ends() {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let v2 = mounts
            .lines()
            .find_map(|line| line.split(' ').nth(1).filter(|_| line.contains(" cgroup2 ")));
        match v2 {
            Some(top) => check_life(Hierarchy::V2(top.into())),
            None => eprintln!("skipped: no version 2 tree is mounted"),
        }
    }
}
