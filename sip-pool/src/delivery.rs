//! The delivery table: what makes sending a request again harmless.
//!
//! A proxy may have died after it forwarded a request. The gateway in front of the phone therefore remembers each request
//! that it delivers under (leg id, Request-URI, target flow, method): while it is in flight, and with its final answer
//! for 32 s after that. A repeated request is attached to the running delivery or answered from memory, so that the
//! phone sees it once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::leg::LegId;
use crate::token::Flow;

/// RFC 3261 section 17.1.1.1: 64 times T1; how long a final answer is kept.
pub const KEPT: Duration = Duration::from_secs(32);

/// A delivery that nobody waits for any more is abandoned after this time.
pub const ORPHANED: Duration = Duration::from_secs(2);

/// Identifies what is delivered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The request, over all attempts.
    pub leg: LegId,
    /// The phone.
    pub flow: Flow,
    /// The method.
    pub method: Box<[u8]>,
    /// The Request-URI.
    pub uri: Box<[u8]>,
}

/// What a request that arrives means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival<S, R> {
    /// Has its final answer already: give it again.
    Answered(R),
    /// Is being delivered: from now on the new requester gets the answers.
    Attached {
        /// The latest provisional answer, for the new requester.
        latest: Option<R>,
        /// The requester until now.
        previous: S,
    },
    /// Is too much: the table is full.
    Full,
    /// Belongs to an attempt that has a successor already: whoever sends it was given up, stood still meanwhile, and may
    /// have the final answer, but neither takes the delivery over nor ends it.
    Late,
    /// Is new: deliver it.
    New,
}

#[derive(Debug)]
enum State<S, R> {
    Final { answer: R },
    InFlight { requester: S, attempt: u32, latest: Option<R>, orphaned: bool },
}

#[derive(Debug)]
struct Entry<S, R> {
    state: State<S, R>,
    deadline: Option<Instant>,
}

/// The table. `S` names who asked (a server transaction), `R` is an answer.
#[derive(Debug)]
pub struct Table<S, R> {
    entries: BTreeMap<Key, Entry<S, R>>,
    deadlines: BTreeSet<(Instant, Key)>,
    orphans: VecDeque<Key>,
    capacity: usize,
}

