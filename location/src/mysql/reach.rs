//! Whether any node can be reached.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::lock;

/// What all tasks of a store have seen together. A node that answers counts, whatever it says, unless it says that it
/// is not of use: so who is only refused goes on asking.
#[derive(Debug)]
pub(crate) struct Reach {
    /// For how long a cluster that goes on may be away.
    stall: Duration,
    /// Since when no node has answered.
    lost: Mutex<Option<Instant>>,
}

impl Reach {
    pub(crate) fn new(stall: Duration) -> Self {
        Self { stall, lost: Mutex::default() }
    }

    /// A node has answered.
    pub(crate) fn found(&self) {
        *lock(&self.lost) = None;
    }

    /// All nodes were tried, and none has answered.
    pub(crate) fn missed(&self, now: Instant) {
        lock(&self.lost).get_or_insert(now);
    }

    /// Whether waiting is of no use: a cluster that has only lost a node would be back. An attempt that has failed goes
    /// before it, so a process that stood still itself does not take all nodes for lost.
    pub(crate) fn is_hopeless(&self, now: Instant) -> bool {
        lock(&self.lost).is_some_and(|since| now.saturating_duration_since(since) >= self.stall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hope_lasts_as_long_as_a_stall_and_returns_with_an_answer() {
        #[expect(clippy::disallowed_methods, reason = "the start of virtual time")]
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let reach = Reach::new(Duration::from_millis(3_500));
        assert!(!reach.is_hopeless(at(100_000)), "nobody has tried");
        reach.missed(at(100_000));
        reach.missed(at(102_500));
        assert!(!reach.is_hopeless(at(103_499)));
        assert!(reach.is_hopeless(at(103_500)));
        reach.missed(at(103_600));
        assert!(reach.is_hopeless(at(103_700)), "trying does not help");
        reach.found();
        assert!(!reach.is_hopeless(at(103_701)));
        reach.missed(at(103_800));
        assert!(!reach.is_hopeless(at(107_200)), "one more stall is waited for");
    }
}
