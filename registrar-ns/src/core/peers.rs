//! Peers (RFC 5353 section 3.4): associations with them, presence, and who is dead.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use dialtone_transport::{
    AssocId, DownCause, ENCAPSULATION_PORT, Link, NetCommand, Protocol, Remote,
};
use dialtone_wire::enrp::{self, Body, Message};
use dialtone_wire::{SctpTransport, ServerId, ServerInformation, TransportUse};

use super::audit::Audit;
use super::output::Event;
use super::{Assoc, Registrar, Timer};

/// A place where a registrar is, or was told to be.
#[derive(Debug)]
pub(super) struct Contact {
    remote: Remote,
    pub(super) origin: Origin,
    /// Up or dialled.
    pub(super) assocs: BTreeSet<AssocId>,
    pub(super) peer: Option<ServerId>,
    /// Dials in a row that led to nobody who spoke.
    pub(super) failures: u32,
}

/// How a contact became known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// From the configuration: never given up.
    Configured,
    /// A multicast presence names it; nobody has spoken there yet.
    Heard,
    /// It dialled, spoke, or stands in a mentor's list.
    Learned,
}

/// A learned contact that could not be dialled so often is forgotten.
const MAX_FAILURES: u32 = 200;

/// A known registrar.
#[derive(Debug)]
pub(super) struct Peer {
    /// The association that we send over.
    pub(super) assoc: Option<AssocId>,
    pub(super) status: Status,
    pub(super) last_heard: Instant,
    pub(super) audit: Audit,
}

/// What we think of a peer.
///
/// ```text
///            silent, evidence             no answer           others' ACKs
///   Active ──────────────────► Probed ────────────► Target ───────────────► (removed)
///    │ ▲                         │                     │
///    │ └────── it speaks ────────┴─────────────────────┤ a peer with precedence
///    │ ▲                                               ▼
///    │ └────── it speaks ─────────────────────────  Suspended ──guard──► Probed
///    └──────── INIT_TAKEOVER by another peer ─────────►┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Active,
    /// A reply-required presence is unanswered.
    Probed,
    /// Another peer takes it over: "not active" in RFC 5353.
    Suspended {
        by: ServerId,
    },
    /// We take it over.
    Target,
}

impl Registrar {
    /// RFC 5353 section 2.1.
    pub(super) fn server_information(&self) -> ServerInformation {
        ServerInformation {
            server_id: self.id,
            transport: SctpTransport {
                port: self.config.enrp_port,
                use_: TransportUse::DATA_ONLY,
                addrs: self.config.addresses.clone().into(),
            },
        }
    }

    pub(super) fn enrp_payload(&self, receiver: ServerId, body: Body<'_>) -> Option<Vec<u8>> {
        let message = Message { sender: self.id, receiver, body };
        match message.encode_with(self.config.compat) {
            Ok(payload) => Some(payload),
            Err(error) => {
                tracing::debug!(%error, "ENRP message not sent");
                None
            }
        }
    }

    pub(super) fn send_enrp(&mut self, id: AssocId, receiver: ServerId, body: Body<'_>) {
        if let Some(payload) = self.enrp_payload(receiver, body) {
            self.send(id, payload);
        }
    }

    /// The association to a peer, if it is up.
    pub(super) fn link(&self, peer: ServerId) -> Option<AssocId> {
        let id = self.peers.get(&peer)?.assoc?;
        self.assocs.get(&id).is_some_and(|assoc| assoc.up && !assoc.closing).then_some(id)
    }

    /// The same message to every peer that is connected (RFC 5353 section 3.1: announcements).
    pub(super) fn announce(&mut self, body: Body<'_>) {
        let links: Vec<_> = self.peers.keys().filter_map(|peer| self.link(*peer)).collect();
        if links.is_empty() {
            return;
        }
        // RFC 5353 section 2.1: the receiver MUST be 0 in a group-cast.
        if let Some(payload) = self.enrp_payload(ServerId::NONE, body) {
            for id in links {
                self.send(id, payload.clone());
            }
        }
    }

