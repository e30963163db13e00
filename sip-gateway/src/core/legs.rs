//! Legs: requests of phones on their way through the core, over as many attempts as it takes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use dialtone_pool_user as pool_user;
use dialtone_sip::transaction::ServerId;
use dialtone_sip::{Edit, HeaderName, Message, Method, ack_for, cancel_for};
use dialtone_sip_pool::dialog::{DialogId, Seen};
use dialtone_sip_pool::hops::RequestId;
use dialtone_sip_pool::leg::LegId;
use dialtone_wire::PeId;

use super::{Choice, Gateway, Peer};

/// RFC 3261 section 16.6: timer C is longer than 3 minutes. The proxy behind us has one too; ours comes after it.
const INVITE_LIMIT: Duration = Duration::from_secs(200);

/// RFC 3261 section 17.1.2.2, timer F; section 9.1: how long a cancelled INVITE waits for its answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(32);

/// A call whose proxies are all gone is ended without them after this time. Before that it is worth waiting for one: it
/// tells the relay.
const WITHOUT_PROXY: Duration = Duration::from_millis(500);

/// Attempts to send one request, so that a pool of dying proxies does not keep us busy for ever.
const ATTEMPTS: u32 = 16;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Another gateway.
    Gateway(u32),
    /// The other half of this gateway.
    Loop,
    /// Any proxy, this one if it lives.
    PreferredProxy { element: u32, beyond: Option<Beyond> },
    /// Any proxy.
    Proxy,
}

/// Where a request inside a dialog goes after the proxy that stays in it. While there is no proxy at all, what has no body
/// goes there by itself: a call can be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beyond {
    Gateway(u32),
    Loop,
}

