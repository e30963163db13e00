//! What a request is and where it goes (RFC 3261 sections 16.3 to 16.5).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::time::Instant;

use dialtone_location::Request;
use dialtone_sip::transaction::ServerId;
use dialtone_sip::{Edit, HeaderName, Host, Message, Method, SipUri, Uri};
use dialtone_sip_pool::token::{DialogCookie, Use};
use dialtone_sip_pool::uri::pool_of_host;

use crate::POOL;
use crate::core::context::Context;
use crate::core::hop::{self, Hop};
use crate::core::media::Cookie;
use crate::core::{Proxy, Waiting, register};

/// Route values that are looked at; more are no route but an attack.
const MAX_ROUTES: usize = 32;

/// Option tags of Proxy-Require that ask nothing of us which we do not do; gateways let the same pass.
const GRANTED: [&str; 3] = ["gruu", "outbound", "path"];

/// What the Route of a request, or its Request-URI, says.
struct Found {
    way: Way,
    /// How many Route values on top are ours and go.
    own_routes: usize,
    /// What one of them says: we stayed in this dialog.
    cookie: Option<Cookie>,
    /// The address of the phone behind the next hop.
    callee: Option<IpAddr>,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    /// To the next hop that Route or, inside a dialog that we stayed in, the Request-URI names.
    Hop(Hop),
    /// To the bindings of an address-of-record.
    Bindings(Box<str>),
    /// To the conference server that has the room of this name.
    Room(Box<str>),
    /// To this proxy itself.
    Here,
    /// Nowhere: status code.
    Refused(u16),
}

impl Proxy {
    /// A request that opened a transaction.
    pub(super) fn request(
        &mut self,
        now: Instant,
        server: ServerId,
        request: Message,
        source: Hop,
        cancels: Option<ServerId>,
    ) {
        if request.method() == Some(Method::Cancel) {
            // RFC 3261 section 16.10; without a transaction for it, 481 as section 9.2 has it.
            let code = if cancels.is_some() { 200 } else { 481 };
            self.refuse(now, server, &request, source, code);
            if let Some(invite) = cancels {
                self.cancelled(now, invite);
            }
            return;
        }
        // RFC 3261 section 16.3 step 2.
        let uri = match request.request_uri() {
            Ok(Uri::Sip(uri)) if !uri.secure && uri.headers.is_none() => uri,
            // RFC 4475 section 3.1.2.11: headers have no place here, and must not travel on.
            Ok(Uri::Sip(uri)) if uri.headers.is_some() => {
                return self.refuse(now, server, &request, source, 400);
            }
            Ok(_) => return self.refuse(now, server, &request, source, 416),
            Err(_) => return self.refuse(now, server, &request, source, 400),
        };
        // Step 3.
        if request.max_forwards() == Ok(Some(0)) {
            return self.refuse(now, server, &request, source, 483);
        }
        // Step 4, as RFC 5393 section 4.2 demands it of forking proxies.
        let loop_hash = self.loop_hash(&request);
        if self.has_looped(&request, loop_hash) {
            return self.refuse(now, server, &request, source, 482);
        }
        // Step 5.
        let demanded: Vec<&str> = request
            .tokens(HeaderName::ProxyRequire)
            .filter(|tag| !GRANTED.iter().any(|known| known.eq_ignore_ascii_case(tag)))
            .collect();
        if !demanded.is_empty() {
            let demanded = demanded.join(", ");
            return self.respond(now, server, &request, source, 420, |response| {
                response.header("Unsupported", demanded)
            });
        }
        let Found { way, own_routes, cookie, callee } = self.way(&request, &uri, source);
        // Whoever wants to register, or something of a user. What follows the Route of a dialog that we stayed in has
        // been asked at its beginning; a To tag alone is no proof of that.
        let asks_for_a_user = match way {
            Way::Here => request.method() == Some(Method::Register),
            Way::Bindings(_) | Way::Room(_) => true,
            Way::Hop(_) | Way::Refused(_) => false,
        };
        if asks_for_a_user && !self.authenticate(now, server, &request, source) {
            return;
        }
        match way {
            Way::Here => self.serve(now, server, &request, source),
            Way::Refused(405) => self.respond(now, server, &request, source, 405, |response| {
                response.header("Allow", "OPTIONS, REGISTER")
            }),
            Way::Refused(code) => self.refuse(now, server, &request, source, code),
            Way::Hop(_) | Way::Bindings(_) | Way::Room(_)
                if self.contexts.len() >= self.settings.max_contexts =>
            {
                self.unavailable(now, server, &request, source);
            }
            Way::Hop(_) | Way::Bindings(_) | Way::Room(_) => {
                if request.method() == Some(Method::Bye)
                    && let Some(cookie) = cookie
                {
                    self.end_dialog(now, &request, cookie);
                }
                if let Some(cookie) = cookie {
                    self.keep_room(now, &request, cookie);
                }
                let direct = matches!(way, Way::Room(_)) && !self.relays_rooms();
                let session = if direct { None } else { self.session_of(&request, cookie) };
                let context = Context::new(server, request, source, loop_hash, own_routes);
                let context = Context { session, callee, ..context };
                match way {
                    Way::Bindings(aor) => self.call(now, context, aor),
                    Way::Room(name) => self.join(now, context, &name),
                    Way::Hop(hop) => self.forward(now, context, hop),
                    Way::Here | Way::Refused(_) => {}
                }
            }
        }
    }