    pub(super) fn presence(&self, reply_required: bool) -> Body<'static> {
        Body::Presence {
            reply_required,
            checksum: Some(self.checksum_of(self.id)),
            // G26: some parsers require it in every presence.
            server: Some(self.server_information()),
        }
    }

    pub(super) fn announce_presence(&mut self) {
        self.announce(self.presence(false));
    }

    pub(super) fn heartbeat(&mut self, now: Instant) {
        self.announce_presence();
        self.show_presence();
        self.end_idle();
        self.timers.set(Timer::Heartbeat, now + self.config.timers.heartbeat);
    }

    /// Adds a place to dial, unless it is our own or there are too many.
    pub(super) fn add_contact(
        &mut self,
        now: Instant,
        addr: SocketAddr,
        peer: Option<ServerId>,
        origin: Origin,
    ) {
        let own = addr.port() == self.config.udp_port && self.config.addresses.contains(&addr.ip());
        let limits = &self.config.limits;
        let same = self.contacts.values().filter(|contact| contact.origin == origin).count();
        let full = match origin {
            Origin::Configured => false,
            Origin::Heard => same >= limits.discovered,
            Origin::Learned => same >= 2 * limits.peers,
        };
        // In secure mode peers are those that are configured.
        let unknown = self.is_secure() && origin != Origin::Configured;
        if own || unknown || (full && !self.contacts.contains_key(&addr)) {
            return;
        }
        let remote = if self.is_secure() {
            Remote { link: Link::Tcp, addr, sctp_port: 0 }
        } else {
            Remote { link: Link::Sctp, addr, sctp_port: dialtone_transport::ENRP_PORT }
        };
        let contact = self.contacts.entry(addr).or_insert_with(|| Contact {
            remote,
            origin,
            assocs: BTreeSet::new(),
            peer,
            failures: 0,
        });
        if contact.assocs.is_empty() && !self.timers.is_armed(&Timer::Contact(addr)) {
            self.timers.set(Timer::Contact(addr), now);
        }
    }

    pub(super) fn dial_contact(&mut self, now: Instant, addr: SocketAddr) {
        let Some(contact) = self.contacts.get(&addr) else { return };
        if !contact.assocs.is_empty() {
            if contact.origin != Origin::Heard {
                // The peer's own association is to be replaced.
                return self.dial_there(addr);
            }
            // Whoever was found by multicast and says nothing is no registrar.
            return contact.assocs.clone().into_iter().for_each(|id| self.abort(id));
        }
        if contact.peer.is_some_and(|peer| self.link(peer).is_some()) {
            // Connected by another way; look again later.
            return self.timers.set(Timer::Contact(addr), now + 5 * self.config.timers.heartbeat);
        }
        self.dial_there(addr);
    }

    fn dial_there(&mut self, addr: SocketAddr) {
        let Some(remote) = self.contacts.get(&addr).map(|contact| contact.remote) else { return };
        let id = self.dial(Protocol::Enrp, remote);
        if let Some(contact) = self.contacts.get_mut(&addr) {
            contact.assocs.insert(id);
        }
    }

    pub(super) fn enrp_up(&mut self, now: Instant, id: AssocId) {
        let Some(assoc) = self.assocs.get(&id) else { return };
        let (remote, dialled) = (assoc.remote.addr, assoc.dialled);
        self.add_contact(now, remote, None, Origin::Learned);
        let addr = self.contact_at(remote);
        self.timers.cancel(&Timer::Contact(addr));
        if let Some(contact) = self.contacts.get_mut(&addr) {
            contact.assocs.insert(id);
            if contact.origin == Origin::Heard {
                self.timers.set(Timer::Contact(addr), now + self.config.timers.no_response);
            }
        }
        // Who dials speaks first; the other side learns by it who is there.
        if dialled {
            self.send_enrp(id, ServerId::NONE, self.presence(true));
        }
        self.startup_due_soon(now);
    }

    /// The contact whose association comes from `addr`. With TLS the port of who has dialled says nothing, so it is the
    /// one at that address, if there is only one.
    fn contact_at(&self, addr: SocketAddr) -> SocketAddr {
        if !self.is_secure() || self.contacts.contains_key(&addr) {
            return addr;
        }
        let mut there = self.contacts.keys().filter(|contact| contact.ip() == addr.ip());
        match (there.next(), there.next()) {
            (Some(contact), None) => *contact,
            _ => addr,
        }
    }

    pub(super) fn enrp_down(&mut self, now: Instant, id: AssocId, assoc: Assoc, cause: DownCause) {
        self.sessions.remove(&id);
        self.timers.cancel(&Timer::Session(id));
        self.startup_lost(now, id);
        let addr = assoc.remote.addr;
        if let Some(contact) =
            self.contacts.values_mut().find(|contact| contact.assocs.contains(&id))
        {
            contact.assocs.remove(&id);
            let addr = contact.remote.addr;
            // Nobody spoke: with TLS a dial that is refused is up for a moment.
            if assoc.peer.is_none() {
                contact.failures += 1;
            }
            let failures = contact.failures;
            let hopeless = match contact.origin {
                Origin::Configured => false,
                Origin::Heard => true,
                Origin::Learned => failures > MAX_FAILURES,
            };
            if contact.assocs.is_empty() {
                if hopeless {
                    self.timers.cancel(&Timer::Contact(addr));
                    self.contacts.remove(&addr);
                } else {
                    let wait = self.redial_wait(&assoc, failures);
                    self.timers.set_earlier(Timer::Contact(addr), now + wait);
                }
            }
        }
        let Some(peer) = assoc.peer else { return };
        if self.peers.get(&peer).and_then(|entry| entry.assoc) != Some(id) {
            return;
        }
        let other = self
            .assocs
            .iter()
            .find(|(_, other)| other.peer == Some(peer) && other.up && !other.closing)
            .map(|(other, _)| *other);
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.assoc = other;
        }
        if other.is_some() {
            // The peer dialled that one when it had lost ours, and has not heard what we sent since. A new one, which
            // stays instead, makes both ask for all; checksums would not show what has only changed.
            if assoc.dialled && self.id < peer {
                let wait = self.spread(self.config.timers.retry);
                self.timers.set_earlier(Timer::Contact(addr), now + wait);
            }
            return self.start_resync(now, peer);
        }
        tracing::debug!(?peer, ?addr, ?cause, "association with a peer ended");
        self.stop_resync(peer);
        // Retransmissions that run out say no more than silence does.
        self.question_peer(now, peer, cause != DownCause::TimedOut);
    }

    fn redial_wait(&mut self, assoc: &Assoc, failures: u32) -> std::time::Duration {
        let retry = self.config.timers.retry;
        if assoc.peer.is_none() {
            return self.spread(retry * failures.clamp(1, 8));
        }
        // Both sides notice: the smaller identifier dials first, so that they seldom meet.
        match assoc.peer {
            Some(peer) if peer < self.id => self.spread(retry),
            _ => self.spread(retry / 10),
        }
    }

    /// Takes an ENRP message.
    pub(super) fn enrp(&mut self, now: Instant, id: AssocId, payload: &[u8]) {
        let decoded = match Message::decode_with(payload, self.config.compat) {
            Ok(decoded) => decoded,
            Err(error) => {
                tracing::debug!(%error, "ENRP message discarded");
                self.counters.dropped += 1;
                let peer =
                    self.assocs.get(&id).and_then(|assoc| assoc.peer).unwrap_or(ServerId::NONE);
                let reply = error.cause().and_then(|cause| {
                    enrp::error_reply(self.id, peer, std::slice::from_ref(cause))
                });
                return reply.into_iter().for_each(|reply| self.send(id, reply));
            }
        };
        let Message { sender, receiver, body } = decoded.message;
        if sender == ServerId::NONE || sender == self.id {
            // Our own address stands in a list of peers, or a message has no sender.
            self.counters.dropped += 1;
            return self.abort(id);
        }
        if receiver != ServerId::NONE && receiver != self.id {
            // Meant for who was here before.
            self.counters.dropped += 1;
            return;
        }
        if !self.is_protected(id) {
            return self.unprotected_peer(id, sender);
        }
        if let Some(reply) = enrp::error_reply(self.id, sender, &decoded.unrecognized) {
            self.send(id, reply);
        }
        if !self.heard(now, id, sender) {
            self.counters.dropped += 1;
            return;
        }
        match body {
            Body::Error(error) => tracing::debug!(?sender, ?error, "ENRP error received"),
            Body::HandleTableRequest { own_children_only } => {
                self.table_request(now, id, sender, own_children_only);
            }
            Body::HandleTableResponse { reject, more, pools } => {
                self.table_response(now, id, sender, reject, more, pools);
            }
            Body::HandleUpdate { action, handle, element, .. } => {
                self.handle_update(now, sender, action, handle, *element);
            }
            Body::InitTakeover { target } => self.init_takeover(now, id, sender, target),
            Body::InitTakeoverAck { target } => self.takeover_acked(now, sender, target),
            Body::ListRequest => self.list_request(id, sender),
            Body::ListResponse { reject, servers } => {
                self.list_response(now, id, sender, reject, &servers)
            }
            Body::Presence { reply_required, checksum, .. } => {
                if reply_required {
                    self.send_enrp(id, sender, self.presence(false));
                }
                if let Some(checksum) = checksum {
                    self.compare(now, id, sender, checksum);
                }
            }
            Body::TakeoverServer { target } => self.taken_over(now, sender, target),
        }
    }

    /// Every message of a peer says that it lives (RFC 5353 section 3.4.3), and over which association.
    /// `false` when there is no room for another peer.
    fn heard(&mut self, now: Instant, id: AssocId, sender: ServerId) -> bool {
        if !self.peers.contains_key(&sender)
            && self.peers.len() >= self.config.limits.peers
            && !self.is_configured(id)
        {
            return false;
        }
        // One association, one registrar: nobody fills the list of peers with names. A new life has a new association.
        if self.assocs.get(&id).and_then(|assoc| assoc.peer).is_some_and(|peer| peer != sender) {
            return false;
        }
        let known = self.ensure_peer(now, sender);
        let Some(assoc) = self.assocs.get_mut(&id) else { return false };
        assoc.peer = Some(sender);
        let addr = assoc.remote.addr;
        let addr = self.contact_at(addr);
        if let Some(contact) = self.contacts.get_mut(&addr) {
            contact.failures = 0;
            contact.peer = Some(sender);
            if contact.origin == Origin::Heard {
                contact.origin = Origin::Learned;
                self.timers.cancel(&Timer::Contact(addr));
            }
        }
        let Some(peer) = self.peers.get_mut(&sender) else { return false };
        peer.last_heard = now;
        let before = std::mem::replace(&mut peer.status, Status::Active);
        let old = peer.assoc;
        if before != Status::Active {
            self.timers.set(Timer::Peer(sender), now + self.config.timers.last_heard);
        }
        if before == Status::Target {
            // RFC 5353 section 3.5.1: the target lives, the takeover stops.
            self.takeovers.remove(&sender);
            self.timers.cancel(&Timer::Takeover(sender));
            self.event(Event::TakeoverLost { target: sender, to: None });
        }
        let inactive = matches!(before, Status::Target | Status::Suspended { .. });
        let switched = old != Some(id) && self.choose(sender, old, id);
        if !known || inactive || old.is_none() {
            self.event(Event::PeerUp { peer: sender });
        }
        if switched {
            self.peer_returned(now, id, sender);
        } else if inactive && !self.config.bugs.no_resync_on_return {
            self.start_resync(now, sender);
        }
        true
    }

    /// Adds a peer's record; `true` when there was one.
    pub(super) fn ensure_peer(&mut self, now: Instant, id: ServerId) -> bool {
        if id == self.id || id == ServerId::NONE || self.peers.contains_key(&id) {
            return true;
        }
        let audit = Audit::new(self.config.timers.resync);
        self.peers.insert(id, Peer { assoc: None, status: Status::Active, last_heard: now, audit });
        self.timers.set(Timer::Peer(id), now + self.config.timers.last_heard);
        false
    }

    /// Of two associations with one peer the one dialled by the smaller identifier stays, on both sides; of two
    /// dialled by the same side the newer one. `true` when `new` is used from now on.
    fn choose(&mut self, peer: ServerId, old: Option<AssocId>, new: AssocId) -> bool {
        let dialled = |id: AssocId| {
            self.assocs
                .get(&id)
                .filter(|assoc| assoc.up && !assoc.closing)
                .map(|assoc| assoc.dialled)
        };
        let (loser, switch) = match (old.and_then(dialled), dialled(new)) {
            (None, _) => (None, true),
            (Some(_), None) => (None, false),
            (Some(ours), Some(also_ours)) if ours == also_ours => (old, true),
            (Some(_), Some(new_is_ours)) => {
                let new_wins = new_is_ours == (self.id < peer);
                (if new_wins { old } else { Some(new) }, new_wins)
            }
        };
        if switch && let Some(entry) = self.peers.get_mut(&peer) {
            entry.assoc = Some(new);
        }
        // Each side ends what it dialled, after the peer was heard over both.
        if let Some(id) = loser
            && let Some(assoc) = self.assocs.get_mut(&id)
            && assoc.dialled
            && !assoc.draining
        {
            assoc.draining = true;
            self.net(NetCommand::Shutdown { assoc: id });
        }
        switch
    }

    /// Something says that the peer's process is gone: ask, and do not wait long for the answer.
    pub(super) fn suspect_peer(&mut self, now: Instant, id: AssocId) {
        let Some(peer) = self.assocs.get(&id).and_then(|assoc| assoc.peer) else { return };
        if self.peers.get(&peer).is_some_and(|entry| entry.assoc == Some(id)) {
            self.question_peer(now, peer, true);
        }
    }

    /// RFC 5353 section 3.4.3: a reply-required presence, and a deadline for the answer.
    fn question_peer(&mut self, now: Instant, peer: ServerId, evidence: bool) {
        let t = &self.config.timers;
        let wait = if evidence { t.no_response_evidence } else { t.no_response };
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        match entry.status {
            Status::Active => {
                entry.status = Status::Probed;
                self.timers.set(Timer::Peer(peer), now + wait);
                if let Some(id) = self.link(peer) {
                    self.send_enrp(id, peer, self.presence(true));
                }
            }
            Status::Probed => self.timers.set_earlier(Timer::Peer(peer), now + wait),
            Status::Suspended { .. } | Status::Target => {}
        }
    }

    pub(super) fn peer_due(&mut self, now: Instant, peer: ServerId) {
        let last_heard = self.config.timers.last_heard;
        let in_service = self.in_service();
        let Some(entry) = self.peers.get_mut(&peer) else { return };
        match entry.status {
            Status::Active if now < entry.last_heard + last_heard => {
                let at = entry.last_heard + last_heard;
                self.timers.set(Timer::Peer(peer), at);
            }
            // Whoever is still starting judges nobody.
            Status::Active | Status::Probed if !in_service => {
                entry.status = Status::Active;
                self.timers.set(Timer::Peer(peer), now + last_heard);
            }
            Status::Active => self.question_peer(now, peer, false),
            Status::Probed => {
                self.event(Event::PeerDown { peer });
                self.start_takeover(now, peer);
            }
            // G2: who promised to take it over did not.
            Status::Suspended { .. } => {
                entry.status = Status::Active;
                self.question_peer(now, peer, false);
            }
            Status::Target => {}
        }
    }

    /// Forgets a peer that was taken over; its address stays, for it may come back.
    pub(super) fn forget_peer(&mut self, peer: ServerId) {
        self.timers.cancel(&Timer::Peer(peer));
        self.timers.cancel(&Timer::Resync(peer));
        let Some(entry) = self.peers.remove(&peer) else { return };
        // If it lives it notices, dials again, and is told by its successor.
        if let Some(id) = entry.assoc {
            self.abort(id);
        }
        for contact in self.contacts.values_mut().filter(|contact| contact.peer == Some(peer)) {
            contact.peer = None;
        }
    }

    /// RFC 5353 section 3.2.2.2: where a server in a list is; its encapsulation port is the usual one.
    pub(super) fn learn_server(&mut self, now: Instant, server: &ServerInformation) {
        if server.server_id == self.id || server.server_id == ServerId::NONE || self.is_secure() {
            return;
        }
        let id = server.server_id;
        if self.peers.len() < self.config.limits.peers {
            self.ensure_peer(now, id);
        }
        if self.contacts.values().any(|contact| contact.peer == Some(id)) {
            return;
        }
        if let Some(ip) = server.transport.addrs.first() {
            self.add_contact(
                now,
                SocketAddr::new(*ip, ENCAPSULATION_PORT),
                Some(id),
                Origin::Learned,
            );
        }
    }
}
