//! Next hops: where messages come from and go to, and how a URI, a Path or a binding names one.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dialtone_location::Target;
use dialtone_sip::transaction::Destination;
use dialtone_sip::{NameAddr, SipUri, TransportKind, Uri, Via};
use dialtone_sip_pool::hops::ConnId;
use dialtone_sip_pool::keys::Keys;
use dialtone_sip_pool::token::{FlowToken, Use};

/// The other end of a hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hop {
    /// A pool element that dialled our core listener.
    Core(ConnId),
    /// An element of the pool `sip-gateway`, over the connection that we keep to it.
    Element(u32),
    /// An element of the pool of the conference servers, over the connection that we keep to it.
    Focus(u32),
    /// The TCP connection with this peer; dialled if there is none.
    Tcp(SocketAddr),
    /// A datagram through the edge socket of this number.
    Udp { socket: u16, peer: SocketAddr },
}

impl Hop {
    /// Whether pool elements stand there, whose Path and Route are trusted.
    pub fn is_core(self) -> bool {
        matches!(self, Self::Core(_) | Self::Element(_) | Self::Focus(_))
    }

    /// The phone's address as seen from here.
    pub(crate) fn edge_address(self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(peer) | Self::Udp { peer, .. } => Some(peer),
            Self::Core(_) | Self::Element(_) | Self::Focus(_) => None,
        }
    }

    pub(crate) fn transport(self) -> TransportKind {
        match self {
            Self::Udp { .. } => TransportKind::Udp,
            Self::Core(_) | Self::Element(_) | Self::Focus(_) | Self::Tcp(_) => TransportKind::Tcp,
        }
    }
}

impl Destination for Hop {
    fn is_reliable(&self) -> bool {
        !matches!(self, Self::Udp { .. })
    }

    fn reply_to(self, via: &Via<'_>) -> Self {
        match self {
            Self::Udp { socket, peer } => Self::Udp { socket, peer: via.reply_addr(peer) },
            other => other,
        }
    }

    /// Core hops watch each other by answers: INVITE is answered 100 at once, every other request that is not
    /// answered within 50 ms as well, which RFC 4320 section 4.1 leaves to reliable hops.
    fn trying_after(&self, invite: bool) -> Option<Duration> {
        match (invite, self.is_core()) {
            (true, _) => Some(Duration::ZERO),
            (false, true) => Some(Duration::from_millis(50)),
            (false, false) => None,
        }
    }
}

/// Where a Route or Path value leads: the gateway that its token names, or a numeric address.
///
/// Names are not resolved here: inside the pools everything is a token or an address.
pub(crate) fn of_route(uri: &SipUri<'_>, keys: &Keys, use_: Use) -> Option<Hop> {
    if let Some(token) = token_of(uri, keys) {
        return (token.use_ == use_).then_some(Hop::Element(token.flow.gateway));
    }
    of_address(uri)
}

/// The flow token in the user part, if it is one of ours.
pub(crate) fn token_of(uri: &SipUri<'_>, keys: &Keys) -> Option<FlowToken> {
    FlowToken::verify(keys, uri.user?.as_bytes()).ok()
}

/// Where a URI with a numeric host leads (RFC 3263 section 4: numeric host, no NAPTR or SRV).
pub(crate) fn of_address(uri: &SipUri<'_>) -> Option<Hop> {
    // maddr would have to be numeric as well; nobody who is reached here uses it.
    let peer = SocketAddr::new(uri.host.ip()?, uri.port_or_default());
    let routable = !peer.ip().is_unspecified() && !peer.ip().is_multicast() && peer.port() != 0;
    match uri.transport().map_or(Some(TransportKind::Udp), TransportKind::parse)? {
        TransportKind::Udp if routable && !uri.secure => Some(Hop::Udp { socket: 0, peer }),
        TransportKind::Tcp if routable && !uri.secure => Some(Hop::Tcp(peer)),
        _ => None,
    }
}

/// Where the phone of a binding is reached: through the top of its Path, where its REGISTER came from, or at its
/// contact.
pub(crate) fn of_binding(path: &str, received: &str, contact: &str, keys: &Keys) -> Option<Hop> {
    if !path.is_empty() {
        let top = NameAddr::parse(first_value(path)).ok()?;
        return of_route(top.uri.sip()?, keys, Use::Path);
    }
    if let Some((transport, address)) = received.split_once(':') {
        let peer = address.parse().ok()?;
        return match TransportKind::parse(transport)? {
            TransportKind::Udp => Some(Hop::Udp { socket: 0, peer }),
            TransportKind::Tcp => Some(Hop::Tcp(peer)),
            TransportKind::Tls => None,
        };
    }
    match Uri::parse(contact).ok()? {
        Uri::Sip(uri) => of_address(&uri),
        _ => None,
    }
}

