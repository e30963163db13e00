//! The registrars that a client knows: configured ones, and announced ones until they fall silent.

use std::collections::BTreeMap;
use std::time::Instant;

use dialtone_transport::model::Remote;

/// Announced addresses are kept up to here: announcements are not authenticated (RFC 5355 section 2.1).
const MAX_ANNOUNCED: usize = 64;

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// Announced addresses: when T7-ENRPoutdate expires. Configured ones stay.
    expires: Option<Instant>,
    last_tried: Option<Instant>,
    /// A registrar that hangs up at once is left alone until then, or two of them would keep us spinning.
    not_before: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct AddressBook {
    entries: BTreeMap<Remote, Entry>,
}

impl AddressBook {
    pub(super) fn new(configured: &[Remote]) -> Self {
        Self { entries: configured.iter().map(|remote| (*remote, Entry::default())).collect() }
    }

    /// RFC 5352 section 3.6: new addresses are inserted, T7 of known ones is restarted. `true` when it is new.
    pub(super) fn announce(&mut self, remote: Remote, expires: Instant) -> bool {
        let announced = self.entries.values().filter(|entry| entry.expires.is_some()).count();
        match self.entries.get_mut(&remote) {
            Some(entry) => {
                if entry.expires.is_some() {
                    entry.expires = Some(expires);
                }
                false
            }
            None if announced >= MAX_ANNOUNCED => false,
            None => {
                self.entries.insert(remote, Entry { expires: Some(expires), ..Entry::default() });
                true
            }
        }
    }

    pub(super) fn expire(&mut self, now: Instant) {
        self.entries.retain(|_, entry| entry.expires.is_none_or(|at| at > now));
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.entries.values().filter_map(|entry| entry.expires).min()
    }

    pub(super) fn mark_tried(&mut self, remote: Remote, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&remote) {
            entry.last_tried = Some(now);
        }
    }

    pub(super) fn rest(&mut self, remote: Remote, until: Instant) {
        if let Some(entry) = self.entries.get_mut(&remote) {
            entry.not_before = Some(until);
        }
    }

    /// The addresses in the order to try: untried ones first, then the one tried longest ago; ties at random. Configured
    /// and announced ones take turns, so that a flood of made-up announcements delays nobody who was told where to go.
    pub(super) fn order(&self, now: Instant, rng: &mut fastrand::Rng) -> Vec<Remote> {
        let usable = |entry: &Entry| entry.not_before.is_none_or(|at| at <= now);
        let mut order: Vec<_> = self.entries.iter().filter(|(_, entry)| usable(entry)).collect();
        rng.shuffle(&mut order);
        order.sort_by_key(|(_, entry)| entry.last_tried);
        let (mut announced, mut configured) = (0, 0);
        let turn = |(remote, entry): (&Remote, &Entry)| {
            let count = if entry.expires.is_some() { &mut announced } else { &mut configured };
            *count += 1;
            (*count, entry.expires.is_some(), *remote)
        };
        let mut turns: Vec<_> = order.into_iter().map(turn).collect();
        turns.sort_by_key(|(count, is_announced, _)| (*count, *is_announced));
        turns.into_iter().map(|(.., remote)| remote).collect()
    }
}
