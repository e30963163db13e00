//! Who follows a conference: SUBSCRIBE and NOTIFY for the event package `conference` (RFC 4575, RFC 6665).

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use dialtone_sip::transaction::ServerId;
use dialtone_sip::{HeaderName, Message, Method, Uri};

use crate::core::dialog::Dialog;
use crate::core::{Call, CallId, Focus, Hop, RoomId, Timer};

const PACKAGE: &str = "conference";
const TYPE: &str = "application/conference-info+xml";
/// RFC 4575 section 3.4.
const DEFAULT_EXPIRES: u32 = 3600;
const MIN_EXPIRES: u32 = 60;
/// Bytes of a description after which the rest of the participants is left out: their number says that there are more.
const MAX_DOCUMENT: usize = 60_000;

/// One subscription.
#[derive(Debug)]
pub(super) struct Subscription {
    room: RoomId,
    expires_at: Instant,
    /// Event as it was asked for, with its `id`.
    event: Box<str>,
    /// Whether a notification waits for its answer.
    notifying: bool,
    /// Whether something has changed meanwhile.
    stale: bool,
}

impl Focus {
    /// SUBSCRIBE, outside of dialogs or within one.
    pub(super) fn subscribe(
        &mut self,
        now: Instant,
        server: ServerId,
        request: &Message,
        source: Hop,
        within: Option<CallId>,
    ) {
        let event = request.header_str(HeaderName::Event).unwrap_or("");
        if !event.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case(PACKAGE) {
            return self.respond(now, server, request, source, 489, |response| {
                response.header("Allow-Events", PACKAGE)
            });
        }
        let expires = request.expires().unwrap_or(DEFAULT_EXPIRES).min(DEFAULT_EXPIRES);
        if expires > 0 && expires < MIN_EXPIRES {
            return self.respond(now, server, request, source, 423, |response| {
                response.header("Min-Expires", MIN_EXPIRES.to_string())
            });
        }
        let known =
            within.filter(|id| self.calls.get(id).is_some_and(|call| call.subscription.is_some()));
        let id = match known {
            Some(id) => id,
            None => match self.begin_subscription(now, request, source, within, event) {
                Ok(id) => id,
                Err(code) => return self.refuse(now, server, request, source, code),
            },
        };
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.dialog.refresh_target(request);
        let tag = call.dialog.local_tag.clone();
        let expires_at = now + Duration::from_secs(expires.into());
        let Some(subscription) = &mut call.subscription else { return };
        subscription.expires_at = expires_at;
        let room = subscription.room;
        let contact = self.room_names.get(&room).map(|name| self.contact(name)).unwrap_or_default();
        self.respond(now, server, request, source, 200, |response| {
            response
                .to_tag(String::from(tag))
                .copy(HeaderName::RecordRoute)
                .header("Contact", contact)
                .header("Expires", expires.to_string())
        });
        if expires == 0 {
            return self.end_subscription(now, id, "timeout");
        }
        self.timers.set(Timer::Subscription(id), expires_at);
        // RFC 6665 section 4.2.1.2: each SUBSCRIBE is followed by the whole state at once.
        self.notify(now, id, None);
    }

    fn begin_subscription(
        &mut self,
        now: Instant,
        request: &Message,
        source: Hop,
        within: Option<CallId>,
        event: &str,
    ) -> Result<CallId, u16> {
        let room = match within {
            Some(id) => {
                let session = self.calls.get(&id).and_then(|call| call.session.as_ref());
                let room = session.map(|session| session.room).ok_or(481_u16)?;
                self.room_names.get(&room).cloned().ok_or(481_u16)?
            }
            None => self.room_of(request).map_err(|error| error.code())?,
        };
        if event.len() > 128 {
            return Err(400);
        }
        // Who is in a room with a number is told only to those who have typed it.
        let session = within.and_then(|id| self.calls.get(&id)?.session.as_ref());
        if self.settings.options(&room).pin.is_some() && !session.is_some_and(|one| one.is_inside) {
            return Err(403);
        }
        let limit = self.settings.max_subscriptions;
        // A conference that nobody takes part in is none.
        let room = self.rooms.get_mut(&room).ok_or(404_u16)?;
        if self.draining || room.subscriptions.len() >= limit {
            return Err(503);
        }
        let subscription = Subscription {
            room: room.id,
            expires_at: now,
            event: event.into(),
            notifying: false,
            stale: false,
        };
        if let Some(id) = within {
            room.subscriptions.push(id);
            if let Some(call) = self.calls.get_mut(&id) {
                call.subscription = Some(subscription);
            }
            return Ok(id);
        }
        let tag: Box<str> = format!("{:016x}", self.rng.u64(..)).into();
        let sequence = self.rng.u32(1..0x1000_0000);
        let dialog = Dialog::new(request, tag.clone(), sequence, source);
        let dialog = dialog.map_err(|error| error.status().0)?;
        self.next += 1;
        let id = CallId(self.next);
        room.subscriptions.push(id);
        self.tags.insert(tag, id);
        let call = Call { dialog, session: None, subscription: Some(subscription) };
        self.calls.insert(id, Box::new(call));
        Ok(id)
    }

    /// Something about a room has changed: its followers are told, not too often.
    pub(super) fn changed(&mut self, now: Instant, id: RoomId) {
        let room = self.room_names.get(&id).and_then(|name| self.rooms.get(name));
        let Some(room) = room.filter(|room| !room.subscriptions.is_empty()) else { return };
        if self.timers.get(Timer::Notify(id)).is_none() {
            let earliest = room.notified.map_or(now, |last| last + self.settings.notify_every);
            self.timers.set(Timer::Notify(id), earliest.max(now));
        }
    }

