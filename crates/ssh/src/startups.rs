//! Connections that have not shown a key yet: how many there may be.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::SshConfig;

/// The count of them. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Startups {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
    most: usize,
    most_of_one: usize,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Startup {
    all: Startups,
    peer: IpAddr,
}

impl Startups {
    pub(crate) fn new(config: &SshConfig) -> Self {
        Self {
            counts: Arc::default(),
            most: config.most_startups,
            most_of_one: config.most_startups_of_one,
        }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one from this address; `None` when there are too many.
    pub(crate) fn enter(&self, peer: IpAddr) -> Option<Startup> {
        let mut counts = self.counts();
        if counts.values().sum::<usize>() >= self.most {
            return None;
        }
        let count = counts.entry(peer).or_default();
        if *count >= self.most_of_one {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Startup { all: self.clone(), peer })
    }
}

impl Drop for Startup {
    fn drop(&mut self) {
        let mut counts = self.all.counts();
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn one_address_cannot_take_all_and_all_are_bounded() {
        let startups = Startups::new(&SshConfig {
            most_startups: 3,
            most_startups_of_one: 2,
            ..SshConfig::default()
        });
        let address = |last| IpAddr::from(Ipv4Addr::new(10, 0, 0, last));
        let first = startups.enter(address(1)).unwrap();
        let _second = startups.enter(address(1)).unwrap();
        assert!(startups.enter(address(1)).is_none());
        let _third = startups.enter(address(2)).unwrap();
        assert!(startups.enter(address(3)).is_none());
        drop(first);
        assert!(startups.enter(address(1)).is_some());
    }
}
