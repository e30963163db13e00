//! Changes of the handlespace: made here and told to the peers, or told by them (RFC 5353 section 3.3).

use std::time::Instant;

use dialtone_handlespace::{Element, Handle, Imported};
use dialtone_wire::enrp::Body;
use dialtone_wire::{OperationError, PoolElement, PoolHandle, ServerId, UpdateAction};

use super::output::{Event, Removal};
use super::{Key, Registrar, Timer};

impl Registrar {
    /// Puts an own element into the handlespace; the caller has checked that it fits.
    pub(super) fn put_entry(&mut self, now: Instant, handle: &Handle, element: Element) {
        let key = (handle.clone(), element.pe_id);
        let transport = element.transport.clone();
        if let Ok(registered) = self.space.register(handle, element) {
            let same_place =
                registered.previous.as_ref().is_some_and(|old| old.transport == transport);
            self.changed_entry(now, &key, !same_place);
        }
    }

    /// What an entry's change means for answers and subscribers: the membership, or load and the like only.
    fn changed_entry(&mut self, now: Instant, key: &Key, membership: bool) {
        self.answers.forget(key);
        if membership {
            self.changed.insert(key.0.clone());
        } else if self.subscribers.contains_key(&key.0) {
            self.timers.set_earlier(Timer::Push(key.0.clone()), now + self.config.timers.push);
        }
    }

    pub(super) fn remove_entry(&mut self, key: &Key) -> Option<Element> {
        let element = self.space.remove(&key.0, key.1)?;
        self.dropped_entry(key);
        Some(element)
    }

    fn dropped_entry(&mut self, key: &Key) {
        self.answers.forget(key);
        self.owners.remove(key);
        if self.space.pool(key.0.as_bytes()).is_none() {
            self.answers.forget_pool(&key.0);
        }
        self.changed.insert(key.0.clone());
    }

    /// Pushes what has changed, once per call of the core. A pool that changes faster than subscribers can use it is not
    /// pushed for each change: one element could keep all of them busy.
    pub(super) fn flush(&mut self, now: Instant) {
        while let Some(handle) = self.changed.pop_first() {
            let Some(subscribers) = self.subscribers.get(&handle) else { continue };
            let allowed = subscribers.pushed.map(|at| at + self.config.timers.push_min);
            match allowed.filter(|at| now < *at) {
                Some(at) => self.timers.set_earlier(Timer::Push(handle), at),
                None => self.push(now, &handle),
            }
        }
    }

    /// RFC 5353 section 3.3.1: a granted registration, told to all peers.
    pub(super) fn announce_add(&mut self, key: &Key) {
        if let Some(element) = self.space.get(key.0.as_bytes(), key.1).cloned() {
            self.announce(update(&key.0, &element, UpdateAction::ADD_PE));
        }
    }

    /// RFC 5353 section 3.3.2: complete information for a removal, too.
    pub(super) fn announce_removal(&mut self, handle: &Handle, element: &Element) {
        self.announce(update(handle, element, UpdateAction::DEL_PE));
    }

    /// An element of somebody else does not answer: a deletion to its home alone. A home that follows G15 asks the
    /// element itself, any other removes it, and either is right.
    pub(super) fn report_to_home(&mut self, key: &Key) {
        let Some(element) = self.space.get(key.0.as_bytes(), key.1).cloned() else { return };
        if let Some(id) = self.link(element.home) {
            self.send_enrp(id, element.home, update(&key.0, &element, UpdateAction::DEL_PE));
        }
    }

    /// Takes an update from a peer.
    pub(super) fn handle_update(
        &mut self,
        now: Instant,
        sender: ServerId,
        action: UpdateAction,
        handle: PoolHandle<'_>,
        element: PoolElement<'_>,
    ) {
        let Ok(handle) = self.space.handle(handle.0) else {
            self.counters.dropped += 1;
            return;
        };
        let key = (handle, element.pe_id);
        let home = self.space.get(key.0.as_bytes(), key.1).map(|element| element.home);
        match action {
            // G16: nobody but us registers elements for us.
            UpdateAction::ADD_PE if element.home == self.id => {
                tracing::debug!(?sender, ?key, "update in our own name ignored");
            }
            UpdateAction::ADD_PE => {
                let mut element = Element::from(element);
                if element.home == ServerId::NONE {
                    element.home = sender;
                }
                self.unmark(sender, &key);
                self.take(now, &key.0, element);
            }
            UpdateAction::DEL_PE => match home {
                None => {}
                Some(home) if home == sender => {
                    self.unwatch(&key);
                    self.remove_entry(&key);
                }
                // DEVIATION(G15): only the recorded home removes; a late deletion by a former home would remove an
                // element that has moved on. From anybody else it is a reason to ask the element, and no more: behind it
                // may be one user's reports to a registrar that cannot reach the element itself.
                Some(home) => {
                    self.counters.foreign_deletes += 1;
                    if home == self.id {
                        self.probe(now, &key);
                    }
                }
            },
            _ => self.counters.dropped += 1,
        }
    }