    pub(super) fn notify_room(&mut self, now: Instant, id: RoomId) {
        let room = self.room_names.get(&id).and_then(|name| self.rooms.get_mut(name));
        let Some(room) = room else { return };
        room.notified = Some(now);
        for follower in room.subscriptions.clone() {
            self.notify(now, follower, None);
        }
    }

    /// Sends the state of the room; with a reason it is the last notification.
    fn notify(&mut self, now: Instant, id: CallId, ends: Option<&str>) {
        let subscription = self.calls.get_mut(&id).and_then(|call| call.subscription.as_mut());
        let Some(subscription) = subscription else { return };
        // One after the other; the last one does not wait.
        if subscription.notifying && ends.is_none() {
            subscription.stale = true;
            return;
        }
        (subscription.notifying, subscription.stale) = (true, false);
        let state = match ends {
            Some(reason) => format!("terminated;reason={reason}"),
            None => {
                let left = subscription.expires_at.saturating_duration_since(now);
                format!("active;expires={}", left.as_secs())
            }
        };
        let (room, event) = (subscription.room, subscription.event.clone());
        let Some(name) = self.room_names.get(&room).cloned() else { return };
        let document = self.document(&name, ends == Some("noresource"));
        let contact = self.contact(&name);
        self.stats.notified += 1;
        let sent = self.send(now, id, Method::Notify, |request| {
            request
                .header("Contact", &contact)
                .header("Event", &event)
                .header("Subscription-State", &state)
                .body(TYPE, document.clone())
        });
        if sent.is_none() {
            self.forget_subscription(now, id);
        }
    }

    pub(super) fn notify_answered(&mut self, now: Instant, id: CallId, code: u16) {
        let subscription = self.calls.get_mut(&id).and_then(|call| call.subscription.as_mut());
        let Some(subscription) = subscription else { return };
        subscription.notifying = false;
        match code {
            200..=299 if subscription.stale => self.notify(now, id, None),
            200..=299 => {}
            // RFC 6665 section 4.2.2: no answer, or one without a time to try again, ends it.
            _ => self.forget_subscription(now, id),
        }
    }

    pub(super) fn subscription_expired(&mut self, now: Instant, id: CallId) {
        self.end_subscription(now, id, "timeout");
    }

    /// The last notification.
    pub(super) fn end_subscription(&mut self, now: Instant, id: CallId, reason: &str) {
        self.notify(now, id, Some(reason));
        self.forget_subscription(now, id);
    }

    fn forget_subscription(&mut self, now: Instant, id: CallId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if let Some(subscription) = call.subscription.take() {
            self.timers.stop(Timer::Subscription(id));
            let name = self.room_names.get(&subscription.room);
            if let Some(room) = name.and_then(|name| self.rooms.get_mut(name)) {
                room.subscriptions.retain(|follower| *follower != id);
            }
        }
        self.drop_if_unused(now, id);
    }

    /// The whole state of a room (RFC 4575 section 5).
    fn document(&mut self, name: &str, ended: bool) -> String {
        let uri = escape(&self.conference_uri(name));
        let Some(room) = self.rooms.get_mut(name) else { return String::new() };
        room.version += 1;
        let version = room.version;
        let Some(room) = self.rooms.get(name) else { return String::new() };
        let mut users = String::new();
        let mut count = 0;
        for participant in self.participants_of(room).filter(|participant| participant.is_inside) {
            count += 1;
            if users.len() > MAX_DOCUMENT {
                continue;
            }
            let status = match (participant.on_hold, participant.muted) {
                (true, _) => "on-hold",
                (false, true) => "muted-via-focus",
                (false, false) => "connected",
            };
            let media = match (participant.on_hold, participant.muted) {
                (true, _) => "inactive",
                (false, true) => "recvonly",
                (false, false) => "sendrecv",
            };
            let user = escape(&public_uri(&participant.uri));
            // Writing to a string cannot fail.
            let _ = write!(users, "<user entity=\"{user}\" state=\"full\">");
            if !participant.name.is_empty() {
                let _ = write!(users, "<display-text>{}</display-text>", escape(&participant.name));
            }
            let _ = write!(
                users,
                "<endpoint entity=\"{user};call={}\"><status>{status}</status>\
                 <joining-method>dialed-in</joining-method><media id=\"1\"><type>audio</type>\
                 <status>{media}</status></media></endpoint></user>",
                participant.call.0
            );
        }
        let active = !ended;
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <conference-info xmlns=\"urn:ietf:params:xml:ns:conference-info\" entity=\"{uri}\" state=\"full\" \
             version=\"{version}\"><conference-description><maximum-user-count>{}</maximum-user-count>\
             </conference-description><conference-state><user-count>{count}</user-count><active>{active}</active>\
             </conference-state><users>{users}</users></conference-info>\n",
            self.settings.max_room
        )
    }
}

/// A caller's URI without parameters and password, which are nobody else's business.
fn public_uri(uri: &str) -> String {
    match Uri::parse(uri) {
        Ok(Uri::Sip(uri)) => uri.address_of_record(),
        _ => uri.to_owned(),
    }
}

/// Text as it may stand in XML.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            // XML 1.0 has no way to write these.
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
