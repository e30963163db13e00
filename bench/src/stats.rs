//! Exact percentiles of small series: a run's figures are few enough to keep every value.

use std::time::Duration;

use serde::Serialize;

/// A series of durations, kept whole.
#[derive(Clone, Debug, Default)]
pub struct Series(Vec<Duration>);

/// What a table shows of a [`Series`], in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    pub count: usize,
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Series {
    pub fn push(&mut self, value: Duration) {
        self.0.push(value);
    }

    /// The value below which `share` (0 to 1) of the series lies; zero for an empty series.
    pub fn percentile(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        percentile(&sorted, share)
    }

    pub fn max(&self) -> Duration {
        self.0.iter().copied().max().unwrap_or_default()
    }

    pub fn summary(&self) -> Summary {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let millis = |share| percentile(&sorted, share).as_secs_f64() * 1e3;
        Summary {
            count: sorted.len(),
            p50: millis(0.5),
            p99: millis(0.99),
            p999: millis(0.999),
            max: millis(1.0),
        }
    }
}

impl FromIterator<Duration> for Series {
    fn from_iter<I: IntoIterator<Item = Duration>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1).min(last)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_exact() {
        let series: Series = (1..=1000).map(Duration::from_millis).collect();
        let summary = series.summary();
        assert_eq!(
            (summary.p50, summary.p99, summary.p999, summary.max),
            (500.0, 990.0, 999.0, 1000.0)
        );
        assert_eq!(Series::default().summary(), Summary::default());
    }
}
