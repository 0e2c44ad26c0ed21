//! Durations, and what is said of them.

use std::time::Duration;

use serde::Serialize;

/// What was measured of one thing.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Summary {
    /// How often.
    pub(super) runs: usize,
    /// Half took at most this long, milliseconds.
    pub(super) p50: f64,
    /// 95 in 100 took at most this long, milliseconds.
    pub(super) p95: f64,
    /// 99 in 100 took at most this long, milliseconds.
    pub(super) p99: f64,
    /// The longest, milliseconds.
    pub(super) max: f64,
}

impl Summary {
    /// `None` without a measurement.
    pub(super) fn of(mut durations: Vec<Duration>) -> Option<Self> {
        durations.sort_unstable();
        let longest = *durations.last()?;
        let rank = |percent: usize| {
            // The nearest-rank percentile: always a value that was measured.
            let rank = (durations.len() * percent).div_ceil(100).max(1);
            durations.get(rank - 1).copied().unwrap_or(longest)
        };
        let ms = |duration: Duration| (duration.as_secs_f64() * 100_000.0).round() / 100.0;
        Some(Self {
            runs: durations.len(),
            p50: ms(rank(50)),
            p95: ms(rank(95)),
            p99: ms(rank(99)),
            max: ms(longest),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let summary = Summary::of((1..=100).rev().map(Duration::from_millis).collect()).unwrap();
        assert_eq!(
            (summary.p50, summary.p95, summary.p99, summary.max),
            (50.0, 95.0, 99.0, 100.0)
        );
    }

    #[test]
    fn one_measurement_is_every_percentile() {
        let summary = Summary::of(vec![Duration::from_millis(7)]).unwrap();
        assert_eq!((summary.p50, summary.p99), (7.0, 7.0));
        assert!(Summary::of(Vec::new()).is_none());
    }
}
