//! Answers that this proxy gives itself.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Instant;

use dialtone_location::{Answer, SaveOutcome, TOMBSTONE_MS};
use dialtone_sip::transaction::{Destination, ServerId};
use dialtone_sip::{Message, Method, ParseError, ResponseBuilder};

use crate::core::hop::Hop;
use crate::core::{Proxy, register};

/// What a server of this kind can do (RFC 3261 section 11.2).
const ALLOW: &str = "ACK, BYE, CANCEL, INFO, INVITE, MESSAGE, NOTIFY, OPTIONS, PRACK, PUBLISH, REFER, REGISTER, \
                     SUBSCRIBE, UPDATE";

impl Proxy {
    /// Answers a request within its transaction.
    pub(super) fn respond(
        &mut self,
        now: Instant,
        server: ServerId,
        request: &Message,
        source: Hop,
        code: u16,
        build: impl FnOnce(ResponseBuilder<'_>) -> ResponseBuilder<'_>,
    ) {
        self.reply(now, server, request, source, code, build(ResponseBuilder::new(request, code)));
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
        self.reply(now, server, request, source, code, ResponseBuilder::new(request, code));
    }

    /// As [`Proxy::respond`], with a response of this `code` made elsewhere.
    pub(super) fn reply(
        &mut self,
        now: Instant,
        server: ServerId,
        request: &Message,
        source: Hop,
        code: u16,
        response: ResponseBuilder<'_>,
    ) {
        if code >= 400 {
            self.stats.refused += 1;
        }
        if let Some(bytes) = self.finish(request, source, response) {
            self.layer.respond(now, server, code, bytes);
        }
    }

    fn finish(
        &self,
        request: &Message,
        source: Hop,
        mut response: ResponseBuilder<'_>,
    ) -> Option<bytes::Bytes> {
        if let Some(address) = source.edge_address() {
            response = response.source(address);
        }
        response.to_tag(self.tag(request)).build().ok()
    }

    /// The tag of our answers: the same for the same request, so that a repeated one gets the same answer without
    /// state (RFC 3261 section 8.2.7).
    fn tag(&self, request: &Message) -> String {
        let mut hasher = DefaultHasher::new();
        self.secret.hash(&mut hasher);
        request.call_id().unwrap_or("").hash(&mut hasher);
        if let Ok(via) = request.top_via() {
            via.branch().hash(&mut hasher);
        }
        if let Ok(from) = request.from() {
            from.tag().hash(&mut hasher);
        }
        format!("{:012x}", hasher.finish() >> 16)
    }

    pub(super) fn answer_fault(&mut self, message: &Message, source: Hop, error: ParseError) {
        let (code, reason) = error.status();
        self.answer_without_state(message, source, code, reason);
    }

    /// A request that makes no transaction gets its answer without one (RFC 3261 section 8.2.7); what is no request, or
    /// an ACK, is dropped. Without `reason` it is the usual one.
    pub(super) fn answer_without_state(
        &mut self,
        message: &Message,
        source: Hop,
        code: u16,
        reason: &str,
    ) {
        let mut response = ResponseBuilder::new(message, code);
        if !reason.is_empty() {
            response = response.reason(reason);
        }
        if code == 503 {
            response = response.header("Retry-After", self.settings.retry_after.to_string());
        }
        let answer = match message.method() {
            _ if !message.is_request() => None,
            Some(Method::Ack) => None,
            _ => self.finish(message, source, response),
        };
        let Some(bytes) = answer else {
            self.stats.dropped += 1;
            return;
        };
        self.stats.refused += 1;
        // Without a Via that can be read, to where it came from.
        let to = message.top_via().map_or(source, |via| source.reply_to(&via));
        match to {
            Hop::Core(conn) => self.outputs.push_back(super::Output::Write { conn, bytes }),
            Hop::Tcp(_) | Hop::Udp { .. } => {
                self.outputs.push_back(super::Output::Send { to, bytes });
            }
            // No element sends requests over the connections that we dial.
            Hop::Element(_) => self.stats.dropped += 1,
        }
    }

    /// 503: the database does not answer.
    pub(super) fn unavailable(
        &mut self,
        now: Instant,
        server: ServerId,
        request: &Message,
        source: Hop,
    ) {
        let seconds = self.settings.retry_after.to_string();
        self.respond(now, server, request, source, 503, |response| {
            response.header("Retry-After", seconds)
        });
    }

    /// The health check of sidecars and monitoring: OPTIONS to the proxy itself (RFC 3261 section 11.2).
    pub(super) fn options(
        &mut self,
        now: Instant,
        server: ServerId,
        request: &Message,
        source: Hop,
    ) {
        self.respond(now, server, request, source, 200, |response| {
            response
                .header("Allow", ALLOW)
                .header("Accept", "*/*")
                .header("Supported", "path, outbound")
        });
    }

    /// A REGISTER's save or lookup was carried out, or not.
    pub(super) fn register_answered(
        &mut self,
        now: Instant,
        server: ServerId,
        request: &Message,
        source: Hop,
        answer: Answer,
    ) {
        let bindings = match answer {
            Answer::Save(SaveOutcome::Saved { bindings, .. }) | Answer::Found(bindings) => bindings,
            // RFC 3261 section 10.3 step 7: "the update MUST be aborted and the request fails".
            Answer::Save(SaveOutcome::OutOfOrder) => {
                return self.respond(now, server, request, source, 500, |response| {
                    response.reason("CSeq Out Of Order")
                });
            }
            // Whatever is oldest makes room, so too many have come and gone: that passes.
            Answer::Save(SaveOutcome::TooMany) if self.settings.evict_oldest => {
                let seconds = TOMBSTONE_MS.div_ceil(1_000).to_string();
                return self.respond(now, server, request, source, 503, |response| {
                    response.reason("Too Many Changes").header("Retry-After", seconds)
                });
            }
            Answer::Save(SaveOutcome::TooMany) => {
                return self.respond(now, server, request, source, 403, |response| {
                    response.reason("Too Many Contacts")
                });
            }
            Answer::Failed(_)
            | Answer::Expired(_)
            | Answer::Claim(_)
            | Answer::ReadClaim(_)
            | Answer::Credentials(_)
            | Answer::CredentialList(_) => {
                return self.unavailable(now, server, request, source);
            }
        };
        let response = register::accepted(request, &bindings, self.settings.wall(now));
        self.reply(now, server, request, source, 200, response);
    }
}
