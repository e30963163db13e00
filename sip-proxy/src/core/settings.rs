//! What the core is told once: its names, limits and times.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use dialtone_sip::transaction::Timers;
use dialtone_sip::{Host, SipUri};

use crate::core::auth::Settings as AuthSettings;
use crate::core::conference::Settings as ConferenceSettings;
use crate::core::media::Settings as MediaSettings;
use crate::core::wall::Wall;

/// Names that this proxy answers for.
///
/// All of them mean one domain: `alice@localhost` and `alice@dialtone.test` are one address-of-record.
#[derive(Clone, Debug, Default)]
pub struct Names {
    domain: Box<str>,
    /// A few entries; a search by hash would cost more.
    served: Vec<Served>,
    /// Addresses of this process.
    own: Vec<SocketAddr>,
}

/// One name or address, on any port if it has none.
#[derive(Clone, Debug)]
enum Served {
    Address(IpAddr, Option<u16>),
    Name(Box<str>, Option<u16>),
}

impl Served {
    fn new(text: &str) -> Self {
        match Host::parse_with_port(text) {
            Some((host, port)) => match (host.ip(), host) {
                (Some(ip), _) => Self::Address(ip, port),
                (None, Host::Name(name)) => Self::Name(name.into(), port),
                (None, _) => Self::Name(text.into(), port),
            },
            None => Self::Name(text.into(), None),
        }
    }

    fn matches(&self, host: &Host<'_>, port: u16) -> bool {
        match (self, host) {
            (Self::Address(ip, only), _) if host.ip().is_some() => {
                host.ip() == Some(*ip) && only.is_none_or(|only| only == port)
            }
            (Self::Name(name, only), Host::Name(other)) => {
                name.eq_ignore_ascii_case(other) && only.is_none_or(|only| only == port)
            }
            _ => false,
        }
    }
}

impl Names {
    /// The first of `domains` is the domain of all users; the others are other names for it, as are `localhost` and the
    /// addresses of this process. A numeric host or name counts on any port, unless it is given with one.
    pub fn new(domains: &[String], own: &[SocketAddr]) -> Self {
        let domain =
            domains.first().map_or("localhost", String::as_str).to_ascii_lowercase().into();
        let names = domains.iter().map(String::as_str).chain(["localhost"]).map(Served::new);
        let addresses = own.iter().map(|addr| Served::Address(addr.ip(), Some(addr.port())));
        Self { domain, served: names.chain(addresses).collect(), own: own.to_vec() }
    }

    /// The domain of all users.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The domain that serves this URI, if it is ours.
    pub fn domain_of(&self, uri: &SipUri<'_>) -> Option<&str> {
        let port = uri.port_or_default();
        self.served.iter().any(|served| served.matches(&uri.host, port)).then_some(&*self.domain)
    }

    /// Whether host and port are an address of this very process.
    pub fn is_own(&self, host: &Host<'_>, port: u16) -> bool {
        host.ip().is_some_and(|ip| self.own.contains(&SocketAddr::new(ip, port)))
    }

    /// The address-of-record for a user of a served URI (RFC 3261 section 10.3 step 5); parameters do not count.
    pub fn aor(&self, uri: &SipUri<'_>) -> Option<Box<str>> {
        let domain = self.domain_of(uri)?;
        let user =
            uri.user_unescaped().filter(|user| !user.is_empty() && user.len() <= MAX_USER)?;
        let user = escape_controls(&user);
        (user.len() <= MAX_USER).then(|| format!("{user}@{domain}").into())
    }
}

/// Longest user part of an address-of-record, bytes.
const MAX_USER: usize = 256;

/// Text without control characters, which would only serve to confuse whoever reads the database: escaped again.
pub(crate) fn escape_controls(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let escape =
        |c: char| if c.is_control() { format!("%{:02X}", u32::from(c)) } else { c.to_string() };
    text.chars().map(escape).collect()
}

