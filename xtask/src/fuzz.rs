//! Runs the fuzz targets in `fuzz/` (see docs/testing.md).
//!
//! They are libFuzzer programs. What libFuzzer needs of the compiler (coverage counters) stable Rust can give, so there is no
//! other toolchain and no `cargo-fuzz`; address sanitising, which only a nightly compiler can do, would look for mistakes that
//! code without `unsafe` does not have.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::paths;
use crate::run::Step;

/// What to fuzz.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// For all targets together
    #[arg(long, default_value_t = 60, value_name = "N")]
    pub(crate) seconds: u64,
    /// Only these; all when none is named
    targets: Vec<String>,
    /// Runs one input instead, such as the one that a failure has left behind
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
}

impl Options {
    /// All targets within this time.
    pub(crate) fn all(seconds: u64) -> Options {
        Options {
            seconds,
            targets: Vec::new(),
            input: None,
        }
    }
}

/// The only platform that the project builds for. Named, so that flags reach the programs and not the compiler's own plugins.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// What `cargo fuzz --sanitizer none` passes too.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";

/// Largest input, in bytes: all that is fuzzed are heads, names and small bodies.
const LARGEST: u32 = 4096;

/// Builds the targets and runs each for its share of the time. A crash is an error, and its input is printed and kept.
pub(crate) fn fuzz(options: &Options) -> Result<()> {
    let targets = chosen(&options.targets)?;
    let programs = build()?;
    if let (Some(input), [target]) = (&options.input, targets.as_slice()) {
        Step::new(format!("{target} with {}", input.display()), programs.join(target))
            .args([input])
            .run()?;
        return Ok(());
    }
    if options.input.is_some() {
        bail!("--input needs exactly one target");
    }
    let share = (options.seconds / targets.len() as u64).max(1);
    let mut failures = Vec::new();
    for target in &targets {
        if !run_one(&programs, target, share)? {
            failures.push(target.as_str());
        }
    }
    if failures.is_empty() {
        println!("{} targets, no crash", targets.len());
        Ok(())
    } else {
        bail!("crashed: {}", failures.join(", "))
    }
}

/// Runs a target for some seconds. False when it has found something.
fn run_one(programs: &Path, target: &str, seconds: u64) -> Result<bool> {
    // Inputs that reached new code are kept over runs; the seeds in the repository are not touched.
    let corpus = home().join("corpus").join(target);
    let artifacts = home().join("artifacts").join(target);
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&artifacts)?;
    let seeds = seeds(target);
    let outcome = Step::new(format!("fuzz {target}"), programs.join(target))
        .args([
            format!("-max_total_time={seconds}"),
            format!("-max_len={LARGEST}"),
            format!("-artifact_prefix={}/", artifacts.display()),
        ])
        .args(["-timeout=10", "-rss_limit_mb=1024", "-verbosity=0", "-print_final_stats=1"])
        .args([&corpus, &seeds])
        .limit(Duration::from_secs(seconds + 120))
        .quiet()
        .outcome()?;
    if outcome.success {
        println!("    {target}: {} inputs", statistic(&outcome.output));
        return Ok(true);
    }
    println!("{}", outcome.output);
    println!(
        "FAILED {target}: {}; the input is above and below `{}`",
        outcome.ending,
        artifacts.display()
    );
    println!("once more: cargo xtask fuzz {target} --input FILE");
    Ok(false)
}

/// How many inputs were run.
fn statistic(output: &str) -> &str {
    let found = output
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    found.map_or("?", str::trim)
}

fn build() -> Result<PathBuf> {
    let directory = home();
    Step::new("build the fuzz targets", "cargo")
        .args([
            "build",
            "--package",
            "dormouse-fuzz",
            "--profile",
            "fuzz",
            "--target",
            PLATFORM,
            "--target-dir",
        ])
        .args([&directory])
        .env("RUSTFLAGS", FLAGS)
        .limit(Duration::from_secs(2400))
        .run()?;
    Ok(directory.join(PLATFORM).join("fuzz"))
}

fn chosen(named: &[String]) -> Result<Vec<String>> {
    let all = all()?;
    if let Some(unknown) = named.iter().find(|name| !all.contains(name)) {
        bail!("there is no fuzz target `{unknown}`; there are {}", all.join(", "));
    }
    Ok(if named.is_empty() { all } else { named.to_vec() })
}

/// The names of all targets, by their files.
fn all() -> Result<Vec<String>> {
    let directory = paths::root().join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&directory).with_context(|| format!("could not list `{}`", directory.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

fn seeds(target: &str) -> PathBuf {
    paths::root().join("fuzz/corpus").join(target)
}

/// Where everything is that a run leaves behind.
fn home() -> PathBuf {
    paths::target().join("fuzz")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_seeds_and_is_declared() {
        let manifest = fs::read_to_string(paths::root().join("fuzz/Cargo.toml")).expect("readable");
        let all = all().expect("listed");
        assert!(!all.is_empty());
        for target in all {
            assert!(
                manifest.contains(&format!("name = \"{target}\"")),
                "{target} is in fuzz/Cargo.toml"
            );
            let seeds = fs::read_dir(seeds(&target)).map(Iterator::count);
            assert!(seeds.is_ok_and(|seeds| seeds > 0), "{target} has seeds");
        }
    }

    #[test]
    fn inputs_are_counted() {
        let output = "stat::number_of_executed_units: 58885\nstat::average_exec_per_sec:     6542\n";
        assert_eq!(statistic(output), "58885");
        assert_eq!(statistic("nothing"), "?");
    }

    #[test]
    fn unknown_targets_are_named() {
        let error = chosen(&["no-such".to_owned()]).expect_err("unknown");
        assert!(
            error.to_string().contains("no-such") && error.to_string().contains("proxy_host"),
            "{error}"
        );
    }
}
