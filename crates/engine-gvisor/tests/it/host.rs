//! A host for one test: a data directory, slots, an engine, a root tree.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dormouse_engine::{Engine as _, InstanceId, NetworkPolicy, Resources, StartFrom, StartRequest};
use dormouse_engine_gvisor::{GvisorConfig, GvisorEngine, tune};
use dormouse_network::{NetworkConfig, Prefix, SlotPool};

pub(crate) struct Host {
    pub(crate) engine: GvisorEngine,
    pub(crate) slots: Arc<SlotPool>,
    pub(crate) root: PathBuf,
    dir: tempfile::TempDir,
    images: bool,
}

impl Host {
    /// None, with the reason printed, where these tests cannot run.
    pub(crate) async fn new() -> Result<Option<Self>> {
        Self::with(true).await
    }

    /// One whose engine gives a silent sentry up soon.
    pub(crate) async fn impatient() -> Result<Option<Self>> {
        Self::made(true, Duration::from_secs(2)).await
    }

    pub(crate) async fn with(images: bool) -> Result<Option<Self>> {
        Self::made(images, Duration::from_secs(30)).await
    }

    async fn made(images: bool, patience: Duration) -> Result<Option<Self>> {
        if let Some(reason) = missing() {
            eprintln!("skipped: {reason}");
            return Ok(None);
        }
        let dir = tempfile::Builder::new().prefix("dm-gvisor-").tempdir()?;
        let root = dir.path().join("root");
        make_root(&root)?;
        let slots = SlotPool::open(network(dir.path())).await?;
        let mut config = config(dir.path(), images).await?;
        config.control_patience = patience;
        let engine = GvisorEngine::open(config, Arc::clone(&slots)).await?;
        engine.adopt().await?;
        Ok(Some(Self {
            engine,
            slots,
            root,
            dir,
            images,
        }))
    }

    /// A daemon that was killed and started again.
    pub(crate) async fn restart(self) -> Result<Self> {
        let Self {
            engine,
            slots,
            root,
            dir,
            images,
        } = self;
        drop(engine);
        slots.close().await;
        drop(slots);
        let slots = SlotPool::open(network(dir.path())).await?;
        let engine = GvisorEngine::open(config(dir.path(), images).await?, Arc::clone(&slots)).await?;
        Ok(Self {
            engine,
            slots,
            root,
            dir,
            images,
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn request(&self, from: StartFrom) -> StartRequest {
        StartRequest {
            id: InstanceId::random(),
            root: self.root.clone(),
            from,
            resources: Resources {
                vcpus: 1,
                memory_mib: 256,
                disk_mib: 1024,
                pids: 256,
            },
            network: NetworkPolicy { internet: false },
        }
    }

    pub(crate) async fn start(&self, from: StartFrom) -> Result<InstanceId> {
        let request = self.request(from);
        let id = request.id.clone();
        self.engine.start(request).await?;
        Ok(id)
    }

    pub(crate) async fn boot(&self) -> Result<InstanceId> {
        self.start(StartFrom::Boot).await
    }

    /// An empty directory for a snapshot.
    pub(crate) fn snapshot_dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir().join(name);
        std::fs::create_dir(&dir)?;
        Ok(dir)
    }

    /// What is on the host and belongs to this test's instances.
    pub(crate) fn remains(&self) -> Result<Vec<String>> {
        let mut remains = Vec::new();
        let state = self.dir().join("sandboxes");
        for entry in std::fs::read_dir(&state)? {
            remains.push(entry?.path().display().to_string());
        }
        let prefix = Prefix::for_data_dir(&state);
        let found = Command::new("find")
            .args(["/sys/fs/cgroup", "-path", &format!("*dormouse/{prefix}/x*"), "-type", "d"])
            .output()?;
        remains.extend(String::from_utf8_lossy(&found.stdout).lines().map(ToOwned::to_owned));
        let processes = Command::new("pgrep").args(["-af", &state.display().to_string()]).output()?;
        remains.extend(String::from_utf8_lossy(&processes.stdout).lines().map(ToOwned::to_owned));
        Ok(remains)
    }

    /// Checks that nothing is left, and removes what the host holds for this test.
    pub(crate) async fn finish(self) -> Result<()> {
        let remains = self.remains()?;
        ensure!(remains.is_empty(), "left behind: {remains:#?}");
        // Without slots this leaves nothing on the host.
        self.slots.close().await;
        // The parents stay for the next instance; there is none.
        let name = format!("*dormouse/{}*", Prefix::for_data_dir(&self.dir().join("sandboxes")));
        Command::new("find")
            .args([
                "/sys/fs/cgroup",
                "-depth",
                "-path",
                &name,
                "-type",
                "d",
                "-exec",
                "rmdir",
                "{}",
                "+",
            ])
            .output()?;
        Ok(())
    }
}

fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    let program = |name: &&str| {
        !Command::new("which")
            .arg(name)
            .output()
            .is_ok_and(|found| found.status.success())
    };
    ["runsc", "nft", "busybox", "pgrep", "rustc"]
        .iter()
        .find(|name| program(name))
        .map(|name| format!("no {name} on PATH"))
}

fn network(dir: &Path) -> NetworkConfig {
    let mut network = NetworkConfig::new(dir, &dir.join("run"));
    network.ready = 0;
    network.internet = false;
    // No test asks, and the host may have none.
    network.dns.upstreams = vec![([192, 0, 2, 1], 53).into()];
    network
}

async fn config(dir: &Path, images: bool) -> Result<GvisorConfig> {
    std::fs::create_dir_all(dir.join("run"))?;
    let runsc = Command::new("which").arg("runsc").output()?;
    let runsc = PathBuf::from(String::from_utf8(runsc.stdout)?.trim());
    let runsc = tune(&runsc, &dir.join("run")).await?;
    let mut config = GvisorConfig::new(runsc, dir.join("sandboxes"), vec![env!("CARGO_BIN_EXE_gvisor-shim").into()]);
    config.init = vec!["/agent".to_owned()];
    config.make_images = images;
    Ok(config)
}

fn make_root(root: &Path) -> Result<()> {
    for dir in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
        std::fs::create_dir_all(root.join(dir))?;
    }
    let busybox = Command::new("which").arg("busybox").output()?;
    std::fs::copy(String::from_utf8(busybox.stdout)?.trim(), root.join("bin/busybox"))?;
    for applet in [
        "sh", "cat", "echo", "hostname", "id", "ls", "mount", "sleep", "dd", "rm", "df",
    ] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
    }
    std::fs::copy(agent()?, root.join("agent"))?;
    Ok(())
}

/// Builds the stand-in agent, once for all tests.
fn agent() -> Result<&'static Path> {
    static AGENT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = AGENT.get_or_init(|| {
        let build = || {
            let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/agent.rs");
            let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stand-in-agent");
            let changed = |path: &Path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
            if changed(&target) > changed(Path::new(source)) {
                return Ok(target);
            }
            // Test processes run side by side, and rustc's temporary files have fixed names.
            let mine = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
            let built = mine.path().join("agent");
            let output = Command::new("rustc")
                .args(["--edition=2024", "-O", "-C", "target-feature=+crt-static", source, "-o"])
                .arg(&built)
                .output()
                .context("rustc cannot be started")?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            std::fs::rename(&built, &target)?;
            Ok(target)
        };
        build().map_err(|error: anyhow::Error| format!("{error:#}"))
    });
    built
        .as_deref()
        .map_err(|error| anyhow::anyhow!("no stand-in agent: {error}"))
}
