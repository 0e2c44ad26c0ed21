//! The tests over HTTPS: a server on an address of the loopback network that nobody else uses, on the ports that clients expect.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::clients::Clients;
use crate::run::{Outcome, Step};
use crate::tests_count::{self, Count};

/// The base domains, the one that clients are pointed at first. `.test` is for this (RFC 6761); `localhost` is what the other tests use.
const DOMAINS: &str = "box.test,custom.test,localhost";

/// Settings that make a server serve names, as in `DORMOUSE_TLS_LISTEN`.
pub(crate) fn settings() -> Vec<(&'static str, String)> {
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = format!("127.77.{high}.{}", low.max(1));
    vec![
        ("DORMOUSE_DOMAIN", DOMAINS.to_owned()),
        ("DORMOUSE_TLS_LISTEN", format!("{address}:443")),
        ("DORMOUSE_DNS_LISTEN", format!("{address}:53")),
    ]
}

/// Runs the tests against a server with these settings; what ran, and how it went.
pub(crate) fn run(program: &Path, data: &Path, clients: &Clients) -> Result<Vec<(&'static str, Outcome, Count)>> {
    let python = step("e2e HTTPS, Python and curl", program, data)
        .args([clients.python()])
        // One sandbox serves all tests.
        .args([
            "-m",
            "pytest",
            "-c",
            "e2e/python/pytest.ini",
            "--rootdir",
            ".",
            "-n",
            "0",
            "e2e/tls",
        ])
        .env("PYTHONUNBUFFERED", "1")
        .outcome()?;
    let python_count = tests_count::of_pytest(&python.output);
    let js = step("e2e HTTPS, JavaScript and a browser", program, data)
        .args([clients.node()])
        .args(["--test", "--test-reporter=tap", "--test-concurrency=1"])
        .args(["e2e/tls/https.test.mjs", "e2e/tls/browser.test.mjs"])
        .outcome()?;
    let js_count = tests_count::of_node(&js.output);
    Ok(vec![
        ("e2e HTTPS, Python and curl", python, python_count),
        ("e2e HTTPS, JavaScript and a browser", js, js_count),
    ])
}

fn step(name: &str, program: &Path, data: &Path) -> Step {
    Step::new(name, "e2e/tls/run.sh")
        .args([program, data])
        .limit(Duration::from_secs(900))
}
