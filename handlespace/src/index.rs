//! A map from identifiers that is ordered and compact, and answers with few accesses to memory: sorted chunks.

use dialtone_wire::PeId;

/// So many identifiers a chunk: eight cache lines, which are read at once.
const CHUNK: usize = 128;

/// Values by identifier. No operation moves more than a chunk and the list of chunks.
#[derive(Clone, Debug)]
pub(crate) struct Index<V> {
    /// What each chunk may begin with; the first one takes all that is smaller, too.
    firsts: Vec<PeId>,
    /// Not empty.
    chunks: Vec<Chunk<V>>,
    len: usize,
}

#[derive(Clone, Debug)]
struct Chunk<V> {
    ids: Vec<PeId>,
    values: Vec<V>,
}

impl<V> Default for Index<V> {
    fn default() -> Self {
        Self { firsts: Vec::new(), chunks: Vec::new(), len: 0 }
    }
}

impl<V: Copy> Index<V> {
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// The chunk in which an identifier is, or is to be.
    fn chunk(&self, pe_id: PeId) -> usize {
        self.firsts.partition_point(|first| *first <= pe_id).saturating_sub(1)
    }

    pub(crate) fn get(&self, pe_id: PeId) -> Option<V> {
        let chunk = self.chunks.get(self.chunk(pe_id))?;
        let at = chunk.find(pe_id).ok()?;
        chunk.values.get(at).copied()
    }

    /// Adds an identifier, or gives it another value.
    pub(crate) fn insert(&mut self, pe_id: PeId, value: V) {
        let number = self.chunk(pe_id);
        let Some(chunk) = self.chunks.get_mut(number) else {
            self.firsts.push(pe_id);
            self.chunks.push(Chunk { ids: vec![pe_id], values: vec![value] });
            self.len = 1;
            return;
        };
        let at = match chunk.find(pe_id) {
            Ok(at) => {
                chunk.values[at] = value;
                return;
            }
            Err(at) => at,
        };
        self.len += 1;
        if chunk.ids.len() < CHUNK {
            chunk.ids.insert(at, pe_id);
            chunk.values.insert(at, value);
            return;
        }
        // Who adds in ascending order fills all chunks.
        let half = if at == CHUNK { CHUNK } else { CHUNK / 2 };
        let mut rest = Chunk { ids: Vec::with_capacity(CHUNK), values: Vec::with_capacity(CHUNK) };
        rest.ids.extend(chunk.ids.drain(half..));
        rest.values.extend(chunk.values.drain(half..));
        let (part, at) = if at < half { (chunk, at) } else { (&mut rest, at - half) };
        part.ids.insert(at, pe_id);
        part.values.insert(at, value);
        self.firsts.insert(number + 1, rest.ids[0]);
        self.chunks.insert(number + 1, rest);
    }

    pub(crate) fn remove(&mut self, pe_id: PeId) -> Option<V> {
        let number = self.chunk(pe_id);
        let chunk = self.chunks.get_mut(number)?;
        let at = chunk.find(pe_id).ok()?;
        chunk.ids.remove(at);
        let value = chunk.values.remove(at);
        self.len -= 1;
        if chunk.ids.is_empty() {
            self.firsts.remove(number);
            self.chunks.remove(number);
        }
        Some(value)
    }

    /// All, by identifier.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (PeId, V)> {
        self.chunks.iter().flat_map(|chunk| chunk.behind(0))
    }

    /// Those behind an identifier, whether it is there or not.
    pub(crate) fn behind(&self, pe_id: PeId) -> impl Iterator<Item = (PeId, V)> {
        let number = self.chunk(pe_id);
        let rest = self.chunks.get(number..).unwrap_or_default();
        rest.iter().enumerate().flat_map(move |(distance, chunk)| {
            let from = match chunk.find(pe_id) {
                _ if distance > 0 => 0,
                Ok(at) => at + 1,
                Err(at) => at,
            };
            chunk.behind(from)
        })
    }
}

impl<V: Copy> Chunk<V> {
    /// Where an identifier is, or where it would be. All are compared: nothing waits for the result of another
    /// comparison.
    fn find(&self, pe_id: PeId) -> Result<usize, usize> {
        let smaller: u32 = self.ids.iter().map(|other| u32::from(other.0 < pe_id.0)).sum();
        let at = smaller as usize;
        if self.ids.get(at) == Some(&pe_id) { Ok(at) } else { Err(at) }
    }

    fn behind(&self, from: usize) -> impl Iterator<Item = (PeId, V)> {
        self.ids[from..].iter().copied().zip(self.values[from..].iter().copied())
    }
}
