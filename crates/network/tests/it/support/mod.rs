//! A host for each test: a network namespace that plays the host's part, so that nothing of the machine's own network
//! is touched, and tests do not see each other.

mod inside;
mod internet;
mod upstream;

use std::cell::RefCell;
use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use dormouse_network::{NetworkConfig, Prefix, SlotPool};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Uid;
use tempfile::TempDir;

pub(crate) use self::inside::{connect, inside, listen, refused};
pub(crate) use self::internet::{Internet, PUBLIC};
pub(crate) use self::upstream::{ANSWER, Upstream, ask, ask_tcp};

/// The namespace and directories of one test. Dropping it unmounts what is mounted below its directory; the namespace
/// ends with the test's thread, and all devices and rules with it.
pub(crate) struct TestHost {
    dir: TempDir,
    prefixes: RefCell<Vec<Prefix>>,
}

/// Runs a test on a host of its own.
pub(crate) fn on_host<F>(test: impl FnOnce(TestHost) -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    if let Some(reason) = missing() {
        println!("skipped: {reason}");
        return;
    }
    let _ = tracing_subscriber::fmt()
        .with_test_writer()
        .with_env_filter("warn,dormouse_network=debug")
        .try_init();
    let outcome = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace for the test");
        run("ip", "link set lo up");
        let host = TestHost {
            dir: TempDir::new().expect("a temporary directory"),
            prefixes: RefCell::default(),
        };
        // One thread: everything that the test starts is in its namespace.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(test(host));
    })
    .join();
    if let Err(cause) = outcome {
        panic::resume_unwind(cause);
    }
}

fn missing() -> Option<&'static str> {
    if !Uid::effective().is_root() {
        return Some("not root");
    }
    for (program, reason) in [("nft", "no nft (package nftables)"), ("ip", "no ip (package iproute2)")] {
        if Command::new(program).arg("-V").output().is_err() {
            return Some(reason);
        }
    }
    None
}

impl TestHost {
    /// A configuration with a data directory of this name: another name is another daemon.
    pub(crate) fn config(&self, data_dir: &str) -> NetworkConfig {
        let mut config = NetworkConfig::new(&self.dir.path().join(data_dir), &self.run_dir());
        self.prefixes.borrow_mut().push(config.prefix.clone());
        config.ready = 1;
        // Never asked in tests that do not care: not the machine's real ones.
        config.dns.upstreams = vec!["127.0.0.1:9".parse().expect("an address")];
        config
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub(crate) async fn pool(&self) -> Arc<SlotPool> {
        self.open(self.config("data")).await
    }

    pub(crate) async fn open(&self, config: NetworkConfig) -> Arc<SlotPool> {
        SlotPool::open(config).await.expect("a pool")
    }

    /// Everything that slots leave traces in: devices of the host's namespace, handle files, mounts, tables.
    pub(crate) fn traces(&self) -> Vec<String> {
        let mut traces: Vec<String> = output("ip", "-o link show")
            .lines()
            .filter_map(|l| l.split(": ").nth(1))
            .map(device)
            .collect();
        traces.extend(output("nft", "list tables").lines().map(str::to_owned));
        traces.extend(
            mounts_below(self.dir.path())
                .iter()
                .map(|path| format!("mount {}", path.display())),
        );
        traces.extend(files(&self.run_dir().join("netns")));
        traces.sort();
        traces
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        for prefix in self.prefixes.borrow().iter() {
            // Not there after an orderly end.
            let _ = fs::remove_file(Path::new("/run/dormouse-network").join(prefix.as_str()));
        }
        // A slot may be under way that nobody waits for. Once the directory is gone, no handle can be made any more.
        let handles = self.run_dir().join("netns");
        for _ in 0..1000 {
            for mount in mounts_below(self.dir.path()) {
                let _ = umount2(&mount, MntFlags::MNT_DETACH);
            }
            if !handles.exists() || fs::remove_dir_all(&handles).is_ok() {
                return;
            }
        }
        eprintln!("{} could not be cleaned up", handles.display());
    }
}

fn device(name: &str) -> String {
    format!("device {}", name.split('@').next().expect("split gives one"))
}

fn files(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .map(|entry| format!("file {}", entry.expect("an entry").path().display()))
        .collect()
}

fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    mounts
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|p| p.starts_with(dir))
        .collect()
}

/// Runs a program in the calling thread's namespace.
pub(crate) fn run(program: &str, arguments: &str) {
    output(program, arguments);
}

pub(crate) fn output(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split(' ')).output().expect("it starts");
    assert!(
        output.status.success(),
        "{program} {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}
