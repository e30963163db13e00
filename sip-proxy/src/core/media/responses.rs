//! Responses with a description: a relay is asked before they go up.
//!
//! What a branch has to say goes up in order: while a relay is asked about a response, those after it wait. A final
//! failure waits for nothing.

use std::time::Instant;

use dialtone_ng::client::RequestId;
use dialtone_ng::message::Command;
use dialtone_sip::Message;
use dialtone_wire::PeId;

use super::body::{Body, sdp_of, silenced, with_sdp};
use super::requests::{Has, Latest, callee_address};
use super::{Delete, Description, Said, Subject, TRIES, WithoutRelay, tags};
use crate::core::Proxy;
use crate::core::context::Context;

/// Responses of one branch that wait at a time. More of them before a relay has answered are no phone's.
const HELD: usize = 16;

/// What becomes of a response.
enum Passage {
    AsItIs,
    Changed(Message),
    /// A relay is being asked.
    Waits(RequestId),
}

impl Proxy {
    /// Sends a provisional or 2xx response up, or holds it until a relay has answered.
    pub(in crate::core) fn pass(
        &mut self,
        now: Instant,
        context: &mut Context,
        index: usize,
        response: Message,
    ) {
        // Whoever asked us and is lost has it from somebody else.
        if context.session.is_none() || context.gone {
            return self.pass_up(now, context, &response);
        }
        let held = &mut context.branches[index].held;
        held.push_back(response);
        if held.len() > HELD {
            // Not the first, about which a relay is asked, and not a final one.
            let oldest = held.iter().skip(1).position(|held| held.status() < Some(200));
            held.remove(oldest.map_or(1, |at| at + 1));
        }
        if held.len() == 1 {
            self.advance(now, context, index);
        }
    }

    /// Sends up what a branch holds, until a relay has to be asked.
    fn advance(&mut self, now: Instant, context: &mut Context, index: usize) {
        while let Some(response) = context.branches[index].held.front().cloned() {
            // Superseded by a final response.
            let stale = response.status() < Some(200) && context.answered;
            if !stale {
                match self.passage(now, context, index, &response) {
                    Passage::AsItIs => self.pass_up(now, context, &response),
                    Passage::Changed(changed) => self.pass_up(now, context, &changed),
                    Passage::Waits(question) => {
                        context.branches[index].question = Some(question);
                        return;
                    }
                }
            }
            context.branches[index].held.pop_front();
        }
    }

    fn passage(
        &mut self,
        now: Instant,
        context: &mut Context,
        index: usize,
        response: &Message,
    ) -> Passage {
        self.note_relay(now, context, response);
        let phone = callee_address(context, index, self);
        let relay = self.relay_of(context, response);
        let (Some(session), Some(media)) = (&mut context.session, &mut self.media) else {
            return Passage::AsItIs;
        };
        let sdp = match Body::of(response) {
            Body::Nothing => return Passage::AsItIs,
            Body::Sealed => {
                media.stats.sealed += 1;
                return Passage::AsItIs;
            }
            Body::Sdp(span) => response.bytes().slice(span),
        };
        let (from, to) = tags(response);
        let to = to.unwrap_or("");
        let (command, offerer, other) = match session.has {
            Has::Offer => (Command::Answer, from, to),
            Has::Nothing => (Command::Offer, to, from),
            Has::Answer => return Passage::AsItIs,
        };
        let Some(first) = relay else { return Passage::AsItIs };
        if let Some(latest) = &session.latest
            && *latest.tag == *to
            && *latest.before == *sdp
            && (latest.relay == first || session.has == Has::Nothing)
        {
            return with_sdp(response, &latest.after).map_or(Passage::AsItIs, Passage::Changed);
        }
        let call_id = response.call_id().unwrap_or("");
        let relay = match session.has {
            // Others know nothing of the offer.
            Has::Offer if session.tried.contains(&first) => None,
            Has::Offer => media.relays.known(first),
            _ if session.tried.len() >= TRIES => None,
            _ => media.relays.of_call(first, call_id, &session.tried),
        };
        let asked = relay.and_then(|relay| {
            let of =
                Description { command, call_id, offerer, other: Some(other), sdp: &sdp, phone };
            media.ask(now, relay, Subject::Response(context.server, index), of)
        });
        if let Some(question) = asked {
            return Passage::Waits(question);
        }
        if session.has == Has::Nothing && media.settings.without_relay == WithoutRelay::Direct {
            media.stats.direct += 1;
            return Passage::AsItIs;
        }
        self.silence(response, &sdp).map_or(Passage::AsItIs, Passage::Changed)
    }

    /// The message with media to nowhere.
    pub(super) fn silence(&mut self, message: &Message, sdp: &[u8]) -> Option<Message> {
        if let Some(media) = &mut self.media {
            media.stats.silenced += 1;
        }
        with_sdp(message, &silenced(sdp))
    }

    /// The relay whose ports the phone behind a response was given. That is what its Record-Route says: another proxy may
    /// have sent the INVITE that it got. Only where it has none, ours counts.
    fn relay_of(&self, context: &Context, response: &Message) -> Option<PeId> {
        let session = context.session.as_ref()?;
        if !session.begins {
            let first = (session.has == Has::Nothing).then_some(session.first);
            return session.relay.or(first);
        }
        if response.record_routes().next().is_some() {
            return self.recorded(response).and_then(|cookie| cookie.relay());
        }
        session.relay
    }

    /// Remembers which relays a call has. When an answer settles it at another proxy's, ours has nothing more to do.
    pub(in crate::core) fn note_relay(
        &mut self,
        now: Instant,
        context: &mut Context,
        response: &Message,
    ) {
        let named = self.relay_of(context, response);
        let Some(session) = context.session.as_mut().filter(|session| session.begins) else {
            return;
        };
        if session.relay == named {
            return;
        }
        if !matches!(response.status(), Some(200..300)) {
            session.others.extend(named.filter(|named| !session.others.contains(named)));
            return;
        }
        let ours = std::mem::replace(&mut session.relay, named);
        session.others.retain(|other| Some(*other) != named);
        // One that was only named has nothing.
        let ours = ours.filter(|_| session.has == Has::Offer);
        if let (Some(ours), Some(media)) = (ours, &mut self.media) {
            let call_id = context.request.call_id().unwrap_or("");
            media.delete(now, ours, call_id, tags(&context.request).0, None, Delete::Once);
        }
    }

    pub(super) fn response_said(
        &mut self,
        now: Instant,
        context: &mut Context,
        index: usize,
        question: RequestId,
        element: PeId,
        said: &Said<'_>,
    ) {
        let Some(branch) = context.branches.get_mut(index) else { return };
        if branch.question != Some(question) {
            return;
        }
        branch.question = None;
        let Some(response) = branch.held.front().cloned() else { return };
        let Some(session) = &mut context.session else { return };
        match (said, sdp_of(&response)) {
            (Said::Sdp(after), Some(before)) => {
                session.latest = Some(Latest {
                    tag: tags(&response).1.unwrap_or("").into(),
                    relay: element,
                    before: before.into(),
                    after: (*after).into(),
                });
                if session.has == Has::Nothing {
                    session.relay = Some(element);
                }
            }
            // It lives, and others know nothing of the offer: this description is of no use.
            (Said::Error, Some(sdp)) if session.has == Has::Offer => {
                let quiet = self.silence(&response, sdp);
                self.pass_up(now, context, quiet.as_ref().unwrap_or(&response));
                context.branches[index].held.pop_front();
            }
            _ => session.tried.push(element),
        }
        // The same response once more: now it is known what becomes of it.
        self.advance(now, context, index);
    }
}
