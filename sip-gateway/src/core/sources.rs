//! How many messages each IP address of phones has sent within the present second.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// More addresses than this within one second are counted together.
const ADDRESSES: usize = 65_536;

#[derive(Debug)]
pub(crate) struct Sources {
    per_second: u32,
    since: Option<Instant>,
    counts: HashMap<IpAddr, u32>,
    others: u32,
}

impl Sources {
    pub(crate) fn new(per_second: u32) -> Self {
        Self { per_second, since: None, counts: HashMap::new(), others: 0 }
    }

    /// Counts a message; whether it is within bounds.
    pub(crate) fn admit(&mut self, now: Instant, ip: IpAddr) -> bool {
        if self.per_second == 0 {
            return true;
        }
        if self
            .since
            .is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1))
        {
            self.since = Some(now);
            self.counts.clear();
            self.others = 0;
        }
        let room = self.counts.len() < ADDRESSES;
        let count = match self.counts.get_mut(&ip) {
            Some(count) => count,
            None if room => self.counts.entry(ip).or_insert(0),
            None => &mut self.others,
        };
        *count = count.saturating_add(1);
        *count <= self.per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test starts its virtual clock somewhere")]
    fn each_address_has_its_own_share_of_each_second() {
        let (now, mut sources) = (Instant::now(), Sources::new(2));
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        assert_eq!(
            [one, one, one, other].map(|ip| sources.admit(now, ip)),
            [true, true, false, true]
        );
        assert!(sources.admit(now + Duration::from_secs(1), one));
    }
}
