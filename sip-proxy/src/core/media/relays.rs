//! Which relay to ask: the pool `media-relay` as this proxy sees it.

use std::collections::BTreeMap;
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
    departed: BTreeMap<PeId, SocketAddr>,
}

impl Relays {
    pub(super) fn new(view: Arc<View>, rng: fastrand::Rng) -> Self {
        Self { selector: Selector::new(view, SUSPICION, rng), departed: BTreeMap::new() }
    }

    pub(super) fn update(&mut self, view: Arc<View>) {
        for member in self.selector.view().members.iter() {
            if view.member(member.pe_id).is_none()
                && let Some(address) = member.addr()
            {
                self.departed.insert(member.pe_id, address);
            }
        }
        self.departed.retain(|element, _| view.member(*element).is_none());
        while self.departed.len() > DEPARTED {
            self.departed.pop_first();
        }
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
        let departed = self.departed.get(&element);
        let departed = departed.map(|address| Relay { element, address: *address });
        self.present(element).or(departed)
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
