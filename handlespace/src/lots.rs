//! Weighted drawing of lots in a few steps, however many there are.

/// A tree of weights in an array: the children of i are 2i + 1 and 2i + 2. Each node holds the sum of the weights of
/// itself and all below it. Elements are named by their places, which are the numbers from 0 without gaps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lots {
    sums: Vec<u64>,
}

impl Lots {
    fn sum(&self, node: usize) -> u64 {
        self.sums.get(node).copied().unwrap_or(0)
    }

    fn weight(&self, place: usize) -> u64 {
        self.sum(place) - self.sum(2 * place + 1) - self.sum(2 * place + 2)
    }

    /// The element of the next place.
    pub(crate) fn push(&mut self, weight: u64) {
        self.sums.push(0);
        self.set(self.sums.len() as u32 - 1, weight);
    }

    /// Gives an element another weight.
    pub(crate) fn set(&mut self, place: u32, weight: u64) {
        let mut node = place as usize;
        // Wrapping: the difference may be negative, the sums are not.
        let difference = weight.wrapping_sub(self.weight(node));
        self.sums[node] = self.sums[node].wrapping_add(difference);
        while node > 0 {
            node = (node - 1) / 2;
            self.sums[node] = self.sums[node].wrapping_add(difference);
        }
    }

    /// The element is gone, and that of the last place takes its place.
    pub(crate) fn swap_remove(&mut self, place: u32) {
        let last = self.sums.len() - 1;
        let weight = self.weight(last);
        self.set(last as u32, 0);
        self.sums.pop();
        if place as usize != last {
            self.set(place, weight);
        }
    }

    /// Draws at most `count` places, none twice: each with the probability of its weight among those that are left
    /// (RFC 5356, section 4.4.2). `weight` tells the weight of a place again.
    pub(crate) fn draw(
        &mut self,
        count: usize,
        weight: impl Fn(u32) -> u64,
        rng: &mut fastrand::Rng,
        found: &mut Vec<u32>,
    ) {
        while found.len() < count && self.sum(0) > 0 {
            let place = self.find(rng.u64(..self.sum(0)));
            self.set(place, 0);
            found.push(place);
        }
        found.iter().for_each(|place| self.set(*place, weight(*place)));
    }

    /// Whose share of the sum of all weights `point` lies in.
    fn find(&self, mut point: u64) -> u32 {
        let mut node = 0;
        loop {
            let (left, right) = (self.sum(2 * node + 1), self.sum(2 * node + 2));
            if point < left {
                node = 2 * node + 1;
            } else if point - left < right {
                point -= left;
                node = 2 * node + 2;
            } else {
                return node as u32;
            }
        }
    }
}
