//! Dialogs as the called side (RFC 3261 section 12).

use std::net::SocketAddr;

use dialtone_sip::{HeaderName, Message, Method, NameAddr, ParseError, RequestBuilder, Uri};

use crate::core::hop::Hop;
use crate::core::invite::caller_key;

/// Route values kept; a request with more is refused.
const MAX_ROUTES: usize = 32;

/// What requests within a dialog are made of.
#[derive(Debug)]
pub(crate) struct Dialog {
    pub(crate) call_id: Box<str>,
    /// To of the request that began it, without our tag.
    local: Box<str>,
    pub(crate) local_tag: Box<str>,
    /// From of that request, with its tag.
    remote: Box<str>,
    pub(crate) remote_tag: Box<str>,
    /// Values of Record-Route in their order.
    routes: Box<[Box<str>]>,
    /// Where the other side wants requests.
    target: Box<str>,
    local_sequence: u32,
    remote_sequence: u32,
    /// Where the last request came from.
    pub(crate) hop: Hop,
    /// See [`super::invite::caller_key`].
    pub(crate) caller: Box<str>,
}

impl Dialog {
    /// The dialog that a request begins; it has been checked.
    pub(crate) fn new(
        request: &Message,
        local_tag: Box<str>,
        sequence: u32,
        hop: Hop,
    ) -> Result<Self, ParseError> {
        let from = request.from()?;
        let contact = contact_of(request)?;
        let routes = request.record_routes().map(|route| route.map(|route| route.raw.into()));
        let routes = routes.collect::<Result<Box<[Box<str>]>, _>>()?;
        if routes.len() > MAX_ROUTES {
            return Err(ParseError::Header(HeaderName::RecordRoute));
        }
        Ok(Self {
            call_id: request.call_id()?.into(),
            local: request.to()?.raw.into(),
            local_tag,
            remote: from.raw.into(),
            remote_tag: from.tag().unwrap_or("").into(),
            routes,
            target: contact.ok_or(ParseError::Missing(HeaderName::Contact))?.into(),
            local_sequence: sequence,
            remote_sequence: request.cseq()?.seq,
            hop,
            caller: caller_key(request),
        })
    }

    /// Whether a request with our tag belongs to it.
    pub(crate) fn has(&self, request: &Message) -> bool {
        request.call_id() == Ok(&self.call_id)
            && request.from().is_ok_and(|from| from.tag().unwrap_or("") == &*self.remote_tag)
    }

    /// Takes a request within the dialog in; `false` when it is older than what came before (RFC 3261 section 12.2.2).
    pub(crate) fn advance(&mut self, request: &Message, hop: Hop) -> bool {
        let Ok(sequence) = request.cseq().map(|cseq| cseq.seq) else { return false };
        if sequence < self.remote_sequence {
            return false;
        }
        self.remote_sequence = sequence;
        self.hop = hop;
        true
    }

    /// Takes the new remote target of a target refresh request.
    pub(crate) fn refresh_target(&mut self, request: &Message) {
        if let Ok(Some(contact)) = contact_of(request) {
            self.target = contact.into();
        }
    }

    /// Where a request within it goes: the first route, or the target; `None` if that is no address.
    pub(crate) fn next_hop(&self, udp: bool) -> Option<Hop> {
        let first = self.routes.first();
        let uri = match first {
            Some(route) => NameAddr::parse(route).ok()?.uri,
            None => Uri::parse(&self.target).ok()?,
        };
        Hop::of(uri.sip()?, udp)
    }

    /// Whether it came through a proxy that stays in its way.
    pub(crate) fn has_routes(&self) -> bool {
        !self.routes.is_empty()
    }

    /// The number of the next request within it.
    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.local_sequence += 1;
        self.local_sequence
    }

    /// A request within it. Via is `transport`, `sent_by` and `branch`.
    pub(crate) fn request(
        &self,
        method: Method<'_>,
        sequence: u32,
        (transport, sent_by, branch): (&str, SocketAddr, &str),
    ) -> RequestBuilder {
        let is_loose = |route: &str| {
            let route = NameAddr::parse(route);
            route.is_ok_and(|route| route.uri.sip().is_none_or(|uri| uri.is_loose()))
        };
        // RFC 3261 section 12.2.1.1: a strict router gets its own URI, and the target at the end.
        let mut routes: Vec<String> =
            self.routes.iter().map(|route| (**route).to_owned()).collect();
        let mut uri = self.target.to_string();
        if let Some(first) = self.routes.first().filter(|first| !is_loose(first)) {
            routes.remove(0);
            routes.push(format!("<{uri}>"));
            if let Ok(route) = NameAddr::parse(first) {
                uri = route.uri.as_str().to_owned();
            }
        }
        let mut builder = RequestBuilder::new(method, &uri).via(transport, sent_by, branch);
        for route in &routes {
            builder = builder.header("Route", route);
        }
        builder
            .header("Max-Forwards", "70")
            .header("From", &format!("{};tag={}", self.local, self.local_tag))
            .header("To", &self.remote)
            .header("Call-ID", &self.call_id)
            .header("CSeq", &format!("{sequence} {method}"))
    }
}

/// The URI of the only Contact.
fn contact_of(request: &Message) -> Result<Option<&str>, ParseError> {
    match request.contacts().next() {
        None => Ok(None),
        Some(contact) => Ok(contact?.addr().map(|addr| addr.uri.as_str())),
    }
}
