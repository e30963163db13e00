//! Requests of phones: what they may do, and which way they go.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use dialtone_sip::transaction::ServerId;
use dialtone_sip::{HeaderName, Message, Method};
use dialtone_sip_pool::token::{DialogCookie, FlowToken, Use};
use dialtone_sip_pool::uri;

use super::legs::{Beyond, Leg, Way};
use super::{Gateway, Peer};

/// More Route values than this are no route set of ours.
const ROUTES: usize = 8;

/// Option tags of Proxy-Require that a gateway can grant because it need not do anything for them.
const OPTIONS: [&str; 3] = ["gruu", "outbound", "path"];

impl Gateway {
    pub(super) fn datagram(
        &mut self,
        now: Instant,
        listener: u8,
        remote: SocketAddr,
        bytes: Bytes,
    ) {
        if bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
            if bytes.len() >= 4 && self.sources.admit(now, remote.ip()) {
                self.send(now, Peer::Udp { listener, remote }, Bytes::from_static(b"\r\n"));
            }
        } else if let Some(answer) = dialtone_sip::stun_response(&bytes, remote) {
            if self.sources.admit(now, remote.ip()) {
                self.send(now, Peer::Udp { listener, remote }, answer.into());
            }
        } else {
            self.edge_message(now, Peer::Udp { listener, remote }, remote, bytes);
        }
    }

    pub(super) fn edge_message(
        &mut self,
        now: Instant,
        source: Peer,
        remote: SocketAddr,
        bytes: Bytes,
    ) {
        if !self.sources.admit(now, remote.ip()) {
            self.counters.over_bounds += 1;
            return;
        }
        match Self::parse(bytes, self.settings.bounds.message) {
            Ok(message) => self.incoming(now, message, source),
            Err(partial) => self.answer_broken(now, source, &partial),
        }
    }

    pub(super) fn edge_request(
        &mut self,
        now: Instant,
        id: ServerId,
        request: Message,
        source: Peer,
    ) {
        let Some(remote) = self.remote_of(source) else { return };
        let method = request.method().unwrap_or(Method::Other(""));
        let refusal = if request.max_forwards() == Ok(Some(0)) {
            // RFC 3261 section 16.3.
            Some((483, Vec::new()))
        } else if let Some(unsupported) = unsupported(&request) {
            Some((420, vec![("Unsupported", unsupported)]))
        } else if self.legs.len() >= self.settings.bounds.legs {
            self.counters.over_bounds += 1;
            Some((503, vec![("Retry-After", "5".to_owned())]))
        } else {
            None
        };
        if let Some((code, headers)) = refusal {
            self.answer_with(now, id, &stamped(&request, remote), code, &headers);
            return;
        }
        let (way, keep_routes) = match self.way(&request) {
            Ok(way) => way,
            Err(code) => {
                self.counters.refused += 1;
                self.answer(now, id, &stamped(&request, remote), code);
                return;
            }
        };
        let invite = method == Method::Invite;
        let in_dialog = is_in_dialog(&request);
        let mark = if method == Method::Register {
            Some(("Path", self.flows.route_value(&self.keys, source, Use::Path)))
        } else if !in_dialog && makes_dialog(method) {
            Some(("Record-Route", self.flows.route_value(&self.keys, source, Use::Dialog)))
        } else {
            None
        };
        let mark = mark.and_then(|(name, value)| Some((name, value?)));
        let leg = Leg::new(id, source, stamped(&request, remote), invite, way, keep_routes, mark);
        if invite {
            self.answer(now, id, &leg.request, 100);
        }
        self.begin(now, leg);
    }

    /// RFC 3261 section 9.2.
    pub(super) fn edge_cancel(
        &mut self,
        now: Instant,
        id: ServerId,
        cancel: &Message,
        source: Option<SocketAddr>,
        cancels: Option<ServerId>,
    ) {
        let leg = cancels.and_then(|invite| self.leg_of_server.get(&invite).copied());
        let code = if cancels.is_some() { 200 } else { 481 };
        if let Some(source) = source {
            self.answer(now, id, &stamped(cancel, source), code);
        }
        if let Some(leg) = leg {
            self.cancel_leg(now, leg);
        }
    }

    /// The ACK for a 2xx: along the tokens like any request inside a dialog, but in no transaction.
    pub(super) fn edge_ack(&mut self, now: Instant, ack: &Message) {
        match self.way(ack) {
            Ok((way, keep_routes)) if !matches!(way, Way::Proxy) || keep_routes.is_some() => {
                self.forward_ack(now, ack, &way, keep_routes);
            }
            Ok(_) | Err(_) => self.counters.stray += 1,
        }
    }

    /// Which way a request of a phone goes, and from which Route value on its route set is kept (`None`: not at all).
    ///
    /// Outside of dialogs a preloaded route set is dropped: where a new request goes is decided by proxies alone. Inside,
    /// every value must be a token of ours, so that a made-up route set leads nowhere.
    pub(super) fn way(&self, request: &Message) -> Result<(Way, Option<usize>), u16> {
        let mut routes = Vec::new();
        for route in request.routes() {
            let uri = route.map_err(|_| 400_u16)?.uri;
            routes.push(*uri.sip().ok_or(403_u16)?);
        }
        if !is_in_dialog(request) {
            // A token that somebody has tampered with is refused even here, where it would not be used.
            let tampered = |route: &dialtone_sip::SipUri<'_>| {
                let ours = self.settings.listeners.iter().any(|listener| {
                    route.host.ip() == Some(listener.advertised.ip())
                        && route.port.unwrap_or(5060) == listener.advertised.port()
                });
                ours && route
                    .user
                    .is_some_and(|user| FlowToken::verify(&self.keys, user.as_bytes()).is_err())
            };
            return if routes.iter().any(tampered) { Err(403) } else { Ok((Way::Proxy, None)) };
        }
        if routes.is_empty() {
            return Err(481);
        }
        if routes.len() > ROUTES {
            return Err(403);
        }
        let mut ways = Vec::new();
        for route in &routes {
            ways.push(self.way_of_route(request, route).ok_or(403_u16)?);
        }
        match ways.as_slice() {
            // The first value is the phone's own flow, the second says where to go.
            [Way::Gateway(_) | Way::Loop, Way::PreferredProxy { element, .. }, rest @ ..] => {
                let beyond = match rest.first() {
                    Some(Way::Gateway(element)) => Some(Beyond::Gateway(*element)),
                    Some(Way::Loop) => Some(Beyond::Loop),
                    _ => None,
                };
                Ok((Way::PreferredProxy { element: *element, beyond }, Some(1)))
            }
            [Way::Gateway(_) | Way::Loop, second, ..] => Ok((second.clone(), Some(1))),
            _ => Err(403),
        }
    }

    fn way_of_route(&self, request: &Message, route: &dialtone_sip::SipUri<'_>) -> Option<Way> {
        let user = route.user?.as_bytes();
        let pool = match route.host {
            dialtone_sip::Host::Name(name) => uri::pool_of_host(name.as_bytes()),
            dialtone_sip::Host::V4(_) | dialtone_sip::Host::V6(_) => None,
        };
        let token = if pool.is_none() { FlowToken::verify(&self.keys, user).ok() } else { None };
        let Some(token) = token else {
            // A proxy stays in the route by the name of its pool, one that has phones of its own by its address.
            pool.is_none_or(|pool| pool.eq_ignore_ascii_case(b"sip-proxy")).then_some(())?;
            let parties = [request.from().ok()?.tag().unwrap_or(""), request.to().ok()?.tag()?];
            let cookie = DialogCookie::verify(&self.keys, user, request.call_id().ok()?, parties);
            return Some(Way::PreferredProxy { element: cookie.ok()?.preferred, beyond: None });
        };
        (token.use_ == Use::Dialog).then_some(if token.flow.gateway == self.settings.element {
            Way::Loop
        } else {
            Way::Gateway(token.flow.gateway)
        })
    }

    /// A REGISTER was answered 2xx: keeps the phone's pinhole open as long as it is registered.
    pub(super) fn registered(
        &mut self,
        now: Instant,
        source: Peer,
        request: &Message,
        response: &Message,
    ) {
        let mut asked = false;
        let mut longest = 0;
        for contact in request.contacts().flatten() {
            asked = true;
            let Some(contact) = contact.addr() else { continue };
            let granted = response
                .contacts()
                .flatten()
                .filter_map(|granted| granted.addr().copied())
                .find(|granted| granted.uri.equivalent(&contact.uri))
                .map_or(0, |granted| granted.expires().or(response.expires()).unwrap_or(3600));
            longest = longest.max(granted);
        }
        if longest > 0 {
            let until = now + std::time::Duration::from_secs(longest.into());
            self.flows.keep_open(now, source, until, self.settings.bounds.pinholes);
        } else if asked {
            self.flows.let_close(source);
        }
    }
}

