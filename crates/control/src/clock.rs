//! Wall-clock time, and sleeping until a moment of it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// The longest sleep in one go: a step of the wall clock is noticed after this at the latest.
const STRIDE: Duration = Duration::from_secs(30);

/// Now, to the millisecond: the resolution in which end times are kept and shown.
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

/// `at` + `duration`, at most the last moment that can be written.
pub(crate) fn later(at: Timestamp, duration: Duration) -> Timestamp {
    SignedDuration::try_from(duration)
        .ok()
        .and_then(|duration| at.checked_add(duration).ok())
        .unwrap_or(Timestamp::MAX)
}

/// From `earlier` to `at`; zero when `at` is before it.
pub(crate) fn since(earlier: Timestamp, at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(earlier)).unwrap_or_default()
}

/// Sleeps until the wall clock shows `at`. For ever when there is no such moment.
pub(crate) async fn sleep_until(at: Option<Timestamp>) {
    let Some(at) = at else { return std::future::pending().await };
    loop {
        let left = since(now(), at);
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(STRIDE)).await;
    }
}
