//! Sets of processes.

use std::ops::BitOr;

const WORDS: usize = 7;

/// Processes by index.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Set([u64; WORDS]);

impl Set {
    /// So many processes have room.
    pub(crate) const ROOM: usize = 64 * WORDS;

    pub(crate) fn of(processes: impl IntoIterator<Item = usize>) -> Self {
        let mut set = Self::default();
        processes.into_iter().for_each(|process| set.insert(process));
        set
    }

    pub(crate) fn insert(&mut self, process: usize) {
        self.0[process / 64] |= 1 << (process % 64);
    }

    pub(crate) fn contains(&self, process: usize) -> bool {
        self.0[process / 64] >> (process % 64) & 1 == 1
    }

    pub(crate) fn without(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & !other.0[word]))
    }
}

impl BitOr for Set {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] | other.0[word]))
    }
}

impl std::fmt::Debug for Set {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries((0..Self::ROOM).filter(|process| self.contains(*process))).finish()
    }
}
