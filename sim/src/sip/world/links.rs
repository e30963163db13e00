//! Core connections: what one process writes arrives at the other in order, in pieces, or not at all.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use dialtone_sip::Message;
use dialtone_sip_pool::hops::{ACCEPTED, ConnId};
use dialtone_sip_pool::leg::LegId;
use dialtone_sip_pool::token::DialogCookie;

use super::{Event, GATEWAYS, Inflight, World, core_address};

#[derive(Clone, Debug)]
pub(super) enum Arrival {
    Bytes(Vec<u8>),
    Closed,
    Opened,
    Refused,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) ends: [(usize, ConnId); 2],
    /// When the last thing arrives at each side: streams keep their order.
    last: [Duration; 2],
}

impl World {
    /// Bugs that were planted on purpose sit on the wires.
    pub(super) fn tampered(&self, process: usize, conn: ConnId, bytes: Bytes) -> Bytes {
        if self.bugs.own_relays && process < GATEWAYS && bytes.starts_with(b"SIP/2.0 ") {
            return self.with_own_relay(process, conn, &bytes).unwrap_or(bytes);
        }
        if process < GATEWAYS && self.bugs.lost_cancels && bytes.starts_with(b"CANCEL ") {
            let message = Message::parse(bytes.clone()).ok();
            let attempt = message.as_ref().and_then(|message| {
                LegId::from_branch(&self.keys, message.top_via().ok()?.branch()?.as_bytes())
            });
            if attempt.is_some_and(|(_, attempt)| attempt > 1) {
                return Bytes::new();
            }
        }
        if !self.bugs.no_leg_ids {
            return bytes;
        }
        // A branch that is not as it was made has no valid MAC: the delivering gateway takes each copy of a request for
        // a new one. Answers get their branches back.
        let (plain, spoilt) = ("branch=z9hG4bK", "branch=z9hG4bKq");
        let text = || String::from_utf8_lossy(&bytes).into_owned();
        if process >= GATEWAYS && bytes.starts_with(b"INVITE ") {
            return text().replace(plain, spoilt).into_bytes().into();
        }
        if process < GATEWAYS && bytes.starts_with(b"SIP/2.0 ") {
            return text().replace(spoilt, plain).into_bytes().into();
        }
        bytes
    }

    /// An answer on its way to a proxy, with the relay that this proxy prefers in its cookie.
    fn with_own_relay(&self, process: usize, conn: ConnId, bytes: &Bytes) -> Option<Bytes> {
        let (link, side) = self.procs[process].links.get(&conn)?;
        let (proxy, _) = self.links.get(link)?.ends[1 - side];
        let first = self.relay_view(proxy).order.first()?.0;
        let answer = Message::parse(bytes.clone()).ok()?;
        let (call_id, caller) = (answer.call_id().ok()?, answer.from().ok()?.tag()?.to_owned());
        let cookies = answer.record_routes().flatten().filter_map(|route| {
            let user = route.uri.sip()?.user?;
            let cookie = DialogCookie::verify(&self.keys, user.as_bytes(), call_id, [&caller, ""]);
            Some((user, cookie.ok()?))
        });
        let (user, cookie) = cookies.last()?;
        let other = DialogCookie { relay: first, ..cookie }.sign(&self.keys, call_id, &caller);
        Some(String::from_utf8_lossy(bytes).replace(user, &other).into_bytes().into())
    }

    pub(super) fn dial(&mut self, process: usize, conn: ConnId, address: SocketAddr) {
        let id = self.next_link;
        self.next_link += 1;
        let other = (0..self.procs.len()).find(|other| core_address(*other) == address);
        let other = other.expect("an address of a process");
        let accepted = ConnId(ACCEPTED | id);
        let link = Link { ends: [(process, conn), (other, accepted)], last: [self.now; 2] };
        self.links.insert(id, link);
        self.procs[process].links.insert(conn, (id, 0));
        if self.procs[other].alive && self.procs[other].open {
            // The kernel accepts even for a process that is stopped.
            self.procs[other].links.insert(accepted, (id, 1));
            self.deliver(id, 1, Arrival::Opened);
            self.deliver(id, 0, Arrival::Opened);
        } else {
            self.deliver(id, 0, Arrival::Refused);
        }
    }

    pub(super) fn write(&mut self, process: usize, conn: ConnId, bytes: Bytes) {
        let Some(&(link, side)) = self.procs[process].links.get(&conn) else { return };
        let mut bytes = bytes.to_vec();
        if bytes.len() > 1 && self.rng.u8(..8) == 0 {
            let rest = bytes.split_off(self.rng.usize(1..bytes.len()));
            self.deliver(link, 1 - side, Arrival::Bytes(bytes));
            bytes = rest;
        }
        self.deliver(link, 1 - side, Arrival::Bytes(bytes));
    }

    /// In order, after everything that is on its way to this side.
    pub(super) fn deliver(&mut self, link: u64, side: usize, what: Arrival) {
        let delay = Duration::from_micros(self.rng.u64(200..500));
        let Some(known) = self.links.get_mut(&link) else { return };
        let at = (self.now + delay).max(known.last[side] + Duration::from_micros(1));
        known.last[side] = at;
        self.push(at, Event::Core { link, side, what });
    }

    /// What of the bytes on their way to this side survives.
    pub(super) fn cut(&mut self, link: u64, side: usize, inflight: Inflight) {
        if inflight == Inflight::Arrives {
            return;
        }
        let keys: Vec<(Duration, u64)> = self
            .queue
            .iter()
            .filter(|(_, event)| {
                matches!(event, Event::Core { link: l, side: s, what: Arrival::Bytes(_) }
                    if *l == link && *s == side)
            })
            .map(|(key, _)| *key)
            .collect();
        let kept = if inflight == Inflight::Cut { self.rng.usize(..=keys.len()) } else { 0 };
        for (number, key) in keys.iter().enumerate().skip(kept) {
            let torn = number == kept && inflight == Inflight::Cut;
            match self.queue.get_mut(key) {
                Some(Event::Core { what: Arrival::Bytes(bytes), .. })
                    if torn && bytes.len() > 1 =>
                {
                    bytes.truncate(self.rng.usize(1..bytes.len()));
                }
                _ => drop(self.queue.remove(key)),
            }
        }
    }
}
