//! A queue of elements by key: the smallest are found, and keys change, in a few steps.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Children of a node: their entries share one or two cache lines.
const CHILDREN: usize = 4;

/// Not in the queue.
const ABSENT: u32 = u32::MAX;

/// More than this are searched by a heap, not by a sorted list.
const FEW: usize = 32;

/// A heap. Elements are named by their places, which are the numbers from 0 without gaps. Keys have 96 bits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranks {
    /// Keys, with the places in the 32 lowest bits: no two are equal.
    entries: Vec<u128>,
    /// By place: where in the heap.
    positions: Vec<u32>,
}

/// Memory for a search: entries and where they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Search {
    /// The smallest so far, ascending.
    best: Vec<(u128, u32)>,
    frontier: BinaryHeap<Reverse<(u128, u32)>>,
}

const fn entry(key: u128, place: u32) -> u128 {
    key << 32 | place as u128
}

const fn place(entry: u128) -> u32 {
    entry as u32
}

impl Ranks {
    /// The element of the next place.
    pub(crate) fn push(&mut self, key: Option<u128>) {
        let place = self.positions.len() as u32;
        self.positions.push(ABSENT);
        if let Some(key) = key {
            self.insert(entry(key, place));
        }
    }

    fn insert(&mut self, entry: u128) {
        self.entries.push(entry);
        self.rise(self.entries.len() - 1, entry);
    }

    /// The element's key; `None` while it is not in the queue.
    pub(crate) fn key(&self, place: u32) -> Option<u128> {
        let position = self.positions[place as usize];
        Some(self.entries.get(position as usize)? >> 32)
    }

    /// Gives an element another key, or takes it out of the queue.
    pub(crate) fn set(&mut self, place: u32, key: Option<u128>) {
        let position = self.positions[place as usize];
        match key {
            Some(key) if position == ABSENT => self.insert(entry(key, place)),
            Some(key) => self.settle(position as usize, entry(key, place)),
            None if position == ABSENT => {}
            None => {
                self.positions[place as usize] = ABSENT;
                let last = self.entries.pop();
                if let Some(last) = last.filter(|last| self::place(*last) != place) {
                    self.settle(position as usize, last);
                }
            }
        }
    }

    /// Puts an element off to a larger key, if it is in the queue.
    pub(crate) fn put_off(&mut self, place: u32, later: impl FnOnce(u128) -> u128) {
        let position = self.positions[place as usize] as usize;
        if let Some(now) = self.entries.get(position) {
            self.sink(position, entry(later(*now >> 32), place));
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
        if let Some(moved) = self.entries.get(position as usize) {
            // Only the place changes, and that may matter among equal keys.
            self.settle(position as usize, entry(*moved >> 32, place));
        }
    }

    /// Gives all elements new keys in the same order: `key` is asked from the smallest to the largest.
    pub(crate) fn renew(&mut self, mut key: impl FnMut(u128) -> u128) {
        self.entries.sort_unstable();
        for (position, old) in self.entries.iter_mut().enumerate() {
            *old = entry(key(*old >> 32), place(*old));
            self.positions[place(*old) as usize] = position as u32;
        }
    }

    /// The places of the smallest keys, ascending, at most `count`.
    pub(crate) fn smallest(&self, count: usize, search: &mut Search, found: &mut Vec<u32>) {
        let Some(root) = self.entries.first().filter(|_| count > 0) else { return };
        if count > FEW {
            search.frontier.clear();
            search.frontier.push(Reverse((*root, 0)));
            while found.len() < count
                && let Some(Reverse((entry, position))) = search.frontier.pop()
            {
                found.push(place(entry));
                search.frontier.extend(self.children(position).map(Reverse));
            }
            return;
        }
        search.best.clear();
        search.best.push((*root, 0));
        let mut next = 0;
        while next + 1 < count
            && let Some((_, position)) = search.best.get(next)
        {
            for child in self.children(*position) {
                search.offer(child, count);
            }
            next += 1;
        }
        found.extend(search.best.iter().map(|(entry, _)| place(*entry)));
    }

    fn children(&self, position: u32) -> impl Iterator<Item = (u128, u32)> {
        let first = position * CHILDREN as u32 + 1;
        self.entries.iter().copied().skip(first as usize).take(CHILDREN).zip(first..)
    }

    fn put(&mut self, position: usize, entry: u128) {
        self.entries[position] = entry;
        self.positions[place(entry) as usize] = position as u32;
    }

    fn settle(&mut self, position: usize, entry: u128) {
        if position > 0 && entry < self.entries[(position - 1) / CHILDREN] {
            self.rise(position, entry);
        } else {
            self.sink(position, entry);
        }
    }

    fn rise(&mut self, mut position: usize, entry: u128) {
        while position > 0 {
            let parent = (position - 1) / CHILDREN;
            let above = self.entries[parent];
            if above < entry {
                break;
            }
            self.put(position, above);
            position = parent;
        }
        self.put(position, entry);
    }

    fn sink(&mut self, mut position: usize, entry: u128) {
        loop {
            let first = position * CHILDREN + 1;
            let rest = self.entries.get(first..).unwrap_or_default();
            let child = match rest.first_chunk::<CHILDREN>() {
                Some(children) => first + least(children),
                None => match rest.iter().zip(first..).min() {
                    Some((_, child)) => child,
                    None => break,
                },
            };
            let below = self.entries[child];
            if entry < below {
                break;
            }
            self.put(position, below);
            position = child;
        }
        self.put(position, entry);
    }
}

impl Search {
    /// Keeps the `count` smallest.
    fn offer(&mut self, node: (u128, u32), count: usize) {
        if self.best.len() < count {
            self.best.push(node);
        }
        let mut at = self.best.len() - 1;
        if self.best[at].0 < node.0 {
            return;
        }
        while at > 0 && node.0 < self.best[at - 1].0 {
            self.best[at] = self.best[at - 1];
            at -= 1;
        }
        self.best[at] = node;
    }
}

/// Which of the entries is the least, without branches: nobody can predict them.
const fn least(entries: &[u128; CHILDREN]) -> usize {
    let left = (entries[1] < entries[0]) as usize;
    let right = 2 + (entries[3] < entries[2]) as usize;
    let further = (entries[right] < entries[left]) as usize;
    left + further * (right - left)
}