impl<S: Clone + PartialEq, R: Clone> Table<S, R> {
    /// An empty table for at most `capacity` deliveries.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            orphans: VecDeque::new(),
            capacity,
        }
    }

    /// A request has come from `requester`, as this attempt of its leg.
    pub fn arrive(&mut self, key: &Key, requester: S, attempt: u32) -> Arrival<S, R> {
        let Some(entry) = self.entries.get_mut(key) else {
            if self.entries.len() >= self.capacity {
                return Arrival::Full;
            }
            let state = State::InFlight { requester, attempt, latest: None, orphaned: false };
            self.entries.insert(key.clone(), Entry { state, deadline: None });
            return Arrival::New;
        };
        match &mut entry.state {
            State::Final { answer } => Arrival::Answered(answer.clone()),
            State::InFlight { attempt: current, .. } if attempt < *current => Arrival::Late,
            State::InFlight { requester: current, attempt: latest_attempt, latest, orphaned } => {
                *orphaned = false;
                *latest_attempt = attempt;
                let previous = std::mem::replace(current, requester);
                let latest = latest.clone();
                self.set_deadline(key, None);
                Arrival::Attached { latest, previous }
            }
        }
    }

    /// A provisional answer has come from the phone.
    pub fn provisional(&mut self, key: &Key, answer: R) {
        if let Some(Entry { state: State::InFlight { latest, .. }, .. }) = self.entries.get_mut(key)
        {
            *latest = Some(answer);
        }
    }

    /// The final answer has come; a delivery that is finished already keeps its first answer.
    pub fn finished(&mut self, now: Instant, key: &Key, answer: R) {
        if let Some(entry) = self.entries.get_mut(key)
            && matches!(entry.state, State::InFlight { .. })
        {
            entry.state = State::Final { answer };
            self.set_deadline(key, Some(now + KEPT));
        }
    }

    /// Who waits for the answer, unless the delivery is finished or its requester is lost.
    #[must_use]
    pub fn requester(&self, key: &Key) -> Option<&S> {
        match &self.entries.get(key)?.state {
            State::InFlight { requester, orphaned: false, .. } => Some(requester),
            State::Final { .. } | State::InFlight { .. } => None,
        }
    }

    /// The requester is lost. Unless the request is repeated within [`ORPHANED`], [`Table::poll_orphan`] returns it.
    pub fn lost(&mut self, now: Instant, key: &Key, requester: &S) {
        if let Some(Entry { state: State::InFlight { requester: current, orphaned, .. }, .. }) =
            self.entries.get_mut(key)
            && current == requester
        {
            *orphaned = true;
            self.set_deadline(key, Some(now + ORPHANED));
        }
    }

    /// Forgets a delivery that came to nothing, so that a repetition is delivered.
    pub fn forget(&mut self, key: &Key) {
        self.set_deadline(key, None);
        self.entries.remove(key);
    }

    /// A delivery that nobody waits for: cancel it towards the phone. It stays in the table until it has an answer.
    pub fn poll_orphan(&mut self) -> Option<Key> {
        self.orphans.pop_front()
    }

    /// When to call [`Table::handle_timeout`].
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Forgets old answers and finds orphans.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, key)) =
            self.deadlines.first().filter(|(deadline, _)| *deadline <= now).cloned()
        {
            self.set_deadline(&key, None);
            match self.entries.get(&key).map(|entry| &entry.state) {
                Some(State::InFlight { .. }) => self.orphans.push_back(key),
                Some(State::Final { .. }) => drop(self.entries.remove(&key)),
                None => {}
            }
        }
    }

    /// How many deliveries are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn set_deadline(&mut self, key: &Key, deadline: Option<Instant>) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if let Some(old) = std::mem::replace(&mut entry.deadline, deadline) {
            self.deadlines.remove(&(old, key.clone()));
        }
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, key.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::EdgeTransport;

    fn key(leg: u64) -> Key {
        let flow = Flow {
            gateway: 1,
            transport: EdgeTransport::Udp,
            listener: 0,
            remote: "192.0.2.1:5060".parse().unwrap(),
            serial: 0,
        };
        Key {
            leg: LegId(leg),
            flow,
            method: b"INVITE".as_slice().into(),
            uri: b"sip:b@192.0.2.1".as_slice().into(),
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test starts its virtual clock somewhere")]
    fn a_repeated_request_is_attached_then_answered_then_forgotten() {
        let now = Instant::now();
        let mut table = Table::<u32, &str>::new(2);
        assert_eq!(table.arrive(&key(1), 10, 1), Arrival::New);
        table.provisional(&key(1), "180");
        table.lost(now, &key(1), &10);
        assert_eq!(table.requester(&key(1)), None);
        assert_eq!(
            table.arrive(&key(1), 11, 2),
            Arrival::Attached { latest: Some("180"), previous: 10 }
        );
        assert_eq!(table.arrive(&key(1), 12, 1), Arrival::Late);
        assert_eq!(table.requester(&key(1)), Some(&11), "an older attempt takes nothing over");
        table.lost(now, &key(1), &10);
        assert_eq!(table.next_deadline(), None, "only the present requester counts");
        table.finished(now, &key(1), "200");
        assert_eq!(table.arrive(&key(1), 12, 1), Arrival::Answered("200"));
        assert_eq!(table.arrive(&key(2), 13, 1), Arrival::New);
        assert_eq!(table.arrive(&key(3), 13, 1), Arrival::Full);
        table.handle_timeout(now + KEPT);
        assert_eq!(table.arrive(&key(3), 14, 1), Arrival::New);
        assert_eq!(table.len(), 2);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test starts its virtual clock somewhere")]
    fn an_orphan_is_reported_once_after_two_seconds() {
        let now = Instant::now();
        let mut table = Table::<u32, &str>::new(2);
        table.arrive(&key(1), 10, 1);
        table.lost(now, &key(1), &10);
        assert_eq!(table.next_deadline(), Some(now + ORPHANED));
        table.handle_timeout(now + ORPHANED);
        assert_eq!(table.poll_orphan(), Some(key(1)));
        assert_eq!(table.poll_orphan(), None);
        assert_eq!(table.next_deadline(), None);
    }
}
