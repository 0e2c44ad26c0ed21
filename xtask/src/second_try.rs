//! A second try for tests that failed: what then passes by itself is reported as flaky, never hidden.
//!
//! Thousands of tests with real sandboxes run beside each other on small machines. A test that fails only there is a fault
//! worth mending, and its name is printed at the end, but it does not say that the product is broken.

use anyhow::Result;

use crate::run::{Outcome, Step};
use crate::tests_count::Count;

/// More failures than this are no accident.
const MOST: usize = 5;

/// How to run a group of tests and to read what their runner prints.
pub(crate) struct Tests<'a> {
    /// Makes the step that runs all tests, or only the named ones.
    pub(crate) step: &'a dyn Fn(&[String]) -> Step,
    /// Reads the numbers out of the runner's output.
    pub(crate) count: fn(&str) -> Count,
    /// Reads the names of the failed tests.
    pub(crate) failed: fn(&str) -> Vec<String>,
}

/// The result of both tries together.
pub(crate) struct Tried {
    pub(crate) outcome: Outcome,
    pub(crate) count: Count,
    /// Names of the tests that passed only alone.
    pub(crate) flaky: Vec<String>,
}

impl Tests<'_> {
    /// Runs all, and then the few that failed once more.
    pub(crate) fn run(&self) -> Result<Tried> {
        let outcome = (self.step)(&[]).outcome()?;
        let mut count = (self.count)(&outcome.output);
        let mut tried = Tried {
            outcome,
            count,
            flaky: Vec::new(),
        };
        let names = (self.failed)(&tried.outcome.output);
        // A runner that died has failures without a name: no second try can tell what they were.
        if tried.outcome.success || names.is_empty() || names.len() > MOST || count.failed != names.len() as u64 {
            return Ok(tried);
        }
        println!("    once more, alone: {}", names.join(", "));
        let again = (self.step)(&names).outcome()?;
        let second = (self.count)(&again.output);
        if again.success && second.passed >= names.len() as u64 {
            count.passed += count.failed;
            count.flaky = count.failed;
            count.failed = 0;
            tried = Tried {
                outcome: again,
                count,
                flaky: names,
            };
        }
        Ok(tried)
    }
}
