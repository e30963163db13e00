//! Which worker has which pair.

use std::collections::HashMap;

use super::PairId;

/// Pairs of a worker before the next one gets some: a worker that has much to do finds several packets whenever it
/// wakes up, and waking up costs a good part of what forwarding does. 500 pairs of G.711 are 50,000 packets a second.
const FILL: usize = 500;

#[derive(Debug)]
pub(crate) struct Placement {
    pairs: HashMap<PairId, usize>,
    counts: Vec<usize>,
}

impl Placement {
    pub(crate) fn new(workers: usize) -> Self {
        Self { pairs: HashMap::new(), counts: vec![0; workers] }
    }

    /// The worker for a pair that opens: the first that is not filled, else the one with the fewest.
    pub(crate) fn place(&mut self, pair: PairId) -> usize {
        if let Some(worker) = self.pairs.get(&pair) {
            return *worker;
        }
        let least = || (0..self.counts.len()).min_by_key(|worker| self.counts[*worker]);
        let free = self.counts.iter().position(|count| *count < FILL);
        let worker = free.or_else(least).unwrap_or(0);
        self.pairs.insert(pair, worker);
        self.counts[worker] += 1;
        worker
    }

    /// The worker of a pair that closes. Any worker will do for one that is not open.
    pub(crate) fn remove(&mut self, pair: PairId) -> usize {
        let worker = self.pairs.remove(&pair);
        if let Some(worker) = worker {
            self.counts[worker] -= 1;
        }
        worker.unwrap_or(0)
    }

    pub(crate) fn find(&self, pair: PairId) -> usize {
        self.pairs.get(&pair).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_after_the_other_and_then_evenly() {
        let mut placement = Placement::new(2);
        for n in 0..500 {
            assert_eq!(placement.place(PairId(n)), 0);
        }
        for n in 500..1_000 {
            assert_eq!(placement.place(PairId(n)), 1);
        }
        // Again is where it was.
        assert_eq!(placement.place(PairId(3)), 0);
        assert_eq!(placement.counts, [500, 500]);
        for n in 1_000..1_100 {
            placement.place(PairId(n));
        }
        assert_eq!(placement.counts, [550, 550]);
        // The first one gets what becomes free.
        for n in 0..100 {
            assert_eq!(placement.find(PairId(n)), 0);
            assert_eq!(placement.remove(PairId(n)), 0);
        }
        assert_eq!(placement.place(PairId(2_000)), 0);
        assert_eq!(placement.remove(PairId(700)), 1);
        assert_eq!(placement.remove(PairId(700)), 0);
        assert_eq!(placement.counts, [451, 549]);
    }
}
