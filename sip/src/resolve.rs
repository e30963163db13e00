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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numeric_hosts_and_defaults() {
        let resolve = |text| {
            let targets = NumericResolver.resolve(&SipUri::parse(text).expect("uri"));
            targets.map(|targets| format!("{} {}", targets[0].transport.as_str(), targets[0].addr))
        };
        assert_eq!(resolve("sip:192.0.2.1").as_deref(), Ok("UDP 192.0.2.1:5060"));
        assert_eq!(
            resolve("sip:a@[2001:db8::1]:5070;transport=tcp").as_deref(),
            Ok("TCP [2001:db8::1]:5070")
        );
        assert_eq!(resolve("sips:localhost").as_deref(), Ok("TLS 127.0.0.1:5061"));
        assert_eq!(resolve("sips:localhost;transport=tcp").as_deref(), Ok("TLS 127.0.0.1:5061"));
        assert_eq!(resolve("sip:example.com;maddr=192.0.2.2").as_deref(), Ok("UDP 192.0.2.2:5060"));
        assert_eq!(resolve("sip:example.com"), Err(ResolveError::Host));
        assert_eq!(resolve("sip:192.0.2.1;transport=sctp"), Err(ResolveError::Transport));
        assert_eq!(resolve("sips:192.0.2.1;transport=udp"), Err(ResolveError::Transport));
    }
}
