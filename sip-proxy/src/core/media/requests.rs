//! Requests with a description: a relay is asked before they go on.

use std::net::IpAddr;
use std::time::Instant;

use dialtone_ng::client::RequestId;
use dialtone_ng::message::Command;
use dialtone_sip::{Message, Method};
use dialtone_sip_pool::leg::LegId;
use dialtone_sip_pool::token::DialogCookie;
use dialtone_wire::PeId;

use super::body::{Body, sdp_of, with_sdp};
use super::{Cookie, Delete, Description, Said, Subject, TRIES, WithoutRelay, tags};
use crate::core::context::Context;
use crate::core::respond::phone_address;
use crate::core::{Proxy, hop};

/// What relays have to do with a request and its answers.
#[derive(Debug)]
pub(in crate::core) struct Session {
    /// An INVITE that begins a dialog; else a request inside one whose cookie names a relay.
    pub(super) begins: bool,
    pub(super) has: Has,
    stage: Stage,
    /// What the cookie names; of no meaning at the beginning.
    pub(super) first: PeId,
    /// Whose ports the other side gets to see; `None`: nobody's.
    pub(super) relay: Option<PeId>,
    /// Other relays that answers have named.
    pub(super) others: Vec<PeId>,
    /// Relays that had nothing to say so far, about whichever description.
    pub(super) tried: Vec<PeId>,
    pub(super) latest: Option<Latest>,
}

/// What the request's description is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Has {
    /// An offer: the answer comes in a response.
    Offer,
    /// The answer to an offer in a response (PRACK).
    Answer,
    /// There is none: the offer comes in a response.
    Nothing,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    New,
    /// These relays are being asked, the first answer counts. When all is to be decided at the latest.
    Asking(Vec<(RequestId, PeId)>, Instant),
    Settled,
}

/// The description in a response that a relay was asked about last, and what became of it. The same one comes again: in
/// 183 and then in 200, and in every copy of that.
#[derive(Debug)]
pub(super) struct Latest {
    pub(super) tag: Box<str>,
    pub(super) relay: PeId,
    pub(super) before: Box<[u8]>,
    pub(super) after: Box<[u8]>,
}

impl Session {
    /// The cookie's content, if the dialog that begins has a relay.
    pub(in crate::core) fn cookie(&self, preferred: u32) -> Option<DialogCookie> {
        let relay = self.relay.filter(|_| self.begins)?;
        let flags = if self.has == Has::Nothing { DialogCookie::LATE_OFFER } else { 0 };
        Some(DialogCookie { preferred, relay: relay.0, flags })
    }
}

impl Proxy {
    /// Whether relays have to do with a request; `cookie`: what its Route says.
    pub(in crate::core) fn session_of(
        &mut self,
        request: &Message,
        cookie: Option<Cookie>,
    ) -> Option<Session> {
        self.media.as_ref()?;
        let method = request.method()?;
        let begins = method == Method::Invite && tags(request).1.is_none();
        if begins {
            // On a second way through the proxies it has one already.
            if self.recorded(request).is_some() {
                return None;
            }
        } else {
            cookie.as_ref().filter(|cookie| cookie.relay().is_some())?;
        }
        let late = cookie.as_ref().is_some_and(|cookie| cookie.has_late_offer());
        let has = match (method, Body::of(request)) {
            (Method::Invite | Method::Update | Method::Prack, Body::Sealed) => {
                self.media.as_mut()?.stats.sealed += 1;
                return None;
            }
            (Method::Invite, Body::Nothing) => Has::Nothing,
            (Method::Prack, Body::Sdp(_)) if late => Has::Answer,
            (Method::Invite | Method::Update | Method::Prack, Body::Sdp(_)) => Has::Offer,
            _ => return None,
        };
        let first = cookie.and_then(|cookie| cookie.relay()).unwrap_or(PeId(0));
        Some(Session {
            begins,
            has,
            stage: Stage::New,
            first,
            relay: None,
            others: Vec::new(),
            tried: Vec::new(),
            latest: None,
        })
    }

