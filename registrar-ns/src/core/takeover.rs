//! Taking over a dead peer's elements (RFC 5353 section 3.5).

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use dialtone_transport::AssocId;
use dialtone_wire::enrp::Body;
use dialtone_wire::{Compat, ServerId};

use super::output::{Event, Removal};
use super::peers::Status;
use super::{Key, Registrar, Timer};

/// Our own takeover of a peer, in arbitration.
#[derive(Debug)]
pub(super) struct Takeover {
    /// Whose acknowledgement is missing.
    waiting: BTreeSet<ServerId>,
    attempts: u8,
}

/// Who was taken over by whom, the latest last; until the target, if it lives, has told what it still owns.
#[derive(Debug, Default)]
pub(super) struct Successions(VecDeque<(ServerId, ServerId)>);

impl Successions {
    fn note(&mut self, target: ServerId, by: ServerId, limit: usize) {
        self.end(target);
        self.0.push_back((target, by));
        while self.0.len() > limit {
            self.0.pop_front();
        }
    }

    pub(super) fn end(&mut self, target: ServerId) {
        self.0.retain(|(other, _)| *other != target);
    }

    fn successor(&self, target: ServerId) -> Option<ServerId> {
        self.0.iter().find(|(other, _)| *other == target).map(|(_, by)| *by)
    }
}

/// After this many unanswered announcements somebody else may try.
const MAX_ATTEMPTS: u8 = 3;

/// Adopted elements are dialled spread over this time at most.
const ADOPTION_SPREAD: Duration = Duration::from_millis(500);

impl Registrar {
    pub(super) fn start_takeover(&mut self, now: Instant, target: ServerId) {
        let Some(peer) = self.peers.get_mut(&target) else { return };
        peer.status = Status::Target;
        self.stop_resync(target);
        let waiting = self
            .peers
            .iter()
            .filter(|(id, peer)| {
                **id != target && matches!(peer.status, Status::Active | Status::Probed)
            })
            .map(|(id, _)| *id)
            .collect();
        self.takeovers.insert(target, Takeover { waiting, attempts: 1 });
        self.event(Event::TakeoverStarted { target });
        // RFC 5353 section 3.5.1: to all peers including the target, which may still speak up.
        self.announce(Body::InitTakeover { target });
        self.timers.set(Timer::Takeover(target), now + self.config.timers.takeover_ack);
        // A target is nobody to wait for.
        let others: Vec<_> = self.takeovers.keys().copied().collect();
        for other in others {
            self.takeover_acked(now, target, other);
        }
        self.win_if_acked(now, target);
    }

    /// G2: acknowledgements that do not come. Who became inactive meanwhile is not waited for.
    pub(super) fn takeover_due(&mut self, now: Instant, target: ServerId) {
        let peers = &self.peers;
        let Some(takeover) = self.takeovers.get_mut(&target) else { return };
        takeover.waiting.retain(|id| {
            peers.get(id).is_some_and(|peer| matches!(peer.status, Status::Active | Status::Probed))
        });
        takeover.attempts += 1;
        if takeover.waiting.is_empty() {
            return self.win_if_acked(now, target);
        }
        if takeover.attempts > MAX_ATTEMPTS {
            return self.yield_takeover(now, target, None);
        }
        let ack = self.config.timers.takeover_ack;
        let jitter = ack.mul_f64(self.rng.f64() / 4.0);
        self.timers.set(Timer::Takeover(target), now + ack + jitter);
        self.announce(Body::InitTakeover { target });
    }

    pub(super) fn takeover_acked(&mut self, now: Instant, sender: ServerId, target: ServerId) {
        if let Some(takeover) = self.takeovers.get_mut(&target)
            && takeover.waiting.remove(&sender)
        {
            self.win_if_acked(now, target);
        }
    }

    /// Somebody else's takeover goes first, or ours came to nothing: the target is "not active" for a while.
    fn yield_takeover(&mut self, now: Instant, target: ServerId, to: Option<ServerId>) {
        if self.takeovers.remove(&target).is_some() {
            self.timers.cancel(&Timer::Takeover(target));
            self.event(Event::TakeoverLost { target, to });
        }
        self.stop_resync(target);
        if let Some(peer) = self.peers.get_mut(&target) {
            peer.status = Status::Suspended { by: to.unwrap_or(ServerId::NONE) };
            // G2: if no TAKEOVER_SERVER comes, the target is watched again.
            self.timers.set(Timer::Peer(target), now + self.config.timers.takeover_guard);
        }
    }

    pub(super) fn init_takeover(
        &mut self,
        now: Instant,
        id: AssocId,
        sender: ServerId,
        target: ServerId,
    ) {
        if target == self.id {
            // RFC 5353 section 3.5.1, 1: a false detection; everybody is told at once.
            return self.announce_presence();
        }
        // RFC 5353 section 3.5.1, 2: the larger identifier wins. G1: the smaller one with rsplib.
        let sender_first = match self.config.compat {
            Compat::Rfc => self.id < sender,
            Compat::Rsplib => self.id > sender,
        };
        if self.takeovers.contains_key(&target) && !sender_first {
            return;
        }
        self.yield_takeover(now, target, Some(sender));
        self.send_enrp(id, sender, Body::InitTakeoverAck { target });
    }

