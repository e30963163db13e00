//! Which nonces were used, and how often they say so (`nc`), at this proxy: what comes a second time in another request
//! was overheard.
//!
//! Memory is bounded. When it is full before its time, all nonces from before what it still knows have ended: their
//! owners are asked once more, and nothing can be replayed. Nonces of a proxy whose clock is ahead of ours were used
//! before the time that they bear, so those are kept until that has come.

use std::collections::HashMap;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct Replays {
    /// How long a nonce can be used.
    memory: Duration,
    half: usize,
    /// By nonce and count.
    young: HashMap<u64, Use>,
    old: HashMap<u64, Use>,
    /// When `young` was empty, by both clocks.
    began: (Instant, u64),
    floor_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Use {
    request: u64,
    /// When the nonce was issued, as it says.
    issued_ms: u64,
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

    /// Notes the use of a nonce issued then: `true` if it is the first one, or the same request once more.
    pub(super) fn is_first(
        &mut self,
        now: Instant,
        wall_ms: u64,
        issued_ms: u64,
        key: u64,
        request: u64,
    ) -> bool {
        let age = now.saturating_duration_since(self.began.0);
        if age >= self.memory {
            self.old = std::mem::take(&mut self.young);
            if age >= self.memory * 2 {
                self.old.clear();
            }
            self.began = (now, wall_ms);
        }
        if let Some(former) = self.young.get(&key).or_else(|| self.old.get(&key)) {
            return former.request == request;
        }
        if self.young.len() >= self.half {
            let forgotten = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            if !forgotten.is_empty() {
                self.floor_ms = self.began.1 + 1;
            }
            // Proxies differ by seconds, so these are few; if not, some of them may come again rather than that all
            // phones are asked anew until our clock is where the others are.
            let ahead = forgotten.into_iter().filter(|(_, used)| used.issued_ms >= self.floor_ms);
            self.young.extend(ahead.take(self.half / 2));
            self.began = (now, wall_ms);
        }
        self.young.insert(key, Use { request, issued_ms });
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
            let mut is_first =
                |key, request| replays.is_first(now, second * 1_000, key * 1_000, key, request);
            assert!(is_first(second, 1), "{second}");
            assert!(is_first(second, 1), "the same once more");
            let used = second.saturating_sub(299);
            assert!(!is_first(used, 2), "{used} at {second}");
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
            assert!(replays.is_first(now, 1_000 + use_, 1_000 + use_, use_, 1));
            assert!(replays.young.len() + replays.old.len() <= 100);
            let floor = replays.remembers_since(1_000 + use_);
            let kept = (0..=use_).filter(|use_| 1_000 + use_ >= floor).count();
            assert!(kept >= 50.min(use_ as usize), "{kept} at {use_}");
            for former in (0..=use_).filter(|former| 1_000 + former >= floor) {
                let wall_ms = 1_000 + use_;
                let is_first = replays.is_first(now, wall_ms, 1_000 + former, former, 2);
                assert!(!is_first, "{former} at {use_}");
            }
        }
        assert_eq!(replays.remembers_since(500), 0, "the clock was set back");
    }

    #[test]
    fn nonces_of_a_clock_that_is_ahead_are_kept_until_they_have_ended() {
        #[expect(clippy::disallowed_methods, reason = "the start of virtual time")]
        let now = Instant::now();
        const AHEAD_MS: u64 = 200;
        let mut replays = Replays::new(now, LIFE, 100);
        // Every tenth one was issued elsewhere.
        let issued_ms = |use_| 1_000 + use_ + if use_ % 10 == 0 { AHEAD_MS } else { 0 };
        for use_ in 0..1_000_u64 {
            let wall_ms = 1_000 + use_;
            assert!(replays.is_first(now, wall_ms, issued_ms(use_), use_, 1));
            assert!(replays.young.len() + replays.old.len() <= 100);
            let floor = replays.remembers_since(wall_ms);
            assert!(floor <= wall_ms, "what is issued now can be used");
            for former in (0..=use_).filter(|former| issued_ms(*former) >= floor) {
                let is_first = replays.is_first(now, wall_ms, issued_ms(former), former, 2);
                assert!(!is_first, "{former} at {use_}");
            }
        }
    }
}
