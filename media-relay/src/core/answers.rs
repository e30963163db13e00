//! Answers that were given, for requests that come again: a client that heard nothing asks with the same cookie, and
//! the work must not be done twice.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Clients repeat for some seconds: Kamailio five times within five.
const KEPT: Duration = Duration::from_secs(10);
/// Bounds on what is kept; the oldest goes first.
const MAX_ANSWERS: usize = 50_000;
const MAX_BYTES: usize = 32 << 20;
/// Others that wait for the answer to the same request.
const MAX_ASKERS: usize = 8;

/// What is known of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It is new, and known from now on.
    No,
    /// It is being worked at: the answer will go to this asker, too.
    Pending,
    Answered(Arc<[u8]>),
}

/// Answers by cookie, and by the rest of the request: two clients may have had the same idea of a cookie.
#[derive(Debug)]
pub(super) struct Answers {
    known: HashMap<u64, Answer>,
    /// Oldest first.
    order: VecDeque<(Instant, u64)>,
    bytes: usize,
    hasher: RandomState,
}

#[derive(Debug)]
enum Answer {
    Pending(Vec<SocketAddr>),
    Given(Arc<[u8]>),
}

/// Names a request among those that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(u64);

impl Answers {
    pub(super) fn new() -> Self {
        Self { known: HashMap::new(), order: VecDeque::new(), bytes: 0, hasher: RandomState::new() }
    }

    pub(super) fn look_up(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
    ) -> (Key, Seen) {
        self.forget(now);
        let key = self.hasher.hash_one(datagram);
        let seen = match self.known.get_mut(&key) {
            Some(Answer::Given(bytes)) => Seen::Answered(Arc::clone(bytes)),
            Some(Answer::Pending(askers)) => {
                if askers.len() < MAX_ASKERS && !askers.contains(&from) {
                    askers.push(from);
                }
                Seen::Pending
            }
            None => {
                self.known.insert(key, Answer::Pending(vec![from]));
                self.order.push_back((now, key));
                Seen::No
            }
        };
        (Key(key), seen)
    }

    /// Keeps the answer; returns who is to get it.
    pub(super) fn answer(&mut self, key: Key, bytes: &Arc<[u8]>) -> Vec<SocketAddr> {
        match self.known.get_mut(&key.0) {
            Some(answer @ Answer::Pending(_)) => {
                self.bytes += bytes.len();
                match std::mem::replace(answer, Answer::Given(Arc::clone(bytes))) {
                    Answer::Pending(askers) => askers,
                    Answer::Given(_) => Vec::new(),
                }
            }
            // Answered already, or so old that nobody waits.
            Some(Answer::Given(_)) | None => Vec::new(),
        }
    }

    fn forget(&mut self, now: Instant) {
        while let Some((since, key)) = self.order.front().copied() {
            let full = self.order.len() >= MAX_ANSWERS || self.bytes >= MAX_BYTES;
            if !full && now.saturating_duration_since(since) < KEPT {
                break;
            }
            self.order.pop_front();
            if let Some(Answer::Given(bytes)) = self.known.remove(&key) {
                self.bytes -= bytes.len();
            }
        }
        // What a flood has needed is given back.
        if self.known.capacity() > 1_024 && self.known.len() < self.known.capacity() / 8 {
            self.known.shrink_to(2 * self.known.len());
            self.order.shrink_to(2 * self.known.len());
        }
    }

    /// When something can be forgotten.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.order.front().map(|(since, _)| *since + KEPT)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.forget(now);
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_request_is_worked_at_once_and_answered_to_all() {
        let mut answers = Answers::new();
        let now = crate::core::tests::start();
        let (key, seen) = answers.look_up(now, asker(1), b"1_1 d1:xe");
        assert_eq!(seen, Seen::No);
        for from in [asker(1), asker(2), asker(2)] {
            assert_eq!(answers.look_up(now, from, b"1_1 d1:xe"), (key, Seen::Pending));
        }
        let bytes: Arc<[u8]> = Arc::from(&b"1_1 d6:result2:oke"[..]);
        assert_eq!(answers.answer(key, &bytes), [asker(1), asker(2)]);
        assert_eq!(answers.answer(key, &bytes), []);
        let later = now + KEPT - Duration::from_millis(1);
        assert_eq!(answers.look_up(later, asker(3), b"1_1 d1:xe").1, Seen::Answered(bytes));
        // The same cookie in another request is another one.
        assert_eq!(answers.look_up(later, asker(3), b"1_1 d1:ye").1, Seen::No);
        assert_eq!(answers.look_up(now + KEPT, asker(1), b"1_1 d1:xe").1, Seen::No);
    }

    #[test]
    fn memory_is_bounded() {
        let mut answers = Answers::new();
        let now = crate::core::tests::start();
        let bytes: Arc<[u8]> = vec![0; 60_000].into();
        for n in 0..2_000_u32 {
            let (key, seen) = answers.look_up(now, asker(1), &n.to_be_bytes());
            assert_eq!(seen, Seen::No);
            answers.answer(key, &bytes);
        }
        assert!(answers.bytes <= MAX_BYTES + bytes.len() && answers.len() < 600);
        for n in 0..2 * MAX_ANSWERS as u64 {
            answers.look_up(now, asker(1), &n.to_be_bytes());
        }
        assert_eq!((answers.len(), answers.bytes), (MAX_ANSWERS, 0));
        answers.handle_timeout(now + KEPT);
        assert_eq!((answers.len(), answers.next_deadline()), (0, None));
    }
}
