//! Next hops: where messages come from and go to.

use std::net::SocketAddr;
use std::time::Duration;

use dialtone_sip::transaction::Destination;
use dialtone_sip::{SipUri, TransportKind, Via};

/// The other end of a hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hop {
    /// A connection that somebody dialled to us: a proxy.
    Accepted(u64),
    /// The TCP connection with this peer; dialled if there is none.
    Tcp(SocketAddr),
    Udp(SocketAddr),
}

impl Hop {
    pub(crate) const fn transport(self) -> TransportKind {
        match self {
            Self::Udp(_) => TransportKind::Udp,
            Self::Accepted(_) | Self::Tcp(_) => TransportKind::Tcp,
        }
    }

    /// Where a URI with a numeric host leads; without UDP, what has no transport goes by TCP.
    pub(crate) fn of(uri: &SipUri<'_>, udp: bool) -> Option<Self> {
        let peer = SocketAddr::new(uri.host.ip()?, uri.port_or_default());
        if peer.ip().is_unspecified() || peer.ip().is_multicast() || peer.port() == 0 || uri.secure
        {
            return None;
        }
        match uri.transport().map(TransportKind::parse) {
            Some(Some(TransportKind::Udp)) | None if udp => Some(Self::Udp(peer)),
            Some(Some(TransportKind::Tcp)) | None => Some(Self::Tcp(peer)),
            _ => None,
        }
    }
}

impl Destination for Hop {
    fn is_reliable(&self) -> bool {
        !matches!(self, Self::Udp(_))
    }

    fn reply_to(self, via: &Via<'_>) -> Self {
        match self {
            Self::Udp(peer) => Self::Udp(via.reply_addr(peer)),
            other => other,
        }
    }

    fn source_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Udp(peer) => Some(*peer),
            Self::Accepted(_) | Self::Tcp(_) => None,
        }
    }

    /// As on all core hops: the proxy takes silence for death.
    fn trying_after(&self, invite: bool) -> Option<Duration> {
        match (invite, self) {
            (true, _) => Some(Duration::ZERO),
            (false, Self::Accepted(_)) => Some(Duration::from_millis(50)),
            (false, _) => None,
        }
    }
}