    /// Whether a request may go on now. If not, a relay is being asked, or the request has been answered.
    pub(in crate::core) fn is_media_ready(&mut self, now: Instant, context: &mut Context) -> bool {
        let Some(session) = &mut context.session else { return true };
        match session.stage {
            Stage::Settled => true,
            Stage::Asking(..) => false,
            Stage::New if session.has == Has::Nothing => {
                session.stage = Stage::Settled;
                let Some(media) = self.media.as_mut().filter(|_| session.begins) else {
                    return true;
                };
                session.relay = media.relays.by_policy(now, &[]).map(|relay| relay.element);
                session.relay.is_some() || self.without_relay(now, context)
            }
            Stage::New => {
                let patience = self.media.as_ref().map(|media| media.settings.answer_within);
                let until = now + patience.unwrap_or_default() * TRIES as u32;
                session.stage = Stage::Asking(Vec::new(), until);
                self.ask_about_request(now, context)
            }
        }
    }

    /// Asks one more relay. Returns whether the request goes on.
    fn ask_about_request(&mut self, now: Instant, context: &mut Context) -> bool {
        let (Some(session), Some(media)) = (&mut context.session, &mut self.media) else {
            return true;
        };
        let Stage::Asking(asked, until) = &mut session.stage else { return true };
        let request = &context.request;
        let call_id = request.call_id().unwrap_or("");
        let relay = match session.tried.len() {
            TRIES.. => None,
            _ if session.begins => media.relays.by_policy(now, &session.tried),
            _ => media.relays.of_call(session.first, call_id, &session.tried),
        };
        let (from, to) = tags(request);
        let (command, offerer, other) = match session.has {
            Has::Answer => (Command::Answer, to.unwrap_or(""), Some(from)),
            Has::Offer | Has::Nothing => (Command::Offer, from, to),
        };
        let question = relay.zip(sdp_of(request)).and_then(|(relay, sdp)| {
            let phone = phone_address(request, context.source);
            let of = Description { command, call_id, offerer, other, sdp, phone };
            let question = media.ask(now, relay, Subject::Request(context.server), of)?;
            Some((question, relay.element))
        });
        if let Some((question, element)) = question {
            session.tried.push(element);
            asked.push((question, element));
            return false;
        }
        // Nobody else can be asked, but who was may still answer.
        if let Some((question, _)) = asked.last()
            && now < *until
        {
            media.extend(*question, *until);
            return false;
        }
        self.give_up_relays(now, context, None);
        self.without_relay(now, context)
    }

    /// The relays that are asked about a request, but for the one that has answered, need not answer any more, and not
    /// keep what they have.
    fn give_up_relays(&mut self, now: Instant, context: &mut Context, but: Option<RequestId>) {
        let (Some(session), Some(media)) = (&mut context.session, &mut self.media) else { return };
        let stage = std::mem::replace(&mut session.stage, Stage::Settled);
        let Stage::Asking(asked, _) = stage else { return };
        let call_id = context.request.call_id().unwrap_or("");
        let caller = tags(&context.request).0;
        for (question, element) in asked.into_iter().filter(|(id, _)| Some(*id) != but) {
            media.cancel(question);
            // Inside a dialog it may be the relay that the call has.
            if session.begins {
                media.delete(now, element, call_id, caller, None, Delete::Once);
            }
        }
    }

