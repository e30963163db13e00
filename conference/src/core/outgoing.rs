//! Requests of our own within dialogs: BYE, NOTIFY, refreshes of sessions.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use dialtone_sip::transaction::ClientId;
use dialtone_sip::{BRANCH_COOKIE, CSeq, Edit, HeaderName, Message, Method, RequestBuilder};

use crate::core::{CallId, Focus, Hop, Output, Timer};

/// Above this a request over UDP might be torn (RFC 3261 section 18.1.1).
const MAX_DATAGRAM: usize = 1300;

/// A request of ours that waits for its answer.
#[derive(Debug)]
pub(super) struct Asked {
    call: CallId,
    hop: Hop,
    request: Bytes,
    /// Whether it has been sent by another way before.
    again: bool,
}

impl Focus {
    /// Sends a request within a dialog; `None` when there is no way, or no such call.
    pub(super) fn send(
        &mut self,
        now: Instant,
        id: CallId,
        method: Method<'_>,
        build: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Option<ClientId> {
        let mut hop = self.way(id)?;
        let sequence = self.calls.get_mut(&id)?.dialog.next_sequence();
        let mut message = self.build(id, method, sequence, hop, &build)?;
        if let Hop::Udp(peer) = hop
            && message.bytes().len() > MAX_DATAGRAM
        {
            hop = Hop::Tcp(peer);
            message = self.build(id, method, sequence, hop, &build)?;
        }
        self.ask(now, id, &message, hop, false)
    }

    fn ask(
        &mut self,
        now: Instant,
        call: CallId,
        message: &Message,
        hop: Hop,
        again: bool,
    ) -> Option<ClientId> {
        let client = self.layer.send_request(now, message, hop).ok()?;
        let request = message.bytes().clone();
        self.clients.insert(client, Asked { call, hop, request, again });
        Some(client)
    }

    /// A request of ours that a proxy has taken with it as it died goes to another one, once. The other side may have it:
    /// then it is the same request by another way.
    fn ask_again(&mut self, now: Instant, asked: &Asked) -> bool {
        let Hop::Accepted(before) = asked.hop else { return false };
        let other = self.accepted.iter().rev().find(|connection| **connection != before);
        let Some(other) = other.filter(|_| !asked.again) else { return false };
        let hop = Hop::Accepted(*other);
        let Ok(request) = Message::parse(asked.request.clone()) else { return false };
        let (transport, sent_by, branch) = self.sender(hop);
        let via = format!("SIP/2.0/{transport} {sent_by};rport;branch={branch}");
        let mut edit = Edit::new(&request);
        edit.set_header(HeaderName::Via, via);
        let Ok(message) = Message::parse(edit.finish()) else { return false };
        self.ask(now, asked.call, &message, hop, true).is_some()
    }

    /// What a new Via towards this hop says: transport, our address, branch.
    fn sender(&mut self, hop: Hop) -> (&'static str, SocketAddr, String) {
        let branch = format!("{BRANCH_COOKIE}{:016x}", self.rng.u64(..));
        let own = self.settings.udp.filter(|_| matches!(hop, Hop::Udp(_)));
        (hop.transport().as_str(), own.unwrap_or(self.settings.address), branch)
    }

    /// Where requests of a dialog go. If it came through a proxy that is connected, to that which its last request came
    /// from, or any other when that is gone: the address in the route may be that of a dead one, for which all others of
    /// its pool stand in.
    fn way(&self, id: CallId) -> Option<Hop> {
        let dialog = &self.calls.get(&id)?.dialog;
        let back = match dialog.hop {
            Hop::Accepted(connection) if !self.accepted.contains(&connection) => {
                self.accepted.last().map(|connection| Hop::Accepted(*connection))
            }
            hop => Some(hop),
        };
        let next = dialog.next_hop(self.settings.udp.is_some());
        match back {
            Some(Hop::Accepted(_)) if dialog.has_routes() => back,
            _ => next.or(back),
        }
    }

    fn build(
        &mut self,
        id: CallId,
        method: Method<'_>,
        sequence: u32,
        hop: Hop,
        build: &impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Option<Message> {
        let (transport, sent_by, branch) = self.sender(hop);
        let dialog = &self.calls.get(&id)?.dialog;
        let request = dialog.request(method, sequence, (transport, sent_by, &branch));
        Message::parse(build(request).build()).ok()
    }

    pub(super) fn send_bye(&mut self, now: Instant, id: CallId) {
        self.send(now, id, Method::Bye, |request| request);
    }

    /// It is ours to refresh the session (RFC 4028 section 7.4).
    pub(super) fn refresh(&mut self, now: Instant, id: CallId) {
        let Some(session) = self.calls.get_mut(&id).and_then(|call| call.session.as_mut()) else {
            return;
        };
        let (update, expires) = (session.allows_update, session.timer.interval.as_secs());
        let offer = if update { None } else { session.offer() };
        if session.refreshing || (offer.is_none() && !update) {
            return;
        }
        session.refreshing = true;
        let room = session.room;
        let contact = self.room_names.get(&room).map(|name| self.contact(name)).unwrap_or_default();
        let method = if update { Method::Update } else { Method::Invite };
        let sent = self.send(now, id, method, |request| {
            let request = request
                .header("Contact", &contact)
                .header("Supported", "timer")
                .header("Session-Expires", &format!("{expires};refresher=uac"));
            match &offer {
                Some(offer) => request.body("application/sdp", offer.clone()),
                None => request,
            }
        });
        if sent.is_none()
            && let Some(session) = self.calls.get_mut(&id).and_then(|call| call.session.as_mut())
        {
            session.refreshing = false;
        }
    }

    /// A response to a request of ours.
    pub(super) fn response(&mut self, now: Instant, client: ClientId, response: &Message) {
        let (Some(code), Ok(CSeq { method, .. })) = (response.status(), response.cseq()) else {
            return;
        };
        if code < 200 {
            return;
        }
        if method == Method::Invite && code < 300 {
            self.acknowledge(response);
        }
        let Some(Asked { call: id, .. }) = self.clients.remove(&client) else { return };
        match method {
            Method::Notify => self.notify_answered(now, id, code),
            Method::Invite | Method::Update => self.refresh_answered(now, id, code, response),
            _ => {}
        }
    }

    /// No answer came, or the connection ended.
    pub(super) fn unanswered(&mut self, now: Instant, client: ClientId) {
        let Some(asked) = self.clients.remove(&client) else { return };
        if self.ask_again(now, &asked) {
            return;
        }
        let id = asked.call;
        if self.calls.get(&id).is_some_and(|call| call.subscription.is_some()) {
            self.notify_answered(now, id, 408);
        }
        // The other side may be reached again before the session expires.
        self.refresh_again(now, id);
    }

    /// A refresh came to nothing: there is time for some more before the session expires.
    fn refresh_again(&mut self, now: Instant, id: CallId) {
        let session = self.calls.get_mut(&id).and_then(|call| call.session.as_mut());
        if let Some(session) = session
            && std::mem::take(&mut session.refreshing)
        {
            self.timers.set(Timer::Refresh(id), now + session.timer.interval / 8);
        }
    }

    fn refresh_answered(&mut self, now: Instant, id: CallId, code: u16, response: &Message) {
        let Some(session) = self.calls.get_mut(&id).and_then(|call| call.session.as_mut()) else {
            return;
        };
        match code {
            200..=299 => {
                session.refreshing = false;
                session.timer.answered(response);
                self.refreshed(now, id);
            }
            // The other side knows nothing of this call (RFC 3261 section 12.2.1.2).
            408 | 481 => self.hang_up(now, id),
            // 491 and those of proxies do not last; after others the session expires if nobody refreshes it.
            _ => self.refresh_again(now, id),
        }
    }

    /// A 2xx to a refresh of ours came once more: its ACK was lost.
    pub(super) fn stray_response(&mut self, _now: Instant, response: &Message) {
        match (response.status(), response.cseq()) {
            (Some(200..=299), Ok(CSeq { method: Method::Invite, .. })) => {
                self.acknowledge(response);
            }
            _ => self.stats.dropped += 1,
        }
    }

    fn acknowledge(&mut self, response: &Message) {
        let tag = response.from().ok().and_then(|from| from.tag());
        let Some(id) = tag.and_then(|tag| self.tags.get(tag).copied()) else { return };
        let Some(hop) = self.way(id) else { return };
        let Ok(sequence) = response.cseq().map(|cseq| cseq.seq) else { return };
        // It has the number of its INVITE, which may not be the last request by now.
        if let Some(message) = self.build(id, Method::Ack, sequence, hop, &|request| request) {
            let bytes = message.bytes().clone();
            self.outputs.push_back(Output::Send { to: hop, bytes });
        }
    }
}
