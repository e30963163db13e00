//! What strangers can make an endpoint do before they have proven who they are.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::bucket::{Bucket, Sources};
use crate::entropy::Entropy;

/// Handshakes under way: so many at a time, and so many begun a second, in all and by one address.
///
/// When there are too many, the oldest makes room: an honest one takes milliseconds, so who holds handshakes open
/// holds up nobody.
#[derive(Debug)]
pub(crate) struct Handshakes {
    at_a_time: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: u64,
    running: BTreeMap<u64, oneshot::Sender<()>>,
    all: Bucket,
    sources: Sources,
}

/// How many handshakes there may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) at_a_time: usize,
    pub(crate) per_second: u32,
    pub(crate) per_address: u32,
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
    /// # Errors
    /// No randomness from the operating system.
    pub(crate) fn new(limits: Limits, now: Instant) -> Result<Self, ring::error::Unspecified> {
        let secret = Entropy::system().bytes()?;
        let state = State {
            next: 0,
            running: BTreeMap::new(),
            all: Bucket::new(limits.per_second, now),
            sources: Sources::new(limits.per_address, secret, now),
        };
        Ok(Self { at_a_time: limits.at_a_time.max(1), state: Mutex::new(state) })
    }

    /// `None`: too many in this second. What one address has too many of takes nothing away from the others.
    pub(crate) fn begin(&self, now: Instant, source: IpAddr) -> Option<Started<'_>> {
        let mut state = self.lock();
        if !state.sources.take(now, source) || !state.all.take(now) {
            return None;
        }
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

    fn handshakes(at_a_time: usize, per_second: u32, per_address: u32, now: Instant) -> Handshakes {
        let limits = Limits { at_a_time, per_second, per_address };
        Handshakes::new(limits, now).unwrap()
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any time will do as the first")]
    fn the_oldest_makes_room_and_the_rate_holds() {
        let now = Instant::now();
        let one = IpAddr::from([192, 0, 2, 1]);
        let handshakes = handshakes(2, 3, 100, now);
        let mut first = handshakes.begin(now, one).unwrap();
        let mut second = handshakes.begin(now, one).unwrap();
        assert!(first.evicted.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        let third = handshakes.begin(now, one).unwrap();
        assert!(first.evicted.try_recv() == Err(oneshot::error::TryRecvError::Closed));
        assert!(second.evicted.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        assert!(handshakes.begin(now, one).is_none(), "three a second");
        drop((second, third));
        assert!(handshakes.begin(now + Duration::from_millis(400), one).is_some());
        assert!(handshakes.begin(now + Duration::from_millis(400), one).is_none());
        assert!(handshakes.lock().running.is_empty(), "whoever ends is forgotten");
        let seldom = Seldom::default();
        assert!(
            seldom.allows(now)
                && !seldom.allows(now)
                && seldom.allows(now + Duration::from_secs(1))
        );
    }

    /// A flood from one address, which is one network in IPv6, leaves the others their handshakes.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "any time will do as the first")]
    fn one_address_does_not_take_all_handshakes() {
        let now = Instant::now();
        let handshakes = handshakes(100, 20, 5, now);
        let neighbours = |n: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, n]);
        let begun = (0..1000).filter(|n| handshakes.begin(now, neighbours(*n)).is_some()).count();
        assert_eq!(begun, 5);
        assert!(handshakes.begin(now, IpAddr::from([192, 0, 2, 1])).is_some());
    }
}
