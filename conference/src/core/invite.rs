//! Calls of participants: INVITE to BYE.

use std::time::{Duration, Instant};

use bytes::Bytes;
use dialtone_sip::sdp::Direction;
use dialtone_sip::transaction::{Destination, ServerId};
use dialtone_sip::{HeaderName, Message, Method, ResponseBuilder, unquote};

use crate::core::dialog::Dialog;
use crate::core::expires::SessionTimer;
use crate::core::requests::describe;
use crate::core::session::{Local, Remote, SessionError};
use crate::core::{
    Call, CallId, Ended, Focus, Hop, MAX_ENDED, MediaCommand, MediaSession, Output, REMEMBER, Room,
    RoomId, Timer,
};
use crate::mix::MemberSettings;

/// Longest URI and name that are kept of a caller, bytes.
const MAX_IDENTITY: usize = 256;

/// The call of one participant.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) room: RoomId,
    pub(super) uri: Box<str>,
    pub(super) name: Box<str>,
    pub(super) joined: Instant,
    pub(super) is_inside: bool,
    pub(super) muted: bool,
    /// The INVITE whose sockets are being made.
    opening: Option<(ServerId, Box<Message>)>,
    /// The answer that waits for its ACK.
    answer: Option<Answer>,
    local: Option<Local>,
    remote: Option<Remote>,
    /// Whether `remote` has answered us, so that its order of codecs is final.
    answered_us: bool,
    /// Who began without listening is an announcer, not on hold.
    announces: bool,
    pub(super) timer: SessionTimer,
    pub(super) allows_update: bool,
    /// Whether a refresh of ours is under way.
    pub(super) refreshing: bool,
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
}

/// An answer to INVITE, repeated until it is acknowledged (RFC 3261 section 13.3.1.4).
#[derive(Debug)]
struct Answer {
    server: ServerId,
    bytes: Bytes,
    sequence: u32,
    interval: Duration,
    until: Instant,
    /// Whether the ACK must bring the other side's description.
    offers: bool,
}

impl Session {
    /// Whether it neither speaks nor listens just now.
    pub(super) fn on_hold(&self) -> bool {
        self.remote.as_ref().is_some_and(|remote| !remote.hears() && !self.announces)
    }

    /// Our side of the session.
    pub(super) fn offer(&mut self) -> Option<String> {
        let local = self.local.as_mut()?;
        let remote = self.remote.as_ref()?;
        Some(local.offer(Some(&[remote.chosen(self.answered_us)]), remote.events))
    }

    fn media(&self) -> Option<MediaSession> {
        let remote = self.remote.as_ref()?;
        let first = remote.chosen(self.answered_us);
        let others = remote.codecs.iter().copied().filter(|codec| *codec != first);
        let speaks =
            remote.direction.sends() && (remote.direction != Direction::SendOnly || self.announces);
        let member = MemberSettings {
            codecs: std::iter::once(first).chain(others).collect(),
            events: remote.events,
            hears: remote.hears(),
            speaks,
            ssrc: self.ssrc,
            sequence: self.sequence,
            timestamp: self.timestamp,
        };
        Some(MediaSession { rtp: remote.rtp, rtcp: remote.rtcp, mux: remote.mux, member })
    }

    fn is_confirmed(&self) -> bool {
        self.opening.is_none() && self.answer.is_none()
    }
}

/// Why a call is not taken.
enum Refusal {
    Code(u16),
    /// A 4xx with a header.
    With(u16, &'static str, String),
}

impl Focus {
    pub(super) fn invite(
        &mut self,
        now: Instant,
        server: ServerId,
        request: &Message,
        source: Hop,
    ) {
        let key = caller_key(request);
        if let Some(id) = self.callers.get(&key).copied() {
            return self.repeated(now, server, request, source, id);
        }
        match self.admit(now, server, request, source) {
            Ok(call) => _ = self.callers.insert(key, call),
            Err(Refusal::Code(code)) => self.refuse(now, server, request, source, code),
            Err(Refusal::With(code, name, value)) => {
                self.respond(now, server, request, source, code, |response| {
                    response.header(name, value)
                });
            }
        }
    }