impl From<Beyond> for Way {
    fn from(beyond: Beyond) -> Self {
        match beyond {
            Beyond::Gateway(element) => Self::Gateway(element),
            Beyond::Loop => Self::Loop,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cancel {
    No,
    Sent,
    Wanted,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Has a 2xx answer; further ones may come (forks, retransmissions).
    Accepted,
    /// Sent; whether a provisional answer has come.
    Sent { provisional: bool },
    /// No proxy, or not the one gateway, can be used; waits for it.
    Waiting,
}

#[derive(Debug)]
pub(super) struct Leg {
    server: ServerId,
    source: Peer,
    /// As it came, with the phone's address in its Via.
    pub(super) request: Message,
    invite: bool,
    way: Way,
    keep_routes: Option<usize>,
    mark: Option<(&'static str, String)>,
    attempt: u32,
    /// What was sent last, to whom, and under which number the hop knows it.
    sent: Bytes,
    element: Option<u32>,
    hop: Option<RequestId>,
    tried: Vec<u32>,
    state: State,
    cancel: Cancel,
    deadline: Option<Instant>,
    /// When waiting for a proxy ends, from the moment when there was none.
    waits_until: Option<Instant>,
}

impl Leg {
    pub(super) fn new(
        server: ServerId,
        source: Peer,
        request: Message,
        invite: bool,
        way: Way,
        keep_routes: Option<usize>,
        mark: Option<(&'static str, String)>,
    ) -> Self {
        Self {
            server,
            source,
            request,
            invite,
            way,
            keep_routes,
            mark,
            attempt: 0,
            sent: Bytes::new(),
            element: None,
            hop: None,
            tried: Vec::new(),
            state: State::Sent { provisional: false },
            cancel: Cancel::No,
            deadline: None,
            waits_until: None,
        }
    }

    pub(super) fn is_answered(&self) -> bool {
        self.state == State::Accepted
    }

    /// Where it may go by itself while there is no proxy.
    fn beyond(&self) -> Option<Beyond> {
        match self.way {
            Way::PreferredProxy { beyond, .. } if self.request.body().is_empty() => beyond,
            _ => None,
        }
    }

    /// The answer when nobody can take it.
    fn nobody(&self) -> u16 {
        if matches!(self.way, Way::Gateway(_)) { 480 } else { 503 }
    }
}

impl Gateway {
    /// Mints the leg's id and sends it for the first time.
    pub(super) fn begin(&mut self, now: Instant, leg: Leg) {
        let id = LegId::mint(&mut self.rng);
        self.leg_of_server.insert(leg.server, id);
        self.legs.insert(id, leg);
        self.counters.forwarded += 1;
        self.launch(now, id);
    }

    pub(super) fn next_request(&mut self) -> RequestId {
        self.next_request += 1;
        RequestId(self.next_request)
    }

    /// Tries all legs that wait once more.
    pub(super) fn launch_waiting(&mut self, now: Instant) {
        for leg in std::mem::take(&mut self.waiting) {
            self.launch(now, leg);
        }
    }

    /// Sends a leg, for the first time or once more, or lets it wait for a proxy.
    pub(super) fn launch(&mut self, now: Instant, id: LegId) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        if let Some(request) = leg.hop.take() {
            self.leg_of_request.remove(&request);
        }
        leg.attempt += 1;
        let branch = id.branch(&self.keys, leg.attempt);
        let via =
            format!("SIP/2.0/TCP {};branch={branch}", dialtone_sip::host_port(self.settings.core));
        let bytes = forwarded(leg, &via);
        leg.sent = bytes.clone();
        leg.state = State::Sent { provisional: false };
        let way = leg.way.clone();
        let invite = leg.invite;
        let attempt = leg.attempt;
        let limit = now + if invite { INVITE_LIMIT } else { REQUEST_LIMIT };
        let request = self.next_request();
        let sent = match way {
            _ if attempt > ATTEMPTS => None,
            Way::Loop => {
                if let Ok(message) = Message::parse(bytes) {
                    self.set_leg_deadline(id, Some(limit));
                    self.incoming(now, message, Peer::Loop);
                }
                return;
            }
            Way::Gateway(element) => {
                self.gateways.send_to(now, element, request, bytes).ok().map(|()| element)
            }
            Way::Proxy | Way::PreferredProxy { .. } => {
                let element = self.choose(now, id);
                element
                    .and_then(|element| self.proxies.send_any(now, &[element], request, bytes).ok())
            }
        };
        let Some(leg) = self.legs.get_mut(&id) else { return };
        if let Some(element) = sent {
            leg.element = Some(element);
            leg.hop = Some(request);
            leg.waits_until = None;
            self.leg_of_request.insert(request, id);
            self.set_leg_deadline(id, Some(limit));
            return;
        }
        let patience = match leg.beyond() {
            Some(_) => self.settings.wait.min(WITHOUT_PROXY),
            None => self.settings.wait,
        };
        let until = *leg.waits_until.get_or_insert(now + patience);
        // Nobody but that gateway can take it. While the pool has it, it may be starting anew or short of time.
        let gone = matches!(leg.way, Way::Gateway(element) if !self.gateways.is_member(element));
        let give_up = gone || attempt > ATTEMPTS || until <= now;
        if leg.cancel != Cancel::No {
            // Nobody rings any more that this gateway could tell: the delivering gateway cancels what it has left.
            self.fail_leg(now, id, 487);
        } else if give_up {
            self.pass_by(now, id);
        } else {
            leg.state = State::Waiting;
            leg.attempt -= 1;
            leg.tried.clear();
            self.waiting.insert(id);
            self.set_leg_deadline(id, Some(until));
        }
    }

    /// Nobody can take a leg that has waited: it goes past the proxies if it may, or fails.
    fn pass_by(&mut self, now: Instant, id: LegId) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        self.waiting.remove(&id);
        match leg.beyond().filter(|_| leg.attempt < ATTEMPTS) {
            Some(beyond) => {
                leg.way = beyond.into();
                leg.keep_routes = leg.keep_routes.map(|from| from + 1);
                leg.waits_until = None;
                self.launch(now, id);
            }
            None => {
                let code = leg.nobody();
                self.fail_leg(now, id, code);
            }
        }
    }

    /// The proxy to try next: a usable one by the pool's policy or by key, one that has not failed this leg if possible.
    fn choose(&mut self, now: Instant, id: LegId) -> Option<u32> {
        let leg = self.legs.get(&id)?;
        if let Way::PreferredProxy { element: preferred, .. } = leg.way
            && !leg.tried.contains(&preferred)
            && self.proxies.is_usable(preferred)
        {
            return Some(preferred);
        }
        let request = &leg.request;
        let key: Option<&str> = match self.settings.choice {
            Choice::CallId => request.call_id().ok(),
            Choice::From => request.from().ok().map(|from| from.uri.as_str()),
            Choice::Policy => None,
            Choice::RequestUri => request.request_uri_str(),
            Choice::To => request.to().ok().map(|to| to.uri.as_str()),
            Choice::User => request.to().ok().and_then(|to| to.uri.sip().and_then(|uri| uri.user)),
        };
        // A key is of no use without complete membership; any proxy does.
        let complete = self.selector.view().complete;
        let choice = match key {
            Some(key) if complete => pool_user::Choice::Key(key.as_bytes()),
            _ => pool_user::Choice::Policy,
        };
        // First those that have not failed this leg, then all; connected ones before those that are being dialled.
        let none = Vec::new();
        for (tried, connected) in
            [(&leg.tried, true), (&leg.tried, false), (&none, true), (&none, false)]
        {
            let mut skip: Vec<PeId> = tried.iter().copied().map(PeId).collect();
            while let Ok(member) = self.selector.select(now, choice, &skip) {
                let element = member.pe_id.0;
                if self.proxies.is_connected(element)
                    || (!connected && self.proxies.is_usable(element))
                {
                    return Some(member.pe_id.0);
                }
                skip.push(member.pe_id);
            }
        }
        None
    }

    /// The hop of a request has failed: the same leg, the next attempt.
    pub(super) fn hop_failed(&mut self, now: Instant, request: RequestId, element: u32) {
        if self.ack_failed(now, request) {
            return;
        }
        let Some(id) = self.leg_of_request.remove(&request) else { return };
        let Some(leg) = self.legs.get_mut(&id) else { return };
        leg.hop = None;
        if leg.is_answered() {
            return;
        }
        if matches!(leg.way, Way::Gateway(_)) && leg.cancel != Cancel::No {
            self.fail_leg(now, id, 487);
            return;
        }
        leg.tried.push(element);
        if leg.cancel == Cancel::Sent {
            leg.cancel = Cancel::Wanted;
        }
        self.counters.failed_over += 1;
        self.launch(now, id);
    }

    /// An answer has come from the core.
    pub(super) fn core_response(&mut self, now: Instant, response: &Message) {
        let found = response
            .top_via()
            .ok()
            .and_then(|via| LegId::from_branch(&self.keys, via.branch()?.as_bytes()));
        let (Some((id, attempt)), Some(code)) = (found, response.status()) else {
            self.counters.stray += 1;
            return;
        };
        let Some(leg) = self.legs.get_mut(&id).filter(|leg| leg.attempt == attempt) else {
            self.counters.stray += 1;
            return;
        };
        if response.method() != leg.request.method() {
            // The answer to our CANCEL; the INVITE's own is what counts.
            return;
        }
        let hop = leg.hop;
        let (server, source, invite) = (leg.server, leg.source, leg.invite);
        if code < 200 {
            if let State::Sent { provisional } = &mut leg.state {
                *provisional = true;
            }
            if let Some(hop) = hop {
                self.hops_for(id).provisional(hop);
            }
            if invite {
                self.set_leg_deadline(id, Some(now + INVITE_LIMIT));
            }
            self.send_cancel(now, id);
            // RFC 3261 section 16.7 step 5: 100 goes no further.
            if code > 100 {
                let bytes = towards_phone(response);
                self.layer.respond(now, server, code, bytes);
            }
            return;
        }
        if let Some(hop) = leg.hop.take() {
            self.leg_of_request.remove(&hop);
            self.hops_for(id).finished(hop);
        }
        let Some(leg) = self.legs.get_mut(&id) else { return };
        if invite && code >= 300 {
            let (way, element, sent) = (leg.way.clone(), leg.element, leg.sent.clone());
            if let Some(ack) =
                Message::parse(sent).ok().and_then(|sent| ack_for(&sent, response).ok())
            {
                self.send_beside(now, &way, element, ack);
            }
        }
        let Some(leg) = self.legs.get_mut(&id) else { return };
        if leg.is_answered() && code >= 300 {
            return;
        }
        // A proxy that stops or is overloaded answers 503: another one may be better off (RFC 3263 section 4.3).
        if code == 503
            && leg.cancel == Cancel::No
            && let (Way::Proxy | Way::PreferredProxy { .. }, Some(element)) =
                (&leg.way, leg.element)
        {
            leg.tried.push(element);
            let tried = leg.tried.clone();
            let mut others = self.selector.view().members.iter().map(|member| member.pe_id.0);
            if others.any(|other| !tried.contains(&other) && self.proxies.is_usable(other)) {
                self.counters.failed_over += 1;
                self.launch(now, id);
                return;
            }
        }
        // A 2xx that comes again may come after BYE.
        if code < 300 && !leg.is_answered() {
            self.note_answer(now, id, response, source);
        }
        let bytes = towards_phone(response);
        self.layer.respond(now, server, code, bytes);
        if invite && code < 300 {
            // RFC 6026 section 7.1: more 2xx answers may follow for 64*T1.
            if let Some(leg) = self.legs.get_mut(&id)
                && !leg.is_answered()
            {
                leg.state = State::Accepted;
                leg.sent = Bytes::new();
                self.set_leg_deadline(id, Some(now + REQUEST_LIMIT));
            }
        } else {
            self.drop_leg(id);
        }
    }

    /// The phone has given up its INVITE.
    pub(super) fn cancel_leg(&mut self, now: Instant, id: LegId) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        match leg.state {
            State::Accepted => {}
            State::Sent { .. } => {
                if leg.cancel == Cancel::No {
                    leg.cancel = Cancel::Wanted;
                }
                self.set_leg_deadline(id, Some(now + REQUEST_LIMIT));
                self.send_cancel(now, id);
            }
            State::Waiting => self.fail_leg(now, id, 487),
        }
    }

    /// RFC 3261 section 9.1: CANCEL is sent when a provisional answer has come.
    fn send_cancel(&mut self, now: Instant, id: LegId) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        if leg.cancel != Cancel::Wanted || leg.state != (State::Sent { provisional: true }) {
            return;
        }
        leg.cancel = Cancel::Sent;
        let (way, element, sent) = (leg.way.clone(), leg.element, leg.sent.clone());
        if let Some(cancel) = Message::parse(sent).ok().and_then(|sent| cancel_for(&sent).ok()) {
            self.send_beside(now, &way, element, cancel);
        }
    }

    /// Sends what belongs to a request (CANCEL, ACK) where the request went. The request is still watched by the hop, or
    /// over, so that nobody needs to know whether this arrives.
    fn send_beside(&mut self, now: Instant, way: &Way, element: Option<u32>, bytes: Bytes) {
        let sent = match (way, element) {
            (Way::Loop, _) => {
                if let Ok(message) = Message::parse(bytes) {
                    self.incoming(now, message, Peer::Loop);
                }
                return;
            }
            (Way::Gateway(_), Some(element)) => self.gateways.send_only(now, element, bytes),
            (Way::Proxy | Way::PreferredProxy { .. }, Some(element)) => {
                self.proxies.send_only(now, element, bytes)
            }
            (_, None) => return,
        };
        if sent.is_err() {
            self.counters.stray += 1;
        }
    }

    /// The server transaction of a leg is gone.
    pub(super) fn leg_abandoned(&mut self, now: Instant, server: ServerId) {
        let Some(id) = self.leg_of_server.remove(&server) else { return };
        match self.legs.get(&id) {
            // The phone's connection is gone, and with it whoever waited for this call.
            Some(leg) if leg.invite && !leg.is_answered() => self.cancel_leg(now, id),
            Some(_) => self.drop_leg(id),
            None => {}
        }
    }

    pub(super) fn leg_expired(&mut self, now: Instant, id: LegId) {
        let Some(leg) = self.legs.get(&id) else { return };
        match leg.state {
            State::Accepted => self.drop_leg(id),
            State::Waiting => self.pass_by(now, id),
            State::Sent { .. } if leg.cancel != Cancel::No => self.fail_leg(now, id, 487),
            State::Sent { .. } if leg.invite => {
                // RFC 3261 section 16.8: timer C fires, the INVITE is cancelled.
                self.cancel_leg(now, id);
            }
            // RFC 4320 section 4.2: no 408 to a non-INVITE request; the phone has given up by itself.
            State::Sent { .. } => {
                let server = leg.server;
                self.layer.forget_server(server);
                self.drop_leg(id);
            }
        }
    }

    /// Answers a leg ourselves.
    fn fail_leg(&mut self, now: Instant, id: LegId, code: u16) {
        let Some(leg) = self.legs.get(&id) else { return };
        let (server, request) = (leg.server, leg.request.clone());
        if code == 503 {
            self.counters.no_proxy += 1;
            let after = self.rng.u32(2..8).to_string();
            self.answer_with(now, server, &request, code, &[("Retry-After", after)]);
        } else {
            self.answer(now, server, &request, code);
        }
        self.drop_leg(id);
    }

    fn drop_leg(&mut self, id: LegId) {
        self.set_leg_deadline(id, None);
        self.waiting.remove(&id);
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let hop = leg.hop.take();
        self.leg_of_server.remove(&leg.server);
        if let Some(hop) = hop {
            self.leg_of_request.remove(&hop);
            self.hops_for(id).finished(hop);
        }
        self.legs.remove(&id);
    }

    fn hops_for(&mut self, id: LegId) -> &mut dialtone_sip_pool::hops::Hops {
        match self.legs.get(&id).map(|leg| &leg.way) {
            Some(Way::Gateway(_)) => &mut self.gateways,
            _ => &mut self.proxies,
        }
    }

    pub(super) fn set_leg_deadline(&mut self, id: LegId, deadline: Option<Instant>) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        if let Some(old) = std::mem::replace(&mut leg.deadline, deadline) {
            self.leg_deadlines.remove(&(old, id));
        }
        if let Some(deadline) = deadline {
            self.leg_deadlines.insert((deadline, id));
        }
    }

