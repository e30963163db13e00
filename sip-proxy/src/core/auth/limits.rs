//! Who may still try passwords.
//!
//! Wrong passwords are counted by source and by user. A user who was let in from a source before (*at home*), which may
//! be shared with others, is counted there alone: neither guesses from elsewhere nor those of neighbours for other
//! users keep this phone from its registration.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// How often a full table is searched for what can be forgotten.
const PURGE_EVERY: Duration = Duration::from_secs(1);

/// How many wrong passwords are borne.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From one address (IPv6: one network of 64 bits) within the window.
    pub per_source: u32,
    /// For one user within the window.
    pub per_user: u32,
    /// Counting begins anew this long after the first wrong password.
    pub window: Duration,
    /// Sources, and users, that are counted at a time. More are not counted.
    pub tracked: usize,
    /// Nonces in use that are remembered, and users whose last source is.
    pub remembered: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            per_source: 30,
            per_user: 10,
            window: Duration::from_secs(300),
            tracked: 100_000,
            remembered: 500_000,
        }
    }
}

/// What counts as one source: whoever has an IPv6 address has a whole network of them.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !(u128::MAX >> 64)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Wrong passwords.
#[derive(Debug)]
pub(super) struct Guesses {
    sources: Counts<IpAddr>,
    users: Counts<u64>,
    /// Of users at home.
    homes: Counts<(u64, IpAddr)>,
}

impl Guesses {
    pub(super) fn new(limits: Limits) -> Self {
        let Limits { per_source, per_user, window, tracked, .. } = limits;
        Self {
            sources: Counts::new(per_source, window, tracked),
            users: Counts::new(per_user, window, tracked),
            homes: Counts::new(per_user, window, tracked),
        }
    }

    /// How long this user must wait at this source, if there is anything to wait for.
    pub(super) fn blocked(
        &self,
        now: Instant,
        user: u64,
        source: IpAddr,
        at_home: bool,
    ) -> Option<Duration> {
        if at_home {
            return self.homes.blocked(now, &(user, source));
        }
        self.sources.blocked(now, &source).max(self.users.blocked(now, &user))
    }

    pub(super) fn wrong(&mut self, now: Instant, user: u64, source: IpAddr, at_home: bool) {
        if at_home {
            self.homes.add(now, (user, source));
        } else {
            self.sources.add(now, source);
            self.users.add(now, user);
        }
    }
}

#[derive(Debug)]
struct Counts<K> {
    limit: u32,
    window: Duration,
    max: usize,
    /// How many, and when counting begins anew.
    counts: HashMap<K, (u32, Instant)>,
    purged: Option<Instant>,
}

impl<K: Eq + Hash> Counts<K> {
    fn new(limit: u32, window: Duration, max: usize) -> Self {
        Self { limit, window, max, counts: HashMap::new(), purged: None }
    }

    fn blocked(&self, now: Instant, key: &K) -> Option<Duration> {
        let (count, end) = self.counts.get(key)?;
        (*count >= self.limit && *end > now).then(|| *end - now)
    }

    fn add(&mut self, now: Instant, key: K) {
        if self.counts.len() >= self.max
            && !self.counts.contains_key(&key)
            && self.purged.is_none_or(|purged| now >= purged + PURGE_EVERY)
        {
            self.purged = Some(now);
            self.counts.retain(|_, (_, end)| *end > now);
        }
        let is_full = self.counts.len() >= self.max;
        match self.counts.get_mut(&key) {
            Some((count, end)) if *end > now => *count = count.saturating_add(1),
            Some(ended) => *ended = (1, now + self.window),
            // What is counted already stays: nobody gets rid of a count by making many others.
            None if is_full => {}
            None => _ = self.counts.insert(key, (1, now + self.window)),
        }
    }
}

/// A table that forgets what was not asked for lately once it is full; it holds at least half of `max` entries.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    half: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash, V> Recent<K, V> {
    pub(super) fn new(max: usize) -> Self {
        Self { half: max.div_ceil(2), young: HashMap::new(), old: HashMap::new() }
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_bounded_and_keep_what_they_count() {
        #[expect(clippy::disallowed_methods, reason = "the start of virtual time")]
        let now = Instant::now();
        let mut counts = Counts::new(2, Duration::from_secs(60), 3);
        for key in [1, 1, 2, 3, 4, 5, 4, 4] {
            counts.add(now, key);
        }
        assert_eq!(counts.counts.len(), 3);
        assert_eq!(counts.blocked(now, &1), Some(Duration::from_secs(60)));
        assert_eq!((counts.blocked(now, &2), counts.blocked(now, &4)), (None, None));
        let later = now + Duration::from_secs(60);
        assert_eq!(counts.blocked(later, &1), None);
        counts.add(later, 4);
        counts.add(later, 4);
        assert_eq!((counts.counts.len(), counts.blocked(later, &4).is_some()), (1, true));

        let mut recent = Recent::new(4);
        (0..100).for_each(|key| {
            recent.insert(0, "asked for");
            recent.insert(key, "other");
        });
        assert!(recent.young.len() + recent.old.len() <= 4);
        assert!(recent.get(&0).is_some() && recent.get(&99).is_some() && recent.get(&50).is_none());
    }

    #[test]
    fn an_ipv6_network_is_one_source() {
        let source = |text: &str| network(text.parse().expect(text));
        assert_eq!(source("2001:db8:0:1::1"), source("2001:db8:0:1:ffff::9"));
        assert_ne!(source("2001:db8:0:1::1"), source("2001:db8:0:2::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    }
}
