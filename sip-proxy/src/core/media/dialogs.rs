//! Requests inside dialogs that have a relay: what the dialog's cookie says, ACKs with a description, the end.

use std::time::Instant;

use dialtone_ng::client::RequestId;
use dialtone_ng::message::{Command, Request};
use dialtone_sip::Message;
use dialtone_sip::transaction::ServerId;
use dialtone_sip_pool::token::DialogCookie;
use dialtone_wire::PeId;

use super::body::{sdp_of, with_sdp};
use super::{Description, Media, Question, Said, Subject, TRIES, WithoutRelay, tags};
use crate::core::Proxy;
use crate::core::hop::Hop;
use crate::core::respond::phone_address;

/// A cookie that was made for the dialog in which it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core) struct Cookie {
    pub(in crate::core) content: DialogCookie,
    /// The one who called has sent the request.
    pub(in crate::core) from_caller: bool,
}

/// An ACK that waits for a relay.
#[derive(Debug)]
pub(in crate::core) struct HeldAck {
    ack: Message,
    source: Hop,
    hop: Hop,
    own_routes: usize,
    first: PeId,
    tried: Vec<PeId>,
}

/// How often a relay is told of the end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core) enum Delete {
    /// Once: the same call may begin anew, and a copy that comes late would end that.
    Once,
    /// Until it answers.
    Surely,
}

impl Cookie {
    pub(super) fn relay(&self) -> Option<PeId> {
        (self.content.relay != 0).then_some(PeId(self.content.relay))
    }

    pub(in crate::core) fn is_of_conference(&self) -> bool {
        self.content.flags & DialogCookie::CONFERENCE != 0
    }

    pub(super) fn has_late_offer(&self) -> bool {
        self.content.flags & DialogCookie::LATE_OFFER != 0
    }
}

impl Media {
    /// Tells a relay that a call has ended: all of it, or what the caller has with one callee.
    pub(super) fn delete(
        &mut self,
        now: Instant,
        element: PeId,
        call_id: &str,
        caller: &str,
        callee: Option<&str>,
        how: Delete,
    ) {
        let Some(relay) = self.relays.known(element) else { return };
        let request = Request {
            call_id: Some(call_id.as_bytes()),
            from_tag: Some(caller.as_bytes()),
            to_tag: callee.map(str::as_bytes),
            // Without this it would be kept for half a minute.
            delete_delay: Some(0),
            ..Request::new(Command::Delete)
        };
        let Some(id) = self.client.request(now, relay.address, &request) else { return };
        self.stats.deletes += 1;
        match how {
            Delete::Once => self.client.cancel(id),
            Delete::Surely => {
                self.insert(id, Subject::End, element, now + self.settings.answer_within);
            }
        }
    }

    /// This process stood still and has dropped what came over core connections: relays are not asked about it any more.
    pub(in crate::core) fn stood_still(&mut self, is_there: impl Fn(ServerId) -> bool) {
        self.acks.retain(|_, held| !held.source.is_core());
        let stays = |question: &Question| match question.subject {
            Subject::Request(server) | Subject::Response(server, _) => is_there(server),
            Subject::Ack(number) => self.acks.contains_key(&number),
            Subject::End => true,
        };
        let gone = self.questions.iter().filter(|(_, question)| !stays(question));
        let mut gone: Vec<RequestId> = gone.map(|(id, _)| *id).collect();
        gone.sort_unstable();
        gone.into_iter().for_each(|id| self.cancel(id));
    }
}

impl Proxy {
    /// The cookie of ours in the Record-Route of an INVITE or of a response.
    pub(super) fn recorded(&self, message: &Message) -> Option<Cookie> {
        let call_id = message.call_id().ok()?;
        let (from, to) = tags(message);
        message.record_routes().flatten().find_map(|route| {
            let uri = *route.uri.sip()?;
            if !self.is_own_route(&uri) {
                return None;
            }
            let cookie = uri.user?.as_bytes();
            let parties = [from, to.unwrap_or("")];
            let read = DialogCookie::verify_caller(&self.keys, cookie, call_id, parties);
            read.ok().map(|(content, caller)| Cookie { content, from_caller: caller == 0 })
        })
    }

