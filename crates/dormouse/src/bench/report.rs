//! The result, as tables for people and as JSON for machines.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::sample::Summary;
use crate::config::Config;
use crate::host::Host;

/// Everything that one benchmark found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    host: Conditions,
    rows: Vec<Row>,
    idle: Vec<Idle>,
}

/// What the numbers hold for.
#[derive(Debug, Serialize)]
struct Conditions {
    version: &'static str,
    engine: String,
    kernel: String,
    cpu: String,
    cores: usize,
    memory_mib: u64,
    sandbox: String,
}

#[derive(Debug, Serialize)]
struct Row {
    what: &'static str,
    at_once: usize,
    #[serde(flatten)]
    summary: Summary,
}

/// What an idle sandbox costs.
#[derive(Debug, Serialize)]
pub(super) struct Idle {
    pub(super) state: &'static str,
    pub(super) cpu_percent_of_a_core: f64,
    pub(super) memory_mib: u64,
}

impl Report {
    pub(super) fn new(config: &Config, host: &Host) -> Self {
        let host = Conditions {
            version: env!("CARGO_PKG_VERSION"),
            engine: host.engine.kind().to_string(),
            kernel: nix::sys::utsname::uname()
                .map_or_else(|_| "unknown".to_owned(), |name| name.release().to_string_lossy().into_owned()),
            cpu: cpu(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: nix::sys::sysinfo::sysinfo().map_or(0, |info| info.ram_total() >> 20),
            sandbox: format!("base, {} CPUs, {} MiB", config.base.vcpus, config.base.memory_mib),
        };
        Self {
            host,
            rows: Vec::new(),
            idle: Vec::new(),
        }
    }

    /// Enters the durations of one thing, and says so: a benchmark takes a while.
    pub(super) fn add(&mut self, what: &'static str, at_once: usize, durations: Vec<Duration>) {
        if let Some(summary) = Summary::of(durations) {
            tracing::info!(at_once, p50 = summary.p50, p99 = summary.p99, "{what}");
            self.rows.push(Row { what, at_once, summary });
        }
    }

    pub(super) fn add_idle(&mut self, idle: Idle) {
        self.idle.push(idle);
    }
}

fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| {
        line.strip_prefix("model name")?
            .split_once(": ")
            .map(|(_, name)| name.trim().to_owned())
    });
    model.unwrap_or_else(|| "unknown".to_owned())
}

impl fmt::Display for Report {
    /// Markdown, ready for `SPECIFICATION.md`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Conditions {
            version,
            engine,
            kernel,
            cpu,
            cores,
            memory_mib,
            sandbox,
        } = &self.host;
        writeln!(
            f,
            "Dormouse {version}, engine {engine}, {cores} cores ({cpu}), {memory_mib} MiB, Linux {kernel}; sandbox: {sandbox}."
        )?;
        writeln!(
            f,
            "\n| milliseconds | at once | runs | p50 | p95 | p99 | max |\n| --- | --- | --- | --- | --- | --- | --- |"
        )?;
        for Row { what, at_once, summary } in &self.rows {
            let Summary {
                runs,
                p50,
                p95,
                p99,
                max,
            } = summary;
            writeln!(
                f,
                "| {what} | {at_once} | {runs} | {p50:.1} | {p95:.1} | {p99:.1} | {max:.1} |"
            )?;
        }
        writeln!(
            f,
            "\n| an idle sandbox | CPU, % of a core | memory, MiB |\n| --- | --- | --- |"
        )?;
        for Idle {
            state,
            cpu_percent_of_a_core,
            memory_mib,
        } in &self.idle
        {
            writeln!(f, "| {state} | {cpu_percent_of_a_core:.2} | {memory_mib} |")?;
        }
        Ok(())
    }
}
