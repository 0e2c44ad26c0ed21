//! What can go wrong in an engine.

use std::fmt;

use crate::InstanceId;

/// The operation that failed, for messages and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`Engine::start`](crate::Engine::start)
    Start,
    /// [`Engine::warm`](crate::Engine::warm)
    Warm,
    /// [`Engine::identify`](crate::Engine::identify)
    Identify,
    /// [`Engine::set_network`](crate::Engine::set_network)
    SetNetwork,
    /// [`Engine::suspend`](crate::Engine::suspend)
    Suspend,
    /// [`Engine::resume`](crate::Engine::resume)
    Resume,
    /// [`Engine::snapshot`](crate::Engine::snapshot)
    Snapshot,
    /// [`Engine::destroy`](crate::Engine::destroy)
    Destroy,
    /// [`Engine::stats`](crate::Engine::stats)
    Stats,
    /// [`Engine::exited`](crate::Engine::exited)
    Watch,
    /// [`Engine::adopt`](crate::Engine::adopt)
    Adopt,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Warm => "warm",
            Self::Identify => "identify",
            Self::SetNetwork => "set the network of",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Snapshot => "snapshot",
            Self::Destroy => "destroy",
            Self::Stats => "measure",
            Self::Watch => "watch",
            Self::Adopt => "adopt",
        })
    }
}

/// An engine operation failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No such instance, or it is gone.
    #[error("No instance {0}")]
    Gone(InstanceId),
    /// The host has no room for it: disk full, or no memory.
    #[error("The host has no room to {operation} instance {id}")]
    NoRoom {
        /// What was tried.
        operation: Operation,
        /// On which instance.
        id: InstanceId,
        /// The engine's own error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The snapshot cannot be used by this engine: wrong kind, version, or damaged.
    #[error("Snapshot {snapshot} cannot be used: {reason}")]
    BadSnapshot {
        /// The snapshot's directory.
        snapshot: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Anything else, with the engine's own error behind it.
    #[error("Cannot {operation} instance {id}")]
    Failed {
        /// What was tried.
        operation: Operation,
        /// On which instance.
        id: InstanceId,
        /// The engine's own error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The engine as a whole failed, not one instance.
    #[error("Cannot {operation} instances")]
    Host {
        /// What was tried.
        operation: Operation,
        /// The engine's own error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl EngineError {
    /// Wraps an engine's own error.
    pub fn failed(operation: Operation, id: &InstanceId, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Failed {
            operation,
            id: id.clone(),
            source: source.into(),
        }
    }
}

/// A connection into an instance could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The instance lives, but nothing listens on the port.
    #[error("Nothing listens on port {0}")]
    Refused(u16),
    /// The instance is gone or suspended.
    #[error("No running instance {0}")]
    Gone(InstanceId),
    /// The connection failed in another way.
    #[error("Cannot connect to port {port} of instance {id}")]
    Io {
        /// The instance.
        id: InstanceId,
        /// The port inside it.
        port: u16,
        /// The operating system's error.
        #[source]
        source: std::io::Error,
    },
}