    /// A request inside a dialog ends it: its relays need not keep it.
    pub(in crate::core) fn end_dialog(&mut self, now: Instant, request: &Message, cookie: Cookie) {
        self.release_acks(now, request.call_id().unwrap_or(""));
        let (Some(media), Some(first)) = (&mut self.media, cookie.relay()) else { return };
        let call_id = request.call_id().unwrap_or("");
        let (from, to) = tags(request);
        let to = to.unwrap_or("");
        let (caller, callee) = if cookie.from_caller { (from, to) } else { (to, from) };
        let relays: Vec<_> = media.relays.to_end(first, call_id).collect();
        for relay in relays {
            media.delete(now, relay.element, call_id, caller, Some(callee), Delete::Surely);
        }
    }

    /// Sends the ACK for a 2xx on, if it has a description after a relay has seen it.
    pub(in crate::core) fn pass_ack(
        &mut self,
        now: Instant,
        ack: &Message,
        source: Hop,
        hop: Hop,
        own_routes: usize,
        cookie: Option<Cookie>,
    ) {
        let first = cookie.and_then(|cookie| cookie.relay());
        if let Some(first) = first.filter(|_| sdp_of(ack).is_some()) {
            let held =
                HeldAck { ack: ack.clone(), source, hop, own_routes, first, tried: Vec::new() };
            return self.ask_about_ack(now, held);
        }
        self.forward_ack(now, ack, source, hop, own_routes);
    }

    fn ask_about_ack(&mut self, now: Instant, held: HeldAck) {
        let Some(media) = self.media.as_mut().filter(|media| media.acks.len() < media.max_acks)
        else {
            return self.forward_ack(now, &held.ack, held.source, held.hop, held.own_routes);
        };
        let call_id = held.ack.call_id().unwrap_or("");
        let relay = (held.tried.len() < TRIES)
            .then(|| media.relays.of_call(held.first, call_id, &held.tried))
            .flatten();
        let (from, to) = tags(&held.ack);
        let sdp = sdp_of(&held.ack).unwrap_or_default();
        let number = media.next_ack;
        let asked = relay.and_then(|relay| {
            let phone = phone_address(&held.ack, held.source);
            // The offer was in the answer to the INVITE.
            let (command, offerer, other) = (Command::Answer, to.unwrap_or(""), Some(from));
            let of = Description { command, call_id, offerer, other, sdp, phone };
            media.ask(now, relay, Subject::Ack(number), of)
        });
        if asked.is_some() {
            media.next_ack += 1;
            media.acks.insert(number, held);
            return;
        }
        let quiet = match media.settings.without_relay {
            WithoutRelay::Direct => None,
            WithoutRelay::Refuse => self.silence(&held.ack, sdp),
        };
        let ack = quiet.as_ref().unwrap_or(&held.ack);
        self.forward_ack(now, ack, held.source, held.hop, held.own_routes);
    }

    /// ACKs of a call that ends go on before its end does.
    fn release_acks(&mut self, now: Instant, call_id: &str) {
        let Some(media) = &mut self.media else { return };
        let of_call = |(number, held): (&u64, &HeldAck)| {
            (held.ack.call_id() == Ok(call_id)).then_some(*number)
        };
        let numbers: Vec<u64> = media.acks.iter().filter_map(of_call).collect();
        for number in numbers {
            let held = self.media.as_mut().and_then(|media| media.acks.remove(&number));
            let Some(HeldAck { ack, source, hop, own_routes, .. }) = held else { continue };
            let quiet = sdp_of(&ack).and_then(|sdp| self.silence(&ack, sdp));
            self.forward_ack(now, quiet.as_ref().unwrap_or(&ack), source, hop, own_routes);
        }
    }

    pub(super) fn ack_said(&mut self, now: Instant, number: u64, element: PeId, said: &Said<'_>) {
        let Some(mut held) = self.media.as_mut().and_then(|media| media.acks.remove(&number))
        else {
            return;
        };
        let changed = match said {
            Said::Sdp(sdp) => with_sdp(&held.ack, sdp),
            Said::Error | Said::NotYet | Said::Nothing => None,
        };
        match changed {
            Some(ack) => self.forward_ack(now, &ack, held.source, held.hop, held.own_routes),
            None => {
                held.tried.push(element);
                self.ask_about_ack(now, held);
            }
        }
    }
}