    /// A 2xx answer tells about registrations and dialogs.
    fn note_answer(&mut self, now: Instant, id: LegId, response: &Message, source: Peer) {
        let Some(leg) = self.legs.get(&id) else { return };
        let request = leg.request.clone();
        match request.method() {
            Some(Method::Register) => self.registered(now, source, &request, response),
            Some(Method::Invite | Method::Bye) => self.note_dialog(now, &request, response, true),
            _ => {}
        }
    }

    /// Keeps the record of a dialog: `outgoing` when the phone of this gateway sent the request.
    pub(super) fn note_dialog(
        &mut self,
        now: Instant,
        request: &Message,
        response: &Message,
        outgoing: bool,
    ) {
        let (Ok(from), Ok(to), Ok(call_id), Ok(cseq)) =
            (response.from(), response.to(), response.call_id(), response.cseq())
        else {
            return;
        };
        let (Some(from), Some(to)) = (from.tag(), to.tag()) else { return };
        let (local, remote) = if outgoing { (from, to) } else { (to, from) };
        let dialog =
            DialogId { call_id: call_id.into(), local: local.into(), remote: remote.into() };
        if request.method() == Some(Method::Bye) {
            self.dialogs.ended(&dialog);
            return;
        }
        let asker = request.header_str(HeaderName::Contact);
        let answerer = response.header_str(HeaderName::Contact);
        let (local_target, remote_target) =
            if outgoing { (asker, answerer) } else { (answerer, asker) };
        let seen = Seen {
            local_target,
            remote_target,
            local_cseq: outgoing.then_some(cseq.seq),
            remote_cseq: (!outgoing).then_some(cseq.seq),
            routes: response.header_str(HeaderName::RecordRoute),
            confirmed: true,
        };
        self.dialogs.seen(now, &dialog, seen);
    }
}

