//! A real server with a data directory of its own below `target/`, on a free port.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

use crate::paths;
use crate::run::Step;

/// From the start of the program to the first answer.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// A graceful end; sandboxes are killed before.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// How the server is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// What the tests build anyway.
    Dev,
    /// What users run.
    Release,
}

/// A running server; stopped when dropped.
pub(crate) struct Server {
    child: Child,
    ready: Ready,
}

/// What the server writes when it answers.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ready {
    url: String,
    api_key: String,
    ssh: String,
}

/// Compiles the program.
pub(crate) fn build(profile: Profile) -> Result<PathBuf> {
    // What the tests of the workspace have built already is built once: a package alone would select other features of the libraries.
    let (arguments, directory): (&[&str], _) = match profile {
        Profile::Dev => (&["--workspace", "--all-targets"], "debug"),
        Profile::Release => (&["--package", "dormouse", "--release"], "release"),
    };
    Step::new(format!("build dormouse ({directory})"), "cargo")
        .args(["build"])
        .args(arguments)
        .limit(Duration::from_secs(2400))
        .run()?;
    Ok(paths::target().join(directory).join("dormouse"))
}

/// Where the data of the server with this name is.
pub(crate) fn data_directory(name: &str) -> PathBuf {
    paths::target().join(name).join("data")
}

/// Prepares a data directory: the base template is built when it is not there.
pub(crate) fn setup(program: &Path, data: &Path) -> Result<Duration> {
    fs::create_dir_all(data)?;
    let step = Step::new("dormouse setup", program)
        .args(["setup", "--extra-ca", "auto", "--data-dir"])
        .args([data])
        .limit(Duration::from_secs(1800));
    Ok(step.run()?.took)
}

impl Server {
    /// Starts the program and waits until it answers. `variables` are further settings, as in `DORMOUSE_POOL_SIZE`.
    pub(crate) fn start(program: &Path, data: &Path, variables: &[(&str, &str)]) -> Result<Server> {
        let ready_file = data.with_file_name("ready.json");
        let log = data.with_file_name("server.log");
        let _ = fs::remove_file(&ready_file);
        println!("==> dormouse serve (log: {})", log.display());
        let output = File::create(&log).with_context(|| format!("could not create `{}`", log.display()))?;
        let mut child = Command::new(program)
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--ssh-listen",
                "127.0.0.1:0",
                "--extra-ca",
                "auto",
                "--data-dir",
            ])
            .arg(data)
            .arg("--ready-file")
            .arg(&ready_file)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("could not start `{}`", program.display()))?;
        let ready = match wait_ready(&mut child, &ready_file) {
            Ok(ready) => ready,
            Err(error) => {
                crate::run::stop_tree(&mut child);
                return Err(error.context(format!("the server did not start; its log ends with:\n{}", tail(&log))));
            }
        };
        println!("    it answers at {}", ready.url);
        let server = Server { child, ready };
        // What an interrupted run left behind.
        server.kill_sandboxes()?;
        Ok(server)
    }

    /// What points the official clients here.
    pub(crate) fn variables(&self) -> [(&str, &str); 5] {
        [
            ("E2B_API_KEY", &self.ready.api_key),
            ("E2B_API_URL", &self.ready.url),
            ("E2B_SANDBOX_URL", &self.ready.url),
            ("E2B_DOMAIN", "localhost"),
            // Not of E2B: where the tests find the SSH gateway.
            ("DORMOUSE_TEST_SSH", &self.ready.ssh),
        ]
    }

    /// Asks for a page that a program in a sandbox serves.
    pub(crate) fn page(&self, sandbox: &str, port: u16) -> Result<String> {
        let request = ureq::get(&self.ready.url)
            .header("E2b-Sandbox-Id", sandbox)
            .header("E2b-Sandbox-Port", port.to_string());
        Ok(request.call()?.body_mut().read_to_string()?)
    }

    /// The ids of all sandboxes.
    pub(crate) fn sandboxes(&self) -> Result<Vec<String>> {
        let url = format!("{}/v2/sandboxes?limit=100", self.ready.url);
        let mut answer = ureq::get(url).header("X-API-Key", &self.ready.api_key).call()?;
        let list: Vec<serde_json::Value> = answer.body_mut().read_json()?;
        Ok(list
            .iter()
            .filter_map(|sandbox| sandbox["sandboxID"].as_str())
            .map(str::to_owned)
            .collect())
    }

    /// What the API says about a sandbox.
    pub(crate) fn sandbox(&self, id: &str) -> Result<serde_json::Value> {
        let url = format!("{}/sandboxes/{id}", self.ready.url);
        Ok(ureq::get(url)
            .header("X-API-Key", &self.ready.api_key)
            .call()?
            .body_mut()
            .read_json()?)
    }

    /// Ends every sandbox.
    pub(crate) fn kill_sandboxes(&self) -> Result<usize> {
        let mut killed = 0;
        // A page holds at most 100.
        loop {
            let ids = self.sandboxes()?;
            if ids.is_empty() {
                return Ok(killed);
            }
            for id in ids {
                let url = format!("{}/sandboxes/{id}", self.ready.url);
                ureq::delete(url)
                    .header("X-API-Key", &self.ready.api_key)
                    .call()
                    .with_context(|| format!("could not kill {id}"))?;
                killed += 1;
            }
        }
    }

    /// Ends the sandboxes and the server.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.kill_sandboxes()?;
        let id = i32::try_from(self.child.id())?;
        kill(Pid::from_raw(id), Signal::SIGTERM)?;
        let deadline = Instant::now() + STOP_LIMIT;
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None if Instant::now() > deadline => bail!("the server did not stop within {STOP_LIMIT:?}"),
                None => thread::sleep(Duration::from_millis(50)),
            }
        };
        if !status.success() {
            bail!("the server ended with {status}");
        }
        Ok(())
    }
}

/// Makes the next run start afresh: forgets all but the newest build of the base template, which takes minutes to make.
pub(crate) fn forget(data: &Path) -> Result<()> {
    for path in entries(data)? {
        if !path.ends_with("templates") {
            remove(&path)?;
        }
    }
    // An agent under development makes a build at each run.
    let mut builds = entries(&data.join("templates/base"))?;
    builds.sort_by_key(|path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok());
    builds.pop();
    builds.iter().try_for_each(|build| remove(build))
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let listed = fs::read_dir(directory).with_context(|| format!("could not list `{}`", directory.display()))?;
    listed.map(|entry| Ok(entry?.path())).collect()
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.with_context(|| format!("could not remove `{}`", path.display()))
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            crate::run::stop_tree(&mut self.child);
        }
    }
}

fn wait_ready(child: &mut Child, file: &Path) -> Result<Ready> {
    let deadline = Instant::now() + READY_LIMIT;
    let mut said = Instant::now();
    loop {
        if let Ok(text) = fs::read_to_string(file) {
            return serde_json::from_str(&text).context("the ready file is damaged");
        }
        if let Some(status) = child.try_wait()? {
            bail!("it ended with {status}");
        }
        if Instant::now() > deadline {
            bail!("it was not ready within {READY_LIMIT:?}");
        }
        if said.elapsed() > Duration::from_secs(5) {
            println!("... waiting for the server");
            said = Instant::now();
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The last lines of a log.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
