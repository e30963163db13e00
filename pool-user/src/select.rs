//! Choosing an element from a view: by the pool's policy or by key, around suspects.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dialtone_handlespace::{rendezvous, user};
use dialtone_wire::PeId;

use crate::error::SelectError;
use crate::view::{Member, View};

/// How to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice<'k> {
    /// As the pool's policy says (RFC 5356).
    Policy,
    /// By rendezvous hashing: equal keys go to the same element as long as it lives, on every machine.
    Key(&'k [u8]),
}

/// Chooses elements of one pool and remembers which of them failed lately. Pure: time and randomness come in.
#[derive(Debug)]
pub struct Selector {
    view: Arc<View>,
    /// Members in the registrar's order.
    list: Vec<Member>,
    turn: user::Selector,
    suspects: BTreeMap<PeId, Instant>,
    suspicion: Duration,
    rng: fastrand::Rng,
}

impl Selector {
    /// `suspicion`: how long an element that failed is passed over while there are others.
    pub fn new(view: Arc<View>, suspicion: Duration, rng: fastrand::Rng) -> Self {
        let list = in_order(&view);
        Self {
            view,
            list,
            turn: user::Selector::default(),
            suspects: BTreeMap::new(),
            suspicion,
            rng,
        }
    }

    /// Takes a newer view of the pool. Members that are gone lose their suspicion: if they come back, the pool
    /// vouches for them.
    pub fn update(&mut self, view: Arc<View>) {
        if view.order != self.view.order {
            self.turn.restart();
        }
        self.list = in_order(&view);
        self.suspects.retain(|pe_id, _| view.member(*pe_id).is_some());
        self.view = view;
    }

    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// The element to use now. Those in `tried` are left out; suspects are chosen only when nobody else is left.
    ///
    /// # Errors
    /// See [`SelectError`]; nothing changed then.
    pub fn select(
        &mut self,
        now: Instant,
        choice: Choice<'_>,
        tried: &[PeId],
    ) -> Result<Member, SelectError> {
        if self.list.is_empty() {
            return Err(SelectError::Empty);
        }
        self.suspects.retain(|_, until| now < *until);
        let Self { view, list, turn, suspects, rng, .. } = self;
        let suspect = |pe_id: PeId| suspects.contains_key(&pe_id) || tried.contains(&pe_id);
        let picked = match choice {
            Choice::Policy => {
                let mut pick =
                    |skip: &dyn Fn(PeId) -> bool| turn.pick(view.policy, list, skip, rng);
                let index = pick(&suspect).or_else(|| pick(&|pe_id| tried.contains(&pe_id)));
                // The last resort: members that only a former home named.
                let unnamed =
                    |member: &&Member| !view.names(member.pe_id) && !tried.contains(&member.pe_id);
                let named = index.and_then(|index| list.get(index));
                named.or_else(|| view.members.iter().find(unnamed))
            }
            Choice::Key(key) => {
                if !view.complete {
                    return Err(SelectError::Incomplete);
                }
                let order = ranking(view, key);
                let untried = || order.iter().filter(|pe_id| !tried.contains(pe_id));
                let trusted = |pe_id: &&PeId| !suspect(**pe_id) && view.names(**pe_id);
                let first = untried().find(trusted).or_else(|| untried().next());
                first.and_then(|pe_id| view.member(*pe_id))
            }
        };
        let unable = if tried.is_empty() { SelectError::Empty } else { SelectError::Exhausted };
        picked.cloned().ok_or(unable)
    }

    /// The element did not answer: it is passed over for a while. `true` when it was not suspect before, which makes
    /// it worth a report to the registrar.
    pub fn suspect(&mut self, now: Instant, pe_id: PeId) -> bool {
        self.suspects.retain(|_, until| now < *until);
        self.view.member(pe_id).is_some()
            && self.suspects.insert(pe_id, now + self.suspicion).is_none()
    }

    /// The element answers again.
    pub fn trust(&mut self, pe_id: PeId) {
        self.suspects.remove(&pe_id);
    }

    pub fn is_suspect(&self, now: Instant, pe_id: PeId) -> bool {
        self.suspects.get(&pe_id).is_some_and(|until| now < *until)
    }
}

/// All members in the order in which the key prefers them; elements that weigh 0 are not among them.
pub(crate) fn ranking(view: &View, key: &[u8]) -> Vec<PeId> {
    let members = view.members.iter();
    let weighted = members.map(|member| rendezvous::Member {
        pe_id: member.pe_id,
        weight: member.policy.weight().unwrap_or(1),
    });
    rendezvous::order(key, weighted)
}

fn in_order(view: &View) -> Vec<Member> {
    view.order.iter().filter_map(|pe_id| view.member(*pe_id)).cloned().collect()
}