    /// The same INVITE by another way: its sender has lost a proxy, and wants the answer over this one.
    fn repeated(
        &mut self,
        now: Instant,
        server: ServerId,
        request: &Message,
        source: Hop,
        id: CallId,
    ) {
        let call = self.calls.get_mut(&id);
        let Some((call, session)) = call.and_then(|call| {
            let Call { dialog, session, .. } = &mut **call;
            Some((dialog, session.as_mut()?))
        }) else {
            return self.refuse(now, server, request, source, 481);
        };
        call.hop = source;
        if let Some(opening) = &mut session.opening {
            let (before, _) = std::mem::replace(opening, (server, Box::new(request.clone())));
            self.layer.forget_server(before);
            self.servers.remove(&before);
            self.servers.insert(server, id);
        } else {
            // Acknowledged already, the call needs no other ACK.
            let waits = session.answer.is_some();
            self.answer(now, id, server, request, source, waits);
        }
    }

    /// Begins a call, if there is room for it.
    fn admit(
        &mut self,
        now: Instant,
        server: ServerId,
        request: &Message,
        source: Hop,
    ) -> Result<CallId, Refusal> {
        if self.draining {
            return Err(Refusal::Code(503));
        }
        let name = self.room_of(request).map_err(|error| Refusal::Code(error.code()))?;
        let remote = self.description(request)?;
        let timer = self.session_timer(request)?;
        let (uri, display) = identity(request);
        let tag: Box<str> = format!("{:016x}", self.rng.u64(..)).into();
        let sequence = self.rng.u32(1..0x1000_0000);
        let dialog = Dialog::new(request, tag.clone(), sequence, source)
            .map_err(|error| Refusal::Code(error.status().0))?;
        let room = self.seat(now, &name)?;
        let call = CallId(self.serial());
        let announces = remote.as_ref().is_some_and(|remote| !remote.direction.receives());
        let session = Session {
            room,
            uri,
            name: display,
            joined: now,
            is_inside: false,
            muted: false,
            opening: Some((server, Box::new(request.clone()))),
            answer: None,
            local: None,
            remote,
            answered_us: false,
            announces,
            timer,
            allows_update: SessionTimer::allows_update(request),
            refreshing: false,
            ssrc: self.rng.u32(..),
            sequence: self.rng.u16(..),
            timestamp: self.rng.u32(..),
        };
        self.participants += 1;
        self.servers.insert(server, call);
        self.tags.insert(tag, call);
        self.calls
            .insert(call, Box::new(Call { dialog, session: Some(session), subscription: None }));
        if let Some(room) = self.rooms.get_mut(&name) {
            room.members.push(call);
        }
        let options = self.settings.options(&name);
        let mut settings = Box::new(self.settings.media.clone());
        settings.pin.clone_from(&options.pin);
        settings.records = options.record;
        self.outputs.push_back(Output::Media(MediaCommand::Open { call, room, name, settings }));
        Ok(call)
    }

    /// What the body says; `None`: there is none, and we are to offer.
    fn description(&mut self, request: &Message) -> Result<Option<Remote>, Refusal> {
        if request.body().is_empty() {
            return Ok(None);
        }
        let kind = request.header_str(HeaderName::ContentType).unwrap_or("");
        let kind = kind.split(';').next().unwrap_or("").trim();
        if !kind.eq_ignore_ascii_case("application/sdp") {
            return Err(Refusal::With(415, "Accept", "application/sdp".to_owned()));
        }
        match Remote::parse(request.body()) {
            Ok(remote) => Ok(Some(remote)),
            Err(SessionError::Malformed) => Err(Refusal::Code(400)),
            Err(SessionError::NoCommonCodec) => {
                self.stats.no_codec += 1;
                let warning = format!(
                    "305 {} \"Incompatible media format\"",
                    dialtone_sip::host_port(self.settings.address)
                );
                Err(Refusal::With(488, "Warning", warning))
            }
        }
    }

    fn session_timer(&self, request: &Message) -> Result<SessionTimer, Refusal> {
        let least = self.settings.min_session_expires;
        SessionTimer::agree(request, self.settings.session_expires, least)
            .map_err(|_| Refusal::With(422, "Min-SE", least.as_secs().to_string()))
    }

    /// Room for one more in a room, which begins if it is not there.
    fn seat(&mut self, now: Instant, name: &str) -> Result<RoomId, Refusal> {
        let is_full = self.participants >= self.settings.max_participants;
        let limit = self.settings.options(name).max_participants.unwrap_or(usize::MAX);
        if let Some(room) = self.rooms.get(name) {
            if room.members.len() >= limit.min(self.settings.max_room) {
                self.stats.full += 1;
                return Err(Refusal::Code(486));
            }
            if !is_full {
                return Ok(room.id);
            }
        }
        if is_full || self.rooms.len() >= self.settings.max_rooms {
            self.stats.full += 1;
            return Err(Refusal::Code(503));
        }
        let id = RoomId(self.serial());
        let room = Room {
            id,
            began: now,
            members: Vec::new(),
            subscriptions: Vec::new(),
            version: 0,
            notified: None,
        };
        self.rooms.insert(name.into(), room);
        self.room_names.insert(id, name.into());
        Ok(id)
    }

