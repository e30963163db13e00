//! A queue of elements by key: the smallest are found, and keys change, in a few steps.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Children of a node: their keys share one or two cache lines.
const CHILDREN: usize = 4;

/// Not in the queue.
const ABSENT: u32 = u32::MAX;

/// A heap of keys. Elements are named by their places, which are the numbers from 0 without gaps. Keys are different.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranks {
    keys: Vec<u128>,
    /// Whose key that is.
    places: Vec<u32>,
    /// By place: where in the heap.
    positions: Vec<u32>,
}

/// Nodes of the heap that a search has reached.
pub(crate) type Frontier = BinaryHeap<Reverse<(u128, u32)>>;

impl Ranks {
    /// The element of the next place.
    pub(crate) fn push(&mut self, key: Option<u128>) {
        let place = self.positions.len() as u32;
        self.positions.push(ABSENT);
        if let Some(key) = key {
            self.insert(place, key);
        }
    }

    fn insert(&mut self, place: u32, key: u128) {
        let position = self.keys.len();
        self.keys.push(key);
        self.places.push(place);
        self.rise(position, key, place);
    }

    /// The element's key; `None` while it is not in the queue.
    pub(crate) fn key(&self, place: u32) -> Option<u128> {
        self.keys.get(self.positions[place as usize] as usize).copied()
    }

    /// Gives an element another key, or takes it out of the queue.
    pub(crate) fn set(&mut self, place: u32, key: Option<u128>) {
        let position = self.positions[place as usize];
        match key {
            Some(key) if position == ABSENT => self.insert(place, key),
            Some(key) => self.settle(position as usize, key, place),
            None if position == ABSENT => {}
            None => {
                self.positions[place as usize] = ABSENT;
                let (Some(key), Some(last)) = (self.keys.pop(), self.places.pop()) else { return };
                if last != place {
                    self.settle(position as usize, key, last);
                }
            }
        }
    }

    /// The element is gone, and that of the last place takes its place.
    pub(crate) fn swap_remove(&mut self, place: u32) {
        self.set(place, None);
        let Some(position) = self.positions.pop() else { return };
        if place as usize == self.positions.len() {
            return;
        }
        self.positions[place as usize] = position;
        if let Some(moved) = self.places.get_mut(position as usize) {
            *moved = place;
        }
    }

    /// The places of the smallest keys, ascending, at most `count`.
    pub(crate) fn smallest(&self, count: usize, frontier: &mut Frontier, found: &mut Vec<u32>) {
        frontier.clear();
        frontier.extend(self.keys.first().map(|key| Reverse((*key, 0))));
        while found.len() < count
            && let Some(Reverse((_, position))) = frontier.pop()
        {
            found.push(self.places[position as usize]);
            if found.len() == count {
                break;
            }
            let first = position * CHILDREN as u32 + 1;
            let children = self.keys.iter().skip(first as usize).take(CHILDREN);
            frontier.extend(children.zip(first..).map(|(key, child)| Reverse((*key, child))));
        }
    }

    fn put(&mut self, position: usize, key: u128, place: u32) {
        self.keys[position] = key;
        self.places[position] = place;
        self.positions[place as usize] = position as u32;
    }

    fn settle(&mut self, position: usize, key: u128, place: u32) {
        if position > 0 && key < self.keys[(position - 1) / CHILDREN] {
            self.rise(position, key, place);
        } else {
            self.sink(position, key, place);
        }
    }

    fn rise(&mut self, mut position: usize, key: u128, place: u32) {
        while position > 0 {
            let parent = (position - 1) / CHILDREN;
            if self.keys[parent] < key {
                break;
            }
            self.put(position, self.keys[parent], self.places[parent]);
            position = parent;
        }
        self.put(position, key, place);
    }

    fn sink(&mut self, mut position: usize, key: u128, place: u32) {
        loop {
            let first = position * CHILDREN + 1;
            let children = self.keys.get(first..).unwrap_or_default().iter().take(CHILDREN);
            let Some((child, least)) =
                children.zip(first..).map(|(key, at)| (at, *key)).min_by_key(|(_, key)| *key)
            else {
                break;
            };
            if key < least {
                break;
            }
            self.put(position, least, self.places[child]);
            position = child;
        }
        self.put(position, key, place);
    }
}