/// The address of the phone that made a binding, as far as it is known for sure.
pub(crate) fn phone_of_binding(path: &str, received: &str, keys: &Keys) -> Option<IpAddr> {
    if !path.is_empty() {
        let top = NameAddr::parse(first_value(path)).ok()?;
        return token_of(top.uri.sip()?, keys).map(|token| token.flow.remote.ip());
    }
    let (_, address) = received.split_once(':')?;
    address.parse::<SocketAddr>().ok().map(|address| address.ip())
}

/// The text before the first comma outside quotes and brackets.
pub(crate) fn first_value(list: &str) -> &str {
    let (mut quoted, mut bracketed, mut escaped) = (false, false, false);
    for (at, byte) in list.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' if !bracketed => quoted = !quoted,
            b'<' if !quoted => bracketed = true,
            b'>' if !quoted => bracketed = false,
            b',' if !quoted && !bracketed => return list[..at].trim(),
            _ => {}
        }
    }
    list.trim()
}

/// What a call needs of a binding, kept while it is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    pub(crate) contact: Box<str>,
    pub(crate) path: Box<str>,
    pub(crate) received: Box<str>,
    pub(crate) instance: Box<str>,
    pub(crate) q: u16,
    pub(crate) changed_at: u64,
}

impl From<Target<'_>> for Binding {
    fn from(target: Target<'_>) -> Self {
        Self {
            contact: target.contact.into(),
            path: target.path.into(),
            received: target.received.into(),
            instance: target.instance.into(),
            q: target.q,
            changed_at: target.changed_at,
        }
    }
}

impl From<&dialtone_location::Record> for Binding {
    fn from(record: &dialtone_location::Record) -> Self {
        Self {
            contact: record.contact.clone(),
            path: record.path.clone(),
            received: record.received.clone(),
            instance: record.instance.clone(),
            q: record.q,
            changed_at: record.changed_at,
        }
    }
}

impl Binding {
    /// Whether both lead to the same phone over the same way.
    pub(crate) fn same_flow(&self, other: &Self) -> bool {
        self.contact == other.contact && self.path == other.path && self.received == other.received
    }
}

#[cfg(test)]
mod tests {
    use dialtone_sip_pool::keys::Generation;
    use dialtone_sip_pool::token::{EdgeTransport, Flow};

    use super::*;

    #[test]
    fn bindings_lead_through_path_then_received_then_contact() {
        let keys = Keys::new(&Generation { id: 1, secret: [7; 32] }, None);
        let remote = "192.0.2.1:5062".parse().expect("address");
        let flow =
            Flow { gateway: 17, transport: EdgeTransport::Udp, listener: 0, remote, serial: 0 };
        let path = |use_| {
            format!("<sip:{}@gw;lr>, <sip:second@x;lr>", FlowToken { use_, flow }.sign(&keys))
        };
        let contact = "sip:a@192.0.2.9:5070;transport=tcp";
        let to = |path: &str, received: &str| of_binding(path, received, contact, &keys);
        assert_eq!(to(&path(Use::Path), "udp:192.0.2.1:5062"), Some(Hop::Element(17)));
        assert_eq!(to(&path(Use::Dialog), ""), None, "a token for another use");
        assert_eq!(
            to("<sip:192.0.2.3:5090;lr>", ""),
            Some(Hop::Udp { socket: 0, peer: "192.0.2.3:5090".parse().unwrap() })
        );
        assert_eq!(to("", "udp:192.0.2.1:5062"), Some(Hop::Udp { socket: 0, peer: remote }));
        assert_eq!(to("", ""), Some(Hop::Tcp("192.0.2.9:5070".parse().unwrap())));
        for nowhere in [
            "sip:a@name.test",
            "sips:a@192.0.2.1",
            "sip:a@0.0.0.0",
            "sip:a@192.0.2.1;transport=sctp",
            "tel:1",
        ] {
            assert_eq!(of_binding("", "", nowhere, &keys), None, "{nowhere}");
        }
    }

    #[test]
    fn the_first_value_ends_at_a_free_comma() {
        assert_eq!(first_value("<sip:a,b@x>;p=\"1,\\\"2\" , <sip:c>"), "<sip:a,b@x>;p=\"1,\\\"2\"");
        assert_eq!(first_value(" <sip:a>"), "<sip:a>");
    }
}
