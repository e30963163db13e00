//! The handlespace itself: every change keeps ownership indexes and checksums in step.

use crate::order::Scratch;
use crate::owner::Owner;
use crate::{Checksum, Conflict, Element, Handle, HandleError, Pool, Selection};
use dialtone_wire::{PeId, ServerId};
use std::collections::BTreeMap;

/// All pools with their elements, who owns them, and a checksum per owner. Iterates in a stable order.
#[derive(Clone, Debug, Default)]
pub struct Handlespace {
    pub(crate) pools: BTreeMap<Handle, Pool>,
    pub(crate) owners: BTreeMap<ServerId, Owner>,
    elements: usize,
    conflicts: u64,
    folded_subtraction: bool,
    scratch: Scratch,
}

/// What a registration did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The element as it was before; `None` if it is new.
    pub previous: Option<Element>,
    /// The pool is new.
    pub created_pool: bool,
}

/// What became of an imported element itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Imported {
    Added,
    /// Was there before, like this.
    Replaced(Element),
    /// The pool's kind contradicts and wins (G17).
    Refused(Conflict),
}

/// What an import from a peer did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    pub outcome: Imported,
    /// Elements that lost against the imported one (G17) and were removed. Whoever owns one of them announces its
    /// removal and tells the element.
    pub evicted: Vec<Element>,
}

impl Handlespace {
    /// An empty handlespace.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether `element` fits its pool (RFC 5352, section 3.1, rule 3); changes nothing.
    ///
    /// # Errors
    /// The conflict, with the causes to answer. A lone element that changes its policy type is one (G6).
    pub fn check(&self, handle: &Handle, element: &Element) -> Result<(), Conflict> {
        let conflict = self.pools.get(handle).and_then(|pool| pool.conflict(element));
        conflict.map_or(Ok(()), Err)
    }

    /// Registers an element, or registers it again with all its attributes replaced (G35). Its `home` owns it from
    /// now on, whoever did before.
    ///
    /// # Errors
    /// As [`Self::check`]; then nothing was changed.
    pub fn register(&mut self, handle: &Handle, element: Element) -> Result<Registered, Conflict> {
        self.check(handle, &element)?;
        let pools = self.pools.len();
        let previous = self.insert(handle, element);
        Ok(Registered { previous, created_pool: self.pools.len() > pools })
    }

    /// Takes over what a peer says about an element. Where the kind of its pool contradicts, because two registrars
    /// created the pool at the same moment, every registrar decides alike (G17): the version whose smallest home
    /// identifier is smaller wins, and a home's newer word wins over its older one.
    pub fn import(&mut self, handle: &Handle, element: Element) -> Import {
        let mut evicted = Vec::new();
        if let Some(pool) = self.pools.get(handle)
            && let Some(conflict) = pool.conflict(&element)
        {
            self.conflicts += 1;
            // An undetermined home has no say.
            let rank = |home: ServerId| (home == ServerId::NONE, home);
            let others = pool.elements().filter(|other| other.pe_id != element.pe_id);
            if others
                .map(|other| rank(other.home))
                .min()
                .is_some_and(|least| least < rank(element.home))
            {
                return Import { outcome: Imported::Refused(conflict), evicted };
            }
            let losers: Vec<PeId> = pool.elements().map(|loser| loser.pe_id).collect();
            evicted.extend(losers.into_iter().filter_map(|pe_id| self.remove(handle, pe_id)));
        }
        let same = evicted.iter().position(|loser| loser.pe_id == element.pe_id);
        let previous = match same {
            Some(index) => {
                self.insert(handle, element);
                Some(evicted.remove(index))
            }
            None => self.insert(handle, element),
        };
        Import { outcome: previous.map_or(Imported::Added, Imported::Replaced), evicted }
    }

    /// A bug planted on purpose, see [`Checksum`]: for tests that show that simulations notice it.
    #[doc(hidden)]
    pub fn plant_folded_subtraction(&mut self) {
        self.folded_subtraction = true;
    }

    /// How many imports met a pool of another kind (G17).
    pub const fn conflicts(&self) -> u64 {
        self.conflicts
    }

    fn insert(&mut self, handle: &Handle, element: Element) -> Option<Element> {
        let (pe_id, home) = (element.pe_id, element.home);
        let pool = match self.pools.get_mut(handle) {
            Some(pool) => pool,
            None => self.pools.entry(handle.clone()).or_insert(Pool::new(element.kind())),
        };
        let previous = pool.put(element);
        match previous.as_ref().map(|previous| previous.home) {
            Some(former) if former == home => return previous,
            Some(former) => self.disown(former, handle, pe_id),
            None => self.elements += 1,
        }
        self.own(home, handle, pe_id);
        previous
    }

    /// Removes an element, and its pool with the last one.
    pub fn remove(&mut self, handle: &Handle, pe_id: PeId) -> Option<Element> {
        let pool = self.pools.get_mut(handle)?;
        let element = pool.remove(pe_id)?;
        if pool.len() == 0 {
            self.pools.remove(handle);
        }
        self.elements -= 1;
        self.disown(element.home, handle, pe_id);
        Some(element)
    }

