//! Where registrars are and how fast to hunt for them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dialtone_transport::model::{Link, Remote};
use dialtone_transport::{ASAP_PORT, ASAP_TLS_PORT, ENCAPSULATION_PORT};
use dialtone_wire::Compat;

use crate::error::ParseRegistrarError;

/// How a client finds and keeps its home registrar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// Registrars that are known from the start. RFC 5352 section 3.6: without multicast there must be one.
    pub registrars: Vec<Remote>,
    /// T5-Serverhunt: how long one round of attempts may take; doubles with every round that fails.
    pub hunt_initial: Duration,
    /// RETRAN.max: ceiling of the doubling.
    pub hunt_max: Duration,
    /// Which of the transports that registrars announce are dialled: elements speak SCTP with registrars, users SCTP or
    /// TCP (RFC 5352 section 2.1).
    pub announced_link: Link,
    /// T7-ENRPoutdate: how long an announced address stays known.
    pub announce_lifetime: Duration,
    /// How long the association with a former home stays open after a new one was found, so that registrations reach
    /// the new home before the old one sees its association end.
    pub linger: Duration,
    /// A keep-alive with H=1 from another registrar does not move this process away from a home that it found less
    /// than this ago: the sender took over a dead former home and has not heard of the newer registration yet.
    pub adoption_guard: Duration,
    /// At most so many associations that registrars dialled to us; more are aborted.
    pub max_accepted: usize,
    /// What kind of registrars these are.
    pub compat: Compat,
}

impl ClientConfig {
    /// Timers for telephony: a dead home costs fractions of a second.
    pub fn telephony(registrars: Vec<Remote>) -> Self {
        Self {
            registrars,
            hunt_initial: Duration::from_millis(500),
            hunt_max: Duration::from_secs(2),
            announced_link: Link::Sctp,
            announce_lifetime: Duration::from_secs(5),
            linger: Duration::from_secs(1),
            adoption_guard: Duration::from_secs(10),
            max_accepted: 16,
            compat: Compat::Rfc,
        }
    }

    /// The values of RFC 5352 section 7.
    pub fn rfc(registrars: Vec<Remote>) -> Self {
        Self {
            hunt_initial: Duration::from_secs(10),
            hunt_max: Duration::from_secs(60),
            adoption_guard: Duration::ZERO,
            ..Self::telephony(registrars)
        }
    }
}

/// The registrar at this address over SCTP: UDP port 9899, SCTP port 3863.
pub fn registrar_sctp(ip: IpAddr) -> Remote {
    Remote { link: Link::Sctp, addr: SocketAddr::new(ip, ENCAPSULATION_PORT), sctp_port: ASAP_PORT }
}

/// The registrar at this address over TCP, port 3863; for pool users only (RFC 5352 section 2.1).
pub fn registrar_tcp(ip: IpAddr) -> Remote {
    Remote { link: Link::Tcp, addr: SocketAddr::new(ip, ASAP_PORT), sctp_port: 0 }
}

/// The same registrar in secure mode: TCP port 3864, unless it was given another one.
pub(crate) fn over_tls(remote: Remote) -> Remote {
    let mut addr = remote.addr;
    if addr.port() == ENCAPSULATION_PORT || addr.port() == ASAP_PORT {
        addr.set_port(ASAP_TLS_PORT);
    }
    Remote { link: Link::Tcp, addr, sctp_port: 0 }
}

/// Where a registrar is to be found: an entry of `registrars` in configuration files, and of `--registrar`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registrar {
    /// At a known address.
    At(Remote),
    /// Where it announces itself by multicast (RFC 5352 section 3.6): in this group or, without one, in that of the RFC.
    Multicast(Option<SocketAddr>),
}

impl From<Remote> for Registrar {
    fn from(remote: Remote) -> Self {
        Self::At(remote)
    }
}

impl Registrar {
    /// Its address, if that is known.
    pub fn remote(self) -> Option<Remote> {
        match self {
            Self::At(remote) => Some(remote),
            Self::Multicast(_) => None,
        }
    }
}

