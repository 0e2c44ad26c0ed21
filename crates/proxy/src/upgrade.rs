//! Connections that have changed protocol: WebSocket and whatever else two sides agree on.

use dormouse_control::RunEnd;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::limit::Entered;

/// Bytes in flight in each direction.
const BUFFER: usize = 32 << 10;

/// What a tunnel needs to know about the listener it came through, found among a request's extensions.
#[derive(Clone, Debug)]
pub(crate) struct Listener {
    /// Cancelled when a shutdown has waited long enough.
    pub(crate) cut: CancellationToken,
    /// Lets the shutdown wait.
    pub(crate) _alive: TaskTrackerToken,
}

/// Carries bytes both ways until both sides have closed, the sandbox's run has ended or the listener is cut. There is no deadline
/// (contract 4.5).
pub(crate) async fn tunnel(client: OnUpgrade, sandbox: OnUpgrade, ended: RunEnd, listener: Option<Listener>, entered: Entered) {
    let cut = listener.as_ref().map(|listener| listener.cut.clone()).unwrap_or_default();
    let carry = async {
        let (client, sandbox) = tokio::try_join!(client, sandbox)?;
        let (mut client, mut sandbox) = (TokioIo::new(client), TokioIo::new(sandbox));
        copy_bidirectional_with_sizes(&mut client, &mut sandbox, BUFFER, BUFFER).await?;
        Ok::<_, crate::BoxError>(())
    };
    tokio::select! {
        result = carry => if let Err(error) = result {
            tracing::debug!(%error, "a tunnel broke");
        },
        () = ended.cancelled() => {}
        () = cut.cancelled() => {}
    }
    drop((entered, listener));
}
