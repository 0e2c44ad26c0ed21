//! What the embedding daemon chooses.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use dormouse_network::Prefix;

/// How instances are made.
#[derive(Clone, Debug)]
pub struct GvisorConfig {
    /// The `runsc` program; best the result of [`tune`](crate::tune).
    pub runsc: PathBuf,
    /// Every instance has a directory in here, by which a restarted daemon finds it.
    pub state_dir: PathBuf,
    /// The command that runs [`shim_main`](crate::shim_main) with the instance's directory as its last argument: the daemon's own
    /// program and a hidden subcommand.
    pub shim: Vec<OsString>,
    /// The first process of a sandbox: the agent, as it is found in the root tree, and its arguments.
    pub init: Vec<String>,
    /// How long a booting instance gets until its agent answers.
    pub boot_patience: Duration,
    /// How long a sandbox's kernel may be silent when it is told to stop, to go on or to write a checkpoint. It takes milliseconds; a
    /// host that is short of everything may take seconds.
    pub control_patience: Duration,
    /// Copies of runsc that limit the disk are kept here; made when needed, and anew with every start.
    pub copies_dir: PathBuf,
    /// Cgroups are made under this path at the top of the hierarchy: the daemon's own cgroup may end with the daemon. No two daemons
    /// may have the same; the default comes from the state directory.
    pub cgroup: String,
    /// Whether roots are turned into EROFS images when an instance boots from them and `mkfs.erofs` is there. Without, instances
    /// read the tree through a second process (the gofer).
    pub make_images: bool,
}

impl GvisorConfig {
    /// The defaults for a daemon with this runsc, state directory and shim command.
    #[must_use]
    pub fn new(runsc: PathBuf, state_dir: PathBuf, shim: Vec<OsString>) -> Self {
        Self {
            runsc,
            shim,
            init: vec!["/usr/lib/dormouse/agent".to_owned()],
            boot_patience: Duration::from_secs(30),
            control_patience: Duration::from_secs(30),
            copies_dir: state_dir.with_file_name("runsc-copies"),
            cgroup: format!("dormouse/{}", Prefix::for_data_dir(&state_dir)),
            make_images: true,
            state_dir,
        }
    }
}