    fn win_if_acked(&mut self, now: Instant, target: ServerId) {
        if !self.takeovers.get(&target).is_some_and(|takeover| takeover.waiting.is_empty()) {
            return;
        }
        self.takeovers.remove(&target);
        self.timers.cancel(&Timer::Takeover(target));
        // RFC 5353 section 3.5.2: first the announcement, then the elements.
        self.forget_peer(target);
        self.successions.note(target, self.id, self.config.limits.peers);
        self.announce(Body::TakeoverServer { target });
        // Only elements whose recorded home still is the dead one.
        let keys = self.space.take_over(target, self.id);
        keys.iter().for_each(|key| self.answers.forget(key));
        self.event(Event::TakeoverWon { target, elements: keys.len() });
        self.adopt(now, keys, Some(target));
    }

    /// Elements that are ours now and do not know it: each is dialled and asked with H=1. In secure mode they are waited
    /// for.
    pub(super) fn adopt(&mut self, now: Instant, keys: Vec<Key>, from: Option<ServerId>) {
        // Whom nobody dials comes by itself, if it lives.
        let hunt = if self.is_secure() { self.config.timers.hunt } else { Duration::ZERO };
        let spread = ADOPTION_SPREAD.min(Duration::from_millis(keys.len() as u64) / 10);
        for key in keys {
            let Some(life) = self.space.get(key.0.as_bytes(), key.1).map(|element| element.life)
            else {
                continue;
            };
            let watch = self.watches.entry(key.clone()).or_default();
            watch.adopt = true;
            watch.taken_from = from;
            watch.probing = 0;
            let at = now + spread.mul_f64(self.rng.f64());
            self.timers.set(Timer::Probe(key.clone()), at + hunt);
            self.arm_life(now, &key, life);
        }
    }

    /// RFC 5353 section 3.5.2: another registrar has taken the target's elements.
    pub(super) fn taken_over(&mut self, now: Instant, sender: ServerId, target: ServerId) {
        if target == sender {
            return;
        }
        if target == self.id {
            return self.succeeded(now, sender);
        }
        self.successions.note(target, sender, self.config.limits.peers);
        let mut keys = self.space.take_over(target, sender);
        if self.config.bugs.takeover_moves_all {
            let others: Vec<_> = self.space.owners().collect();
            others.into_iter().for_each(|home| keys.extend(self.space.take_over(home, sender)));
        }
        keys.iter().for_each(|key| self.answers.forget(key));
        self.event(Event::TakenOver { target, by: sender, elements: keys.len() });
        // What the target had claimed of the sender's came with the target's word for it, which may be older than the
        // sender's own, and no checksum shows it.
        if !keys.is_empty() && self.has_claimed(target, sender) {
            self.recheck(now, sender, keys);
        }
        if self.takeovers.remove(&target).is_some() {
            self.timers.cancel(&Timer::Takeover(target));
            self.event(Event::TakeoverLost { target, to: Some(sender) });
        }
        self.forget_peer(target);
        // Nobody waits for the target any more.
        let others: Vec<_> = self.takeovers.keys().copied().collect();
        for other in others {
            self.takeover_acked(now, target, other);
        }
    }

    /// We were taken over, and live. If we stood still, what registered here before that is the sender's now; what
    /// registered since has decided for us, and everybody is told. If we did not, as in a partition, nobody's claims
    /// are newer: the elements decide when both ask them.
    fn succeeded(&mut self, now: Instant, sender: ServerId) {
        let recent = self.config.timers.takeover_guard;
        let Some(resumed) = self.resumed.filter(|at| now < *at + recent) else {
            return self.announce_presence();
        };
        let registered = |key: &Key| self.watches.get(key).and_then(|watch| watch.registered);
        let (ours, theirs): (Vec<_>, Vec<_>) = self
            .keys_of(self.id)
            .into_iter()
            .partition(|key| registered(key).is_some_and(|at| at >= resumed));
        self.event(Event::TakenOver { target: self.id, by: sender, elements: theirs.len() });
        for key in &theirs {
            self.space.set_home(&key.0, key.1, sender);
            self.answers.forget(key);
            self.unwatch(key);
            let (pool, pe) = key.clone();
            self.event(Event::Removed { pool, pe, reason: Removal::Moved });
        }
        // It may have lost some of them to others in the meantime.
        self.recheck(now, sender, theirs);
        ours.iter().for_each(|key| self.announce_add(key));
        self.announce_presence();
    }

    /// A peer speaks over a new association: what it owns is asked for. If it was taken over, it may not know.
    pub(super) fn peer_returned(&mut self, now: Instant, id: AssocId, peer: ServerId) {
        let successor = self.successions.successor(peer);
        if successor == Some(self.id) {
            // RFC 5353 section 3.5.2 announces it to active peers; a target that lives has not heard it.
            self.send_enrp(id, peer, Body::TakeoverServer { target: peer });
        }
        // RFC 5353 section 3.4.1, and who has just come back may have missed much.
        self.send_enrp(id, peer, self.presence(true));
        if self.config.bugs.no_resync_on_return {
            return;
        }
        // What resyncs over former associations were worth says nothing about this one.
        let pause = self.config.timers.resync;
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.audit.begin_anew(pause);
        }
        let told_by_other = successor.filter(|by| *by != self.id && self.link(*by).is_some());
        match told_by_other {
            // Before its successor has told it, it would claim what is not its own any more.
            Some(_) => self.resync_later(now, peer),
            None => self.start_resync(now, peer),
        }
    }

    /// Everything that is recorded as this registrar's.
    pub(super) fn keys_of(&self, home: ServerId) -> Vec<Key> {
        self.space.owned(home).map(|(handle, pe_id)| (handle.clone(), pe_id)).collect()
    }
}
