//! Compact records of the dialogs that pass a gateway.
//!
//! Passive for now: they are filled from what passes and change nothing. Requests of our own inside a dialog (moving
//! media or a conference) will need the targets, the route sets and an offset to CSeq.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A dialog that nothing was heard of for so long is forgotten: 12 h.
pub const FORGOTTEN: Duration = Duration::from_secs(12 * 3600);

/// A dialog without its first 2xx answer is kept as long as an INVITE may ring: 5 min.
pub const EARLY: Duration = Duration::from_secs(300);

/// RFC 3261 section 12: what identifies a dialog. The tags are in the order (phone of this gateway, other side).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DialogId {
    /// Call-ID.
    pub call_id: Box<str>,
    /// Tag of the phone that this gateway holds.
    pub local: Box<str>,
    /// Tag of the other side.
    pub remote: Box<str>,
}

/// One of the two sides of a dialog.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// Contact URI.
    pub target: Box<str>,
    /// CSeq of the latest request that came from this side.
    pub cseq: u32,
    /// What is added to CSeq of its requests; 0 while the gateway sends none of its own.
    pub offset: u32,
}

/// The record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The phone of this gateway.
    pub local: Side,
    /// The other side.
    pub remote: Side,
    /// Route set beyond this gateway, as in a Route header.
    pub routes: Box<str>,
    /// Whether a 2xx answer has passed.
    pub confirmed: bool,
}

/// What has been seen of a dialog; `None` leaves the record as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen<'a> {
    /// Contact of the phone of this gateway.
    pub local_target: Option<&'a str>,
    /// Contact of the other side.
    pub remote_target: Option<&'a str>,
    /// CSeq of a request from the phone of this gateway.
    pub local_cseq: Option<u32>,
    /// CSeq of a request from the other side.
    pub remote_cseq: Option<u32>,
    /// Route set beyond this gateway.
    pub routes: Option<&'a str>,
    /// A 2xx answer has passed.
    pub confirmed: bool,
}

/// The records of a gateway: at most `capacity`, the oldest deadline goes first.
#[derive(Debug)]
pub struct Dialogs {
    records: BTreeMap<DialogId, (Instant, Record)>,
    deadlines: BTreeSet<(Instant, DialogId)>,
    capacity: usize,
}

impl Dialogs {
    /// No records yet.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { records: BTreeMap::new(), deadlines: BTreeSet::new(), capacity }
    }

    /// Something of the dialog has passed.
    pub fn seen(&mut self, now: Instant, id: &DialogId, seen: Seen<'_>) {
        let (deadline, mut record) = self.records.remove(id).unwrap_or_else(|| {
            let record = Record {
                local: Side::default(),
                remote: Side::default(),
                routes: Box::default(),
                confirmed: false,
            };
            (now, record)
        });
        self.deadlines.remove(&(deadline, id.clone()));
        let set = |field: &mut Box<str>, value: Option<&str>| {
            if let Some(value) = value.filter(|value| **field != **value) {
                *field = value.into();
            }
        };
        set(&mut record.local.target, seen.local_target);
        set(&mut record.remote.target, seen.remote_target);
        set(&mut record.routes, seen.routes);
        record.local.cseq = seen.local_cseq.unwrap_or(record.local.cseq);
        record.remote.cseq = seen.remote_cseq.unwrap_or(record.remote.cseq);
        record.confirmed |= seen.confirmed;
        let deadline = now + if record.confirmed { FORGOTTEN } else { EARLY };
        self.records.insert(id.clone(), (deadline, record));
        self.deadlines.insert((deadline, id.clone()));
        if self.records.len() > self.capacity
            && let Some((_, oldest)) = self.deadlines.pop_first()
        {
            self.records.remove(&oldest);
        }
    }

    /// A 2xx answer to BYE has passed.
    pub fn ended(&mut self, id: &DialogId) {
        if let Some((deadline, _)) = self.records.remove(id) {
            self.deadlines.remove(&(deadline, id.clone()));
        }
    }

    /// The record of a dialog.
    #[must_use]
    pub fn get(&self, id: &DialogId) -> Option<&Record> {
        self.records.get(id).map(|(_, record)| record)
    }

    /// How many dialogs are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether none is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// When to call [`Dialogs::handle_timeout`].
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Forgets what is too old.
    pub fn handle_timeout(&mut self, now: Instant) {
        while self.deadlines.first().is_some_and(|(deadline, _)| *deadline <= now) {
            if let Some((_, id)) = self.deadlines.pop_first() {
                self.records.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test starts its virtual clock somewhere")]
    fn records_are_bounded_and_expire() {
        let now = Instant::now();
        let mut dialogs = Dialogs::new(2);
        let id = |n: u32| DialogId {
            call_id: format!("{n}").into(),
            local: "a".into(),
            remote: "b".into(),
        };
        dialogs.seen(now, &id(1), Seen { local_cseq: Some(1), ..Seen::default() });
        dialogs.seen(
            now,
            &id(1),
            Seen { confirmed: true, remote_target: Some("sip:b"), ..Seen::default() },
        );
        let record = dialogs.get(&id(1)).unwrap();
        assert_eq!(
            (record.local.cseq, &*record.remote.target, record.confirmed),
            (1, "sip:b", true)
        );
        dialogs.seen(now, &id(2), Seen::default());
        dialogs.seen(now + EARLY / 2, &id(3), Seen::default());
        assert_eq!((dialogs.len(), dialogs.get(&id(2))), (2, None));
        dialogs.handle_timeout(now + EARLY + EARLY);
        assert_eq!(dialogs.len(), 1);
        dialogs.ended(&id(1));
        assert!(dialogs.is_empty() && dialogs.next_deadline().is_none());
    }
}