/// Everything else.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Own element identifier in the pool of the proxies, 0 without one.
    pub element: u32,
    /// What stands in Via of requests to gateways: the core listener.
    pub core_address: SocketAddr,
    /// What stands in Via of requests over UDP and TCP to phones: the edge listeners, if there are any.
    pub edge_udp: Option<SocketAddr>,
    pub edge_tcp: Option<SocketAddr>,
    /// Stay in the path of dialogs, for phones that use this proxy directly.
    pub record_route: bool,
    /// Shortest life of a binding, seconds; a shorter wish is answered 423.
    pub min_expires: u32,
    /// Longest life of a binding, seconds; a longer wish gets this.
    pub max_expires: u32,
    /// Life of a binding without a wish, seconds.
    pub default_expires: u32,
    /// Bindings of one address-of-record.
    pub max_bindings: usize,
    /// Whether the oldest of them make room for new ones; else the request for one more is refused.
    pub evict_oldest: bool,
    /// How long a call waits for the database when the replica has nothing.
    pub lookup_timeout: Duration,
    /// How long a REGISTER waits for the database until it is answered 503.
    pub store_timeout: Duration,
    /// What 503 answers say in Retry-After, seconds.
    pub retry_after: u32,
    /// RFC 3261 section 16.6 step 11: more than 3 minutes.
    pub timer_c: Duration,
    /// How long the branches of a request live on when the connection it came over is gone: time for its sender to
    /// attach them to another proxy.
    pub orphan_timeout: Duration,
    /// Calls and other requests being forwarded at a time; more are answered 503.
    pub max_contexts: usize,
    /// Requests remembered at a time, those answered within the last 32 s over UDP included; more are answered 503
    /// without being remembered.
    pub max_transactions: usize,
    /// `None`: users need no password.
    pub auth: Option<AuthSettings>,
    /// `None`: no media relays are used.
    pub media: Option<MediaSettings>,
    /// `None`: there are no conferences.
    pub conference: Option<ConferenceSettings>,
    pub timers: Timers,
    /// The time by which bindings end.
    pub(crate) wall: Wall,
}

impl Settings {
    /// `epoch` is a moment by both clocks, the second in milliseconds since 1970.
    pub fn new(core_address: SocketAddr, epoch: (Instant, u64)) -> Self {
        Self {
            element: 0,
            core_address,
            edge_udp: None,
            edge_tcp: None,
            record_route: false,
            min_expires: 60,
            max_expires: 7200,
            default_expires: 3600,
            max_bindings: 16,
            evict_oldest: true,
            lookup_timeout: Duration::from_millis(100),
            store_timeout: Duration::from_secs(4),
            retry_after: 5,
            timer_c: Duration::from_secs(185),
            orphan_timeout: Duration::from_secs(3),
            max_contexts: 100_000,
            max_transactions: 200_000,
            auth: None,
            media: None,
            conference: None,
            timers: Timers::default(),
            wall: Wall::new(epoch.0, epoch.1),
        }
    }

    /// Milliseconds since 1970.
    pub(crate) fn wall(&self, now: Instant) -> u64 {
        self.wall.at(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses() {
        let own = [
            "127.0.0.1:5070".parse().expect("address"),
            "127.0.0.1:5060".parse().expect("address"),
        ];
        let names = ["Dialtone.Test", "other.test", "10.0.0.1", "10.0.0.2:5080"].map(str::to_owned);
        let names = Names::new(&names, &own);
        let aor = |uri: &str| names.aor(&SipUri::parse(uri).expect(uri)).map(String::from);
        for served in [
            "sip:al%69ce@dialtone.test",
            "sip:alice@DIALTONE.test:5099;transport=tcp",
            "sips:alice:secret@localhost",
            "sip:alice@other.test",
            "sip:alice@127.0.0.1:5070",
            "sip:alice@127.0.0.1",
            "sip:alice@10.0.0.1",
            "sip:alice@10.0.0.1:5070",
            "sip:alice@10.0.0.2:5080",
        ] {
            assert_eq!(aor(served).as_deref(), Some("alice@dialtone.test"), "{served}");
        }
        assert_eq!(aor("sip:a%00b@dialtone.test").as_deref(), Some("a%00b@dialtone.test"));
        for foreign in [
            "sip:alice@127.0.0.1:5071",
            "sip:alice@10.0.0.2",
            "sip:alice@example.com",
            "sip:dialtone.test",
        ] {
            assert_eq!(aor(foreign), None, "{foreign}");
        }
    }
}
