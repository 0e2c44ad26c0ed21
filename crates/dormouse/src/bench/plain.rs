//! Plain runsc, as anybody would use it, on the same tree: what Dormouse's times are to be compared with.
//!
//! Each is the time of the commands themselves, started as processes: `run` is create, start and a first `exec true`; `checkpoint` is
//! with `--leave-running`, as a pause needs it; `restore` is up to the end of an `exec true`, since runsc has no other answer to give.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use dormouse_templates::base::RootTree;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::json;
use tokio::process::Command;

use super::report::Report;
use crate::config::Config;
use crate::host::find_runsc;

pub(super) async fn measure(
    report: &mut Report,
    config: &Config,
    tree: &RootTree,
    runs: usize,
    at_once: usize,
) -> anyhow::Result<()> {
    let runsc = find_runsc(config)?;
    let dir = config.data_dir.join("run").join("bench");
    std::fs::create_dir_all(&dir)?;
    let names = (0..runs.div_ceil(at_once) * at_once).map(|run| format!("bench-{at_once}-{run}"));
    let measured = stream::iter(names)
        .map(|name| Plain::new(&runsc, &dir, name).times(&tree.path))
        .buffer_unordered(at_once)
        .try_collect::<Vec<_>>()
        .await;
    std::fs::remove_dir_all(&dir)?;
    let column = |pick: fn(&Times) -> Duration, measured: &[Times]| measured.iter().map(pick).collect();
    let measured = measured?;
    report.add(
        "plain runsc: run and first `true`",
        at_once,
        column(|times| times.run, &measured),
    );
    report.add("plain runsc: exec `true`", at_once, column(|times| times.exec, &measured));
    report.add(
        "plain runsc: checkpoint",
        at_once,
        column(|times| times.checkpoint, &measured),
    );
    report.add(
        "plain runsc: restore and first `true`",
        at_once,
        column(|times| times.restore, &measured),
    );
    Ok(())
}

struct Times {
    run: Duration,
    exec: Duration,
    checkpoint: Duration,
    restore: Duration,
}

/// One container of plain runsc.
struct Plain {
    runsc: PathBuf,
    dir: PathBuf,
    name: String,
}

impl Plain {
    fn new(runsc: &Path, dir: &Path, name: String) -> Self {
        Self {
            runsc: runsc.to_owned(),
            dir: dir.join(&name),
            name,
        }
    }

    async fn times(self, tree: &Path) -> anyhow::Result<Times> {
        let bundle = self.dir.join("bundle");
        let image = self.dir.join("image");
        std::fs::create_dir_all(&bundle)?;
        std::fs::create_dir_all(&image)?;
        std::fs::write(bundle.join("config.json"), spec(tree, &self.name).to_string())?;
        let (bundle, image) = (text(&bundle)?, format!("--image-path={}", text(&image)?));
        let restored = format!("{}-r", self.name);

        let begun = Instant::now();
        self.run(&["create", "--bundle", bundle, &self.name]).await?;
        self.run(&["start", &self.name]).await?;
        self.run(&["exec", &self.name, "/bin/true"]).await?;
        let run = begun.elapsed();

        let begun = Instant::now();
        self.run(&["exec", &self.name, "/bin/true"]).await?;
        let exec = begun.elapsed();

        let begun = Instant::now();
        self.run(&["checkpoint", "--leave-running", "--compression=none", &image, &self.name])
            .await?;
        let checkpoint = begun.elapsed();
        self.run(&["delete", "--force", &self.name]).await?;

        let begun = Instant::now();
        self.run(&["restore", "--detach", "--bundle", bundle, &image, &restored])
            .await?;
        self.run(&["exec", &restored, "/bin/true"]).await?;
        let restore = begun.elapsed();
        self.run(&["delete", "--force", &restored]).await?;
        Ok(Times {
            run,
            exec,
            checkpoint,
            restore,
        })
    }

    /// One command of runsc, in the default configuration but for what a checkpoint needs.
    async fn run(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let overlay = format!("--overlay2=root:dir={}", text(&self.dir)?);
        let root = format!("--root={}", text(&self.dir.join("state"))?);
        let status = Command::new(&self.runsc)
            .args([&root, "--network=none", "--ignore-cgroups", &overlay])
            .args(arguments)
            // What runsc is given here its sandbox keeps: a pipe would never end.
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await
            .context("Cannot run runsc")?;
        if !status.success() {
            bail!("runsc {} failed ({status})", arguments.join(" "));
        }
        Ok(())
    }
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("The data directory's path is not UTF-8")
}

/// A container that sleeps for ever on the tree (OCI runtime specification 1.0).
fn spec(tree: &Path, name: &str) -> serde_json::Value {
    let namespaces = ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({ "type": kind }));
    json!({
        "ociVersion": "1.0.2",
        "process": { "cwd": "/", "args": ["/bin/sleep", "infinity"], "env": ["PATH=/usr/bin:/bin"], "user": { "uid": 0, "gid": 0 } },
        "root": { "path": tree, "readonly": false },
        "hostname": name,
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
        "linux": { "namespaces": namespaces },
    })
}
