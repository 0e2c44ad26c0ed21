//! `cargo xtask compat`: the client tests against several published versions of the official SDKs, and the table of what became of them.
//!
//! The versions are listed in `e2e/compat/versions.json`; `--refresh` asks the registries and writes the newest five minors there, and
//! keeps the last one of each list: the oldest that can be pointed at a server without TLS, which still uses the v1 routes. Each version
//! is installed once, below `target/compat`. Results are kept there as well, so that the page can be written from several runs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::clients::{self, Clients};
use crate::run::Step;
use crate::server::{self, Profile, Server};
use crate::{paths, tests_count};

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only this language
    #[arg(long)]
    language: Option<Language>,
    /// Only these versions, listed or not
    #[arg(long)]
    version: Vec<String>,
    /// Only the newest version of each language
    #[arg(long)]
    newest: bool,
    /// Only write the page from the results that are there
    #[arg(long)]
    page: bool,
    /// Look for new versions first
    #[arg(long)]
    refresh: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Language {
    Python,
    Javascript,
}

/// Minors that are tested, besides the oldest version.
const MINORS: usize = 5;

/// Tests of the Python directory that are of no SDK.
const NOT_OF_THE_SDK: &[&str] = &["test_cli.py", "test_ssh.py", "test_websocat.py"];

#[derive(Debug, Serialize, Deserialize)]
struct Versions {
    python: Vec<String>,
    javascript: Vec<String>,
}

impl Versions {
    fn file() -> PathBuf {
        paths::root().join("e2e/compat/versions.json")
    }

    fn read() -> Result<Self> {
        let file = Self::file();
        let text = fs::read_to_string(&file).with_context(|| format!("could not read `{}`", file.display()))?;
        Ok(serde_json::from_str(&text)?)
    }

    fn of(&self, language: Language) -> &[String] {
        match language {
            Language::Python => &self.python,
            Language::Javascript => &self.javascript,
        }
    }
}

/// What became of the tests of one file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct FileResult {
    passed: u64,
    failed: u64,
    skipped: u64,
    failures: Vec<String>,
    /// Why the file could not be loaded with a version this old.
    lacks: Option<String>,
}

/// By file.
type Results = BTreeMap<String, FileResult>;

/// Runs what is asked for and writes `docs/compatibility.md`.
pub(crate) fn compat(options: &Options) -> Result<()> {
    let mut versions = Versions::read()?;
    if options.page {
        return write_page(&versions);
    }
    let clients = clients::ensure(false)?;
    if options.refresh {
        refresh(&mut versions, &clients)?;
    }
    let program = server::build(Profile::Dev)?;
    let data = server::data_directory("compat");
    server::setup(&program, &data)?;
    let server = Server::start(&program, &data, &[])?;
    let mut failed = Vec::new();
    for language in [Language::Python, Language::Javascript] {
        if options.language.is_some_and(|only| only != language) {
            continue;
        }
        let listed = versions.of(language);
        let chosen = if options.version.is_empty() {
            &listed[..if options.newest { 1.min(listed.len()) } else { listed.len() }]
        } else {
            &options.version
        };
        for version in chosen {
            let home = install(&clients, language, version)?;
            let results = match language {
                Language::Python => run_python(&home, &server)?,
                Language::Javascript => run_javascript(&clients, &home, &server)?,
            };
            if results.values().any(|result| result.failed > 0) {
                failed.push(format!("{language:?} {version}"));
            }
            fs::write(result_file(language, version), serde_json::to_string_pretty(&results)?)?;
        }
    }
    server.stop()?;
    write_page(&versions)?;
    if failed.is_empty() {
        Ok(())
    } else {
        bail!("failures with {}", failed.join(", "))
    }
}

fn result_file(language: Language, version: &str) -> PathBuf {
    home(language, version).with_extension("results.json")
}

fn home(language: Language, version: &str) -> PathBuf {
    let language = format!("{language:?}").to_lowercase();
    paths::target()
        .join("compat")
        .join(format!("{language}-{}", version.replace('.', "-")))
}

/// Installs a version, unless it is there.
fn install(clients: &Clients, language: Language, version: &str) -> Result<PathBuf> {
    let home = home(language, version);
    let stamp = home.join("installed");
    if stamp.exists() {
        return Ok(home);
    }
    fs::create_dir_all(&home)?;
    match language {
        Language::Python => {
            Step::new(format!("python: environment for e2b {version}"), "python3")
                .args(["-m", "venv"])
                .args([&home])
                .run()?;
            Step::new(format!("python: e2b {version}"), home.join("bin/python"))
                .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
                .args([format!("e2b=={version}")])
                .args(clients::PYTHON_PACKAGES.iter().filter(|name| **name != "e2b"))
                .limit(Duration::from_secs(600))
                .run()?;
        }
        Language::Javascript => {
            fs::write(home.join("package.json"), "{ \"private\": true }\n")?;
            clients
                .npm(format!("javascript: e2b {version}"))?
                .args(["install", "--no-fund", "--no-audit", "--loglevel=error", "--prefix"])
                .args([&home])
                .args([format!("e2b@{version}")])
                .limit(Duration::from_secs(600))
                .run()?;
        }
    }
    fs::write(stamp, "")?;
    Ok(home)
}