    /// The sockets of a call are there.
    pub(super) fn opened(&mut self, now: Instant, id: CallId, rtp: std::net::SocketAddr) {
        let number = self.rng.u64(..) >> 2;
        let Some(session) = self.calls.get_mut(&id).and_then(|call| call.session.as_mut()) else {
            // It was given up meanwhile; so are its sockets.
            return;
        };
        let mut rtp = rtp;
        if let Some(ip) = self.settings.media_address {
            rtp.set_ip(ip);
        }
        session.local = Some(Local { rtp, id: number, version: 1 });
        let Some((server, request)) = session.opening.take() else { return };
        let source = self.calls[&id].dialog.hop;
        self.stats.calls += 1;
        self.answer(now, id, server, &request, source, true);
        self.agree(id);
        self.start_session_timer(now, id);
    }

    pub(super) fn open_failed(&mut self, now: Instant, id: CallId) {
        if self.calls.contains_key(&id) {
            self.stats.full += 1;
            self.hang_up(now, id);
        }
    }

    /// Answers 200 to an INVITE; if it `waits` for an ACK, until that comes.
    fn answer(
        &mut self,
        now: Instant,
        id: CallId,
        server: ServerId,
        request: &Message,
        source: Hop,
        waits: bool,
    ) {
        let Some(contact) = self.contact_of(id) else { return };
        let Some(call) = self.calls.get_mut(&id) else { return };
        let Call { dialog, session: Some(session), .. } = &mut **call else { return };
        let Some(local) = session.local else { return };
        let (offers, body) = match &session.remote {
            Some(remote) if !request.body().is_empty() => (false, local.answer(remote)),
            Some(remote) => {
                (true, local.offer(Some(&[remote.chosen(session.answered_us)]), remote.events))
            }
            None => (true, local.offer(None, None)),
        };
        let mut response = describe(ResponseBuilder::new(request, 200))
            .copy(HeaderName::RecordRoute)
            .header("Contact", contact)
            .body("application/sdp", body.into_bytes());
        for (name, value) in session.timer.headers() {
            response = response.header(name, value);
        }
        if let Some(address) = source.source_addr() {
            response = response.source(address);
        }
        let Ok(bytes) = response.to_tag(&*dialog.local_tag).build() else { return };
        if waits {
            let t1 = self.settings.timers.t1;
            session.answer = Some(Answer {
                server,
                bytes: bytes.clone(),
                sequence: request.cseq().map_or(0, |cseq| cseq.seq),
                interval: t1,
                until: now + self.settings.timers.timeout(),
                offers,
            });
            self.timers.set(Timer::Answer(id), now + t1);
        }
        self.servers.remove(&server);
        self.layer.respond(now, server, 200, bytes);
    }

    fn contact_of(&self, id: CallId) -> Option<String> {
        let session = self.calls.get(&id)?.session.as_ref()?;
        Some(self.contact(self.room_names.get(&session.room)?))
    }

    /// The answer was not acknowledged yet.
    pub(super) fn answer_again(&mut self, now: Instant, id: CallId) {
        let session = self.calls.get_mut(&id).and_then(|call| call.session.as_mut());
        let Some(answer) = session.and_then(|session| session.answer.as_mut()) else { return };
        if now >= answer.until {
            self.stats.expired += 1;
            return self.hang_up(now, id);
        }
        answer.interval = (answer.interval * 2).min(self.settings.timers.t2);
        let (server, bytes) = (answer.server, answer.bytes.clone());
        self.timers.set(Timer::Answer(id), (now + answer.interval).min(answer.until));
        self.layer.respond(now, server, 200, bytes);
    }

