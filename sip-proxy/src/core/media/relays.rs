//! Which relay to ask: the pool `media-relay` as this proxy sees it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dialtone_handlespace::rendezvous;
use dialtone_pool_user::{Choice, Selector, View};
use dialtone_wire::PeId;

/// For how long a relay that did not answer is passed over while there are others. Longer than it takes until the pool
/// has lost one that is dead.
const SUSPICION: Duration = Duration::from_secs(5);

/// Relays that have left the pool and are remembered: one that stops still has calls, whose end it wants to know.
const DEPARTED: usize = 64;

/// A relay and where it listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Relay {
    pub(super) element: PeId,
    pub(super) address: SocketAddr,
}

#[derive(Debug)]
pub(super) struct Relays {
    selector: Selector,
    /// The one that left last is the last.
    departed: VecDeque<Relay>,
}

impl Relays {
    pub(super) fn new(view: Arc<View>, rng: fastrand::Rng) -> Self {
        Self { selector: Selector::new(view, SUSPICION, rng), departed: VecDeque::new() }
    }

    pub(super) fn update(&mut self, view: Arc<View>) {
        self.departed.retain(|relay| view.member(relay.element).is_none());
        for member in self.selector.view().members.iter() {
            if view.member(member.pe_id).is_none()
                && let Some(address) = member.addr()
            {
                self.departed.push_back(Relay { element: member.pe_id, address });
            }
        }
        let excess = self.departed.len().saturating_sub(DEPARTED);
        self.departed.drain(..excess);
        self.selector.update(view);
    }

    /// The relay for a new call, by the pool's policy.
    pub(super) fn by_policy(&mut self, now: Instant, tried: &[PeId]) -> Option<Relay> {
        let mut skip = tried.to_vec();
        loop {
            let member = self.selector.select(now, Choice::Policy, &skip).ok()?;
            match member.addr() {
                Some(address) => return Some(Relay { element: member.pe_id, address }),
                None => skip.push(member.pe_id),
            }
        }
    }

    /// The relay for a call that has one: its first relay if it is in the pool, then the others as the Call-ID prefers
    /// them, so that every proxy comes to the same. Who is suspect counts as everybody else, since each proxy has suspects
    /// of its own.
    pub(super) fn of_call(&self, first: PeId, call_id: &str, tried: &[PeId]) -> Option<Relay> {
        let first = self.present(first).filter(|relay| !tried.contains(&relay.element));
        first.or_else(|| self.successors(call_id).find(|relay| !tried.contains(&relay.element)))
    }

    /// Who may have something of a call that ends: its first relay, even one that has left the pool, and the next one.
    pub(super) fn to_end(&self, first: PeId, call_id: &str) -> impl Iterator<Item = Relay> {
        let next = self.successors(call_id).find(|relay| relay.element != first);
        self.known(first).into_iter().chain(next)
    }

    /// This relay, even if it has left the pool.
    pub(super) fn known(&self, element: PeId) -> Option<Relay> {
        let departed = || self.departed.iter().find(|relay| relay.element == element).copied();
        self.present(element).or_else(departed)
    }

    fn successors(&self, call_id: &str) -> impl Iterator<Item = Relay> {
        let members = self.selector.view().members.iter().map(|member| member.pe_id);
        let order = rendezvous::order(call_id.as_bytes(), members);
        order.into_iter().filter_map(|element| self.present(element))
    }

    fn present(&self, element: PeId) -> Option<Relay> {
        let address = self.selector.view().member(element)?.addr()?;
        Some(Relay { element, address })
    }

    /// It did not answer. `true` if that is news.
    pub(super) fn suspect(&mut self, now: Instant, element: PeId) -> bool {
        self.selector.suspect(now, element)
    }

    /// It answered. `true` if that is news.
    pub(super) fn trust(&mut self, now: Instant, element: PeId) -> bool {
        let news = self.selector.is_suspect(now, element);
        self.selector.trust(element);
        news
    }
}

#[cfg(test)]
mod tests {
    use dialtone_handlespace::Element;
    use dialtone_wire::{Policy, ServerId, Transport};

    use super::*;

    fn view(element: u32) -> Arc<View> {
        let member = Element {
            pe_id: PeId(element),
            home: ServerId(1),
            life: 30,
            encaps_port: None,
            transport: Transport::udp("127.0.0.1:2223".parse().unwrap()),
            policy: Policy::RoundRobin,
            asap_transport: None,
        };
        let pool = crate::RELAYS.parse().unwrap();
        Arc::new(View { members: Arc::new([member.into()]), ..View::unknown(pool) })
    }

    #[test]
    fn those_that_left_first_are_forgotten_first() {
        let last = DEPARTED as u32 + 10;
        let mut relays = Relays::new(view(last), fastrand::Rng::with_seed(1));
        // From high to low, so that the first to leave have the highest identifiers; one comes back meanwhile.
        for element in (1..last).rev().chain([last, 0]) {
            relays.update(view(element));
        }
        let known: Vec<u32> =
            (0..=last).filter(|element| relays.known(PeId(*element)).is_some()).collect();
        let departed = DEPARTED as u32 - 1;
        assert_eq!(known, (0..=departed).chain([last]).collect::<Vec<_>>());
    }
}
