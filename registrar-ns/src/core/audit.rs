//! Audit and resynchronisation (RFC 5353 section 3.6), and the table that others download from here (section 3.2.3).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use dialtone_handlespace::{Checksum, Cursor};
use dialtone_transport::AssocId;
use dialtone_wire::enrp::{Body, PoolEntry};
use dialtone_wire::{Compat, ServerId};

use super::output::Event;
use super::peers::Status;
use super::{Key, Registrar, Timer};

/// How one peer's elements are kept equal to what it says.
#[derive(Debug)]
pub(super) struct Audit {
    /// The last checksum that the peer sent.
    pub(super) theirs: Option<u16>,
    running: Option<Running>,
    /// How long after a resync the next difference has to wait; doubles while resyncs do not help.
    pause: Duration,
    not_before: Option<Instant>,
    /// Whose elements it has claimed.
    claimed_from: BTreeSet<ServerId>,
}

#[derive(Debug)]
struct Running {
    /// The peer's elements that its answer has not named yet.
    marked: BTreeSet<Key>,
    changed: usize,
}

/// Elements that one peer, their recorded home, does not name any more.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    keys: BTreeSet<Key>,
    /// Peers that have not said yet what they own.
    waiting: BTreeSet<ServerId>,
}

impl Audit {
    pub(super) fn new(pause: Duration) -> Self {
        Self { theirs: None, running: None, pause, not_before: None, claimed_from: BTreeSet::new() }
    }

    /// What resyncs were worth so far counts for nothing.
    pub(super) fn begin_anew(&mut self, pause: Duration) {
        (self.pause, self.not_before) = (pause, None);
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }
}

/// A peer's download from here.
#[derive(Debug)]
pub(super) struct Session {
    own_children_only: bool,
    after: Cursor,
}

impl Registrar {
    /// The checksum of what a registrar owns (RFC 5353 section 3.6.2), as the peers compute it.
    pub(super) fn checksum_of(&self, home: ServerId) -> u16 {
        match self.config.compat {
            Compat::Rfc => self.space.checksum(home),
            Compat::Rsplib => self.space.wrapped_checksum(home),
        }
    }

    /// RFC 5353 section 3.6.1: compares a presence's checksum with what we believe of the peer.
    pub(super) fn compare(&mut self, now: Instant, id: AssocId, peer: ServerId, theirs: u16) {
        let ours = self.checksum_of(peer);
        let (first_pause, in_service) = (self.config.timers.resync, self.in_service());
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        entry.audit.theirs = Some(theirs);
        if Checksum::same(ours, theirs) {
            if entry.audit.not_before.is_some_and(|at| now >= at) {
                entry.audit.begin_anew(first_pause);
            }
            return;
        }
        // Updates and presences of another association may have overtaken each other (G33).
        let current = entry.assoc == Some(id);
        let early = entry.audit.not_before.is_some_and(|at| now < at);
        if in_service && current && !early && entry.audit.running.is_none() {
            self.start_resync(now, peer);
        }
    }

    /// Asks a peer for all that it owns, whatever the checksum says: it covers handles and identifiers only.
    pub(super) fn start_resync(&mut self, now: Instant, peer: ServerId) {
        if !self.in_service() {
            return;
        }
        let Some(id) = self.link(peer) else { return };
        if let Some(over) = self.table_session(now, id) {
            self.stop_resync(peer);
            return self.timers.set(Timer::Resync(peer), over);
        }
        let marked = self.keys_of(peer).into_iter().collect();
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        if entry.status == Status::Target {
            return;
        }
        entry.audit.running = Some(Running { marked, changed: 0 });
        self.timers.set(Timer::Resync(peer), now + self.config.timers.no_response);
        self.event(Event::ResyncStarted { peer });
        self.send_enrp(id, peer, Body::HandleTableRequest { own_children_only: true });
    }

    pub(super) fn resync_all(&mut self, now: Instant) {
        let peers: Vec<_> = self.peers.keys().copied().collect();
        for peer in peers {
            self.start_resync(now, peer);
        }
    }