    /// RFC 3261 sections 16.4, 16.5.
    fn way(&self, request: &Message, uri: &SipUri<'_>, source: Hop) -> Found {
        let mut found = Found { way: Way::Refused(400), own_routes: 0, cookie: None, callee: None };
        let mut next = None;
        for route in request.routes().take(MAX_ROUTES) {
            let Ok(route) = route else { return found };
            let Some(route_uri) = route.uri.sip().copied() else {
                return Found { way: Way::Refused(416), ..found };
            };
            let cookie = self.cookie_of(&route_uri, request);
            // A conference server knows this way by the address of another proxy, for which any can stand in.
            let stands_in = cookie.is_some_and(|cookie| cookie.is_of_conference());
            if !stands_in && !self.is_own_route(&route_uri) {
                next = Some(route_uri);
                break;
            }
            found.own_routes += 1;
            found.cookie = cookie.or(found.cookie);
        }
        let in_dialog = found.cookie.is_some();
        found.way = match next {
            // A token of a gateway is permission enough; other routes are followed for pool elements only, and for
            // dialogs that we stayed in: this is no open relay.
            Some(route) => match hop::token_of(&route, &self.keys) {
                Some(token) if token.use_ == Use::Dialog => {
                    found.callee = Some(token.flow.remote.ip());
                    Way::Hop(Hop::Element(token.flow.gateway))
                }
                Some(_) => Way::Refused(403),
                None if in_dialog || source.is_core() => {
                    hop::of_address(&route).map_or(Way::Refused(502), Way::Hop)
                }
                None => Way::Refused(403),
            },
            None => self.way_by_uri(request, uri, in_dialog),
        };
        found
    }

    fn way_by_uri(&self, request: &Message, uri: &SipUri<'_>, in_dialog: bool) -> Way {
        let method = request.method();
        match self.names.domain_of(uri) {
            // The target of a dialog is a phone, on whatever address, or a conference server.
            _ if in_dialog && !self.names.is_own(&uri.host, uri.port_or_default()) => {
                match self.conference.as_ref().and_then(|conference| conference.at(uri)) {
                    Some(Ok(element)) => Way::Hop(Hop::Focus(element)),
                    Some(Err(_)) => Way::Refused(481),
                    None => hop::of_address(uri).map_or(Way::Refused(502), Way::Hop),
                }
            }
            Some(_) if method == Some(Method::Register) => Way::Here,
            Some(_) if uri.user.is_none_or(str::is_empty) => match method {
                Some(Method::Options) => Way::Here,
                // RFC 3261 section 8.2.1.
                _ => Way::Refused(405),
            },
            Some(_) => match self.conference.as_ref().and_then(|rooms| rooms.name_of(uri)) {
                Some(Ok(name)) => Way::Room(name),
                Some(Err(code)) => Way::Refused(code),
                None => self.names.aor(uri).map_or(Way::Refused(404), Way::Bindings),
            },
            None => Way::Refused(403),
        }
    }

    /// Whether a Route value names this proxy or its pool.
    pub(super) fn is_own_route(&self, uri: &SipUri<'_>) -> bool {
        let pool = match uri.host {
            Host::Name(name) => pool_of_host(name.as_bytes()),
            Host::V4(_) | Host::V6(_) => None,
        };
        pool.is_some_and(|pool| pool.eq_ignore_ascii_case(POOL.as_bytes()))
            || self.names.is_own(&uri.host, uri.port_or_default())
            || (self.names.domain_of(uri).is_some() && hop::token_of(uri, &self.keys).is_none())
    }

    /// What a Route value of ours says, if it was made for the dialog that a request says it belongs to.
    fn cookie_of(&self, route: &SipUri<'_>, request: &Message) -> Option<Cookie> {
        let cookie = route.user?.as_bytes();
        let call_id = request.call_id().unwrap_or("");
        let (from, to) = (request.from().ok()?, request.to().ok()?);
        let parties = [from.tag().unwrap_or(""), to.tag()?];
        let read = DialogCookie::verify_caller(&self.keys, cookie, call_id, parties);
        read.ok().map(|(content, caller)| Cookie { content, from_caller: caller == 0 })
    }

    /// REGISTER and OPTIONS for this proxy.
    fn serve(&mut self, now: Instant, server: ServerId, request: &Message, source: Hop) {
        if request.method() != Some(Method::Register) {
            return self.options(now, server, request, source);
        }
        self.stats.registers += 1;
        let now_ms = self.settings.wall(now);
        match register::request(request, source, &self.names, &self.settings, &self.keys, now_ms) {
            Ok(work) => {
                let waiting =
                    Waiting::Register { server, request: Box::new(request.clone()), source };
                self.ask(now, work, waiting, Some(self.settings.store_timeout));
            }
            Err(refusal) => {
                let code = match &refusal {
                    register::Refusal::Status(code, _) => *code,
                    register::Refusal::Extensions(_) => 420,
                    register::Refusal::TooBrief(_) => 423,
                };
                self.reply(
                    now,
                    server,
                    request,
                    source,
                    code,
                    register::refused(request, &refusal),
                );
            }
        }
    }

