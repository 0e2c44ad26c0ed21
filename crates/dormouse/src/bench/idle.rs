//! What a sandbox costs that does nothing.

use std::time::Duration;

use dormouse_store::TeamId;

use super::client::Client;
use super::report::{Idle, Report};
use crate::host::Host;

/// How long sandboxes are watched doing nothing.
const WATCHED: Duration = Duration::from_secs(10);

pub(super) async fn measure(report: &mut Report, host: &Host, client: &Client) -> anyhow::Result<()> {
    let sandbox = client.create().await?;
    client.run_true(&sandbox).await?;
    let id = sandbox.id.parse()?;
    for state in ["running", "asleep"] {
        if state == "asleep" {
            client.pause(&sandbox).await?;
        }
        let record = host.control.get(TeamId::FIRST, &id)?.record;
        let Some(instance) = record.instance else { continue };
        let before = host.control.stats(&instance).await?;
        tokio::time::sleep(WATCHED).await;
        let after = host.control.stats(&instance).await?;
        let cpu = Duration::from_micros(after.cpu_usec.saturating_sub(before.cpu_usec));
        report.add_idle(Idle {
            state,
            cpu_percent_of_a_core: (cpu.as_secs_f64() / WATCHED.as_secs_f64() * 10_000.0).round() / 100.0,
            memory_mib: after.memory_bytes >> 20,
        });
    }
    client.kill(&sandbox).await
}
