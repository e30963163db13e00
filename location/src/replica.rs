//! All bindings in memory, as compact as they can be: what calls look at first.
//!
//! Records may come in any order and more than once; the newest of each binding wins ([`Record::changed_at`]).
//! Removed bindings are remembered as long as the database remembers them, so that a late record of before cannot
//! bring one back.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use crate::record::{BindingKey, Record};

const SHARDS: usize = 256;

/// Copy of the whole table of bindings.
#[derive(Debug)]
pub struct Replica {
    hasher: RandomState,
    /// Cut into shards so that forgetting goes in small steps.
    shards: Vec<HashMap<Box<str>, Slots>>,
    next_swept: usize,
    /// Counts the times that everything was loaded; slots have that of when they were heard of last.
    generation: u8,
    /// What was not heard of in the last loading is taken out shard by shard.
    unconfirmed: Option<Unconfirmed>,
}

/// Slots that the database does not have any more.
#[derive(Clone, Copy, Debug)]
struct Unconfirmed {
    /// Slots changed before this are meant, milliseconds since 1970.
    before_ms: u64,
    /// Shards that are still to be looked at; `None` as long as the loading goes on.
    shards: Option<usize>,
}

/// The bindings of one address-of-record; nearly all have one.
#[derive(Debug)]
enum Slots {
    One(Slot),
    /// Ordered by key.
    Many(Vec<Slot>),
}

/// One binding. The strings lie behind each other in one allocation.
#[derive(Debug)]
struct Slot {
    text: Box<str>,
    /// Ends of contact, path, received and instance in `text`; what follows is the key if it is not implied.
    ends: [u32; 4],
    /// Milliseconds since 1970: end of the binding, or of the memory of its removal.
    until: u64,
    changed_at: u64,
    reg_id: u32,
    q: u16,
    key: KeyForm,
    removed: bool,
    generation: u8,
}

/// How the key of a slot is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyForm {
    /// The contact is its own canonical form.
    Contact,
    /// Instance and reg-id.
    Flow,
    /// In the text.
    Text,
}

/// A binding as routing needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    pub contact: &'a str,
    /// Path header values, comma separated; empty if the phone is reached directly.
    pub path: &'a str,
    /// As in [`Record::received`].
    pub received: &'a str,
    pub instance: &'a str,
    pub reg_id: u32,
    /// Thousandths.
    pub q: u16,
    /// Milliseconds since 1970.
    pub expires_at: u64,
    pub changed_at: u64,
}

/// How much a replica holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicaStats {
    /// Bindings and remembered removals.
    pub contacts: usize,
    pub aors: usize,
    /// Bytes of the tables and of all strings, allocator overhead excluded.
    pub bytes: usize,
}

impl Default for Replica {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: std::iter::repeat_with(HashMap::new).take(SHARDS).collect(),
            next_swept: 0,
            generation: 0,
            unconfirmed: None,
        }
    }
}

impl Replica {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a record in; says whether it was news.
    pub fn apply(&mut self, record: &Record) -> bool {
        if record.key == BindingKey::everything() {
            return false;
        }
        let shard = self.shard(&record.aor);
        let slot = Slot { generation: self.generation, ..Slot::from(record) };
        match self.shards[shard].get_mut(&*record.aor) {
            Some(slots) => slots.put(slot),
            None => {
                self.shards[shard].insert(record.aor.clone(), Slots::One(slot));
                true
            }
        }
    }

