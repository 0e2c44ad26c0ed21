//! `dormouse template build`: reads the Dockerfile, brings the files, starts the build, and shows it.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::Method;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde_json::{Value, json};

use super::dockerfile::{self, Plan, Step};
use super::ignore::Ignored;
use super::{BuildArgs, archive};
use crate::client::Server;

/// Pause between two looks at a build that runs.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Names that a Dockerfile may have in a directory.
const DOCKERFILES: [&str; 2] = ["Dockerfile", "e2b.Dockerfile"];

/// `TemplateRequestResponseV3`, as far as it is needed.
#[derive(Debug, Deserialize)]
struct Requested {
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "buildID")]
    build_id: String,
}

/// `TemplateBuildFileUpload`.
#[derive(Debug, Deserialize)]
struct Link {
    present: bool,
    url: String,
}

/// `TemplateBuildInfo`, as far as it is needed.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    status: String,
    log_entries: Vec<Entry>,
    reason: Option<Reason>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    level: String,
    message: String,
}

#[derive(Debug, Deserialize)]
struct Reason {
    message: String,
    step: Option<String>,
}

pub(super) async fn build(server: &Server, arguments: BuildArgs) -> anyhow::Result<ExitCode> {
    let (file, directory) = find(&arguments.path)?;
    let text = std::fs::read_to_string(&file).with_context(|| format!("Cannot read {}", file.display()))?;
    let plan = dockerfile::read(&text, &build_args(&arguments.build_args)?)?;
    let settings = Settings::of(&directory)?;
    let context = arguments.context.clone().unwrap_or(directory);
    let name = match arguments.name.as_ref().or(settings.template_name.as_ref()) {
        Some(name) => name.clone(),
        None => name_of(&context)?,
    };
    if !plan.ignored.is_empty() && !arguments.json {
        eprintln!(
            "note: {} means nothing for a sandbox and is left out",
            plan.ignored.join(", ")
        );
    }
    let request = json!({
        "name": name,
        "tags": arguments.tags,
        "cpuCount": arguments.cpus.or(settings.cpu_count),
        "memoryMB": arguments.memory_mib.or(settings.memory_mb),
        "minFreeDiskMb": arguments.disk_mib,
    });
    let requested: Requested = server.ask_json(Method::POST, "/v3/templates", Some(request)).await?;
    let display = Display::new(plan.steps.len(), arguments.json);
    let steps = steps(server, &requested, &plan, &context, &display).await?;
    let from = if is_template(server, &plan.from).await {
        "fromTemplate"
    } else {
        "fromImage"
    };
    let start = json!({
        from: plan.from,
        "force": arguments.no_cache,
        "steps": steps,
        "startCmd": arguments.cmd.or(settings.start_cmd).or(plan.start_cmd),
        "readyCmd": arguments.ready_cmd.or(settings.ready_cmd).or(plan.ready_cmd),
    });
    let (template, build) = (&requested.template_id, &requested.build_id);
    server
        .ask(Method::POST, &format!("/v2/templates/{template}/builds/{build}"), Some(start))
        .await?;
    let last = follow(server, &requested, &display).await?;
    display.end();
    if let Some(reason) = last.reason.filter(|_| last.status != "ready") {
        match reason.step.as_deref() {
            Some(step) => bail!("The build failed at step {step}: {}", reason.message),
            None => bail!("The build failed: {}", reason.message),
        }
    }
    if arguments.json {
        let answer = json!({ "name": name, "templateID": template, "buildID": build, "status": last.status });
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        println!("The template {name} is ready: dormouse sandbox create {name}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The Dockerfile and the directory of its files.
fn find(path: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    if path.is_dir() {
        let found = DOCKERFILES.iter().map(|name| path.join(name)).find(|file| file.is_file());
        let file = found.with_context(|| format!("There is no Dockerfile in {}", path.display()))?;
        return Ok((file, path.to_owned()));
    }
    let directory = path
        .parent()
        .filter(|parent| *parent != Path::new(""))
        .unwrap_or(Path::new("."));
    Ok((path.to_owned(), directory.to_owned()))
}

/// Whether `FROM` means one of the server's templates: their names stand before those of images.
async fn is_template(server: &Server, from: &str) -> bool {
    let name = from.split(':').next().unwrap_or_default();
    if name.contains(['/', '@']) {
        return false;
    }
    let path = super::path(name, "").replacen("/templates/", "/templates/aliases/", 1);
    server.ask(Method::GET, &path, None).await.is_ok()
}

/// What E2B's `e2b.toml` beside a Dockerfile says; flags stand before it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Settings {
    template_name: Option<String>,
    start_cmd: Option<String>,
    ready_cmd: Option<String>,
    cpu_count: Option<u32>,
    memory_mb: Option<u32>,
}

impl Settings {
    fn of(directory: &Path) -> anyhow::Result<Self> {
        let path = directory.join("e2b.toml");
        match std::fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).with_context(|| format!("Cannot understand {}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("Cannot read {}", path.display())),
        }
    }
}

/// A template's name from that of a directory.
fn name_of(directory: &Path) -> anyhow::Result<String> {
    let whole = std::fs::canonicalize(directory).with_context(|| format!("Cannot find {}", directory.display()))?;
    let name = whole.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let name: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' })
        .collect();
    if name.is_empty() {
        bail!("The template needs a name: give one with --name");
    }
    Ok(name)
}

fn build_args(given: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => bail!("--build-arg {text}: it is NAME=value"),
    };
    given.iter().map(pair).collect()
}

/// The steps as the server takes them, their files brought.
async fn steps(
    server: &Server,
    requested: &Requested,
    plan: &Plan,
    context: &Path,
    display: &Display,
) -> anyhow::Result<Vec<Value>> {
    let ignored = Ignored::of(context)?;
    let mut steps = Vec::with_capacity(plan.steps.len());
    for step in &plan.steps {
        steps.push(match step {
            Step::Plain { kind, args } => json!({ "type": kind, "args": args }),
            Step::Copy {
                source,
                destination,
                owner,
                mode,
            } => {
                let files = archive::files(context, &ignored, source)?;
                let hash = archive::hash(context, &files, source, destination)?;
                let path = format!("/templates/{}/files/{hash}", requested.template_id);
                let link: Link = server.ask_json(Method::GET, &path, None).await?;
                if !link.present {
                    display.doing(format!("bringing {source}"));
                    let (context, files) = (context.to_owned(), files);
                    let packed = tokio::task::spawn_blocking(move || {
                        let mut bytes = Vec::new();
                        archive::write(&context, &files, &mut bytes).map(|()| bytes)
                    });
                    server.put(&link.url, packed.await??.into()).await?;
                }
                json!({ "type": "COPY", "args": [source, destination, owner, mode], "filesHash": hash })
            }
        });
    }
    Ok(steps)
}

/// Shows the build until it has ended and said everything.
async fn follow(server: &Server, requested: &Requested, display: &Display) -> anyhow::Result<Status> {
    let path = format!("/templates/{}/builds/{}/status", requested.template_id, requested.build_id);
    let mut offset = 0;
    loop {
        let status: Status = server
            .ask_json(Method::GET, &format!("{path}?logsOffset={offset}"), None)
            .await?;
        offset += status.log_entries.len();
        for entry in &status.log_entries {
            display.show(entry);
        }
        let ended = !matches!(&*status.status, "building" | "waiting");
        if ended && status.log_entries.is_empty() {
            return Ok(status);
        }
        if status.log_entries.is_empty() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// On a terminal a bar below the log, else the log alone.
struct Display {
    bar: Option<ProgressBar>,
    quiet: bool,
}

impl Display {
    fn new(steps: usize, quiet: bool) -> Self {
        let bar = (std::io::stderr().is_terminal() && !quiet).then(|| {
            let bar = ProgressBar::new(steps as u64);
            let style = ProgressStyle::with_template("{spinner} {pos}/{len} {wide_msg} {elapsed}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, quiet }
    }

    fn doing(&self, what: String) {
        match &self.bar {
            Some(bar) => bar.set_message(what),
            None if !self.quiet => eprintln!("{what}"),
            None => {}
        }
    }

    fn show(&self, entry: &Entry) {
        if self.quiet || entry.level == "debug" {
            return;
        }
        let Some(bar) = &self.bar else {
            eprintln!("{}", entry.message);
            return;
        };
        bar.println(&entry.message);
        let line = entry.message.trim_start_matches("CACHED ");
        if let Some((number, rest)) = step_of(line) {
            bar.set_position(number.saturating_sub(1));
            bar.set_message(rest.to_owned());
        } else if let Some(rest) = line.strip_prefix("[finalize] ") {
            bar.set_position(bar.length().unwrap_or_default());
            bar.set_message(rest.to_owned());
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The number of a step and what it is, from its first line: `[builder 2/5] RUN ls [hash]`.
fn step_of(line: &str) -> Option<(u64, &str)> {
    let (number, rest) = line.strip_prefix("[builder ")?.split_once('/')?;
    let (_, rest) = rest.split_once("] ")?;
    // Output of a command begins with the name of its stream.
    if rest.starts_with('[') {
        return None;
    }
    let text = rest.rsplit_once(" [").map_or(rest, |(text, _)| text);
    Some((number.parse().ok()?, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_known_by_their_first_line() {
        assert_eq!(step_of("[builder 2/5] RUN ls -l [0af3]"), Some((2, "RUN ls -l")));
        assert_eq!(step_of("[builder 2/5] [stdout]: [x] y"), None);
        assert_eq!(step_of("[base] FROM x [0af3]"), None);
    }

    #[test]
    fn e2bs_settings_are_read() {
        let home = tempfile::tempdir().unwrap();
        assert!(Settings::of(home.path()).unwrap().template_name.is_none());
        let text = "template_id = \"x\"\ntemplate_name = \"web\"\ncpu_count = 4\nstart_cmd = \"run\"\n";
        std::fs::write(home.path().join("e2b.toml"), text).unwrap();
        let settings = Settings::of(home.path()).unwrap();
        assert_eq!(
            (settings.template_name.as_deref(), settings.cpu_count),
            (Some("web"), Some(4))
        );
        std::fs::write(home.path().join("e2b.toml"), "cpu_count = [").unwrap();
        assert!(Settings::of(home.path()).is_err());
    }

    #[test]
    fn a_directory_names_its_template() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("My App.v2");
        std::fs::create_dir(&directory).unwrap();
        assert_eq!(name_of(&directory).unwrap(), "my-app-v2");
        assert!(find(&directory).is_err());
        std::fs::write(directory.join("Dockerfile"), "FROM base\n").unwrap();
        assert_eq!(find(&directory).unwrap().1, directory);
        assert_eq!(find(&directory.join("Dockerfile")).unwrap().1, directory);
    }
}