/// Reads `[sctp:|tcp:]ADDRESS[:PORT]` or `multicast[:GROUP:PORT]`. Without a scheme it is SCTP; PORT is the UDP
/// encapsulation port for SCTP. In secure mode ([`crate::AgentConfig::secured`]) it is TLS, whatever the scheme.
///
/// # Errors
/// When the text is anything else; host names are not looked up.
pub fn parse_registrar(text: &str) -> Result<Registrar, ParseRegistrarError> {
    match text.split_once(':') {
        None if text == "multicast" => return Ok(Registrar::Multicast(None)),
        Some(("multicast", group)) => {
            return match group.parse::<SocketAddr>() {
                Ok(group) if group.ip().is_multicast() => Ok(Registrar::Multicast(Some(group))),
                _ => Err(ParseRegistrarError { got: text.to_owned() }),
            };
        }
        _ => {}
    }
    let (link, rest) = match text.split_once(':') {
        Some(("tcp", rest)) => (Link::Tcp, rest),
        Some(("sctp", rest)) => (Link::Sctp, rest),
        _ => (Link::Sctp, text),
    };
    let wrong = || ParseRegistrarError { got: text.to_owned() };
    let (ip, port) = match rest.parse::<SocketAddr>() {
        Ok(addr) => (addr.ip(), Some(addr.port())),
        Err(_) => {
            let bare = rest.strip_prefix('[').and_then(|r| r.strip_suffix(']')).unwrap_or(rest);
            (bare.parse::<IpAddr>().map_err(|_| wrong())?, None)
        }
    };
    if port == Some(0) {
        return Err(wrong());
    }
    let mut remote = match link {
        Link::Sctp => registrar_sctp(ip),
        Link::Tcp => registrar_tcp(ip),
    };
    if let Some(port) = port {
        remote.addr.set_port(port);
    }
    Ok(Registrar::At(remote))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_secure_mode_registrars_are_at_3864() {
        for (text, expected) in [
            ("192.0.2.1", "192.0.2.1:3864"),
            ("tcp:192.0.2.1", "192.0.2.1:3864"),
            ("192.0.2.1:4000", "192.0.2.1:4000"),
            ("[::1]", "[::1]:3864"),
        ] {
            let remote = over_tls(parse_registrar(text).unwrap().remote().unwrap());
            let expected =
                Remote { link: Link::Tcp, addr: expected.parse().unwrap(), sctp_port: 0 };
            assert_eq!(remote, expected, "{text}");
        }
    }

    #[test]
    fn registrar_addresses_in_all_spellings() {
        let ip: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(parse_registrar("127.0.0.1"), Ok(registrar_sctp(ip).into()));
        assert_eq!(parse_registrar("sctp:127.0.0.1:9899"), Ok(registrar_sctp(ip).into()));
        assert_eq!(parse_registrar("tcp:127.0.0.1"), Ok(registrar_tcp(ip).into()));
        let addr = |text| parse_registrar(text).unwrap().remote().unwrap().addr;
        assert_eq!(addr("127.0.0.1:9900").port(), 9900);
        assert_eq!(addr("[::1]"), "[::1]:9899".parse().unwrap());
        assert_eq!(addr("::1"), "[::1]:9899".parse().unwrap());
        assert_eq!(addr("tcp:[::1]:99"), "[::1]:99".parse().unwrap());
        assert_eq!(parse_registrar("multicast"), Ok(Registrar::Multicast(None)));
        for group in ["239.0.0.50:3863", "[ff02::133]:3863"] {
            let expected = Registrar::Multicast(Some(group.parse().unwrap()));
            assert_eq!(parse_registrar(&format!("multicast:{group}")), Ok(expected));
        }
        for wrong in [
            "",
            "tcp:",
            "localhost",
            "127.0.0.1:0",
            "127.0.0.1:x",
            "multicast:",
            "multicast:10.0.0.1:3863",
            "multicast:239.0.0.50",
        ] {
            assert!(parse_registrar(wrong).is_err(), "{wrong}");
        }
    }
}
