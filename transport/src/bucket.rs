//! Rate limits.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::time::Instant;

/// At most `rate` a second, a second's worth at once.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    rate: f64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    pub(crate) fn new(rate: u32, now: Instant) -> Self {
        Self { rate: f64::from(rate), tokens: f64::from(rate), filled: now }
    }

    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + passed * self.rate).min(self.rate);
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

/// A bucket for each source address. Addresses share slots by a secret hash, so that memory does not grow with the
/// number of addresses that somebody invents, and nobody can choose whose slot he empties.
#[derive(Debug)]
pub(crate) struct Sources {
    secret: [u8; 16],
    slots: Vec<Bucket>,
}

impl Sources {
    const SLOTS: usize = 4096;

    pub(crate) fn new(rate: u32, secret: [u8; 16], now: Instant) -> Self {
        Self { secret, slots: vec![Bucket::new(rate, now); Self::SLOTS] }
    }

    pub(crate) fn take(&mut self, now: Instant, source: IpAddr) -> bool {
        let mut hasher = DefaultHasher::new();
        (self.secret, site(source)).hash(&mut hasher);
        let slot = hasher.finish() as usize % self.slots.len();
        self.slots[slot].take(now)
    }
}

/// Whoever has an IPv6 address has 2^64 of them.
pub(crate) fn site(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
    }
}
