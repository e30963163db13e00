//! Deadlines by what they are for, and the one that is next.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Instant;

/// At most one deadline for each key.
#[derive(Debug)]
pub(crate) struct Timers<K> {
    by_key: HashMap<K, Instant>,
    queue: BTreeSet<(Instant, K)>,
}

impl<K: Copy + Eq + Hash + Ord> Timers<K> {
    pub(crate) fn new() -> Self {
        Self { by_key: HashMap::new(), queue: BTreeSet::new() }
    }

    /// Instead of the one before.
    pub(crate) fn set(&mut self, key: K, at: Instant) {
        self.stop(key);
        self.by_key.insert(key, at);
        self.queue.insert((at, key));
    }

    pub(crate) fn stop(&mut self, key: K) {
        if let Some(at) = self.by_key.remove(&key) {
            self.queue.remove(&(at, key));
        }
    }

    pub(crate) fn get(&self, key: K) -> Option<Instant> {
        self.by_key.get(&key).copied()
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// One that is due; it is gone then.
    pub(crate) fn due(&mut self, now: Instant) -> Option<K> {
        let (_, key) = *self.queue.first().filter(|(at, _)| *at <= now)?;
        self.stop(key);
        Some(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }
}
