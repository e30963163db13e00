//! What a save, a claim and a change of credentials do to what is stored, and what may be forgotten: the rules that all
//! backends share, without any database.

use crate::claim::{Claim, ClaimChange, ClaimOutcome};
use crate::credential::{Credential, NewCredential};
use crate::record::{BindingKey, Record, TOMBSTONE_MS, Version, WriterId};
use crate::store::{Change, NewBinding, Save, SaveOutcome};

/// Rows of one address-of-record, removed bindings included, for each binding that it may have. Every save reads them
/// all, and each contact that is removed leaves one for a while.
const ROWS_PER_BINDING: usize = 8;
/// How long a request may come again by another way than before: as long as it is sent again (RFC 3261, Timer F), and
/// as long as removals are remembered.
const SAME_REQUEST_MS: u64 = TOMBSTONE_MS;
/// Claims that nobody holds are forgotten after this, milliseconds.
pub(crate) const CLAIM_MEMORY_MS: u64 = 3_600_000;
/// How long a store doubts a clock that is ahead of all that was ever written.
const DOUBT_MS: u64 = 24 * 3_600_000;

/// A save that may be carried out.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// Live bindings that stay as they are.
    kept: Vec<Record>,
    /// Rows to be written once the backend has filled in their versions; none for a replay.
    pub(crate) changed: Vec<Record>,
}

impl Accepted {
    /// The answer, once `changed` is committed.
    pub(crate) fn outcome(self, now_ms: u64) -> SaveOutcome {
        let Self { kept: mut bindings, mut changed } = self;
        bindings.extend(changed.iter().filter(|record| record.is_live(now_ms)).cloned());
        bindings.sort_by(|left, right| left.key.cmp(&right.key));
        changed.retain(|record| record.key != BindingKey::everything());
        SaveOutcome::Saved { bindings, changed }
    }
}

/// Holds a save against all rows of its address-of-record, removed ones included.
///
/// # Errors
/// The answer to a save that must be refused.
pub(crate) fn save(save: &Save, stored: &[Record]) -> Result<Accepted, SaveOutcome> {
    let Some(mut changed) = changes(save, stored) else {
        return Err(SaveOutcome::OutOfOrder);
    };
    let named = |record: &Record| names(save, &record.key);
    let untouched =
        |record: &&Record| !named(record) && !changed.iter().any(|new| new.key == record.key);
    let mut kept: Vec<Record> = stored
        .iter()
        .filter(|record| record.is_live(save.now_ms))
        .filter(untouched)
        .cloned()
        .collect();
    // A request that comes again keeps what it asked for, whatever else has to go.
    let repeated = stored.iter().filter(|record| {
        named(record)
            && record.is_live(save.now_ms)
            && !changed.iter().any(|new| new.key == record.key)
    });
    let repeated: Vec<Record> = repeated.cloned().collect();
    let added = changed.iter().filter(|record| record.is_live(save.now_ms)).count();
    let excess = (kept.len() + repeated.len() + added).saturating_sub(save.max_bindings);
    if added > 0 && excess > 0 {
        if !save.evict_oldest || excess > kept.len() {
            return Err(SaveOutcome::TooMany);
        }
        let newest = changed.iter().find(|record| record.is_live(save.now_ms)).cloned();
        kept.sort_by_key(|record| eviction_order(record, newest.as_ref()));
        changed.extend(kept.drain(..excess).map(|record| evicted(save, &record)));
    }
    kept.extend(repeated);
    let is_new = |record: &&Record| !stored.iter().any(|old| old.key == record.key);
    let new_rows = changed.iter().filter(is_new).count();
    let remembered = stored.iter().filter(|record| record.purge_at() > save.now_ms).count();
    if new_rows > 0
        && save.change != Change::RemoveAll
        && remembered + new_rows > save.max_bindings.saturating_mul(ROWS_PER_BINDING)
    {
        return Err(SaveOutcome::TooMany);
    }
    Ok(Accepted { kept, changed })
}