    /// The live bindings of an address-of-record, ordered by key.
    pub fn lookup(&self, aor: &str, now_ms: u64) -> impl Iterator<Item = Target<'_>> {
        let slots = self.shards[self.shard(aor)].get(aor).map_or(&[][..], Slots::as_slice);
        slots.iter().filter(move |slot| !slot.removed && slot.until > now_ms).map(Slot::target)
    }

    /// Whether anything is known of an address-of-record, be it ended or removed.
    pub fn is_known(&self, aor: &str) -> bool {
        self.shards[self.shard(aor)].contains_key(aor)
    }

    /// Everything that the database holds is applied once more from now on, since changes were missed: a removal may
    /// have been made and forgotten meanwhile. What was changed after `before_ms` (milliseconds since 1970) stays in any
    /// case: the node that is read may not have it yet.
    pub fn begin_reload(&mut self, before_ms: u64) {
        self.generation = self.generation.wrapping_add(1);
        self.unconfirmed = Some(Unconfirmed { before_ms, shards: None });
    }

    /// Everything was applied: [`Replica::sweep`] takes out what did not come again.
    pub fn end_reload(&mut self) {
        if let Some(unconfirmed) = &mut self.unconfirmed {
            unconfirmed.shards = Some(SHARDS);
        }
    }

    /// Forgets what has ended, and what a reload has not confirmed, in one 256th of the table. Call it some times a
    /// second.
    pub fn sweep(&mut self, now_ms: u64) {
        let shard = &mut self.shards[self.next_swept];
        let (generation, mut gone_before) = (self.generation, 0);
        if let Some(Unconfirmed { before_ms, shards: Some(left) }) = &mut self.unconfirmed {
            gone_before = *before_ms;
            *left -= 1;
            if *left == 0 {
                self.unconfirmed = None;
            }
        }
        let stays = |slot: &Slot| {
            slot.is_remembered(now_ms)
                && (slot.generation == generation || slot.changed_at >= gone_before)
        };
        shard.retain(|_, slots| slots.retain(stays));
        if shard.capacity() > 64 && shard.capacity() > shard.len() * 4 {
            shard.shrink_to_fit();
        }
        self.next_swept = (self.next_swept + 1) % SHARDS;
    }

    /// Counts; walks the whole table.
    pub fn stats(&self) -> ReplicaStats {
        let mut stats = ReplicaStats { bytes: size_of::<Self>(), ..ReplicaStats::default() };
        for shard in &self.shards {
            // A slot of the map is the entry and one control byte; 8 of 7 slots are allocated.
            stats.bytes += shard.capacity() * 8 / 7 * (size_of::<(Box<str>, Slots)>() + 1);
            for (aor, slots) in shard {
                stats.aors += 1;
                stats.bytes += aor.len();
                if let Slots::Many(list) = slots {
                    stats.bytes += list.capacity() * size_of::<Slot>();
                }
                for slot in slots.as_slice() {
                    stats.contacts += 1;
                    stats.bytes += slot.text.len();
                }
            }
        }
        stats
    }

    fn shard(&self, aor: &str) -> usize {
        (self.hasher.hash_one(aor) >> 32) as usize % SHARDS
    }
}

impl Slots {
    fn as_slice(&self) -> &[Slot] {
        match self {
            Self::One(slot) => std::slice::from_ref(slot),
            Self::Many(list) => list,
        }
    }

    fn put(&mut self, slot: Slot) -> bool {
        let list = match self {
            Self::One(old) if old.same_key(&slot) => return old.replace(slot),
            Self::One(old) => {
                let old = std::mem::replace(old, Slot::vacant());
                *self = Self::Many(vec![old]);
                let Self::Many(list) = self else { return false };
                list
            }
            Self::Many(list) => list,
        };
        match list.binary_search_by(|old| old.order().cmp(&slot.order())) {
            Ok(at) => list[at].replace(slot),
            Err(at) => {
                list.reserve_exact(1);
                list.insert(at, slot);
                true
            }
        }
    }

    /// Whether anything is left.
    fn retain(&mut self, stays: impl Fn(&Slot) -> bool) -> bool {
        match self {
            Self::One(slot) => stays(slot),
            Self::Many(list) => {
                list.retain(stays);
                if list.len() == 1
                    && let Some(slot) = list.pop()
                {
                    *self = Self::One(slot);
                    return true;
                }
                !list.is_empty()
            }
        }
    }
}

impl Slot {
    fn vacant() -> Self {
        Self {
            text: "".into(),
            ends: [0; 4],
            until: 0,
            changed_at: 0,
            reg_id: 0,
            q: 0,
            key: KeyForm::Contact,
            removed: true,
            generation: 0,
        }
    }

    fn from(record: &Record) -> Self {
        let stored = record.key.as_str();
        let key = if stored.strip_prefix('c') == Some(&*record.contact) {
            KeyForm::Contact
        } else if record.reg_id != 0
            && record.key == BindingKey::flow(&record.instance, record.reg_id)
        {
            KeyForm::Flow
        } else {
            KeyForm::Text
        };
        let parts = [&*record.contact, &*record.path, &*record.received, &*record.instance];
        let key_text = if key == KeyForm::Text { stored } else { "" };
        let mut text = String::with_capacity(
            parts.iter().map(|part| part.len()).sum::<usize>() + key_text.len(),
        );
        let mut ends = [0; 4];
        for (end, part) in ends.iter_mut().zip(parts) {
            text.push_str(part);
            *end = text.len() as u32;
        }
        text.push_str(key_text);
        Self {
            text: text.into(),
            ends,
            until: if record.deleted_at.is_some() { record.purge_at() } else { record.expires_at },
            changed_at: record.changed_at,
            reg_id: record.reg_id,
            q: record.q,
            key,
            removed: record.deleted_at.is_some(),
            generation: 0,
        }
    }

    fn part(&self, index: usize) -> &str {
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        &self.text[start..self.ends[index] as usize]
    }

