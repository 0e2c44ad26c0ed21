//! How much goes on with each sandbox at the moment.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use dormouse_store::SandboxId;

/// Counts requests and tunnels for each sandbox, up to a limit (contract 4.5).
#[derive(Debug)]
pub(crate) struct Limit {
    most: usize,
    counts: Mutex<HashMap<SandboxId, usize>>,
}

impl Limit {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            counts: Mutex::default(),
        })
    }

    /// Counts one more until the answer is dropped. `Err` is the limit, when it is reached.
    pub(crate) fn enter(self: &Arc<Self>, id: &SandboxId) -> Result<Entered, usize> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(id.clone()).or_default();
        if *count >= self.most {
            // Not to leave a zero behind when the limit is zero.
            if *count == 0 {
                counts.remove(id);
            }
            return Err(self.most);
        }
        *count += 1;
        Ok(Entered {
            limit: Arc::clone(self),
            id: id.clone(),
        })
    }
}

/// One that is counted.
#[derive(Debug)]
pub(crate) struct Entered {
    limit: Arc<Limit>,
    id: SandboxId,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut counts = self.limit.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sandboxes_are_counted_apart_and_forgotten() {
        let limit = Limit::new(2);
        let (a, b) = ("i1a".parse().unwrap(), "i1b".parse().unwrap());
        let first = limit.enter(&a).unwrap();
        let second = limit.enter(&a).unwrap();
        assert_eq!(limit.enter(&a).unwrap_err(), 2);
        let other = limit.enter(&b).unwrap();
        drop(first);
        let third = limit.enter(&a).unwrap();
        drop((second, third, other));
        assert!(limit.counts.lock().unwrap().is_empty());
    }
}