/// Up to when a store may forget what has ended, however late it is told that it is.
///
/// A clock that is far ahead when a process starts would forget every binding, which nothing brings back when it has
/// been set right. What the database itself has seen is a second opinion: its newest change, and the time that has
/// passed since. A real pause looks the same, so rows are kept longer than need be after one; after a day the clock is
/// believed. A database that was empty has no opinion before others write to it; until then there is nothing of theirs
/// to forget.
///
/// `open_ms` is for how long the store has been open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Horizon {
    /// The newest `changed_at` when that was looked for, and `open_ms` then.
    seen: Option<(u64, u64)>,
}

impl Horizon {
    /// `newest` is the newest `changed_at` when the store is opened, `None` if it is empty.
    pub(crate) fn new(newest: Option<u64>) -> Self {
        Self { seen: newest.map(|newest| (newest, 0)) }
    }

    /// Whether the clock is all that there is, so that only what this store has written may be forgotten by it.
    pub(crate) fn is_blind(self, open_ms: u64) -> bool {
        self.seen.is_none() && open_ms < DOUBT_MS
    }

    /// `newest` is the newest `changed_at` of what others have written.
    pub(crate) fn learn(&mut self, newest: Option<u64>, open_ms: u64) {
        self.seen = self.seen.or(newest.map(|newest| (newest, open_ms)));
    }

    pub(crate) fn limit(self, now_ms: u64, open_ms: u64) -> u64 {
        match self.seen {
            Some((newest, at_ms)) if open_ms.saturating_sub(at_ms) < DOUBT_MS => {
                now_ms.min(newest.saturating_add(open_ms.saturating_sub(at_ms)))
            }
            Some(_) | None => now_ms,
        }
    }
}

/// Holds a change against the stored claim of that name, a released one included. [`ClaimOutcome::Done`] has the claim
/// to be written.
pub(crate) fn claim(change: &ClaimChange, stored: Option<Claim>) -> ClaimOutcome {
    let held = stored.clone().filter(|claim| claim.owner != 0);
    let new = match (change, stored) {
        (ClaimChange::Insert { name, owner, lease_until, now_ms }, stored) => {
            if held.is_some() {
                return ClaimOutcome::Refused(held);
            }
            // Forgotten claims had generations below the time of then.
            let generation = stored.map_or(0, |claim| claim.generation + 1).max(*now_ms);
            Claim { name: name.clone(), owner: *owner, generation, lease_until: *lease_until }
        }
        (ClaimChange::Swap { generation, owner, lease_until, .. }, Some(claim))
            if claim.generation == *generation && claim.owner != 0 =>
        {
            Claim { owner: *owner, generation: generation + 1, lease_until: *lease_until, ..claim }
        }
        (ClaimChange::Release { generation, .. }, Some(claim))
            if claim.generation == *generation && claim.owner != 0 =>
        {
            Claim { owner: 0, generation: generation + 1, ..claim }
        }
        (ClaimChange::Swap { .. } | ClaimChange::Release { .. }, _) => {
            return ClaimOutcome::Refused(held);
        }
    };
    ClaimOutcome::Done(new)
}

/// The row that a put writes at this revision.
pub(crate) fn put_credential(new: &NewCredential, revision: u64) -> Credential {
    let NewCredential { user, realm, ha1_md5, ha1_sha256 } = new.clone();
    Credential { user, realm, ha1_md5, ha1_sha256, revision, removed: false }
}

/// Whether a binding of another database replaces what is stored under its key.
pub(crate) fn is_newer(record: &Record, stored: Option<&Record>) -> bool {
    stored.is_none_or(|stored| record.changed_at > stored.changed_at)
}

/// Whether a claim of another database replaces what is stored under its name.
pub(crate) fn is_later(claim: &Claim, stored: Option<&Claim>) -> bool {
    stored.is_none_or(|stored| claim.generation > stored.generation)
}

/// The row that a removal leaves at this revision; `None` if there is nothing to remove.
pub(crate) fn remove_credential(stored: Option<&Credential>, revision: u64) -> Option<Credential> {
    let stored = stored.filter(|stored| !stored.removed)?.clone();
    Some(Credential { ha1_md5: None, ha1_sha256: None, revision, removed: true, ..stored })
}

