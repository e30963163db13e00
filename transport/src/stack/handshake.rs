//! Handshakes that others begin: nothing is kept until a COOKIE ECHO has proven the peer's address (RFC 9260 5.1).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::Instant;

use dcsctp::api::{DcSctpSocket as _, Socket, SocketEvent, SocketState};

use super::{BACKLOG, Stack, Tag};
use crate::bucket::site;
use crate::cookie::{CookieError, INNER, Key};
use crate::counters::add;
use crate::model::{AssocId, DownCause};
use crate::packet::{self, Packet};

impl Stack {
    pub(super) fn handle_init(&mut self, now: Instant, key: Key, init: &Packet<'_>) {
        let mut chunks = init.chunks();
        // RFC 9260 3.3.2 and 8.5.1 A: alone, tag 0, initiate tag not 0.
        let initiate_tag = chunks.next().filter(|chunk| chunk.value.len() >= 16);
        let initiate_tag =
            initiate_tag.and_then(|chunk| packet::u32_at(chunk.value, 0)).unwrap_or(0);
        if init.tag != 0 || initiate_tag == 0 || chunks.next().is_some() {
            return add(&self.counters.malformed);
        }
        if self.transmits.len() >= BACKLOG
            || !self.sources.take(now, key.peer.ip())
            // Who is known already, and may have restarted, need not compete with inventions.
            || !(self.sites.contains_key(&site(key.peer.ip())) || self.handshakes.take(now))
        {
            return add(&self.counters.handshakes_dropped);
        }
        self.reseed();
        let known = self.by_key.get(&key).copied();
        if let Some((id, assoc)) = known.and_then(|id| Some((id, self.assocs.get(&id)?)))
            && assoc.socket.state() != SocketState::Connected
        {
            // Both sides dial (RFC 9260 5.2.1), or our SHUTDOWN COMPLETE got lost (9.2): dcsctp knows what to say.
            return self.operate(now, id, |socket| socket.handle_input(init.bytes));
        }
        let is_session = self.is_session_port(key.local_port);
        let Some(protocol) = self.protocol(key.local_port) else {
            add(&self.counters.out_of_the_blue);
            return self.answer_stranger(now, key, initiate_tag, packet::ABORT, 0, &[]);
        };
        if known.is_none() && self.is_full(is_session, key.peer.ip()) {
            add(&self.counters.associations_refused);
            let cause = packet::cause(packet::CAUSE_OUT_OF_RESOURCE, None);
            return self.answer_stranger(now, key, initiate_tag, packet::ABORT, 0, &cause);
        }
        // A peer that restarted is answered like a new one; its COOKIE ECHO ends the old association.
        let options = self.options(protocol, key.local_port, 0);
        let responder = self
            .responders
            .entry(key.local_port)
            .or_insert_with(|| Socket::new("responder", &options));
        let reply = catch_unwind(AssertUnwindSafe(|| {
            responder.handle_input(init.bytes);
            let mut reply = None;
            while let Some(event) = responder.poll_event() {
                if let SocketEvent::SendPacket(bytes) = event {
                    reply = Some(bytes);
                }
            }
            reply
        }));
        match reply {
            Ok(Some(reply)) => self.transmit(now, key, reply),
            Ok(None) => add(&self.counters.malformed),
            Err(_) => {
                self.responders.remove(&key.local_port);
                add(&self.counters.faults);
            }
        }
    }

    pub(super) fn handle_cookie_echo(&mut self, now: Instant, key: Key, packet: &Packet<'_>) {
        let echo = packet.chunks().next().map_or(&[][..], |chunk| chunk.value);
        let cookie = match self.baker.open(now, &key, echo) {
            // RFC 9260 5.1.5 step 3.
            Ok(cookie) if cookie.my_tag == packet.tag => cookie,
            Ok(_) | Err(CookieError::Forged) => return add(&self.counters.bad_cookie),
            Err(CookieError::Stale { peer_tag, by }) => {
                add(&self.counters.stale_cookie);
                let micros = u32::try_from(by.as_micros()).unwrap_or(u32::MAX);
                let cause = packet::cause(packet::CAUSE_STALE_COOKIE, Some(micros));
                return self.answer_stranger(now, key, peer_tag, packet::ERROR, 0, &cause);
            }
        };
        let bytes = packet::cut_cookie(packet.bytes, echo.len(), INNER);
        let tag = Tag::new(cookie.my_tag, &key);
        if let Some(&id) = self.by_tag.get(&tag) {
            // Both sides dialled, or the COOKIE ACK got lost (RFC 9260 5.2.4 B and D).
            return self.take_echo(now, id, packet, &bytes);
        }
        self.age_spent(now);
        if self.spent.iter().any(|spent| spent.contains(&tag)) {
            // The same tags and sequence numbers again would mix two associations at the peer.
            return self.answer_stranger(now, key, cookie.peer_tag, packet::ABORT, 0, &[]);
        }
        let mut id = None;
        if let Some(&known) = self.by_key.get(&key)
            && let Some(assoc) = self.assocs.get(&known)
        {
            if assoc.up && cookie.made <= assoc.created {
                // RFC 9260 5.2.4 C: the handshake of a predecessor, late.
                return;
            }
            if assoc.up {
                add(&self.counters.restarts);
                self.finish(known, DownCause::Aborted);
            } else {
                // The peer's dial has overtaken ours: this association answers both.
                self.forget(known);
                id = Some(known);
            }
        }
        let is_session = self.is_session_port(key.local_port);
        if self.is_full(is_session, key.peer.ip()) {
            add(&self.counters.associations_refused);
            let cause = packet::cause(packet::CAUSE_OUT_OF_RESOURCE, None);
            return self.answer_stranger(now, key, cookie.peer_tag, packet::ABORT, 0, &cause);
        }
        let Some(protocol) = self.protocol(key.local_port) else {
            return add(&self.counters.bad_cookie);
        };
        let id = id.unwrap_or_else(|| {
            let n = self.accepted.fetch_add(1, Ordering::Relaxed);
            if is_session { AssocId::accepted_session(n) } else { AssocId::accepted(n) }
        });
        self.reseed();
        self.insert(now, id, key, protocol, cookie.peer_tag);
        self.take_echo(now, id, packet, &bytes);
    }

    /// RFC 9260 5.1: DATA may stand behind the COOKIE ECHO.
    fn take_echo(&mut self, now: Instant, id: AssocId, packet: &Packet<'_>, bytes: &[u8]) {
        if self.stow(id, packet) {
            return self.operate(now, id, |socket| socket.handle_input(bytes));
        }
        add(&self.counters.violations);
        if self.assocs.get(&id).is_some_and(|assoc| assoc.up) {
            self.abort(now, id);
        } else {
            // dcsctp has nothing yet that it could end.
            self.finish(id, DownCause::Local);
        }
    }

    pub(super) fn age_spent(&mut self, now: Instant) {
        if now.saturating_duration_since(self.spent_since) >= self.config.timers.cookie_life {
            self.spent_since = now;
            self.spent.swap(0, 1);
            self.spent[0].clear();
        }
    }
}
