//! Runs the examples of `examples/seeds` as a user would and checks what they print and leave behind.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::clients::Clients;
use crate::paths;
use crate::run::Step;
use crate::server::Server;
use crate::tests_count::Count;

/// The examples' names, which are the headings in the documentation, with what each must print. `{id}` is the
/// sandbox's; what comes between the lines does not matter.
const EXAMPLES: &[(&str, &[&str], Check)] = &[
    (
        "quick_setup_persistent_sandbox",
        &["Hello from a persistent sandbox"],
        Check::Running,
    ),
    ("configure_lifecycle_on_create", &[], Check::Running),
    (
        "pause_then_read_a_file",
        &["hello from a paused sandbox", "State after read: running"],
        Check::Running,
    ),
    (
        "web_and_dev_preview_servers",
        &[
            "Preview URL: https://3000-{id}.localhost",
            "Status before pause: running",
            "Status after pause: paused",
        ],
        Check::WakesOnPageView,
    ),
    ("agent_tool_execution", &["4"], Check::Running),
    ("per_user_sandboxes", &["Hello from your sandbox"], Check::Running),
];

/// Enough for `pip install` inside a sandbox.
const LIMIT: Duration = Duration::from_secs(180);

/// The example gives its server one second to start, which a busy machine does not always keep.
const PAGE_LIMIT: Duration = Duration::from_secs(15);

/// What must be true after an example ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// Its sandbox runs and falls asleep at its end.
    Running,
    /// Its sandbox sleeps; viewing its page wakes it and shows the greeting.
    WakesOnPageView,
}

/// Runs all; the number of those that did what their documentation says.
pub(crate) fn run_all(clients: &Clients, server: &Server) -> Result<Count> {
    let mut count = Count::default();
    for (name, lines, check) in EXAMPLES {
        for (language, program, file) in files(clients, name) {
            if !file.exists() {
                continue;
            }
            match run(
                server,
                &format!("example {name} ({language})"),
                &program,
                &file,
                lines,
                *check,
            ) {
                Ok(took) => {
                    println!("    ok, {:.1} s", took.as_secs_f64());
                    count.passed += 1;
                }
                Err(error) => {
                    println!("    FAILED: {error:#}");
                    count.failed += 1;
                }
            }
            server.kill_sandboxes()?;
        }
    }
    Ok(count)
}

fn files(clients: &Clients, name: &str) -> [(&'static str, PathBuf, PathBuf); 2] {
    let home = paths::root().join("examples/seeds");
    [
        (
            "Python",
            clients.python(),
            home.join("python").join(name).with_extension("py"),
        ),
        ("JavaScript", clients.node(), home.join("js").join(name).with_extension("mjs")),
    ]
}

fn run(server: &Server, title: &str, program: &PathBuf, file: &PathBuf, lines: &[&str], check: Check) -> Result<Duration> {
    let outcome = Step::new(title, program)
        .args([file])
        .envs(server.variables())
        .limit(LIMIT)
        .run()?;
    let sandboxes = server.sandboxes()?;
    let [id] = sandboxes.as_slice() else {
        bail!("it left {} sandboxes instead of one", sandboxes.len())
    };
    let mut printed = outcome.output.lines();
    for wanted in lines {
        let wanted = wanted.replace("{id}", id);
        ensure!(printed.any(|line| line == wanted), "it did not print `{wanted}`");
    }
    let info = server.sandbox(id)?;
    ensure!(
        info["lifecycle"]["onTimeout"] == "pause",
        "its sandbox does not pause at its end: {info}"
    );
    ensure!(
        info["lifecycle"]["autoResume"] == true,
        "its sandbox does not wake by itself: {info}"
    );
    match check {
        Check::Running => ensure!(info["state"] == "running", "its sandbox is {}", info["state"]),
        Check::WakesOnPageView => view_page(server, id)?,
    }
    Ok(outcome.took)
}

/// Views the page as a visitor would, who tries again while the program is still starting.
fn view_page(server: &Server, id: &str) -> Result<()> {
    let started = Instant::now();
    let page = loop {
        match server.page(id, 3000) {
            Err(_) if started.elapsed() < PAGE_LIMIT => thread::sleep(Duration::from_millis(100)),
            answer => break answer.context("the preview could not be fetched")?,
        }
    };
    ensure!(page == "Hello, World!", "the preview shows `{page}`");
    println!("    the preview woke it and answered in {} ms", started.elapsed().as_millis());
    let state = server.sandbox(id)?["state"].clone();
    ensure!(state == "running", "it is {state} after its preview was viewed");
    Ok(())
}