/// RFC 3261 section 10.3 steps 6 and 7 on the rows of one address-of-record, removed ones included: the records to
/// write (their version still open), none for a replay; `None` if the request came out of order.
fn changes(save: &Save, stored: &[Record]) -> Option<Vec<Record>> {
    let everything = BindingKey::everything();
    // A removal of everything also refuses older requests for contacts that were not there yet.
    let last_star = stored.iter().find(|record| record.key == everything);
    match &save.change {
        Change::Bindings(list) => {
            let mut changed: Vec<Record> = Vec::with_capacity(list.len());
            for new in list {
                let old = stored.iter().find(|record| record.key == new.key);
                match (old, old.map_or(Order::Newer, |old| order(save, old))) {
                    (_, Order::Older) => return None,
                    (Some(old), Order::Same) if !same_request(new, old) => return None,
                    (Some(old), Order::Same) if same_way(new, old) => continue,
                    (Some(old), Order::Same) => {
                        changed.extend([moved(save, new, old)?]);
                        continue;
                    }
                    (_, Order::Newer | Order::Same) => {}
                }
                if last_star.is_some_and(|star| order(save, star) != Order::Newer) {
                    return None;
                }
                // The same contact twice in one request: the last one counts.
                changed.retain(|record| record.key != new.key);
                changed.push(save.record(new, old));
            }
            Some(changed)
        }
        Change::RemoveAll => {
            let mut changed = Vec::new();
            for old in stored.iter().filter(|record| record.key != everything) {
                match order(save, old) {
                    Order::Newer => changed.push(removed(save, old)),
                    Order::Same if old.deleted_at.is_some() => {}
                    // A refused removal must not take back what is newer; a tombstone has nothing to take back.
                    Order::Older if old.deleted_at.is_some() => {}
                    Order::Same | Order::Older => return None,
                }
            }
            match last_star.map_or(Order::Newer, |star| order(save, star)) {
                Order::Older => return None,
                // It was carried out before; what others have registered since then stays.
                Order::Same => changed.clear(),
                Order::Newer => changed.push(star_record(save, last_star)),
            }
            Some(changed)
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Older,
    Same,
    Newer,
}

/// RFC 3261 section 10.3 step 7: CSeq orders the requests of one Call-ID; another Call-ID is always newer.
fn order(save: &Save, old: &Record) -> Order {
    if save.call_id != old.call_id || save.cseq > old.cseq {
        Order::Newer
    } else if save.cseq == old.cseq {
        Order::Same
    } else {
        Order::Older
    }
}

/// Whether the user agent asked for the same.
fn same_request(new: &NewBinding, old: &Record) -> bool {
    new.contact == old.contact
        && new.lifetime == old.lifetime
        && (new.lifetime == 0
            || (new.params == old.params
                && new.q == old.q
                && new.instance == old.instance
                && new.reg_id == old.reg_id))
}

/// Whether it came by the same way, which gateways and proxies add.
fn same_way(new: &NewBinding, old: &Record) -> bool {
    new.lifetime == 0 || (new.received == old.received && new.path == old.path)
}

/// A request that comes again by another way: its gateway died, and the user agent tries the next one with the request
/// that it has. The later way counts, the binding ends when it would have ended. `None` when the request is too old to
/// be on its way still: anybody could have kept it.
///
/// DEVIATION(RFC 3261 section 10.3 step 7): an equal CSeq would be refused.
fn moved(save: &Save, new: &NewBinding, old: &Record) -> Option<Record> {
    let saved_at = old.expires_at.saturating_sub(u64::from(old.lifetime) * 1_000);
    (save.now_ms < saved_at + SAME_REQUEST_MS)
        .then(|| Record { expires_at: old.expires_at, ..save.record(new, Some(old)) })
}

/// Whether a save is about this binding.
fn names(save: &Save, key: &BindingKey) -> bool {
    match &save.change {
        Change::Bindings(list) => list.iter().any(|new| new.key == *key),
        Change::RemoveAll => true,
    }
}

/// What has to make room first: what this phone left behind when it was started again (contacts of the same host and
/// program that name no instance), then what was not refreshed for the longest time.
fn eviction_order(record: &Record, newest: Option<&Record>) -> (bool, u64, BindingKey) {
    let left_behind = newest.is_some_and(|newest| {
        record.instance.is_empty()
            && newest.instance.is_empty()
            && record.user_agent == newest.user_agent
            && host(&record.contact) == host(&newest.contact)
    });
    (!left_behind, record.changed_at, record.key.clone())
}

/// The host of a contact, without its port: good enough to tell one phone's from another's.
fn host(contact: &str) -> &str {
    let from = contact.find('@').or_else(|| contact.find(':')).map_or(0, |at| at + 1);
    let rest = &contact[from..];
    let end = if rest.starts_with('[') { rest.find(']') } else { rest.find([':', ';', '?']) };
    &rest[..end.unwrap_or(rest.len())]
}

/// Removed to make room: it keeps its Call-ID and CSeq, so that its next refreshment brings it back.
fn evicted(save: &Save, old: &Record) -> Record {
    Record {
        lifetime: 0,
        changed_at: (old.changed_at + 1).max(save.now_ms),
        deleted_at: Some(save.now_ms),
        ..old.clone()
    }
}

fn removed(save: &Save, old: &Record) -> Record {
    Record {
        lifetime: 0,
        call_id: save.call_id.clone(),
        cseq: save.cseq,
        changed_at: (old.changed_at + 1).max(save.now_ms),
        deleted_at: Some(save.now_ms),
        ..old.clone()
    }
}

fn star_record(save: &Save, old: Option<&Record>) -> Record {
    let empty = || -> Box<str> { "".into() };
    Record {
        aor: save.aor.clone(),
        key: BindingKey::everything(),
        contact: empty(),
        params: empty(),
        q: 0,
        expires_at: save.now_ms,
        lifetime: 0,
        call_id: save.call_id.clone(),
        cseq: save.cseq,
        user_agent: empty(),
        received: empty(),
        path: empty(),
        gateway: 0,
        flow_token: empty(),
        instance: empty(),
        reg_id: 0,
        version: Version { writer: WriterId(0), sequence: 0 },
        changed_at: old.map_or(0, |old| old.changed_at + 1).max(save.now_ms),
        deleted_at: Some(save.now_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_far_ahead_forgets_nothing_that_may_be_alive() {
        const YEAR: u64 = 365 * 24 * 3_600_000;
        let seen = Horizon::new(Some(1_000_000));
        assert_eq!(seen.limit(1_000_500, 500), 1_000_500, "the clock goes with the database");
        assert_eq!(seen.limit(1_000_000 + YEAR, 500), 1_000_500);
        assert_eq!(seen.limit(1_000_000 + YEAR, DOUBT_MS), 1_000_000 + YEAR);
        assert_eq!(seen.limit(5, 500), 5, "a clock that is behind forgets too late");
        // An empty database: what this store itself has written ends by its own clock.
        let mut learning = Horizon::new(None);
        learning.learn(None, 100);
        assert!(learning.is_blind(100) && !learning.is_blind(DOUBT_MS));
        assert_eq!(learning.limit(YEAR, 100), YEAR);
        // Others begin.
        learning.learn(Some(1_000_000), 200);
        learning.learn(Some(YEAR), 300);
        assert!(!learning.is_blind(300));
        assert_eq!(learning.limit(1_000_000 + YEAR, 700), 1_000_500);
        assert_eq!(learning.limit(1_000_000 + YEAR, DOUBT_MS + 199), 1_000_000 + DOUBT_MS - 1);
        assert_eq!(learning.limit(1_000_000 + YEAR, DOUBT_MS + 200), 1_000_000 + YEAR);
    }

    #[test]
    fn hosts_of_contacts() {
        for (contact, expected) in [
            ("sip:bob@192.0.2.1:5060;transport=tcp", "192.0.2.1"),
            ("sip:192.0.2.1:5060", "192.0.2.1"),
            ("sips:bob@[2001:db8::1]:5061", "[2001:db8::1"),
            ("sip:bob@host;x=1", "host"),
            ("", ""),
        ] {
            assert_eq!(host(contact), expected, "{contact}");
        }
    }
}