    /// An ACK for an answer of ours.
    pub(super) fn acknowledged(&mut self, now: Instant, request: &Message) {
        let tag = request.to().ok().and_then(|to| to.tag());
        let id = tag.and_then(|tag| self.tags.get(tag).copied());
        let call = id.and_then(|id| Some((id, self.calls.get_mut(&id)?)));
        let Some((id, call)) = call.filter(|(_, call)| call.dialog.has(request)) else {
            // Also the ACK of a refusal that its transaction has forgotten.
            self.stats.dropped += 1;
            return;
        };
        let Some(session) = &mut call.session else { return };
        let sequence = request.cseq().map_or(0, |cseq| cseq.seq);
        let Some(answer) = session.answer.take_if(|answer| answer.sequence == sequence) else {
            return;
        };
        self.timers.stop(Timer::Answer(id));
        if !answer.offers {
            return;
        }
        // RFC 3261 section 13.2.1: "If the 2xx response contained an offer, the ACK MUST contain an answer".
        match Remote::parse(request.body()) {
            Ok(remote) => {
                (session.remote, session.answered_us) = (Some(remote), true);
                self.agree(id);
            }
            Err(_) => {
                self.stats.no_codec += 1;
                self.hang_up(now, id);
            }
        }
    }

    /// Tells the media threads what was agreed upon.
    fn agree(&mut self, id: CallId) {
        let session = self.calls.get(&id).and_then(|call| call.session.as_ref());
        if let Some(session) = session.and_then(Session::media) {
            let session = Box::new(session);
            self.outputs.push_back(Output::Media(MediaCommand::Set { call: id, session }));
        }
    }

    fn start_session_timer(&mut self, now: Instant, id: CallId) {
        let Some(session) = self.calls.get(&id).and_then(|call| call.session.as_ref()) else {
            return;
        };
        self.timers.set(Timer::Expires(id), now + session.timer.ends_after());
        match session.timer.refresh_after() {
            Some(after) => self.timers.set(Timer::Refresh(id), now + after),
            None => self.timers.stop(Timer::Refresh(id)),
        }
    }

    /// A session was refreshed, by whomever.
    pub(super) fn refreshed(&mut self, now: Instant, id: CallId) {
        self.start_session_timer(now, id);
    }

    /// INVITE or UPDATE within a call.
    pub(super) fn reinvite(
        &mut self,
        now: Instant,
        server: ServerId,
        request: &Message,
        source: Hop,
        id: CallId,
    ) {
        let is_invite = request.method() == Some(Method::Invite);
        let session = self.calls.get(&id).and_then(|call| call.session.as_ref());
        let Some(session) = session else {
            return self.refuse(now, server, request, source, 481);
        };
        // RFC 3261 section 14.2: while ours is under way, or an earlier one has not ended.
        if !session.is_confirmed() || session.refreshing && !session.allows_update {
            return self.refuse(now, server, request, source, 491);
        }
        let read =
            self.session_timer(request).and_then(|timer| Ok((timer, self.description(request)?)));
        let (timer, remote) = match read {
            Ok(read) => read,
            Err(Refusal::Code(code)) => return self.refuse(now, server, request, source, code),
            Err(Refusal::With(code, name, value)) => {
                return self.respond(now, server, request, source, code, |response| {
                    response.header(name, value)
                });
            }
        };
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.dialog.refresh_target(request);
        let Some(session) = &mut call.session else { return };
        session.timer = timer;
        let has_offer = remote.is_some();
        if let Some(remote) = remote {
            (session.remote, session.answered_us) = (Some(remote), false);
        }
        if let Some(local) = &mut session.local {
            local.version += 1;
        }
        let body = session.local.zip(session.remote.as_ref()).filter(|_| has_offer);
        let body = body.map(|(local, remote)| local.answer(remote));
        let room = session.room;
        self.start_session_timer(now, id);
        if has_offer {
            self.agree(id);
            self.changed(now, room);
        }
        if is_invite {
            return self.answer(now, id, server, request, source, true);
        }
        let Some(contact) = self.contact_of(id) else { return };
        self.respond(now, server, request, source, 200, |response| {
            let mut response = describe(response).header("Contact", contact);
            for (name, value) in timer.headers() {
                response = response.header(name, value);
            }
            match body {
                Some(body) => response.body("application/sdp", body.into_bytes()),
                None => response,
            }
        });
    }

    pub(super) fn cancel(
        &mut self,
        now: Instant,
        server: ServerId,
        request: &Message,
        source: Hop,
        cancels: Option<ServerId>,
    ) {
        let Some(cancelled) = cancels else {
            return self.refuse(now, server, request, source, 481);
        };
        self.refuse(now, server, request, source, 200);
        // Answered already: CANCEL has no effect (RFC 3261 section 9.2).
        let Some(id) = self.servers.get(&cancelled).copied() else { return };
        let session = self.calls.get_mut(&id).and_then(|call| call.session.as_mut());
        if let Some((server, invite)) = session.and_then(|session| session.opening.take()) {
            self.refuse(now, server, &invite, source, 487);
            self.end_session(now, id);
        }
    }