/// The leg's request as it goes out with this Via.
fn forwarded(leg: &Leg, via: &str) -> Bytes {
    let request = &leg.request;
    let mut edit = Edit::new(request);
    edit.push_via(via);
    common_edits(&mut edit, request, leg.keep_routes);
    if let Some((name, value)) = &leg.mark {
        edit.add_after(HeaderName::Via, name, value.as_str());
    }
    edit.finish()
}

/// What changes in every request of a phone: routes that are not ours, Path and Record-Route go, Max-Forwards falls.
pub(super) fn common_edits(edit: &mut Edit<'_>, request: &Message, keep_routes: Option<usize>) {
    match keep_routes {
        Some(from) => edit.remove_values(HeaderName::Route, from),
        None => edit.remove_headers(HeaderName::Route),
    };
    edit.remove_headers(HeaderName::Path);
    edit.remove_headers(HeaderName::RecordRoute);
    // RFC 3261 section 16.6 step 3: a proxy adds 70 where there is none.
    let max_forwards =
        request.max_forwards().ok().flatten().map_or(70, |hops| hops.saturating_sub(1));
    edit.set_max_forwards(max_forwards);
    edit.ensure_content_length();
}

/// An answer as the phone sees it: without our Via, and without the Path that it knows nothing of.
fn towards_phone(response: &Message) -> Bytes {
    let mut edit = Edit::new(response);
    edit.pop_via();
    edit.remove_headers(HeaderName::Path);
    edit.ensure_content_length();
    edit.finish()
}
