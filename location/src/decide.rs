//! What a save, a claim and a change of credentials do to what is stored: the rules that all backends share, without any database.

use crate::claim::{Claim, ClaimChange, ClaimOutcome};
use crate::credential::{Credential, NewCredential};
use crate::record::{BindingKey, Record, Version, WriterId};
use crate::store::{Change, NewBinding, Save, SaveOutcome};

/// Rows of one address-of-record, removed bindings included, for each binding that it may have. Every save reads them
/// all, and each contact that is removed leaves one for a while.
const ROWS_PER_BINDING: usize = 8;

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
    let Some(changed) = changes(save, stored) else {
        return Err(SaveOutcome::OutOfOrder);
    };
    let untouched = |record: &&Record| !changed.iter().any(|new| new.key == record.key);
    let kept: Vec<Record> = stored
        .iter()
        .filter(untouched)
        .filter(|record| record.is_live(save.now_ms))
        .cloned()
        .collect();
    let added = changed.iter().filter(|record| record.is_live(save.now_ms)).count();
    if added > 0 && kept.len() + added > save.max_bindings {
        return Err(SaveOutcome::TooMany);
    }
    let is_new = |record: &&Record| !stored.iter().any(|old| old.key == record.key);
    let new_rows = changed.iter().filter(is_new).count();
    if new_rows > 0
        && save.change != Change::RemoveAll
        && stored.len() + new_rows > save.max_bindings.saturating_mul(ROWS_PER_BINDING)
    {
        return Err(SaveOutcome::TooMany);
    }
    Ok(Accepted { kept, changed })
}

/// Holds a change against the stored claim of that name, a released one included. [`ClaimOutcome::Done`] has the claim
/// to be written.
pub(crate) fn claim(change: &ClaimChange, stored: Option<Claim>) -> ClaimOutcome {
    let held = stored.clone().filter(|claim| claim.owner != 0);
    let new = match (change, stored) {
        (ClaimChange::Insert { name, owner, lease_until, now_ms }, stored) => {
            if held.as_ref().is_some_and(|claim| claim.lease_until > *now_ms) {
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
                match old.map_or(Order::Newer, |old| order(save, old)) {
                    Order::Older => return None,
                    Order::Same if old.is_some_and(|old| same_content(new, old)) => continue,
                    Order::Same => return None,
                    Order::Newer => {}
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
                Order::Same => {}
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

fn same_content(new: &NewBinding, old: &Record) -> bool {
    new.contact == old.contact
        && new.lifetime == old.lifetime
        && (new.lifetime == 0
            || (new.params == old.params
                && new.q == old.q
                && new.received == old.received
                && new.path == old.path
                && new.instance == old.instance
                && new.reg_id == old.reg_id))
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
