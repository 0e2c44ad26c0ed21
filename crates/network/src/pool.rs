//! The pool: makes slots ahead of time, hands them out, finds them again, removes what nobody owns.

use std::sync::Arc;

use crate::config::{NetworkConfig, SlotName};
use crate::error::{NetworkError, Result};
use crate::slot::Slot;

/// All slots of one daemon.
#[derive(Debug)]
pub struct SlotPool {}

impl SlotPool {
    /// Prepares the host (idempotent), starts the DNS forwarder and begins to fill the pool in the background.
    /// Slots of an earlier daemon are left alone until [`SlotPool::sweep`].
    ///
    /// Must be called inside a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// When not root, without `nft`, without a free address range, without a DNS server.
    pub async fn open(config: NetworkConfig) -> Result<Arc<Self>> {
        drop(config);
        Err(NetworkError::Closed)
    }

    /// A slot for a new sandbox: a ready one, or one made now.
    ///
    /// # Errors
    /// When no slot can be made.
    pub async fn take(&self) -> Result<Slot> {
        Err(NetworkError::Closed)
    }

    /// Opens a slot that an earlier daemon took.
    ///
    /// # Errors
    /// [`NetworkError::NoSuchSlot`] when it is gone (a reboot), [`NetworkError::InUse`] when it was adopted before.
    pub async fn adopt(&self, name: &SlotName) -> Result<Slot> {
        Err(NetworkError::BadSlotName { name: name.to_string() })
    }

    /// Removes every slot, whole or in part, with this daemon's prefix that is neither in `keep` nor held by this
    /// pool. Returns how many.
    ///
    /// # Errors
    /// When the host's state cannot be listed. A slot that cannot be removed is logged and not counted.
    pub async fn sweep(&self, keep: &[SlotName]) -> Result<usize> {
        let _ = keep;
        Err(NetworkError::Closed)
    }

    /// Stops: taken slots stay as they are for the next daemon, ready ones are removed, the forwarder ends.
    pub async fn close(&self) {}

    /// Removes everything with this daemon's prefix from the host, taken slots included.
    ///
    /// # Errors
    /// When a piece cannot be removed.
    pub async fn uninstall(&self) -> Result<()> {
        Ok(())
    }
}
