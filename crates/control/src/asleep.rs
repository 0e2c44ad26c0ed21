//! The memory budget of light sleep.
//!
//! A paused sandbox's snapshot is on disk; its suspended instance is only a cache, which makes its wake a thaw. This is the account of
//! what those caches cost. When it is overdrawn, the instances that have slept longest go, and their sandboxes sleep deeply from then
//! on. The instances themselves belong to the drivers: an eviction is a command to the driver, which may have woken by then.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dormouse_store::SandboxId;

#[derive(Debug)]
struct Sleeper {
    sandbox: SandboxId,
    bytes: u64,
}

/// Who sleeps lightly, longest sleep first.
#[derive(Debug)]
pub(crate) struct Asleep {
    budget: u64,
    sleepers: Mutex<VecDeque<Sleeper>>,
}

impl Asleep {
    /// `budget` is in bytes; zero turns light sleep off.
    pub(crate) fn new(budget: u64) -> Self {
        Self {
            budget,
            sleepers: Mutex::default(),
        }
    }

    /// Enters a sandbox, and says who must go deep to keep within the budget. One that is larger than the whole budget goes itself, and
    /// nobody else for its sake.
    #[must_use]
    pub(crate) fn enter(&self, sandbox: SandboxId, bytes: u64) -> Vec<SandboxId> {
        let mut sleepers = self.lock();
        sleepers.retain(|sleeper| sleeper.sandbox != sandbox);
        if bytes > self.budget {
            return vec![sandbox];
        }
        sleepers.push_back(Sleeper { sandbox, bytes });
        // No single one is above the budget, but a sum of them may be above anything.
        let mut total = sleepers.iter().map(|sleeper| u128::from(sleeper.bytes)).sum::<u128>();
        let mut evicted = Vec::new();
        while total > u128::from(self.budget) {
            let Some(longest) = sleepers.pop_front() else { break };
            total -= u128::from(longest.bytes);
            evicted.push(longest.sandbox);
        }
        evicted
    }

    /// Strikes a sandbox off: it woke, went deep, or is gone.
    pub(crate) fn leave(&self, sandbox: &SandboxId) {
        self.lock().retain(|sleeper| &sleeper.sandbox != sandbox);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Sleeper>> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_sleeper_goes_first() {
        let asleep = Asleep::new(100);
        let (first, second, third) = (SandboxId::random(), SandboxId::random(), SandboxId::random());
        assert!(asleep.enter(first.clone(), 50).is_empty());
        assert!(asleep.enter(second, 50).is_empty());
        assert_eq!(asleep.enter(third, 50), [first]);
    }

    #[test]
    fn sandbox_larger_than_the_budget_goes_deep_alone() {
        let asleep = Asleep::new(100);
        let (small, large) = (SandboxId::random(), SandboxId::random());
        assert!(asleep.enter(small, 10).is_empty());
        assert_eq!(asleep.enter(large.clone(), u64::MAX), [large]);
    }

    #[test]
    fn one_who_left_costs_nothing() {
        let asleep = Asleep::new(100);
        let (first, second) = (SandboxId::random(), SandboxId::random());
        assert!(asleep.enter(first.clone(), 80).is_empty());
        asleep.leave(&first);
        assert!(asleep.enter(second, 80).is_empty());
    }
}
