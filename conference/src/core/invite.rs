//! How calls of participants begin: INVITE to ACK.

use std::time::{Duration, Instant};

use bytes::Bytes;
use dialtone_sip::sdp::Direction;
use dialtone_sip::transaction::{Destination, ServerId};
use dialtone_sip::{HeaderName, Message, ResponseBuilder, unquote};

use crate::core::dialog::Dialog;
use crate::core::expires::SessionTimer;
use crate::core::requests::describe;
use crate::core::session::{EVENTS, Local, Remote, SessionError, our_codecs};
use crate::core::{
    Call, CallId, Focus, Hop, MediaCommand, MediaSession, Output, Room, RoomId, Timer,
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
    pub(super) opening: Option<(ServerId, Box<Message>)>,
    /// The answer that waits for its ACK.
    answer: Option<Answer>,
    pub(super) local: Option<Local>,
    pub(super) remote: Option<Remote>,
    /// Whether `remote` has answered us, so that its order of codecs is final.
    pub(super) answered_us: bool,
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

    /// Our side of the session once more, as it was (RFC 4028 section 7.4).
    pub(super) fn offer(&self) -> Option<String> {
        let (local, remote) = (self.local.as_ref()?, self.remote.as_ref()?);
        Some(if self.answered_us { local.offer_again(remote, true) } else { local.answer(remote) })
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

    pub(super) fn is_confirmed(&self) -> bool {
        self.opening.is_none() && self.answer.is_none()
    }
}

/// Why a call is not taken.
pub(super) enum Refusal {
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
    pub(super) fn description(&mut self, request: &Message) -> Result<Option<Remote>, Refusal> {
        if request.body().is_empty() {
            return Ok(None);
        }
        let kind = request.header_str(HeaderName::ContentType).unwrap_or("");
        let kind = kind.split(';').next().unwrap_or("").trim();
        if !kind.eq_ignore_ascii_case("application/sdp") {
            return Err(Refusal::With(415, "Accept", "application/sdp".to_owned()));
        }
        match Remote::parse(request.body()) {
            Ok(mut remote) => {
                if !self.settings.wideband {
                    remote.narrow();
                }
                Ok(Some(remote))
            }
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

    pub(super) fn session_timer(&self, request: &Message) -> Result<SessionTimer, Refusal> {
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
    pub(super) fn answer(
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
            Some(remote) => (true, local.offer_again(remote, session.answered_us)),
            None => (true, local.offer(&our_codecs(self.settings.wideband), Some(EVENTS))),
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

    pub(super) fn contact_of(&self, id: CallId) -> Option<String> {
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
                let room = session.room;
                self.agree(id);
                self.changed(now, room);
            }
            Err(_) => {
                self.stats.no_codec += 1;
                self.hang_up(now, id);
            }
        }
    }

    /// Tells the media threads what was agreed upon.
    pub(super) fn agree(&mut self, id: CallId) {
        let session = self.calls.get(&id).and_then(|call| call.session.as_ref());
        if let Some(session) = session.and_then(Session::media) {
            let session = Box::new(session);
            self.outputs.push_back(Output::Media(MediaCommand::Set { call: id, session }));
        }
    }

    pub(super) fn start_session_timer(&mut self, now: Instant, id: CallId) {
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
