//! The handle table in chunks, as peers download it (RFC 5353, section 3.2.3).

use crate::{Element, Handle, Handlespace};
use dialtone_wire::enrp::PoolEntry;
use dialtone_wire::{PeId, ServerId};
use std::ops::Bound::{Excluded, Unbounded};

/// Where a download stands: behind this element, whether it still exists or not. Elements that come and go meanwhile
/// are told by handle updates (G29).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    pub handle: Handle,
    pub pe_id: PeId,
}

/// A part of the handle table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    pub pools: Vec<PoolEntry<'a>>,
    /// Where the next chunk begins; `None` if this is the last one.
    pub next: Option<Cursor>,
}

impl Handlespace {
    /// The elements behind `after`, in order: all, or those that `owner` owns (W flag). As many as fit both limits;
    /// an element larger than `max_bytes` makes a chunk of its own, so that a download always ends.
    pub fn chunk(
        &self,
        owner: Option<ServerId>,
        after: Option<&Cursor>,
        max_elements: usize,
        max_bytes: usize,
    ) -> Chunk<'_> {
        let mut pools: Vec<PoolEntry<'_>> = Vec::new();
        let (mut elements, mut bytes) = (0, 0);
        let mut last: Option<(&Handle, PeId)> = None;
        for (handle, element) in self.behind(owner, after) {
            let wire = element.to_wire();
            let same_pool = last.is_some_and(|(pool, _)| pool == handle);
            let size = wire.max_len() + if same_pool { 0 } else { 8 + handle.as_bytes().len() };
            if elements > 0 && (elements >= max_elements || bytes + size > max_bytes) {
                let next = last.map(|(handle, pe_id)| Cursor { handle: handle.clone(), pe_id });
                return Chunk { pools, next };
            }
            elements += 1;
            bytes += size;
            last = Some((handle, element.pe_id));
            match pools.last_mut() {
                Some(pool) if same_pool => pool.elements.push(wire),
                _ => pools.push(PoolEntry { handle: handle.to_wire(), elements: vec![wire] }),
            }
        }
        Chunk { pools, next: None }
    }

    fn behind<'a>(
        &'a self,
        owner: Option<ServerId>,
        after: Option<&Cursor>,
    ) -> Box<dyn Iterator<Item = (&'a Handle, &'a Element)> + 'a> {
        if let Some(owner) = owner {
            let Some(owner) = self.owners.get(&owner) else { return Box::new(std::iter::empty()) };
            let element = |(handle, pe_id): (&'a Handle, PeId)| {
                Some((handle, self.get(handle.as_bytes(), pe_id)?))
            };
            return match after {
                None => Box::new(owner.elements().filter_map(element)),
                Some(after) => {
                    Box::new(owner.behind(&after.handle, after.pe_id).filter_map(element))
                }
            };
        }
        let Some(after) = after else { return Box::new(self.elements()) };
        let pe_id = after.pe_id;
        let rest_of_pool =
            self.pools.get_key_value(&after.handle).into_iter().flat_map(move |(handle, pool)| {
                pool.behind(pe_id).map(move |element| (handle, element))
            });
        let more = self.pools.range::<[u8], _>((Excluded(after.handle.as_bytes()), Unbounded));
        let more =
            more.flat_map(|(handle, pool)| pool.elements().map(move |element| (handle, element)));
        Box::new(rest_of_pool.chain(more))
    }
}
