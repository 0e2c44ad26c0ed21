//! What all parts of the agent share.

use std::io;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::config::Config;
use crate::filesystem::Watchers;
use crate::identity::CurrentIdentity;
use crate::metrics::CpuMeter;
use crate::process::{Reaper, Table};
use crate::users::UserDatabase;

/// The agent.
#[derive(Debug)]
pub(crate) struct Agent {
    pub config: Config,
    pub identity: CurrentIdentity,
    /// Held while an identity is applied: two at once would leave a mixture of both.
    pub initialising: Mutex<()>,
    pub users: UserDatabase,
    pub reaper: Reaper,
    pub processes: Table,
    pub watchers: Watchers,
    pub cpu: CpuMeter,
}

impl Agent {
    /// An agent without identity.
    pub(crate) fn new(config: Config) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            identity: CurrentIdentity::default(),
            initialising: Mutex::new(()),
            users: UserDatabase::new(&config.etc),
            reaper: Reaper::start()?,
            processes: Table::default(),
            watchers: Watchers::default(),
            cpu: CpuMeter::default(),
            config,
        }))
    }
}
