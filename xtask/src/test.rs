//! Every check and every test.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use crate::clients::{self, Clients};
use crate::run::{Outcome, Step};
use crate::second_try::{Tests, Tried};
use crate::server::{self, Profile, Server};
use crate::tests_count::{self, Count};
use crate::{examples, fuzz, host, names, paths};

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only the end-to-end tests
    #[arg(long)]
    e2e: bool,
    /// Only end-to-end tests whose name matches (pytest's -k)
    #[arg(long, value_name = "EXPRESSION")]
    filter: Option<String>,
    /// Also the tests over HTTPS, with a browser; they have not passed as a whole yet
    #[arg(long)]
    https: bool,
}

/// The Python tests that are run again with deep sleep only: what must survive a wake.
const WAKE_TESTS: &str = "e2e/python/test_wake.py";

#[derive(Default)]
struct Report {
    count: Count,
    /// What failed, for the end.
    failures: Vec<String>,
    /// What passed only when it ran alone.
    flaky: Vec<String>,
}

impl Report {
    fn check(&mut self, name: &str, outcome: &Outcome) {
        if !outcome.success {
            self.failures.push(format!("{name}: {}", outcome.ending));
        }
    }

    fn tests(&mut self, name: &str, outcome: &Outcome, count: Count) {
        println!("    {name}: {count} ({:.0} s)", outcome.took.as_secs_f64());
        self.count += count;
        if !outcome.success && count.failed == 0 {
            // A crash of the runner itself is a failure too.
            self.count.failed += 1;
        }
        self.check(name, outcome);
    }

    fn tried(&mut self, name: &str, tests: &Tests<'_>) -> Result<()> {
        let Tried { outcome, count, flaky } = tests.run()?;
        self.flaky.extend(flaky);
        self.tests(name, &outcome, count);
        Ok(())
    }
}

/// Checks the formatting and runs clippy.
pub(crate) fn lint() -> Result<()> {
    let mut report = Report::default();
    run_lint(&mut report)?;
    match report.failures.as_slice() {
        [] => Ok(()),
        failures => bail!("{}", failures.join("; ")),
    }
}

/// Runs everything.
pub(crate) fn test(options: &Options) -> Result<()> {
    let mut report = Report::default();
    host::setup()?;
    let clients = clients::ensure(false)?;
    let only_e2e = options.e2e || options.filter.is_some();
    if !only_e2e {
        run_lint(&mut report)?;
        let tests = Tests {
            step: &|only| {
                let all = cargo("tests of the workspace", &["test", "--workspace", "--no-fail-fast"]);
                if only.is_empty() {
                    all
                } else {
                    all.args(["--", "--exact"]).args(only)
                }
            },
            count: tests_count::of_cargo,
            failed: tests_count::failed_of_cargo,
        };
        report.tried("cargo test", &tests)?;
        // For all targets together.
        if let Err(error) = fuzz::fuzz(&fuzz::Options::all(60)) {
            report.failures.push(format!("fuzzing: {error:#}"));
        }
    }
    if let Err(error) = end_to_end(&mut report, &clients, options) {
        report.count.failed += 1;
        report.failures.push(format!("end to end: {error:#}"));
    }
    for flaky in &report.flaky {
        println!("FLAKY {flaky}: failed beside the others, passed alone");
    }
    for failure in &report.failures {
        println!("FAILED {failure}");
    }
    println!("{}", report.count);
    if report.failures.is_empty() {
        Ok(())
    } else {
        bail!("{} of the steps failed", report.failures.len())
    }
}

fn run_lint(report: &mut Report) -> Result<()> {
    report.check("formatting", &cargo("formatting", &["fmt", "--all", "--check"]).outcome()?);
    let clippy = cargo(
        "clippy",
        &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"],
    );
    report.check("clippy", &clippy.outcome()?);
    Ok(())
}

fn cargo(name: &str, arguments: &[&str]) -> Step {
    Step::new(name, "cargo").args(arguments).limit(Duration::from_secs(2400))
}

fn end_to_end(report: &mut Report, clients: &Clients, options: &Options) -> Result<()> {
    let program = server::build(Profile::Dev)?;
    let data = server::data_directory("e2e");
    server::setup(&program, &data)?;

    let names = if options.https { names::settings() } else { Vec::new() };
    let names: Vec<(&str, &str)> = names.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let server = Server::start(&program, &data, &names)?;
    pytest(
        report,
        "e2e Python",
        clients,
        &server,
        "e2e/python",
        options.filter.as_deref(),
    )?;
    if options.filter.is_none() {
        let js = Step::new("e2e JavaScript", clients.node())
            .args(["--test", "--test-reporter=tap", "--test-concurrency=2"])
            .args(js_tests()?)
            .envs(server.variables())
            .limit(Duration::from_secs(600))
            .outcome()?;
        report.tests("e2e JavaScript", &js, tests_count::of_node(&js.output));
        if options.https {
            for (name, outcome, count) in names::run(&program, &data, clients)? {
                report.tests(name, &outcome, count);
            }
        }
        let count = examples::run_all(clients, &server)?;
        report.count += count;
        if count.failed > 0 {
            report.failures.push(format!("examples: {count}"));
        }
    }
    server.stop()?;

    // The first server wakes most sandboxes from light sleep; this one from snapshots on disk.
    let server = Server::start(&program, &data, &[("DORMOUSE_LIGHT_SLEEP_MEMORY_MIB", "0")])?;
    let filter = options.filter.as_deref();
    pytest(report, "e2e Python, deep sleep", clients, &server, WAKE_TESTS, filter)?;
    server.stop()?;

    if options.filter.is_none() {
        let crash = Step::new("kill -9 at random moments", clients.python())
            // One by one, and with a limit of its own: these tests start and kill servers themselves.
            .args([
                "-m",
                "pytest",
                "-c",
                "e2e/python/pytest.ini",
                "-n",
                "0",
                "--timeout",
                "900",
                "e2e/crash",
            ])
            .env("DORMOUSE_PROGRAM", &program)
            .env("DORMOUSE_TEMPLATES", data.join("templates"))
            .limit(Duration::from_secs(1200))
            .outcome()?;
        report.tests("kill -9 at random moments", &crash, tests_count::of_pytest(&crash.output));
    }
    server::forget(&data)
}

/// One by one, because directories mean different things to different versions of Node.js.
fn js_tests() -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(paths::root().join("e2e/js"))?;
    let files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    Ok(files
        .into_iter()
        .filter(|file| file.to_string_lossy().ends_with(".test.mjs"))
        .collect())
}

fn pytest(report: &mut Report, name: &str, clients: &Clients, server: &Server, tests: &str, filter: Option<&str>) -> Result<()> {
    let config = paths::root().join("e2e/python/pytest.ini");
    let step = |only: &[String]| {
        let step = Step::new(format!("e2e Python: {tests}"), clients.python())
            .args(["-m", "pytest", "-c"])
            .args([&config])
            .args(["--rootdir", "."]);
        let step = match (only, filter) {
            ([], None) => step.args([tests]),
            ([], Some(filter)) => step.args([tests, "-k", filter]),
            (only, _) => step.args(only),
        };
        step.envs(server.variables())
            .env("PYTHONUNBUFFERED", "1")
            .limit(Duration::from_secs(1500))
    };
    let tests = Tests {
        step: &step,
        count: tests_count::of_pytest,
        failed: tests_count::failed_of_pytest,
    };
    report.tried(name, &tests)
}
