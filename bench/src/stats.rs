//! Percentiles: exact ones of small series, whose values are few enough to be kept, and those of millions of values.

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

/// A series too long to be kept: values are counted in classes, each a 64th wide.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// By class; as long as the highest one needs.
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

/// Classes of each power of two.
const CLASSES: u64 = 64;

impl Histogram {
    /// Takes a value in nanoseconds.
    pub fn add(&mut self, nanoseconds: u64) {
        let class = class(nanoseconds);
        if class >= self.counts.len() {
            self.counts.resize(class + 1, 0);
        }
        self.counts[class] += 1;
        self.total += 1;
        self.max = self.max.max(nanoseconds);
    }

    /// Takes everything that another one has.
    pub fn merge(&mut self, other: &Self) {
        if other.counts.len() > self.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (own, more) in self.counts.iter_mut().zip(&other.counts) {
            *own += more;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The value below which `share` (0 to 1) of them lies, at most a 64th too high; zero if there is none.
    pub fn percentile(&self, share: f64) -> Duration {
        let rank = ((share * self.total as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (class, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(highest(class).min(self.max));
            }
        }
        Duration::ZERO
    }

    pub fn summary(&self) -> Summary {
        let millis = |share| self.percentile(share).as_secs_f64() * 1e3;
        Summary {
            count: self.total as usize,
            p50: millis(0.5),
            p99: millis(0.99),
            p999: millis(0.999),
            max: Duration::from_nanos(self.max).as_secs_f64() * 1e3,
        }
    }
}

/// Values below [`CLASSES`] have a class each; above, each power of two has that many.
fn class(value: u64) -> usize {
    if value < CLASSES {
        return value as usize;
    }
    let shift = value.ilog2() - CLASSES.ilog2();
    (u64::from(shift + 1) * CLASSES + (value >> shift) - CLASSES) as usize
}

/// The highest value of a class.
fn highest(class: usize) -> u64 {
    let class = class as u64;
    if class < CLASSES {
        return class;
    }
    let shift = class / CLASSES - 1;
    ((class % CLASSES + CLASSES + 1) << shift) - 1
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

    #[test]
    fn a_histogram_is_as_good_as_the_series() {
        let mut rng = fastrand::Rng::with_seed(1);
        // Of all magnitudes from nanoseconds to seconds.
        let mut value = || rng.u64(..) >> rng.u32(32..64);
        let values: Vec<u64> = (0..10_000).map(|_| value()).collect();
        let series: Series = values.iter().copied().map(Duration::from_nanos).collect();
        let (mut histogram, mut half) = (Histogram::default(), Histogram::default());
        assert_eq!(histogram.percentile(0.5), Duration::ZERO);
        values[..5000].iter().for_each(|value| histogram.add(*value));
        values[5000..].iter().for_each(|value| half.add(*value));
        histogram.merge(&half);
        for share in [0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let (exact, found) = (series.percentile(share), histogram.percentile(share));
            assert!(exact <= found && found <= exact + exact / 64, "{share}: {exact:?}, {found:?}");
        }
        assert_eq!(histogram.summary().max, series.summary().max);
        assert_eq!(histogram.count(), 10_000);
    }

    #[test]
    fn classes_follow_each_other() {
        let mut before = 0;
        for value in (0..100_000).chain((40..64).map(|bit| (1u64 << bit) - 1)) {
            assert!(class(value) >= before, "{value}");
            before = class(value);
            assert!(highest(before) >= value && class(highest(before)) == before, "{value}");
            assert_eq!(class(highest(before) + 1), before + 1);
        }
    }
}
