//! From a URI to addresses (RFC 3263), behind a trait: here only what needs no DNS.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::{Host, SipUri};

/// The transport of a hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TransportKind {
    Udp,
    Tcp,
    Tls,
}

impl TransportKind {
    /// As it stands in Via.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        }
    }

    /// From a Via or a `transport` parameter.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Udp, Self::Tcp, Self::Tls]
            .into_iter()
            .find(|kind| kind.as_str().eq_ignore_ascii_case(text))
    }

    pub const fn is_reliable(self) -> bool {
        !matches!(self, Self::Udp)
    }
}

/// Where a request may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    pub transport: TransportKind,
    pub addr: SocketAddr,
}

/// Why a URI leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    #[error("transport is not supported")]
    Transport,
    #[error("host name cannot be resolved")]
    Host,
}

/// Finds the targets of a URI in order of preference.
pub trait Resolver {
    /// # Errors
    /// [`ResolveError`].
    fn resolve(&self, uri: &SipUri<'_>) -> Result<Vec<Target>, ResolveError>;
}

/// Numeric hosts and `localhost` only.
#[derive(Clone, Copy, Debug, Default)]
pub struct NumericResolver;

impl Resolver for NumericResolver {
    fn resolve(&self, uri: &SipUri<'_>) -> Result<Vec<Target>, ResolveError> {
        // RFC 3263 section 4.1: the transport parameter decides; for a numeric host without one, UDP for sip, TLS for
        // sips. RFC 3261 section 19.1.1: maddr overrides the host.
        let transport = match (uri.transport(), uri.secure) {
            (None, false) => TransportKind::Udp,
            (None, true) => TransportKind::Tls,
            (Some(text), secure) => {
                match (TransportKind::parse(text).ok_or(ResolveError::Transport)?, secure) {
                    (TransportKind::Tcp, true) => TransportKind::Tls,
                    (TransportKind::Udp, true) => return Err(ResolveError::Transport),
                    (kind, _) => kind,
                }
            }
        };
        let host = uri.params.get("maddr").and_then(Host::parse).unwrap_or(uri.host);
        let ip = match host {
            Host::Name(name) if name.eq_ignore_ascii_case("localhost") => {
                IpAddr::V4(Ipv4Addr::LOCALHOST)
            }
            host => host.ip().ok_or(ResolveError::Host)?,
        };
        let default = if transport == TransportKind::Tls { 5061 } else { 5060 };
        Ok(vec![Target { transport, addr: SocketAddr::new(ip, uri.port.unwrap_or(default)) }])
    }
}
