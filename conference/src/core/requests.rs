//! Requests that come, before it is known whom they concern; answers that need nobody.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Instant;

use dialtone_sip::transaction::{Destination, ServerId};
use dialtone_sip::{HeaderName, Message, Method, ResponseBuilder, Uri};

use crate::core::{Focus, Hop, Output};

/// What is understood here.
const ALLOW: &str = "ACK, BYE, CANCEL, INVITE, NOTIFY, OPTIONS, SUBSCRIBE, UPDATE";
/// Longest name of a room, bytes without escapes.
const MAX_NAME: usize = 128;

/// Why a URI is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// 414.
    TooLong,
    /// 404.
    Unknown,
    /// 416.
    Scheme,
}

impl NoRoom {
    pub(super) const fn code(self) -> u16 {
        match self {
            Self::TooLong => 414,
            Self::Unknown => 404,
            Self::Scheme => 416,
        }
    }
}

impl Focus {
    pub(super) fn request(
        &mut self,
        now: Instant,
        server: ServerId,
        request: &Message,
        source: Hop,
        cancels: Option<ServerId>,
    ) {
        let Some(method) = request.method() else { return };
        if method == Method::Cancel {
            return self.cancel(now, server, request, source, cancels);
        }
        // RFC 3261 section 8.2.2.3.
        let unsupported: Vec<&str> = request
            .tokens(HeaderName::Require)
            .filter(|tag| !tag.eq_ignore_ascii_case("timer"))
            .collect();
        if !unsupported.is_empty() {
            let list = unsupported.join(", ");
            return self.respond(now, server, request, source, 420, |response| {
                response.header("Unsupported", list)
            });
        }
        if let Some(tag) = request.to().ok().and_then(|to| to.tag()) {
            return self.within_dialog(now, server, request, source, method, tag);
        }
        match method {
            Method::Invite => self.invite(now, server, request, source),
            Method::Subscribe => self.subscribe(now, server, request, source, None),
            Method::Options => self.options(now, server, request, source),
            Method::Bye | Method::Notify | Method::Update => {
                self.refuse(now, server, request, source, 481);
            }
            _ => self.not_allowed(now, server, request, source),
        }
    }

    fn within_dialog(
        &mut self,
        now: Instant,
        server: ServerId,
        request: &Message,
        source: Hop,
        method: Method<'_>,
        tag: &str,
    ) {
        let id = self.tags.get(tag).copied();
        let call = id.and_then(|id| Some((id, self.calls.get_mut(&id)?)));
        let Some((id, call)) = call.filter(|(_, call)| call.dialog.has(request)) else {
            // A BYE that was sent again because its sender lost a proxy finds the call ended: it has done its work.
            if method == Method::Bye && id.is_some() {
                return self.refuse(now, server, request, source, 200);
            }
            if method == Method::Options {
                return self.options(now, server, request, source);
            }
            return self.refuse(now, server, request, source, 481);
        };
        if !call.dialog.advance(request, source) {
            return self.respond(now, server, request, source, 500, |response| {
                response.reason("CSeq Out Of Order")
            });
        }
        match method {
            Method::Bye => self.bye(now, server, request, source, id),
            Method::Invite | Method::Update => {
                self.reinvite(now, server, request, source, id);
            }
            Method::Subscribe => self.subscribe(now, server, request, source, Some(id)),
            Method::Options => self.options(now, server, request, source),
            // Nothing was subscribed to by us.
            Method::Notify => self.refuse(now, server, request, source, 481),
            _ => self.not_allowed(now, server, request, source),
        }
    }

    fn not_allowed(&mut self, now: Instant, server: ServerId, request: &Message, source: Hop) {
        self.respond(now, server, request, source, 405, |response| response.header("Allow", ALLOW));
    }

    /// The health check of sidecars and monitoring, and RFC 4579 section 5.5 for conference URIs.
    fn options(&mut self, now: Instant, server: ServerId, request: &Message, source: Hop) {
        let contact = self.room_of(request).ok().map(|name| self.contact(&name));
        self.respond(now, server, request, source, 200, |response| {
            let response = describe(response);
            match contact {
                Some(contact) => response.header("Contact", contact),
                None => response,
            }
        });
    }

