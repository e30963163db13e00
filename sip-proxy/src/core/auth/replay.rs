//! Which nonces were used, and how often they say so (`nc`), at this proxy: what comes a second time in another request
//! was overheard.
//!
//! Memory is bounded. When it is full before its time, all nonces from before what it still knows have ended: their
//! owners are asked once more, and nothing can be replayed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct Replays {
    /// How long a nonce can be used.
    memory: Duration,
    half: usize,
    /// Nonce with count, and the request that they came with.
    young: HashMap<u64, u64>,
    old: HashMap<u64, u64>,
    /// When `young` was empty, by both clocks.
    began: (Instant, u64),
    floor_ms: u64,
}

impl Replays {
    /// Remembers everything for `memory`, at least; of more than `max` uses only the latest.
    pub(super) fn new(now: Instant, memory: Duration, max: usize) -> Self {
        Self {
            memory,
            half: max.div_ceil(2),
            young: HashMap::new(),
            old: HashMap::new(),
            began: (now, 0),
            floor_ms: 0,
        }
    }

    /// Nonces from before this moment are to be taken for ended.
    pub(super) fn remembers_since(&self, wall_ms: u64) -> u64 {
        // A clock that was ahead for a while must not end all nonces until then.
        if self.floor_ms > wall_ms { 0 } else { self.floor_ms }
    }

    /// Notes the use of a nonce: `true` if it is the first one, or the same request once more.
    pub(super) fn is_first(&mut self, now: Instant, wall_ms: u64, key: u64, request: u64) -> bool {
        let age = now.saturating_duration_since(self.began.0);
        if age >= self.memory {
            self.old = std::mem::take(&mut self.young);
            if age >= self.memory * 2 {
                self.old.clear();
            }
            self.began = (now, wall_ms);
        }
        if let Some(former) = self.young.get(&key).or_else(|| self.old.get(&key)) {
            return *former == request;
        }
        if self.young.len() >= self.half {
            if !self.old.is_empty() {
                self.floor_ms = self.began.1 + 1;
            }
            self.old = std::mem::take(&mut self.young);
            self.began = (now, wall_ms);
        }
        self.young.insert(key, request);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(300);

    #[test]
    fn uses_are_remembered_as_long_as_they_matter() {
        #[expect(clippy::disallowed_methods, reason = "the start of virtual time")]
        let start = Instant::now();
        let mut replays = Replays::new(start, LIFE, 1_000);
        for second in 0..2_000_u64 {
            let now = start + Duration::from_secs(second);
            assert!(replays.is_first(now, second * 1_000, second, 1), "{second}");
            assert!(replays.is_first(now, second * 1_000, second, 1), "the same once more");
            let used = second.saturating_sub(299);
            assert!(!replays.is_first(now, second * 1_000, used, 2), "{used} at {second}");
        }
        assert!(replays.young.len() + replays.old.len() <= 600);
        assert_eq!(replays.remembers_since(2_000_000), 0, "there was room for all");
    }

    #[test]
    fn what_is_forgotten_early_has_ended() {
        #[expect(clippy::disallowed_methods, reason = "the start of virtual time")]
        let now = Instant::now();
        let mut replays = Replays::new(now, LIFE, 100);
        for use_ in 0..1_000_u64 {
            // Used when it is issued.
            assert!(replays.is_first(now, 1_000 + use_, use_, 1));
            assert!(replays.young.len() + replays.old.len() <= 100);
            let floor = replays.remembers_since(1_000 + use_);
            let kept = (0..=use_).filter(|use_| 1_000 + use_ >= floor).count();
            assert!(kept >= 50.min(use_ as usize), "{kept} at {use_}");
            for former in (0..=use_).filter(|former| 1_000 + former >= floor) {
                assert!(!replays.is_first(now, 1_000 + use_, former, 2), "{former} at {use_}");
            }
        }
        assert_eq!(replays.remembers_since(500), 0, "the clock was set back");
    }
}
