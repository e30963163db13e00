//! Absolute deadlines of a core in one ordered map.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// At most one deadline per key; keys that are due come out in the order of their deadlines.
#[derive(Debug)]
pub(super) struct Timers<K> {
    queue: BTreeSet<(Instant, K)>,
    armed: BTreeMap<K, Instant>,
}

impl<K: Ord + Clone> Timers<K> {
    pub(super) fn new() -> Self {
        Self { queue: BTreeSet::new(), armed: BTreeMap::new() }
    }

    /// Arms the timer, in place of a deadline that it had before.
    pub(super) fn set(&mut self, key: K, at: Instant) {
        if let Some(old) = self.armed.insert(key.clone(), at) {
            self.queue.remove(&(old, key.clone()));
        }
        self.queue.insert((at, key));
    }

    /// Arms the timer unless it fires earlier already.
    pub(super) fn set_earlier(&mut self, key: K, at: Instant) {
        if self.armed.get(&key).is_none_or(|old| *old > at) {
            self.set(key, at);
        }
    }

    pub(super) fn cancel(&mut self, key: &K) {
        if let Some(at) = self.armed.remove(key) {
            self.queue.remove(&(at, key.clone()));
        }
    }

    pub(super) fn is_armed(&self, key: &K) -> bool {
        self.armed.contains_key(key)
    }

    pub(super) fn len(&self) -> usize {
        self.armed.len()
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes the earliest timer that is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<K> {
        if self.next()? > now {
            return None;
        }
        let (_, key) = self.queue.pop_first()?;
        self.armed.remove(&key);
        Some(key)
    }

    /// Gives every timer that `delayed` names for an answer still outstanding at least until `at`.
    pub(super) fn postpone(&mut self, at: Instant, mut delayed: impl FnMut(&K) -> Option<Instant>) {
        let late: Vec<_> = self.queue.iter().take_while(|(due, _)| *due < at).cloned().collect();
        for (due, key) in late {
            if let Some(new) = delayed(&key).filter(|new| *new > due) {
                self.set(key, new);
            }
        }
    }
}
