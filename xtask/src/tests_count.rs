//! Reads how many tests ran out of what the test runners print.

use std::fmt;
use std::ops::AddAssign;

/// Tests of one or more runners.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Count) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
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
    }
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
                skipped: 1
            }
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
                skipped: 2
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
