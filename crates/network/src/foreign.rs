//! Getting along with other firewalls on the host.
//!
//! A packet must pass every table. Docker, ufw and many an administrator drop by default what they do not know, and
//! our own table cannot overrule that; so slots are let through there by name, and only our own table decides.

use std::io;
use std::process::{Command, Output};

use crate::config::Prefix;

/// What is let through, as chain and match. Names that end in `+` stand for all that begin so.
fn passes(prefix: &Prefix) -> [(&'static str, [String; 4]); 3] {
    let pass = |direction: &str| {
        [
            direction.to_owned(),
            format!("{prefix}x+"),
            "-j".to_owned(),
            "ACCEPT".to_owned(),
        ]
    };
    [("INPUT", pass("-i")), ("FORWARD", pass("-i")), ("FORWARD", pass("-o"))]
}

/// Lets slots through the `iptables` chains that filter anything. Where it fails, sandboxes may have no network, but
/// the host has no less protection: so it is a warning, not an error.
pub(crate) fn let_pass(prefix: &Prefix) {
    for (chain, rule) in passes(prefix) {
        if !filters(chain) || succeeds(&["-C", chain], &rule) {
            continue;
        }
        if succeeds(&["-I", chain], &rule) {
            tracing::info!(chain, "let sandboxes pass the host's iptables rules");
        } else {
            tracing::warn!(
                chain,
                "iptables filters on this host and cannot be told to let sandboxes pass"
            );
        }
    }
}

/// Undoes [`let_pass`].
pub(crate) fn forget(prefix: &Prefix) {
    for (chain, rule) in passes(prefix) {
        while filters(chain) && succeeds(&["-C", chain], &rule) && succeeds(&["-D", chain], &rule) {}
    }
}

/// Whether a chain does anything but accept everything.
fn filters(chain: &str) -> bool {
    let Ok(output) = iptables(&["-S", chain], &[]) else {
        return false;
    };
    let rules = String::from_utf8_lossy(&output.stdout);
    output.status.success() && rules.lines().any(|line| line != format!("-P {chain} ACCEPT"))
}

fn succeeds(arguments: &[&str], rule: &[String]) -> bool {
    iptables(arguments, rule).is_ok_and(|output| output.status.success())
}

/// Fails where there is no `iptables`: then nothing is filtered by it either, or `nft` says how.
fn iptables(arguments: &[&str], rule: &[String]) -> io::Result<Output> {
    let run = |program: &str| Command::new(program).arg("-w").args(arguments).args(rule).output();
    // As for `nft`: PATH may be short.
    run("iptables").or_else(|e| {
        if e.kind() == io::ErrorKind::NotFound {
            run("/usr/sbin/iptables")
        } else {
            Err(e)
        }
    })
}