/// RFC 3261 section 12.2: a request with a tag in To belongs to a dialog. REGISTER never does.
pub(super) fn is_in_dialog(request: &Message) -> bool {
    request.method() != Some(Method::Register) && request.to().is_ok_and(|to| to.tag().is_some())
}

/// Requests that may begin a dialog or a subscription; unknown methods may as well.
pub(super) fn makes_dialog(method: Method<'_>) -> bool {
    matches!(
        method,
        Method::Invite
            | Method::Subscribe
            | Method::Refer
            | Method::Notify
            | Method::Update
            | Method::Other(_)
    )
}

/// RFC 3261 section 16.3: option tags of Proxy-Require that we do not know.
fn unsupported(request: &Message) -> Option<String> {
    let unknown: Vec<&str> = request
        .tokens(HeaderName::ProxyRequire)
        .filter(|tag| !OPTIONS.iter().any(|known| known.eq_ignore_ascii_case(tag)))
        .collect();
    (!unknown.is_empty()).then(|| unknown.join(", "))
}

/// The request with the phone's address noted in its Via (RFC 3261 section 18.2.1, RFC 3581 section 4).
fn stamped(request: &Message, remote: SocketAddr) -> Message {
    let mut edit = dialtone_sip::Edit::new(request);
    edit.stamp_via(remote);
    // The request was sound, and only its topmost Via has changed.
    Message::parse(edit.finish()).unwrap_or_else(|_| request.clone())
}