    /// Orders slots as their keys: equal exactly when the keys are equal.
    fn order(&self) -> (u8, u32, &str) {
        match self.key {
            KeyForm::Contact => (0, 0, self.part(0)),
            KeyForm::Flow => (1, self.reg_id, self.part(3)),
            KeyForm::Text => {
                let key = &self.text[self.ends[3] as usize..];
                key.strip_prefix('c').map_or((2, 0, key), |canonical| (0, 0, canonical))
            }
        }
    }

    fn same_key(&self, other: &Self) -> bool {
        self.order() == other.order()
    }

    fn replace(&mut self, slot: Self) -> bool {
        let newer = slot.changed_at > self.changed_at;
        if newer {
            *self = slot;
        } else {
            self.generation = slot.generation;
        }
        newer
    }

    fn is_remembered(&self, now_ms: u64) -> bool {
        let memory = if self.removed { 0 } else { crate::TOMBSTONE_MS };
        self.until + memory > now_ms
    }

    fn target(&self) -> Target<'_> {
        Target {
            contact: self.part(0),
            path: self.part(1),
            received: self.part(2),
            instance: self.part(3),
            reg_id: self.reg_id,
            q: self.q,
            expires_at: self.until,
            changed_at: self.changed_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Version, WriterId};

    fn record(contact: &str, changed_at: u64, deleted_at: Option<u64>) -> Record {
        Record {
            aor: "alice@dialtone.test".into(),
            key: BindingKey::contact(contact),
            contact: contact.into(),
            params: "".into(),
            q: 1000,
            expires_at: 100_000,
            lifetime: 60,
            call_id: "c1".into(),
            cseq: 1,
            user_agent: "".into(),
            received: "udp:127.0.0.9:5060".into(),
            path: "<sip:token@gw;lr>".into(),
            gateway: 0,
            flow_token: "".into(),
            instance: "".into(),
            reg_id: 0,
            version: Version { writer: WriterId(1), sequence: 1 },
            changed_at,
            deleted_at,
        }
    }

    fn contacts(replica: &Replica, now_ms: u64) -> Vec<&str> {
        replica.lookup("alice@dialtone.test", now_ms).map(|target| target.contact).collect()
    }

    #[test]
    fn a_late_record_does_not_bring_a_removed_binding_back() {
        let mut replica = Replica::new();
        assert!(replica.apply(&record("sip:a@1", 10, None)));
        assert!(replica.apply(&record("sip:b@1", 11, None)));
        assert_eq!(contacts(&replica, 50), ["sip:a@1", "sip:b@1"]);
        assert!(replica.apply(&record("sip:a@1", 12, Some(12))));
        assert!(!replica.apply(&record("sip:a@1", 10, None)));
        assert_eq!(contacts(&replica, 50), ["sip:b@1"]);
        assert_eq!(contacts(&replica, 100_000), [""; 0], "expired");
        let target = replica.lookup("alice@dialtone.test", 50).next();
        assert_eq!(
            target.map(|target| (target.path, target.received)),
            Some(("<sip:token@gw;lr>", "udp:127.0.0.9:5060"))
        );
    }

    #[test]
    fn sweeping_forgets_what_ended() {
        let mut replica = Replica::new();
        replica.apply(&record("sip:a@1", 10, None));
        replica.apply(&record("sip:b@1", 12, Some(12)));
        let sweep_all =
            |replica: &mut Replica, now_ms| (0..SHARDS).for_each(|_| replica.sweep(now_ms));
        sweep_all(&mut replica, 12 + crate::TOMBSTONE_MS);
        assert_eq!(replica.stats().contacts, 1);
        sweep_all(&mut replica, 100_000 + crate::TOMBSTONE_MS);
        assert_eq!(replica.stats().aors, 0);
    }

    #[test]
    fn flows_and_canonical_contacts_are_keys() {
        let mut replica = Replica::new();
        let mut flow = record("sip:a@1", 1, None);
        flow.instance = "<urn:uuid:1>".into();
        flow.reg_id = 1;
        flow.key = BindingKey::flow("<urn:uuid:1>", 1);
        replica.apply(&flow);
        replica.apply(&Record { contact: "sip:a@2".into(), changed_at: 2, ..flow.clone() });
        assert_eq!(contacts(&replica, 50), ["sip:a@2"]);
        // The same URI written in two ways is one binding.
        let shouted =
            Record { key: BindingKey::contact("sip:c@host"), ..record("sip:c@HOST", 3, None) };
        replica.apply(&shouted);
        replica.apply(&record("sip:c@host", 4, None));
        assert_eq!(contacts(&replica, 50), ["sip:c@host", "sip:a@2"]);
    }
}
