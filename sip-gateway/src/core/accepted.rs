//! Core connections that others opened. Whoever opened one pings it, so that a silent one has nobody at its other end:
//! a process that stands still or a machine that is gone, neither of which resets anything.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dialtone_sip_pool::hops::ConnId;

/// Pings come every second, and much more often while an answer is awaited.
const SILENT: Duration = Duration::from_secs(5);

/// How often connections are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// A look that comes later than this says that we stood still ourselves: nothing is concluded.
const LATE: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub(crate) struct Accepted {
    heard: BTreeMap<ConnId, Instant>,
    look_at: Option<Instant>,
}

impl Accepted {
    pub(crate) fn opened(&mut self, now: Instant, conn: ConnId) {
        self.heard.insert(conn, now);
        self.look_at.get_or_insert(now + LOOK);
    }

    /// Whether the connection was there.
    pub(crate) fn closed(&mut self, conn: ConnId) -> bool {
        self.heard.remove(&conn).is_some()
    }

    pub(crate) fn contains(&self, conn: ConnId) -> bool {
        self.heard.contains_key(&conn)
    }

    pub(crate) fn hear(&mut self, now: Instant, conn: ConnId) {
        if let Some(heard) = self.heard.get_mut(&conn) {
            *heard = now;
        }
    }

    pub(crate) fn take_all(&mut self) -> Vec<ConnId> {
        self.look_at = None;
        std::mem::take(&mut self.heard).into_keys().collect()
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.look_at
    }

    /// The connections that have been silent for too long; they are forgotten.
    pub(crate) fn silent(&mut self, now: Instant) -> Vec<ConnId> {
        let Some(look_at) = self.look_at.filter(|look_at| *look_at <= now) else {
            return Vec::new();
        };
        let mut silent = Vec::new();
        if now.saturating_duration_since(look_at) > LATE {
            self.heard.values_mut().for_each(|heard| *heard = now);
        } else {
            self.heard.retain(|conn, heard| {
                let stays = now.saturating_duration_since(*heard) < SILENT;
                if !stays {
                    silent.push(*conn);
                }
                stays
            });
        }
        self.look_at = (!self.heard.is_empty()).then(|| now + LOOK);
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test starts its virtual clock somewhere")]
    fn the_silent_go_unless_we_stood_still() {
        let now = Instant::now();
        let second = |n: u32| now + LOOK * n;
        let mut accepted = Accepted::default();
        assert_eq!(accepted.next_deadline(), None);
        accepted.opened(now, ConnId(1));
        accepted.opened(now, ConnId(2));
        for n in 1..5 {
            accepted.hear(second(n), ConnId(2));
            assert_eq!(accepted.next_deadline(), Some(second(n)));
            assert!(accepted.silent(second(n)).is_empty());
        }
        assert_eq!(accepted.silent(second(5)), [ConnId(1)]);
        assert!(!accepted.contains(ConnId(1)) && accepted.contains(ConnId(2)));
        assert!(accepted.silent(second(60)).is_empty(), "our own silence");
        assert!(accepted.closed(ConnId(2)));
        assert!(accepted.silent(second(61)).is_empty());
        assert_eq!(accepted.next_deadline(), None);
    }
}