    /// An entry of a handle table. `own`: the table says what `sender` owns, else everything. `true` when it changed
    /// anything.
    pub(super) fn import(
        &mut self,
        now: Instant,
        sender: ServerId,
        handle: PoolHandle<'_>,
        element: &PoolElement<'_>,
        own: bool,
    ) -> bool {
        let Ok(handle) = self.space.handle(handle.0) else { return false };
        let key = (handle, element.pe_id);
        if element.home == ServerId::NONE || (own && element.home != sender) {
            return false;
        }
        if self.in_service() && element.home == self.id {
            return false;
        }
        self.unmark(sender, &key);
        if self.in_service() && self.owns(&key) {
            // Two homes. A table tells a state, not an event, so it takes nothing away from us. What we took over
            // from the sender we tell it; else the element decides: it registers again with its home when asked.
            if self.watches.get(&key).is_some_and(|watch| watch.taken_from == Some(sender)) {
                let element = self.space.get(key.0.as_bytes(), key.1).cloned();
                if let (Some(element), Some(id)) = (element, self.link(sender)) {
                    self.send_enrp(id, sender, update(&key.0, &element, UpdateAction::ADD_PE));
                }
            } else {
                if let Some(watch) = self.watches.get_mut(&key) {
                    watch.claimed_by = Some(sender);
                }
                self.probe(now, &key);
            }
            return false;
        }
        if element.home != self.id && self.peers.len() < self.config.limits.peers {
            // A home that nobody hears of must be found dead one day.
            self.ensure_peer(now, element.home);
        }
        self.take(now, &key.0, Element::from(element.clone()))
    }

    /// Imports with the tie-break of G17. `true` when the entry changed.
    fn take(&mut self, now: Instant, handle: &Handle, element: Element) -> bool {
        let key = (handle.clone(), element.pe_id);
        let limits = &self.config.limits;
        let size = handle.as_bytes().len() + element.to_wire().max_len();
        let full = self.space.len() >= limits.elements
            && self.space.get(handle.as_bytes(), key.1).is_none();
        if full || size > limits.entry_bytes {
            self.counters.dropped += 1;
            return false;
        }
        if self.config.bugs.firm_rules && self.space.check(handle, &element).is_err() {
            return false;
        }
        let imported = self.space.import(handle, element.clone());
        if let Some(first) = imported.evicted.first() {
            let winner = element.home;
            tracing::debug!(?winner, loser = ?first.home, pool = %handle, "rules of a pool replaced");
            self.event(Event::PoolConflict { pool: handle.clone(), winner });
        }
        for loser in imported.evicted {
            self.evicted(handle, &loser);
        }
        match imported.outcome {
            Imported::Added => {
                self.changed_entry(now, &key, true);
                true
            }
            Imported::Replaced(old) => {
                if old.home == self.id && element.home != self.id {
                    // The registration is newer than ours: the element belongs to another home now (G16).
                    self.gave_up(now, &key);
                    self.event(Event::Removed {
                        pool: key.0.clone(),
                        pe: key.1,
                        reason: Removal::Moved,
                    });
                }
                let changed = old != element;
                if old.home != element.home {
                    self.note_claim(element.home, old.home);
                }
                if changed {
                    self.changed_entry(now, &key, old.transport != element.transport);
                }
                changed
            }
            Imported::Refused(_) => {
                let homes =
                    self.space.pool(handle.as_bytes()).into_iter().flat_map(|pool| pool.elements());
                let winner = homes.map(|element| element.home).min().unwrap_or(self.id);
                self.event(Event::PoolConflict { pool: handle.clone(), winner });
                false
            }
        }
    }

    /// An element that does not fit the rules of its pool any more (G17). Its home tells everybody, and the element.
    fn evicted(&mut self, handle: &Handle, loser: &Element) {
        let key = (handle.clone(), loser.pe_id);
        let assoc = self.unwatch(&key);
        self.dropped_entry(&key);
        if loser.home != self.id {
            return;
        }
        self.announce_removal(handle, loser);
        self.event(Event::Removed { pool: key.0.clone(), pe: key.1, reason: Removal::Conflict });
        let causes = self
            .space
            .check(handle, loser)
            .err()
            .map(|conflict| OperationError::from(conflict.causes));
        if let Some(id) = assoc {
            self.deregistration_response(id, &key, causes);
        }
    }
}

fn update<'a>(handle: &'a Handle, element: &'a Element, action: UpdateAction) -> Body<'a> {
    Body::HandleUpdate {
        takeover_suggested: false,
        action,
        handle: handle.to_wire(),
        element: Box::new(element.to_wire()),
    }
}