fn run_python(home: &Path, server: &Server) -> Result<Results> {
    let report = home.join("report.json");
    let _ = fs::remove_file(&report);
    let ignored = NOT_OF_THE_SDK.iter().map(|name| format!("--ignore=e2e/python/{name}"));
    let outcome = Step::new(format!("tests with {}", home.display()), home.join("bin/python"))
        .args(["-m", "pytest", "-c", "e2e/python/pytest.ini", "--rootdir", ".", "e2e/python"])
        .args(ignored)
        .envs(server.variables())
        .env("PYTHONUNBUFFERED", "1")
        .env("DORMOUSE_TEST_RESULTS", &report)
        .limit(Duration::from_secs(1800))
        .outcome()?;
    let text = fs::read_to_string(&report).with_context(|| format!("the tests left no report: {}", outcome.ending))?;
    let mut results: Results = serde_json::from_str(&text)?;
    results.retain(|name, _| !NOT_OF_THE_SDK.contains(&name.as_str()));
    Ok(results)
}

/// The test files are copied beside the version's `node_modules`, where their imports are looked for.
fn run_javascript(clients: &Clients, home: &Path, server: &Server) -> Result<Results> {
    let mut results = Results::new();
    let tests = home.join("js");
    fs::create_dir_all(&tests)?;
    // Some tests read files from there.
    let python = home.join("python");
    if !python.is_symlink() {
        std::os::unix::fs::symlink(paths::root().join("e2e/python"), &python)?;
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(paths::root().join("e2e/js"))? {
        let path = entry?.path();
        let copy = tests.join(path.file_name().context("a file without a name")?);
        fs::copy(&path, &copy)?;
        if copy.to_string_lossy().ends_with(".test.mjs") {
            files.push(copy);
        }
    }
    files.sort();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let missing = Command::new(clients.node())
            .arg(tests.join("missing.mjs"))
            .arg(&file)
            .output()?;
        let missing = String::from_utf8_lossy(&missing.stdout).trim().to_owned();
        let result = if missing.is_empty() {
            run_javascript_file(clients, &file, server)?
        } else {
            FileResult {
                lacks: Some(missing),
                ..FileResult::default()
            }
        };
        results.insert(name, result);
    }
    Ok(results)
}

fn run_javascript_file(clients: &Clients, file: &Path, server: &Server) -> Result<FileResult> {
    let outcome = Step::new(format!("tests in {}", file.display()), clients.node())
        .args(["--test", "--test-reporter=tap"])
        .args([file])
        .envs(server.variables())
        .limit(Duration::from_secs(600))
        .outcome()?;
    let count = tests_count::of_node(&outcome.output);
    let failures = outcome.output.lines().filter_map(|line| line.trim().strip_prefix("not ok "));
    Ok(FileResult {
        passed: count.passed,
        failed: count.failed.max(u64::from(!outcome.success && count.failed == 0)),
        skipped: count.skipped,
        failures: failures.map(str::to_owned).collect(),
        lacks: None,
    })
}

/// Asks the registries for the newest minors.
fn refresh(versions: &mut Versions, clients: &Clients) -> Result<()> {
    let pip = Command::new(clients.python())
        .args(["-m", "pip", "index", "versions", "e2b", "--disable-pip-version-check"])
        .output()?;
    let text = String::from_utf8_lossy(&pip.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("Available versions:"));
    let python = line
        .context("pip names no versions of e2b")?
        .split(',')
        .map(|version| version.trim().to_owned());
    versions.python = newest(python, versions.python.last());
    let npm = clients
        .npm("javascript: versions of e2b".to_owned())?
        .args(["view", "e2b", "versions", "--json"])
        .run()?;
    let start = npm.output.find('[').context("npm names no versions of e2b")?;
    let javascript: Vec<String> = serde_json::from_str(npm.output[start..].trim())?;
    versions.javascript = newest(javascript.into_iter(), versions.javascript.last());
    fs::write(Versions::file(), format!("{}\n", serde_json::to_string_pretty(versions)?))?;
    Ok(())
}

/// The last patch of each of the newest minors, newest first, and then the oldest.
fn newest(all: impl Iterator<Item = String>, oldest: Option<&String>) -> Vec<String> {
    let mut minors: BTreeMap<(u32, u32), (u32, String)> = BTreeMap::new();
    for version in all {
        let mut parts = version.splitn(3, '.').map(|part| part.parse::<u32>().ok());
        // What has anything but numbers is a preview.
        if let (Some(Some(major)), Some(Some(minor)), Some(Some(patch))) = (parts.next(), parts.next(), parts.next()) {
            let kept = minors.entry((major, minor)).or_insert_with(|| (patch, version.clone()));
            if patch >= kept.0 {
                *kept = (patch, version);
            }
        }
    }
    let mut chosen: Vec<String> = minors.into_values().rev().take(MINORS).map(|(_, version)| version).collect();
    chosen.extend(oldest.filter(|oldest| !chosen.contains(oldest)).cloned());
    chosen
}