    /// Asks a little later; differences until then mean nothing.
    pub(super) fn resync_later(&mut self, now: Instant, peer: ServerId) {
        let at = now + self.config.timers.resync;
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.audit.running = None;
            entry.audit.not_before = Some(at);
            self.timers.set(Timer::Resync(peer), at);
        }
    }

    /// An element of `former` belongs to `home` now, as somebody says.
    pub(super) fn note_claim(&mut self, home: ServerId, former: ServerId) {
        if self.peers.contains_key(&former)
            && let Some(entry) = self.peers.get_mut(&home)
        {
            entry.audit.claimed_from.insert(former);
        }
    }

    /// Whether `home` has claimed an element of `former`.
    pub(super) fn has_claimed(&self, home: ServerId, former: ServerId) -> bool {
        self.peers.get(&home).is_some_and(|entry| entry.audit.claimed_from.contains(&former))
    }

    /// A peer is to say what it owns, and whether these are among it, which are recorded as its own.
    pub(super) fn recheck(&mut self, now: Instant, peer: ServerId, keys: Vec<Key>) {
        let running = self.peers.get_mut(&peer).and_then(|entry| entry.audit.running.as_mut());
        match running {
            Some(running) => running.marked.extend(keys),
            None => self.start_resync(now, peer),
        }
    }

    /// Gives a resync up: the peer or its association is gone.
    pub(super) fn stop_resync(&mut self, peer: ServerId) {
        self.timers.cancel(&Timer::Resync(peer));
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.audit.running = None;
        }
    }

    /// The answer did not come in time, or it is time to try again after a refusal.
    pub(super) fn resync_due(&mut self, now: Instant, peer: ServerId) {
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        if entry.audit.running.take().is_some() {
            self.resync_failed(now, peer);
        } else {
            self.start_resync(now, peer);
        }
    }

    fn resync_failed(&mut self, now: Instant, peer: ServerId) {
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        entry.audit.running = None;
        let wait = back_off(&mut entry.audit, now, self.config.timers.resync_max);
        self.event(Event::ResyncFailed { peer });
        self.timers.set(Timer::Resync(peer), now + wait);
    }

    /// The key was told by the peer itself meanwhile.
    pub(super) fn unmark(&mut self, peer: ServerId, key: &Key) {
        if let Some(running) =
            self.peers.get_mut(&peer).and_then(|entry| entry.audit.running.as_mut())
        {
            running.marked.remove(key);
        }
        if let Some(orphans) = self.orphans.get_mut(&peer) {
            orphans.keys.remove(key);
        }
    }

    /// Until when a table that is asked for over this association would begin in the middle: the last one from there was
    /// not read to its end, and requests do not say where to begin.
    pub(super) fn table_session(&self, now: Instant, id: AssocId) -> Option<Instant> {
        self.assocs.get(&id)?.table_until.filter(|until| now < *until)
    }

    pub(super) fn table_response(
        &mut self,
        now: Instant,
        id: AssocId,
        sender: ServerId,
        reject: bool,
        more: bool,
        pools: Vec<PoolEntry<'_>>,
    ) {
        if let Some(assoc) = self.assocs.get_mut(&id) {
            assoc.table_until = more.then(|| now + self.config.timers.session);
        }
        if self.startup_table(now, id, sender, reject, more, &pools) {
            return;
        }
        let running = self
            .peers
            .get(&sender)
            .is_some_and(|peer| peer.assoc == Some(id) && peer.audit.running.is_some());
        if !running {
            self.counters.dropped += 1;
            return;
        }
        if reject {
            return self.resync_failed(now, sender);
        }
        let mut changed = 0;
        for entry in &pools {
            for element in &entry.elements {
                changed += usize::from(self.import(now, sender, entry.handle, element, true));
            }
        }
        if let Some(running) =
            self.peers.get_mut(&sender).and_then(|peer| peer.audit.running.as_mut())
        {
            running.changed += changed;
        }
        if more {
            self.timers.set(Timer::Resync(sender), now + self.config.timers.no_response);
            return self.send_enrp(
                id,
                sender,
                Body::HandleTableRequest { own_children_only: true },
            );
        }
        self.resync_done(now, sender);
    }

    fn resync_done(&mut self, now: Instant, peer: ServerId) {
        self.timers.cancel(&Timer::Resync(peer));
        let max = self.config.timers.resync_max;
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        let Some(running) = entry.audit.running.take() else { return };
        back_off(&mut entry.audit, now, max);
        self.successions.end(peer);
        // It may have found another home meanwhile.
        let keys: BTreeSet<Key> =
            running.marked.into_iter().filter(|key| self.is_owned_by(key, peer)).collect();
        self.event(Event::ResyncDone { peer, changed: running.changed, removed: keys.len() });
        self.answered(peer);
        if !keys.is_empty() {
            self.orphaned(now, peer, keys);
        }
    }

    /// RFC 5353 section 3.6.3, 5: what is still marked is removed silently.
    /// DEVIATION(E-100): not before every other peer was asked. An element may have moved while the association with its
    /// new home was down; it lives, and stays known.
    fn orphaned(&mut self, now: Instant, home: ServerId, keys: BTreeSet<Key>) {
        // The round under way decides about what it knows already. Two homes that have both lost something would be
        // asked in turns otherwise, each for the sake of the other, as fast as they answer.
        if self.orphans.get(&home).is_some_and(|orphans| orphans.keys.is_superset(&keys)) {
            return;
        }
        let others = self.peers.iter().filter(|(id, peer)| {
            **id != home && matches!(peer.status, Status::Active | Status::Probed)
        });
        let waiting: BTreeSet<ServerId> = others.map(|(id, _)| *id).collect();
        let limit = now + self.config.timers.no_response;
        self.timers.set_earlier(Timer::Orphans(home), limit);
        let orphans = self.orphans.entry(home).or_default();
        orphans.keys.extend(keys);
        orphans.waiting.clone_from(&waiting);
        if waiting.is_empty() {
            return self.drop_orphans(home);
        }
        for peer in waiting {
            // One that runs will do: what changes at the peer after its answer follows on the same association.
            if self.peers.get(&peer).is_some_and(|entry| !entry.audit.is_running()) {
                self.start_resync(now, peer);
            }
        }
    }

    /// The peer has said what it owns.
    fn answered(&mut self, peer: ServerId) {
        let mut over = Vec::new();
        for (home, orphans) in &mut self.orphans {
            if orphans.waiting.remove(&peer) && orphans.waiting.is_empty() {
                over.push(*home);
            }
        }
        over.into_iter().for_each(|home| self.drop_orphans(home));
    }

    /// Nobody owns them.
    pub(super) fn drop_orphans(&mut self, home: ServerId) {
        self.timers.cancel(&Timer::Orphans(home));
        let Some(orphans) = self.orphans.remove(&home) else { return };
        for key in orphans.keys {
            if self.is_owned_by(&key, home) {
                self.unwatch(&key);
                self.remove_entry(&key);
            }
        }
    }

    fn is_owned_by(&self, key: &Key, home: ServerId) -> bool {
        self.space.get(key.0.as_bytes(), key.1).is_some_and(|element| element.home == home)
    }

    /// A peer asks for the next part of the table.
    pub(super) fn table_request(&mut self, now: Instant, id: AssocId, sender: ServerId, own: bool) {
        self.timers.cancel(&Timer::Session(id));
        let session = self.sessions.remove(&id).filter(|session| session.own_children_only == own);
        if !self.in_service() {
            let body = Body::HandleTableResponse { reject: true, more: false, pools: Vec::new() };
            return self.send_enrp(id, sender, body);
        }
        let limits = &self.config.limits;
        let after = session.map(|session| session.after);
        let mut chunk = self.space.chunk(
            own.then_some(self.id),
            after.as_ref(),
            limits.table_elements,
            limits.table_bytes,
        );
        // One element that rsplib does not take would cost it the whole table.
        for pool in &mut chunk.pools {
            pool.elements.retain(|element| element.fits_between_registrars(self.config.compat));
        }
        chunk.pools.retain(|pool| !pool.elements.is_empty());
        // G28: an empty handlespace is an empty table, not a refusal.
        let body = Body::HandleTableResponse {
            reject: false,
            more: chunk.next.is_some(),
            pools: chunk.pools,
        };
        let payload = self.enrp_payload(sender, body);
        if let Some(after) = chunk.next {
            self.sessions.insert(id, Session { own_children_only: own, after });
            self.timers.set(Timer::Session(id), now + self.config.timers.session);
        }
        if let Some(payload) = payload {
            self.charge(id, payload.len());
            self.send(id, payload);
        }
    }
}

/// A difference that remains has to wait from now on. How long, a resync decides that has waited itself: one before that
/// had another reason, and says nothing about what such resyncs are worth.
fn back_off(audit: &mut Audit, now: Instant, max: Duration) -> Duration {
    if let Some(at) = audit.not_before.filter(|at| now < *at) {
        return at - now;
    }
    let wait = audit.pause;
    audit.not_before = Some(now + wait);
    audit.pause = (wait * 2).min(max);
    wait
}
