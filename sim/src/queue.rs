//! What is due when: by time, and at one moment in the order in which it was put in.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// The heap holds places only, since moving what is due costs more than anything else in a run.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    heap: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    places: Vec<Option<T>>,
    free: Vec<usize>,
    count: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), places: Vec::new(), free: Vec::new(), count: 0 }
    }
}

impl<T> Queue<T> {
    pub(crate) fn push(&mut self, at: Duration, what: T) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        self.places[place] = Some(what);
        self.count += 1;
        self.heap.push(Reverse((at, self.count, place)));
    }

    pub(crate) fn pop(&mut self) -> Option<(Duration, T)> {
        let Reverse((at, _, place)) = self.heap.pop()?;
        self.free.push(place);
        Some((at, self.places[place].take()?))
    }

    /// How much was ever put in.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}