const HEAD: &str = "\
# Compatibility with the official SDKs

The client tests of this repository (`e2e/python`, `e2e/js`), run against published versions of E2B's SDKs by `cargo xtask compat`, which
also writes this page. `e2e/compat/versions.json` lists the versions: the newest five minors, and the oldest that can be pointed at a
server without TLS, which still uses the v1 routes. `cargo xtask test` runs the newest ones.

A cell says how many tests passed, failed (✗) and were skipped (–). A test is skipped when its source uses something that an SDK of that
age does not have (`e2e/python/features.py` looks for it in the installed package); nothing is skipped because it failed.
";

const LIMITS: &str = "
## Limits

* Older versions than the oldest here cannot be told the address of sandboxes (`E2B_SANDBOX_URL`: Python before 2.8, JavaScript before
  2.14 for files) and use `https://<port>-<id>.<domain>` only: they need a server with TLS and a wildcard name, and are not tested.
* Python 2.8 spoils characters of command output that lie across two messages, and keeps connections of an event loop that has ended: its
  tests of these fail for reasons of its own.
* Tests that are written for the newest SDK say little about methods that it no longer has.
* `@e2b/code-interpreter` and `@e2b/desktop` are not part of the table.
";

fn write_page(versions: &Versions) -> Result<()> {
    let mut page = HEAD.to_owned();
    for (language, title) in [(Language::Python, "Python"), (Language::Javascript, "JavaScript")] {
        write!(page, "\n## {title}\n\n{}", table(language, versions)?)?;
    }
    page.push_str(LIMITS);
    fs::write(paths::root().join("docs/compatibility.md"), page)?;
    Ok(())
}

fn table(language: Language, versions: &Versions) -> Result<String> {
    let mut columns = Vec::new();
    for version in versions.of(language) {
        if let Ok(text) = fs::read_to_string(result_file(language, version)) {
            columns.push((version, serde_json::from_str::<Results>(&text)?));
        }
    }
    let mut names: Vec<&String> = columns.iter().flat_map(|(_, results)| results.keys()).collect();
    names.sort();
    names.dedup();
    let mut text = String::from("| file |");
    for (version, _) in &columns {
        write!(text, " {version} |")?;
    }
    text.push_str("\n| --- |");
    text.push_str(&" --- |".repeat(columns.len()));
    for name in names {
        write!(text, "\n| `{name}` |")?;
        for (_, results) in &columns {
            write!(text, " {} |", results.get(name).map_or_else(String::new, cell))?;
        }
    }
    text.push('\n');
    let mut failures = Vec::new();
    for (version, results) in &columns {
        for (name, result) in results {
            failures.extend(
                result
                    .failures
                    .iter()
                    .map(|failure| format!("* {version}, `{name}`: {failure}")),
            );
        }
    }
    if !failures.is_empty() {
        write!(text, "\nFailed:\n\n{}\n", failures.join("\n"))?;
    }
    let missing: Vec<_> = versions
        .of(language)
        .iter()
        .filter(|version| !columns.iter().any(|(has, _)| has == version))
        .collect();
    if !missing.is_empty() {
        let missing: Vec<_> = missing.into_iter().map(String::as_str).collect();
        write!(text, "\nNot run yet: {}.\n", missing.join(", "))?;
    }
    Ok(text)
}

fn cell(result: &FileResult) -> String {
    if let Some(lacks) = &result.lacks {
        return format!("– no `{lacks}`");
    }
    let mut text = result.passed.to_string();
    if result.failed > 0 {
        // Writing into a string does not fail.
        let _ = write!(text, ", {} ✗", result.failed);
    }
    if result.skipped > 0 {
        let _ = write!(text, ", {} –", result.skipped);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_minors_and_the_oldest_version_are_chosen() {
        let all = [
            "2.1.0",
            "2.10.1",
            "2.10.2",
            "2.9.0",
            "2.8.0",
            "1.13.0",
            "2.7.1",
            "2.11.0-beta.1",
            "2.6.0",
        ];
        let chosen = newest(all.iter().map(|version| (*version).to_owned()), Some(&"1.0.0".to_owned()));
        assert_eq!(chosen, ["2.10.2", "2.9.0", "2.8.0", "2.7.1", "2.6.0", "1.0.0"]);
    }

    #[test]
    fn a_cell_names_what_is_not_zero() {
        let result = FileResult {
            passed: 3,
            failed: 1,
            skipped: 2,
            ..FileResult::default()
        };
        assert_eq!(cell(&result), "3, 1 ✗, 2 –");
        assert_eq!(
            cell(&FileResult {
                passed: 3,
                ..FileResult::default()
            }),
            "3"
        );
    }
}
