//! Answers that this proxy gives itself.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::time::Instant;

use dialtone_location::{Answer, SaveOutcome, TOMBSTONE_MS};
use dialtone_sip::transaction::{Destination, ServerId};
use dialtone_sip::{HeaderName, Message, Method, ParseError, ResponseBuilder};

use crate::core::auth::{Asked, Lacking, Verdict};
use crate::core::hop::{self, Hop};
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

    pub(super) fn answer_fault(
        &mut self,
        now: Instant,
        message: &Message,
        source: Hop,
        error: ParseError,
    ) {
        let (code, reason) = error.status();
        self.answer_without_state(now, message, source, code, reason);
    }

    /// A request that makes no transaction gets its answer without one (RFC 3261 section 8.2.7); what is no request, or
    /// an ACK, is dropped. Without `reason` it is the usual one.
    pub(super) fn answer_without_state(
        &mut self,
        now: Instant,
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
            Hop::Focus(element) => {
                let conference = self.conference.as_mut();
                _ = conference.map(|one| one.hops.send_only(now, element, bytes));
            }
            // No gateway sends requests over the connections that we dial.
            Hop::Element(_) => self.stats.dropped += 1,
        }
    }

    /// Whether a request comes from the user that it names; if not, it is answered.
    pub(super) fn authenticate(
        &mut self,
        now: Instant,
        server: ServerId,
        request: &Message,
        source: Hop,
    ) -> bool {
        if self.auth.is_none() {
            return true;
        }
        // Until the users have been read, every right password would count as a wrong one.
        if !self.loaded {
            self.unavailable(now, server, request, source);
            return false;
        }
        // Counted as one source, a few wrong passwords would keep out all that come without an address.
        let Some(address) = phone_address(request, source) else {
            self.respond(now, server, request, source, 400, |response| {
                response.reason("No Address In Via")
            });
            return false;
        };
        let Some(auth) = &mut self.auth else { return true };
        // RFC 3261 section 22.3: a registrar is a user agent server, everything else is asked by the proxy. The user is
        // the one whose bindings change, or who calls.
        let register = request.method() == Some(Method::Register);
        let (header, answer, code, party) = if register {
            (HeaderName::Authorization, "WWW-Authenticate", 401, request.to())
        } else {
            (HeaderName::ProxyAuthorization, "Proxy-Authenticate", 407, request.from())
        };
        let aor = party.ok().and_then(|party| self.names.aor(party.uri.sip()?));
        let asked = Asked {
            message: request,
            header,
            aor: aor.as_deref(),
            names: &self.names,
            source: address,
        };
        let wall_ms = self.settings.wall(now);
        let (replica, keys) = (&self.replica, &self.keys);
        let is_home = |aor: &str, address: IpAddr| {
            replica.lookup(aor, wall_ms).any(|target| {
                hop::phone_of_binding(target.path, target.received, keys) == Some(address)
            })
        };
        let stale = match auth.check(now, wall_ms, &asked, keys, &self.credentials, is_home) {
            Verdict::Passed => return true,
            Verdict::Challenge { stale } => stale,
            Verdict::Mismatch => {
                self.respond(now, server, request, source, 403, |response| {
                    response.reason("Credentials Of Another User")
                });
                return false;
            }
            Verdict::Misdirected => {
                self.respond(now, server, request, source, 400, |response| {
                    response.reason("Credentials For Another URI")
                });
                return false;
            }
            Verdict::Limited(seconds) => {
                self.respond(now, server, request, source, 403, |response| {
                    response.reason("Try Later").header("Retry-After", seconds.to_string())
                });
                return false;
            }
        };
        let random = self.rng.u32(..);
        let lines: Vec<String> = auth
            .challenges(wall_ms, random, asked.source, &self.keys, &self.credentials, stale)
            .collect();
        self.respond(now, server, request, source, code, |response| {
            lines.into_iter().fold(response, |response, line| response.header(answer, line))
        });
        false
    }

    /// Algorithms that not all users have a hash of.
    pub fn lacking(&self) -> Vec<Lacking> {
        self.auth.as_ref().map(|auth| auth.lacking(&self.credentials)).unwrap_or_default()
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
            // Failed; every other answer is to something else.
            _ => {
                return self.unavailable(now, server, request, source);
            }
        };
        let response = register::accepted(request, &bindings, self.settings.wall(now));
        self.reply(now, server, request, source, 200, response);
    }
}

/// Where a request came from: the source of its datagram or connection; what comes from a gateway has the phone's Via
/// below the gateway's, which has noted there where it came from (RFC 3261 section 18.2.1). `None`: it has not.
pub(super) fn phone_address(request: &Message, source: Hop) -> Option<IpAddr> {
    if let Some(address) = source.edge_address() {
        return Some(address.ip());
    }
    let via = request.vias().nth(1)?.ok()?;
    via.received().or_else(|| via.host.ip())
}
