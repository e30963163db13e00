//! What one registrar owns: an ordered index, and its checksum.

use crate::index::Index;
use crate::{Checksum, Handle};
use dialtone_wire::PeId;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

#[derive(Clone, Debug, Default)]
pub(crate) struct Owner {
    checksum: Checksum,
    pools: BTreeMap<Handle, Index<()>>,
    elements: usize,
}

impl Owner {
    /// Adds an element that was not there; `shared` is asked for the handle of a new pool.
    pub(crate) fn add(&mut self, handle: &Handle, pe_id: PeId, shared: impl FnOnce() -> Handle) {
        self.checksum.add(handle, pe_id);
        self.elements += 1;
        let pool = match self.pools.get_mut(handle) {
            Some(pool) => pool,
            None => self.pools.entry(shared()).or_default(),
        };
        pool.insert(pe_id, ());
    }

    /// Takes an element away that was added before; `folded` with the bug of [`Checksum::subtract_folded`].
    pub(crate) fn remove(&mut self, handle: &Handle, pe_id: PeId, folded: bool) {
        match folded {
            false => self.checksum.subtract(handle, pe_id),
            true => self.checksum.subtract_folded(handle, pe_id),
        }
        self.elements -= 1;
        if let Some(pool) = self.pools.get_mut(handle) {
            pool.remove(pe_id);
            if pool.len() == 0 {
                self.pools.remove(handle);
            }
        }
    }

    pub(crate) const fn checksum(&self) -> Checksum {
        self.checksum
    }

    pub(crate) const fn len(&self) -> usize {
        self.elements
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.elements == 0
    }

    /// All elements by handle and identifier.
    pub(crate) fn elements(&self) -> impl Iterator<Item = (&Handle, PeId)> {
        self.pools
            .iter()
            .flat_map(|(handle, pool)| pool.iter().map(move |(pe_id, ())| (handle, pe_id)))
    }

    /// The elements behind this one, whether it is there or not.
    pub(crate) fn behind<'a>(
        &'a self,
        handle: &Handle,
        pe_id: PeId,
    ) -> impl Iterator<Item = (&'a Handle, PeId)> + use<'a> {
        let rest_of_pool =
            self.pools.get_key_value(handle).into_iter().flat_map(move |(handle, pool)| {
                pool.behind(pe_id).map(move |(pe_id, ())| (handle, pe_id))
            });
        let more = self.pools.range::<[u8], _>((Excluded(handle.as_bytes()), Unbounded));
        let more =
            more.flat_map(|(handle, pool)| pool.iter().map(move |(pe_id, ())| (handle, pe_id)));
        rest_of_pool.chain(more)
    }
}