    pub(super) fn bye(
        &mut self,
        now: Instant,
        server: ServerId,
        request: &Message,
        source: Hop,
        id: CallId,
    ) {
        self.refuse(now, server, request, source, 200);
        self.end_session(now, id);
    }

    /// Ends a call from our side.
    pub(super) fn hang_up(&mut self, now: Instant, id: CallId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let source = call.dialog.hop;
        let opening = call.session.as_mut().map(|session| session.opening.take());
        match opening {
            Some(Some((server, request))) => self.refuse(now, server, &request, source, 503),
            Some(None) => self.send_bye(now, id),
            None => {}
        }
        self.end_session(now, id);
        self.end_subscription(now, id, "deactivated");
    }

    /// Somebody is no participant any more; what he follows, he goes on following.
    fn end_session(&mut self, now: Instant, id: CallId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if let Some(session) = call.session.take() {
            for timer in [Timer::Answer(id), Timer::Expires(id), Timer::Refresh(id)] {
                self.timers.stop(timer);
            }
            self.participants -= 1;
            self.outputs.push_back(Output::Media(MediaCommand::Close { call: id }));
            self.left(now, session.room, id);
        }
        self.drop_if_unused(now, id);
    }

    fn left(&mut self, now: Instant, id: RoomId, call: CallId) {
        let Some(name) = self.room_names.get(&id).cloned() else { return };
        let Some(room) = self.rooms.get_mut(&name) else { return };
        room.members.retain(|member| *member != call);
        if !room.members.is_empty() {
            return self.changed(now, id);
        }
        for follower in std::mem::take(&mut room.subscriptions) {
            self.end_subscription(now, follower, "noresource");
        }
        self.timers.stop(Timer::Notify(id));
        self.rooms.remove(&name);
        self.room_names.remove(&id);
    }

    /// Forgets a call that neither takes part nor follows; its tag is remembered for a while.
    pub(super) fn drop_if_unused(&mut self, now: Instant, id: CallId) {
        let is_unused = |call: &Call| call.session.is_none() && call.subscription.is_none();
        if !self.calls.get(&id).is_some_and(|call| is_unused(call)) {
            return;
        }
        if let Some(call) = self.calls.remove(&id) {
            let Dialog { local_tag, caller, .. } = call.dialog;
            self.ended.insert(id, Ended { tag: local_tag, caller });
            self.timers.set(Timer::Ended(id), now + REMEMBER);
            if self.ended.len() > MAX_ENDED {
                self.forget(id);
            }
        }
    }

    /// Forgets that a call has been here.
    pub(super) fn forget(&mut self, id: CallId) {
        self.timers.stop(Timer::Ended(id));
        if let Some(Ended { tag, caller }) = self.ended.remove(&id) {
            self.tags.remove(&tag);
            if self.callers.get(&caller) == Some(&id) {
                self.callers.remove(&caller);
            }
        }
    }

    /// Is in the room now: it knew the number, or needed none.
    pub(super) fn entered(&mut self, now: Instant, id: CallId) {
        let session = self.calls.get_mut(&id).and_then(|call| call.session.as_mut());
        if let Some(session) = session {
            session.is_inside = true;
            let room = session.room;
            self.changed(now, room);
        }
    }

    pub(super) fn muted(&mut self, now: Instant, id: CallId, muted: bool) {
        let session = self.calls.get_mut(&id).and_then(|call| call.session.as_mut());
        if let Some(session) = session {
            session.muted = muted;
            let room = session.room;
            self.changed(now, room);
        }
    }
}

/// What makes two INVITEs the same, whatever way they came.
pub(super) fn caller_key(request: &Message) -> Box<str> {
    let tag = request.from().ok().and_then(|from| from.tag()).unwrap_or("");
    let sequence = request.cseq().map_or(0, |cseq| cseq.seq);
    format!("{sequence} {tag} {}", request.call_id().unwrap_or("")).into()
}

/// URI and name of a caller, cut.
fn identity(request: &Message) -> (Box<str>, Box<str>) {
    let cut = |text: &str| -> Box<str> {
        let end = (0..=MAX_IDENTITY.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
        text[..end.unwrap_or(0)].into()
    };
    match request.from() {
        Ok(from) => (cut(from.uri.as_str()), cut(&unquote(from.display.unwrap_or("")))),
        Err(_) => ("".into(), "".into()),
    }
}
