//! What strangers can make an endpoint do before they have proven who they are.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// Handshakes under way: so many at a time, and so many begun a second.
///
/// When there are too many, the oldest makes room: an honest one takes milliseconds, so who holds handshakes open
/// holds up nobody.
#[derive(Debug)]
pub(crate) struct Handshakes {
    at_a_time: usize,
    per_second: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    running: BTreeMap<u64, oneshot::Sender<()>>,
    /// How many may begin now, and when that was true.
    tokens: f64,
    since: Option<Instant>,
}

/// A handshake that may go on.
#[derive(Debug)]
pub(crate) struct Started<'a> {
    all: &'a Handshakes,
    serial: u64,
    /// Resolves when it has to make room.
    pub(crate) evicted: oneshot::Receiver<()>,
}

impl Handshakes {
    pub(crate) fn new(at_a_time: usize, per_second: u32) -> Self {
        Self { at_a_time: at_a_time.max(1), per_second, state: Mutex::default() }
    }

    /// `None`: too many in this second.
    pub(crate) fn begin(&self, now: Instant) -> Option<Started<'_>> {
        let mut state = self.lock();
        let rate = f64::from(self.per_second);
        let earned = state
            .since
            .map_or(rate, |since| now.saturating_duration_since(since).as_secs_f64() * rate);
        state.tokens = (state.tokens + earned).min(rate);
        state.since = Some(now);
        if state.tokens < 1.0 {
            return None;
        }
        state.tokens -= 1.0;
        while state.running.len() >= self.at_a_time {
            state.running.pop_first();
        }
        let serial = state.next;
        state.next += 1;
        let (evict, evicted) = oneshot::channel();
        state.running.insert(serial, evict);
        Some(Started { all: self, serial, evicted })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        self.all.lock().running.remove(&self.serial);
    }
}

/// Lets one line a second into the log, so that strangers cannot fill it.
#[derive(Debug, Default)]
pub(crate) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    pub(crate) fn allows(&self, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let allowed =
            last.is_none_or(|last| now.saturating_duration_since(last) >= Duration::from_secs(1));
        if allowed {
            *last = Some(now);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any time will do as the first")]
    fn the_oldest_makes_room_and_the_rate_holds() {
        let now = Instant::now();
        let handshakes = Handshakes::new(2, 3);
        let mut first = handshakes.begin(now).unwrap();
        let mut second = handshakes.begin(now).unwrap();
        assert!(first.evicted.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        let third = handshakes.begin(now).unwrap();
        assert!(first.evicted.try_recv() == Err(oneshot::error::TryRecvError::Closed));
        assert!(second.evicted.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        assert!(handshakes.begin(now).is_none(), "three a second");
        drop((second, third));
        assert!(handshakes.begin(now + Duration::from_millis(400)).is_some());
        assert!(handshakes.begin(now + Duration::from_millis(400)).is_none());
        assert!(handshakes.lock().running.is_empty(), "whoever ends is forgotten");
        let seldom = Seldom::default();
        assert!(
            seldom.allows(now)
                && !seldom.allows(now)
                && seldom.allows(now + Duration::from_secs(1))
        );
    }
}
