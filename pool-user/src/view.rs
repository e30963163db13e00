//! What a user knows of a pool.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use dialtone_handlespace::{Element, Handle};
use dialtone_wire::{PeId, Policy, PolicyType, PoolElement};

/// One member of a pool: its element, with the policy values that came with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member(Element);

impl Member {
    /// The first address with the port, for transports that have them.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.transport.socket_addr()
    }
}

impl Deref for Member {
    type Target = Element;

    fn deref(&self) -> &Element {
        &self.0
    }
}

impl Borrow<Element> for Member {
    fn borrow(&self) -> &Element {
        &self.0
    }
}

impl From<Element> for Member {
    fn from(element: Element) -> Self {
        Self(element)
    }
}

/// How far a view can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// No registrar has answered yet.
    Unknown,
    /// The home registrar answers, and tells of changes.
    Fresh,
    /// The home registrar was lost, or denies a pool that another one knew; the members are the last known ones.
    Stale { since: Instant },
    /// The registrar knows no such pool.
    Absent,
}

/// A pool as its registrar described it. Membership is kept apart from the order that the policy gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub handle: Handle,
    /// Grows when members come, go or change their transport; not with policy values or order.
    pub version: u64,
    /// The pool's overall policy (RFC 5352 section 2.2.6).
    pub policy: PolicyType,
    /// By identifier. After a change of the home, members that only the former one named stay known for a while.
    pub members: Arc<[Member]>,
    /// Identifiers in the order in which the registrar named them; selection prefers these.
    pub order: Arc<[PeId]>,
    /// These are all members; selection by key needs that.
    pub complete: bool,
    pub freshness: Freshness,
}

impl View {
    /// Nothing is known of the pool yet.
    pub fn unknown(handle: Handle) -> Self {
        Self {
            handle,
            version: 0,
            policy: PolicyType::ROUND_ROBIN,
            members: Arc::new([]),
            order: Arc::new([]),
            complete: false,
            freshness: Freshness::Unknown,
        }
    }

    pub fn member(&self, pe_id: PeId) -> Option<&Member> {
        let at = self.members.binary_search_by_key(&pe_id, |member| member.pe_id).ok()?;
        self.members.get(at)
    }

    /// The present home names this member: it is not just remembered from a former one.
    pub fn names(&self, pe_id: PeId) -> bool {
        self.order.contains(&pe_id)
    }

    pub fn is_stale(&self) -> bool {
        matches!(self.freshness, Freshness::Stale { .. })
    }

    /// The next view after an answer, in which members that are in doubt stay known; the version tells whether
    /// membership changed.
    pub(crate) fn with_answer(
        &self,
        policy: Option<&Policy<'_>>,
        elements: &[PoolElement<'_>],
        complete: bool,
        doubtful: &[Member],
    ) -> Self {
        let mut members: Vec<Member> = Vec::with_capacity(elements.len() + doubtful.len());
        let mut order = Vec::with_capacity(elements.len());
        let mut seen = BTreeSet::new();
        for element in elements {
            // WRR lists of other implementations may name an element more than once; membership does not.
            if seen.insert(element.pe_id) {
                members.push(Member(Element::from(element.clone())));
                order.push(element.pe_id);
            }
        }
        members.extend(doubtful.iter().filter(|member| !seen.contains(&member.pe_id)).cloned());
        members.sort_by_key(|member| member.pe_id);
        let same = members.len() == self.members.len()
            && members
                .iter()
                .zip(self.members.iter())
                .all(|(a, b)| a.pe_id == b.pe_id && a.transport == b.transport);
        Self {
            handle: self.handle.clone(),
            version: if same { self.version } else { self.version + 1 },
            // RFC 5352 section 2.2.6: absent means round robin, whatever the elements say.
            policy: policy.map_or(PolicyType::ROUND_ROBIN, Policy::number),
            members: members.into(),
            order: order.into(),
            complete,
            freshness: Freshness::Fresh,
        }
    }

    /// Only members that the present home names.
    pub(crate) fn without_doubtful(&self) -> Self {
        let named = self.members.iter().filter(|member| self.names(member.pe_id));
        Self { version: self.version + 1, members: named.cloned().collect(), ..self.clone() }
    }

    pub(crate) fn with_freshness(&self, freshness: Freshness) -> Self {
        Self { freshness, ..self.clone() }
    }

    /// The pool does not exist.
    pub(crate) fn absent(&self) -> Self {
        Self {
            version: if self.members.is_empty() { self.version } else { self.version + 1 },
            freshness: Freshness::Absent,
            ..Self::unknown(self.handle.clone())
        }
    }
}
