//! Connecting to a port that may not be open yet.

use std::time::Duration;

use dormouse_control::Route;
use dormouse_engine::{ConnectError, Connection};

use crate::{Backend, FrontConfig};

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DialError {
    /// The route has ended: ask for another.
    Gone,
    /// Nothing answers on the port.
    Closed,
}

/// Connects along `route`, several times if need be: a server that was started just now gets a moment to listen (contract 4.5).
pub(crate) async fn dial(backend: &dyn Backend, config: &FrontConfig, route: &Route, port: u16) -> Result<Connection, DialError> {
    let mut waits = config.dial_waits.iter();
    loop {
        tokio::select! {
            biased;
            () = route.ended.cancelled() => return Err(DialError::Gone),
            attempt = attempt(backend, config.dial_timeout, route, port) => match attempt {
                Ok(connection) => return Ok(connection),
                Err(Some(ConnectError::Gone(_))) => return Err(DialError::Gone),
                // Not refused, not accepted: more attempts of this length help nobody.
                Err(None) => return Err(DialError::Closed),
                Err(Some(ConnectError::Refused(_))) => {}
                Err(Some(error @ ConnectError::Io { .. })) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "dialing a sandbox failed");
                }
            },
        }
        let Some(wait) = waits.next() else {
            return Err(DialError::Closed);
        };
        tokio::select! {
            () = tokio::time::sleep(*wait) => {}
            () = route.ended.cancelled() => return Err(DialError::Gone),
        }
    }
}

/// One attempt; `Err(None)` when it took too long.
async fn attempt(backend: &dyn Backend, longest: Duration, route: &Route, port: u16) -> Result<Connection, Option<ConnectError>> {
    match tokio::time::timeout(longest, backend.dial(route, port)).await {
        Ok(result) => result.map_err(Some),
        Err(_) => Err(None),
    }
}