    /// The bindings of an address-of-record, from memory if there are any, else from the database.
    fn call(&mut self, now: Instant, mut context: Context, aor: Box<str>) {
        let now_ms = self.settings.wall(now);
        let bindings: Vec<_> = self.replica.lookup(&aor, now_ms).map(hop::Binding::from).collect();
        let server = context.server;
        context.aor = Some(aor.clone());
        if bindings.is_empty() {
            self.contexts.insert(server, Box::new(context));
            self.stats.lookups += 1;
            let patience = Some(self.settings.lookup_timeout);
            self.ask(now, Request::Lookup { aor, now_ms }, Waiting::Lookup { server }, patience);
        } else {
            context.plan(bindings);
            self.contexts.insert(server, Box::new(context));
            self.with_context(now, server, |proxy, context| proxy.settle(now, context));
        }
    }

    /// An ACK for a 2xx, or a stray one: forwarded without state if it has a way (RFC 3261 section 16.11).
    pub(super) fn ack(&mut self, now: Instant, request: &Message, source: Hop) {
        let found = match request.request_uri() {
            Ok(Uri::Sip(uri)) if request.max_forwards() != Ok(Some(0)) => {
                Some(self.way(request, &uri, source))
            }
            _ => None,
        };
        match found {
            Some(Found { way: Way::Hop(hop), own_routes, cookie, .. }) => {
                self.pass_ack(now, request, source, hop, own_routes, cookie);
            }
            _ => self.stats.dropped += 1,
        }
    }

    /// Sends an ACK to its next hop.
    pub(super) fn forward_ack(
        &mut self,
        now: Instant,
        request: &Message,
        source: Hop,
        hop: Hop,
        own_routes: usize,
    ) {
        // "The branch must be the same for retransmitted requests": derived from the branch below.
        let mut hasher = DefaultHasher::new();
        self.secret.hash(&mut hasher);
        request
            .top_via()
            .map(|via| via.branch().unwrap_or("").to_owned())
            .unwrap_or_default()
            .hash(&mut hasher);
        let branch = format!("z9hG4bK{:016x}.ack", hasher.finish());
        let mut edit = Edit::new(request);
        self.edit_forwarded(&mut edit, request, source, hop, &branch);
        edit.remove_values(HeaderName::Route, own_routes);
        let bytes = edit.finish();
        self.stats.forwarded += 1;
        self.send(now, hop, bytes);
    }

    /// What changes in every forwarded request: Via, Max-Forwards (RFC 3261 section 16.6 steps 3, 8).
    pub(super) fn edit_forwarded(
        &self,
        edit: &mut Edit<'_>,
        request: &Message,
        source: Hop,
        hop: Hop,
        branch: &str,
    ) {
        if let Some(address) = source.edge_address() {
            edit.stamp_via(address);
        }
        let sent_by = match hop {
            Hop::Core(_) | Hop::Element(_) | Hop::Focus(_) => self.settings.core_address,
            Hop::Tcp(_) => self.settings.edge_tcp.unwrap_or(self.settings.core_address),
            Hop::Udp { .. } => self.settings.edge_udp.unwrap_or(self.settings.core_address),
        };
        let rport = if hop.is_core() { "" } else { ";rport" };
        edit.push_via(format!(
            "SIP/2.0/{} {sent_by}{rport};branch={branch}",
            hop.transport().as_str()
        ));
        match request.max_forwards() {
            Ok(Some(left)) => edit.set_max_forwards(left.saturating_sub(1)),
            _ => edit.set_max_forwards(70),
        };
        if !matches!(hop, Hop::Udp { .. }) {
            edit.ensure_content_length();
        }
    }

    /// RFC 3261 section 16.6 step 8: over everything that decides where a request goes. Equal for a request that comes
    /// back unchanged (a loop), different when the Request-URI or the routes have changed (a spiral).
    fn loop_hash(&self, request: &Message) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.secret.hash(&mut hasher);
        request.request_uri_str().hash(&mut hasher);
        request.call_id().unwrap_or("").hash(&mut hasher);
        request.cseq().map(|cseq| cseq.seq).unwrap_or(0).hash(&mut hasher);
        for party in [request.from(), request.to()] {
            party.ok().and_then(|party| party.tag().map(str::to_owned)).hash(&mut hasher);
        }
        for name in [HeaderName::Route, HeaderName::ProxyRequire, HeaderName::ProxyAuthorization] {
            for header in request.headers_named(name) {
                header.value().hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    fn has_looped(&self, request: &Message, loop_hash: u64) -> bool {
        request.vias().flatten().any(|via| {
            self.names.is_own(&via.host, via.port_or_default())
                && via
                    .branch()
                    .and_then(|branch| branch.rsplit_once('.'))
                    .is_some_and(|(_, hash)| u64::from_str_radix(hash, 16) == Ok(loop_hash))
        })
    }
}
