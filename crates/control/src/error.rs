//! Why control refuses, or fails.

use std::time::Duration;

use dormouse_engine::{EngineError, EngineKind};
use dormouse_layers::LayerError;
use dormouse_store::{SandboxId, StoreError};

/// Why a command was refused or failed. The API turns it into the contract's status and text.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Missing, killed, or another team's.
    #[error("Sandbox \"{0}\" doesn't exist or you don't have access to it")]
    NotFound(SandboxId),
    /// The sandbox is on its way to another state and cannot do this now: 409.
    #[error("Sandbox {id} is {doing}")]
    Busy {
        /// Which.
        id: SandboxId,
        /// What it is doing: `pausing`, `being killed`, …
        doing: &'static str,
    },
    /// Pause of a paused (or pausing) sandbox: 409.
    #[error("Error pausing sandbox - sandbox '{0}' is already paused")]
    AlreadyPaused(SandboxId),
    /// Resume of a running sandbox: 409.
    #[error("Sandbox {0} is already running")]
    AlreadyRunning(SandboxId),
    /// Only a running sandbox can do this: 404 for timeouts and refreshes of a paused one (contract 4.2).
    #[error("Sandbox \"{0}\" is not running")]
    NotRunning(SandboxId),
    /// The server failed in the middle of it; what became of it is not known: 500.
    #[error("The server failed while it worked on sandbox {0}")]
    Interrupted(SandboxId),
    /// The build's snapshot is another engine's: 409.
    #[error(
        "Template '{template}' was built for the {built} engine and this server runs {runs}: build it again, or start the server with {built}"
    )]
    WrongEngine {
        /// The template.
        template: String,
        /// The engine that wrote the snapshot.
        built: EngineKind,
        /// The engine that is asked to read it.
        runs: EngineKind,
    },
    /// No such template: 404.
    #[error("template '{0}' not found")]
    TemplateNotFound(String),
    /// No such tag: 404.
    #[error("tag '{tag}' does not exist for template '{template}'")]
    TagNotFound {
        /// The tag.
        tag: String,
        /// The template's name as given.
        template: String,
    },
    /// The timeout is longer than the key allows: 400.
    #[error("Timeout cannot be greater than {} hours", .0.as_secs() / 3600)]
    TimeoutTooLong(Duration),
    /// The longest continuous run is reached: 400.
    #[error("Max instance length exceeded")]
    MaxRunReached,
    /// The node's limit of running sandboxes is reached: 429.
    #[error("you have reached the maximum number of concurrent sandboxes ({0})")]
    TooMany(usize),
    /// The host has no room to finish; what was there before is unharmed: 503, not to be retried.
    #[error("The host has no room left")]
    NoRoom(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The engine failed.
    #[error("The sandbox engine failed")]
    Engine(#[from] EngineError),
    /// The database failed.
    #[error("The database failed")]
    Store(#[from] StoreError),
    /// The snapshot store failed.
    #[error("The snapshot store failed")]
    Layers(#[from] LayerError),
    /// The daemon is shutting down: 503.
    #[error("The server is shutting down")]
    ShuttingDown,
}
