//! A list that grows by pages: no element moves when it grows, and at most one page is unused.

/// So many elements a page.
const PAGE: usize = 128;

/// A list without gaps; all pages but the last one are full.
#[derive(Clone, Debug)]
pub(crate) struct Paged<T> {
    pages: Vec<Vec<T>>,
}

impl<T> Paged<T> {
    pub(crate) const fn new() -> Self {
        Self { pages: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.pages.last().map_or(0, |last| (self.pages.len() - 1) * PAGE + last.len())
    }

    pub(crate) fn get(&self, place: u32) -> Option<&T> {
        self.pages.get(place as usize / PAGE)?.get(place as usize % PAGE)
    }

    pub(crate) fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        self.pages.get_mut(place as usize / PAGE)?.get_mut(place as usize % PAGE)
    }

    pub(crate) fn push(&mut self, element: T) {
        match self.pages.last_mut() {
            Some(last) if last.len() < PAGE => last.push(element),
            // Only the first page may stay small.
            Some(_) => {
                let mut page = Vec::with_capacity(PAGE);
                page.push(element);
                self.pages.push(page);
            }
            None => self.pages.push(vec![element]),
        }
    }

    /// Takes an element out; the last one takes its place.
    pub(crate) fn swap_remove(&mut self, place: u32) -> Option<T> {
        let page = self.pages.last_mut()?;
        let last = page.pop()?;
        if page.is_empty() {
            self.pages.pop();
        }
        match self.get_mut(place) {
            Some(element) => Some(std::mem::replace(element, last)),
            None => Some(last),
        }
    }
}
