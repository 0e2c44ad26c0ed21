//! Paths and headers of the agent.

/// `POST`, control only: body [`InitRequest`](crate::InitRequest), answers 204.
pub const INIT: &str = "/init";

/// `GET ?port=N`, control only: upgrades to a byte stream to that port on the sandbox's loopback.
pub const TUNNEL: &str = "/tunnel";

/// `GET`: answers 204 while the sandbox runs (contract 3.3).
pub const HEALTH: &str = "/health";

/// `GET`: [`Metrics`](crate::rest::Metrics) (contract 3.3).
pub const METRICS: &str = "/metrics";

/// `GET`: the sandbox-wide environment (contract 3.3).
pub const ENVS: &str = "/envs";

/// `GET` and `POST`: file contents (contract 3.3).
pub const FILES: &str = "/files";

/// `POST`: joins files (contract 3.3).
pub const COMPOSE: &str = "/files/compose";

/// The protocol name in the `Upgrade` header of [`TUNNEL`].
pub const TUNNEL_PROTOCOL: &str = "dormouse-tunnel";

/// Carries the sandbox's access token (contract 3.2).
pub const ACCESS_TOKEN_HEADER: &str = "x-access-token";

/// Paths on the agent's port that no outsider may reach, whatever the method (contract 3.2).
///
/// The first six are E2B's; a proxy refuses them all with [`RESERVED_MESSAGE`].
pub const RESERVED: [&str; 8] = [
    INIT,
    "/freeze",
    "/unfreeze",
    "/collapse",
    "/fsfreeze",
    "/fsthaw",
    "/upgrade",
    TUNNEL,
];

/// What an outsider reads who asks for a [`RESERVED`] path (contract 3.2).
pub const RESERVED_MESSAGE: &str =
    "This endpoint is reserved for the E2B control plane and is not reachable through the sandbox URL";