    /// The room that a request is for.
    pub(super) fn room_of(&self, request: &Message) -> Result<Box<str>, NoRoom> {
        let uri = match request.request_uri() {
            Ok(Uri::Sip(uri)) => uri,
            Ok(_) => return Err(NoRoom::Scheme),
            Err(_) => return Err(NoRoom::Unknown),
        };
        // Three bytes for each, if all are escaped.
        if uri.user.is_some_and(|user| user.len() > 3 * (MAX_NAME + self.settings.prefix.len())) {
            return Err(NoRoom::TooLong);
        }
        let user = uri.user_unescaped().ok_or(NoRoom::Unknown)?;
        let name = user.strip_prefix(&*self.settings.prefix).ok_or(NoRoom::Unknown)?;
        if name.is_empty() || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(NoRoom::Unknown);
        }
        if name.len() > MAX_NAME {
            return Err(NoRoom::TooLong);
        }
        Ok(name.into())
    }

    /// Where requests within a dialog reach this very element.
    pub(super) fn contact(&self, room: &str) -> String {
        let host = dialtone_sip::host_port(self.settings.address);
        format!("<sip:{}{}@{host};transport=tcp>;isfocus", self.settings.prefix, escape(room))
    }

    /// The conference URI of a room.
    pub(super) fn conference_uri(&self, room: &str) -> String {
        format!("sip:{}{}@{}", self.settings.prefix, escape(room), self.settings.domain)
    }

    /// Answers with a status code and nothing else.
    pub(super) fn refuse(
        &mut self,
        now: Instant,
        server: ServerId,
        request: &Message,
        source: Hop,
        code: u16,
    ) {
        self.respond(now, server, request, source, code, |response| response);
    }

    /// Answers within a transaction.
    pub(super) fn respond(
        &mut self,
        now: Instant,
        server: ServerId,
        request: &Message,
        source: Hop,
        code: u16,
        build: impl FnOnce(ResponseBuilder<'_>) -> ResponseBuilder<'_>,
    ) {
        if code >= 400 {
            self.stats.refused += 1;
        }
        let mut response = build(ResponseBuilder::new(request, code).to_tag(self.tag(request)));
        if code == 503 {
            response = response.header("Retry-After", self.settings.retry_after.to_string());
        }
        if let Some(address) = source.source_addr() {
            response = response.source(address);
        }
        if let Ok(bytes) = response.build() {
            self.layer.respond(now, server, code, bytes);
        }
    }

    /// The tag of answers outside of dialogs: the same for the same request (RFC 3261 section 8.2.7).
    fn tag(&self, request: &Message) -> String {
        let mut hasher = DefaultHasher::new();
        self.secret.hash(&mut hasher);
        request.call_id().unwrap_or("").hash(&mut hasher);
        if let Ok(from) = request.from() {
            from.tag().hash(&mut hasher);
        }
        format!("{:016x}", hasher.finish())
    }

    /// What makes no transaction gets its answer without one; what is no request, or an ACK, is dropped.
    pub(super) fn answer_without_state(
        &mut self,
        message: &Message,
        source: Hop,
        code: u16,
        reason: &str,
    ) {
        let mut response = ResponseBuilder::new(message, code).to_tag(self.tag(message));
        if !reason.is_empty() {
            response = response.reason(reason.to_owned());
        }
        if code == 503 {
            response = response.header("Retry-After", self.settings.retry_after.to_string());
        }
        if let Some(address) = source.source_addr() {
            response = response.source(address);
        }
        match (message.method(), response.build()) {
            (Some(Method::Ack), _) | (_, Err(_)) => self.stats.dropped += 1,
            (_, Ok(bytes)) => {
                self.stats.refused += 1;
                let to = message.top_via().map_or(source, |via| source.reply_to(&via));
                self.outputs.push_back(Output::Send { to, bytes });
            }
        }
    }
}

/// What this server can do.
pub(super) fn describe(response: ResponseBuilder<'_>) -> ResponseBuilder<'_> {
    response
        .header("Allow", ALLOW)
        .header("Accept", "application/sdp")
        .header("Allow-Events", "conference")
        .header("Supported", "timer")
}

/// A name as it may stand in the user part of a URI.
pub(super) fn escape(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'!' | b'~' | b'*' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