    /// No relay can be had for a request. Returns whether it goes on all the same.
    fn without_relay(&mut self, now: Instant, context: &mut Context) -> bool {
        let (Some(session), Some(media)) = (&context.session, &mut self.media) else { return true };
        let refuses = media.settings.without_relay == WithoutRelay::Refuse;
        match session.has {
            // The offer has gone out; its answer cannot be refused.
            Has::Answer if refuses => {
                let sdp = sdp_of(&context.request).unwrap_or_default();
                if let Some(quiet) = self.silence(&context.request, sdp) {
                    context.request = quiet;
                }
            }
            _ if refuses => {
                media.stats.refused += 1;
                context.answered = true;
                let (server, source) = (context.server, context.source);
                self.unavailable(now, server, &context.request, source);
                return false;
            }
            _ => media.stats.direct += 1,
        }
        true
    }

    /// An INVITE that waits for a relay is being cancelled. If another proxy has had it before, a phone may be ringing,
    /// which only the same INVITE reaches: it goes on at once, to be cancelled there.
    pub(in crate::core) fn start_repeated(&mut self, now: Instant, context: &mut Context) {
        let Some(session) = &mut context.session else { return };
        let Stage::Asking(asked, _) = &session.stage else { return };
        let asked: Vec<_> = asked.iter().map(|(_, element)| *element).collect();
        let branches = context.request.vias().filter_map(|via| via.ok()?.branch());
        let leg = LegId::in_stack(&self.keys, branches.map(str::as_bytes));
        if leg.is_some_and(|(_, attempt)| attempt > 1) {
            session.stage = Stage::Settled;
            session.others.extend(asked);
            self.settle(now, context);
        }
    }

    pub(super) fn request_said(
        &mut self,
        now: Instant,
        context: &mut Context,
        question: RequestId,
        element: PeId,
        said: &Said<'_>,
    ) {
        let Some(session) = &mut context.session else { return };
        let Stage::Asking(asked, _) = &mut session.stage else { return };
        let Some(at) = asked.iter().position(|(id, _)| *id == question) else { return };
        let changed = match said {
            Said::Sdp(sdp) => with_sdp(&context.request, sdp),
            Said::NotYet => None,
            Said::Error | Said::Nothing => {
                asked.remove(at);
                None
            }
        };
        let goes_on = match changed {
            Some(request) => {
                session.relay = Some(element);
                session.tried.retain(|tried| *tried != element);
                self.give_up_relays(now, context, Some(question));
                context.request = request;
                true
            }
            None => self.ask_about_request(now, context),
        };
        if goes_on || context.answered {
            self.settle(now, context);
        }
    }

    /// A request that was to begin a dialog has failed: relays need not keep what they were asked for. Each is told once
    /// and before anybody hears of the failure, so that it comes before whatever the caller sends next in the same call.
    pub(in crate::core) fn release(&mut self, now: Instant, context: &mut Context) {
        let Some(session) = context.session.as_mut().filter(|session| session.begins) else {
            return;
        };
        // Whoever has taken over from us goes on with the same relay.
        if context.gone {
            return;
        }
        let asked = match std::mem::replace(&mut session.stage, Stage::Settled) {
            Stage::Asking(asked, _) => asked,
            Stage::New | Stage::Settled => Vec::new(),
        };
        let mut relays = std::mem::take(&mut session.others);
        // A relay that was only to be named has nothing yet, unless an answer has brought it an offer.
        let named_only = session.has == Has::Nothing && session.latest.is_none();
        let asked = asked.into_iter().map(|(_, element)| element);
        relays.extend(session.relay.take().filter(|_| !named_only).into_iter().chain(asked));
        let call_id = context.request.call_id().unwrap_or("");
        let caller = tags(&context.request).0;
        if let Some(media) = &mut self.media {
            for element in relays {
                media.delete(now, element, call_id, caller, None, Delete::Once);
            }
        }
    }
}

/// The phone that a branch leads to.
pub(super) fn callee_address(context: &Context, index: usize, proxy: &Proxy) -> Option<IpAddr> {
    let binding = context.branches.get(index)?.binding.as_ref();
    match binding {
        Some(binding) => hop::phone_of_binding(&binding.path, &binding.received, &proxy.keys),
        None => context.callee,
    }
}
