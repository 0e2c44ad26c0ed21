//! Reads how many tests ran out of what the test runners print.

use std::fmt;
use std::ops::AddAssign;

/// Tests of one or more runners.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    /// Failed at first and passed when run again by themselves; counted in `passed` too.
    pub(crate) flaky: u64,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Count) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.flaky += other.flaky;
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        if self.flaky > 0 {
            write!(f, ", {} of them flaky", self.flaky)?;
        }
        Ok(())
    }
}

/// The sum over all `test result:` lines of `cargo test`.
pub(crate) fn of_cargo(output: &str) -> Count {
    let mut sum = Count::default();
    for line in output.lines().filter(|line| line.starts_with("test result:")) {
        sum += Count {
            passed: number_before(line, " passed"),
            failed: number_before(line, " failed"),
            skipped: number_before(line, " ignored"),
            flaky: 0,
        };
    }
    sum
}

/// pytest's closing line, such as `=== 1 failed, 20 passed in 3.2s ===`.
pub(crate) fn of_pytest(output: &str) -> Count {
    let is_summary = |line: &&str| line.starts_with('=') && line.contains(" in ") && line.ends_with('=');
    let line = output.lines().rev().find(is_summary).unwrap_or_default();
    Count {
        passed: number_before(line, " passed"),
        failed: number_before(line, " failed") + number_before(line, " error"),
        skipped: number_before(line, " skipped"),
        flaky: 0,
    }
}

/// The closing lines of Node's test runner, such as `# pass 7`.
pub(crate) fn of_node(output: &str) -> Count {
    let value = |name: &str| {
        output
            .lines()
            .find_map(|line| line.strip_prefix("# ")?.strip_prefix(name)?.trim().parse().ok())
            .unwrap_or(0)
    };
    Count {
        passed: value("pass "),
        failed: value("fail ") + value("cancelled "),
        skipped: value("skipped "),
        flaky: 0,
    }
}

/// Names of the failed tests in what `cargo test` prints; empty when a test program itself died.
pub(crate) fn failed_of_cargo(output: &str) -> Vec<String> {
    let failed = |line: &str| Some(line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned());
    output.lines().filter_map(failed).collect()
}

/// Node ids of the failed tests in pytest's short summary.
pub(crate) fn failed_of_pytest(output: &str) -> Vec<String> {
    let failed = |line: &str| {
        let id = line.strip_prefix("FAILED ").or_else(|| line.strip_prefix("ERROR "))?;
        Some(id.split_once(" - ").map_or(id, |(id, _)| id).to_owned())
    };
    output.lines().filter_map(failed).filter(|id| id.contains("::")).collect()
}

/// The number that stands directly before `word`.
fn number_before(line: &str, word: &str) -> u64 {
    let before = line.split_once(word).map_or("", |(before, _)| before);
    before
        .rsplit(|c: char| !c.is_ascii_digit())
        .next()
        .unwrap_or_default()
        .parse()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_results_are_added() {
        let output = "test result: ok. 22 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.11s\n\
                      x\ntest result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured\n";
        assert_eq!(
            of_cargo(output),
            Count {
                passed: 25,
                failed: 2,
                skipped: 1,
                flaky: 0,
            }
        );
    }

    #[test]
    fn failed_tests_have_names() {
        let cargo = "test a::b ... ok\ntest a::c ... FAILED\ntest result: FAILED. 1 passed; 1 failed\n";
        assert_eq!(failed_of_cargo(cargo), ["a::c"]);
        let pytest =
            "FAILED e2e/python/test_a.py::test_b[x] - AssertionError: 1 - 2\nERROR e2e/python/test_a.py::test_c\nERROR: no\n";
        assert_eq!(
            failed_of_pytest(pytest),
            ["e2e/python/test_a.py::test_b[x]", "e2e/python/test_a.py::test_c"]
        );
    }

    #[test]
    fn pytest_errors_are_failures() {
        let output = "....\n===== 1 failed, 20 passed, 2 skipped, 3 errors in 3.20s =====\n";
        assert_eq!(
            of_pytest(output),
            Count {
                passed: 20,
                failed: 4,
                skipped: 2,
                flaky: 0,
            }
        );
    }

    #[test]
    fn node_summary_is_read() {
        assert_eq!(
            of_node("ok 1\n# tests 9\n# pass 7\n# fail 2\n# cancelled 0\n# skipped 0\n").to_string(),
            "7 passed, 2 failed"
        );
    }

    #[test]
    fn no_summary_is_no_test() {
        assert_eq!(of_pytest("killed"), Count::default());
        assert_eq!(of_node(""), Count::default());
    }
}
