//! Kernel settings of the calling thread's network namespace.
//!
//! `/proc/sys/net` shows the settings of the namespace of whoever looks.

use std::fs;
use std::io;

use crate::error::{NetworkError, Result};

/// Sets one value below `/proc/sys/net/`, unless it has it. Says whether it had another.
pub(crate) fn set(key: &str, value: &str) -> Result<bool> {
    let path = format!("/proc/sys/net/{key}");
    let failed = |e: io::Error| NetworkError::system(format!("set {path} to {value}"), e);
    let differs = fs::read_to_string(&path).map_err(failed)?.trim() != value;
    if differs {
        fs::write(&path, value).map_err(failed)?;
    }
    Ok(differs)
}

/// Turns IPv6 off in the namespace. Does nothing where the kernel has none.
pub(crate) fn disable_ipv6() -> Result<()> {
    for scope in ["all", "default"] {
        match set(&format!("ipv6/conf/{scope}/disable_ipv6"), "1") {
            Err(NetworkError::System { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => drop(other?),
        }
    }
    Ok(())
}