    /// Moves an element to another home; returns the former one, `None` if there is no such element.
    pub fn set_home(&mut self, handle: &Handle, pe_id: PeId, home: ServerId) -> Option<ServerId> {
        let former = self.pools.get_mut(handle)?.set_home(pe_id, home)?;
        if former != home {
            self.disown(former, handle, pe_id);
            self.own(home, handle, pe_id);
        }
        Some(former)
    }

    /// Moves everything that `from` owns to `to` (RFC 5353, section 3.5.2: only the target's elements, G14) and says
    /// what that was.
    pub fn take_over(&mut self, from: ServerId, to: ServerId) -> Vec<(Handle, PeId)> {
        let moved: Vec<(Handle, PeId)> =
            self.owned(from).map(|(handle, pe_id)| (handle.clone(), pe_id)).collect();
        for (handle, pe_id) in &moved {
            self.set_home(handle, *pe_id, to);
        }
        moved
    }

    fn own(&mut self, home: ServerId, handle: &Handle, pe_id: PeId) {
        let owner = self.owners.entry(home).or_default();
        // The index and the pool share one allocation of the handle.
        let pools = &self.pools;
        owner.add(handle, pe_id, || {
            pools.get_key_value(handle).map_or(handle, |(handle, _)| handle).clone()
        });
    }

    fn disown(&mut self, home: ServerId, handle: &Handle, pe_id: PeId) {
        let Some(owner) = self.owners.get_mut(&home) else { return };
        owner.remove(handle, pe_id, self.folded_subtraction);
        if owner.is_empty() {
            self.owners.remove(&home);
        }
    }

    /// Selects at most `max_items` elements of a pool, none twice, in the order in which a user should try them;
    /// `None` if there is no such pool. Empty if no element can serve (weight 0).
    pub fn select(
        &mut self,
        handle: &[u8],
        max_items: usize,
        rng: &mut fastrand::Rng,
    ) -> Option<Selection<'_>> {
        Some(self.pools.get_mut(handle)?.select(max_items, rng, &mut self.scratch))
    }

    /// The checksum of what `home` owns (RFC 5353, section 3.6.2).
    pub fn checksum(&self, home: ServerId) -> u16 {
        self.sums(home).value()
    }

    /// The same by rsplib ([`Checksum::wrapped`]).
    pub fn wrapped_checksum(&self, home: ServerId) -> u16 {
        self.sums(home).wrapped()
    }

    fn sums(&self, home: ServerId) -> Checksum {
        self.owners.get(&home).map_or(Checksum::default(), Owner::checksum)
    }

    /// What `home` owns, by handle and identifier.
    pub fn owned(&self, home: ServerId) -> impl Iterator<Item = (&Handle, PeId)> {
        self.owners.get(&home).into_iter().flat_map(Owner::elements)
    }

    /// How many elements `home` owns.
    pub fn owned_len(&self, home: ServerId) -> usize {
        self.owners.get(&home).map_or(0, Owner::len)
    }

    /// Everybody who owns an element.
    pub fn owners(&self) -> impl Iterator<Item = ServerId> {
        self.owners.keys().copied()
    }

    /// The pool of that handle; `handle` may be the bytes of a message.
    pub fn pool(&self, handle: &[u8]) -> Option<&Pool> {
        self.pools.get(handle)
    }

    /// A handle of these bytes: a clone of the pool's own, if there is such a pool, else a new one. What is kept by element
    /// shares the handle's memory so.
    ///
    /// # Errors
    /// As [`Handle::new`].
    pub fn handle(&self, handle: &[u8]) -> Result<Handle, HandleError> {
        match self.pools.get_key_value(handle) {
            Some((handle, _)) => Ok(handle.clone()),
            None => Handle::new(handle),
        }
    }

    /// One element; `handle` may be the bytes of a message.
    pub fn get(&self, handle: &[u8], pe_id: PeId) -> Option<&Element> {
        self.pools.get(handle)?.get(pe_id)
    }

    /// All pools by handle.
    pub fn pools(&self) -> impl ExactSizeIterator<Item = (&Handle, &Pool)> {
        self.pools.iter()
    }

    /// All elements by handle and identifier.
    pub fn elements(&self) -> impl Iterator<Item = (&Handle, &Element)> {
        self.pools
            .iter()
            .flat_map(|(handle, pool)| pool.elements().map(move |element| (handle, element)))
    }

    /// How many elements there are in all pools.
    pub const fn len(&self) -> usize {
        self.elements
    }

    /// Whether there is no element and thus no pool.
    pub const fn is_empty(&self) -> bool {
        self.elements == 0
    }
}

impl Pool {
    fn conflict(&self, element: &Element) -> Option<Conflict> {
        Conflict::find(self.kind(), self.elements().next()?, element)
    }
}
