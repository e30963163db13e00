//! What a registrar core is told at start. Durations of the RFCs' variables carry their names.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dialtone_handlespace::Handle;
use dialtone_transport::ENRP_PORT;
use dialtone_wire::Compat;

use super::Security;

/// Configuration of [`crate::core::Registrar`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Own addresses, as told to peers in Server Information; the first one is the primary.
    pub addresses: Vec<IpAddr>,
    /// UDP port of the own SCTP encapsulation; with [`Config::addresses`] it tells our own entry in a list of peers.
    pub udp_port: u16,
    /// Own SCTP port of ENRP.
    pub enrp_port: u16,
    /// Peers to keep associations with: addresses and UDP encapsulation ports. Others are learned.
    pub peers: Vec<SocketAddr>,
    /// Find peers, and mentors among them, by presences in a multicast group as well. The owner carries them
    /// ([`crate::core::Output::Presence`], [`crate::core::Registrar::handle_presence`]).
    pub multicast: bool,
    /// Peers to download from at start, in order of preference (RFC 5353 section 3.2.2.1). Part of `peers`.
    pub mentors: Vec<SocketAddr>,
    /// How long to look for a mentor before service starts without one. `None`: as long as it takes.
    pub alone_after: Option<Duration>,
    /// Pools whose elements register an address that is not their own, because the world sees them there.
    pub advertised_pools: BTreeSet<Handle>,
    /// Secure mode: everything comes over associations whose other side is known, and peers are the configured ones.
    /// `None`: all are believed.
    pub security: Option<Security>,
    pub timers: TimerConfig,
    pub limits: Limits,
    /// MAX-BAD-PE-REPORT (RFC 5352 section 3.5): an element is removed when its counter exceeds this.
    pub max_bad_pe_reports: u32,
    /// Whose behaviour to follow where rsplib departs from the RFCs: on the wire, and with the smaller server ID
    /// winning a takeover.
    pub compat: Compat,
    #[doc(hidden)]
    pub bugs: Bugs,
}

/// Bugs planted on purpose, so that tests can show that the simulation notices them. None in service.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bugs {
    /// A peer's element that contradicts the rules of its pool is refused, whoever has precedence (G17).
    pub firm_rules: bool,
    /// Checksums are folded before something is subtracted.
    pub folded_subtraction: bool,
    /// No resync when an association with a peer is there again, or when the peer is.
    pub no_resync_on_return: bool,
    /// TAKEOVER_SERVER moves everything, whoever owns it.
    pub takeover_moves_all: bool,
}

/// Timers of a registrar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimerConfig {
    /// PEER-HEARTBEAT-CYCLE.
    pub heartbeat: Duration,
    /// MAX-TIME-LAST-HEARD.
    pub last_heard: Duration,
    /// MAX-TIME-NO-RESPONSE: for presences, lists and table downloads.
    pub no_response: Duration,
    /// The same after evidence that the peer's process is gone.
    pub no_response_evidence: Duration,
    /// How long an initiator waits for takeover acknowledgements before it asks again (G2).
    pub takeover_ack: Duration,
    /// How long somebody else's takeover may take before its target is watched again (G2).
    pub takeover_guard: Duration,
    /// How long a download session of a peer is kept between two requests (RFC 5353 section 3.2.3).
    pub session: Duration,
    /// Pause before a failed dial, list or table request is tried again.
    pub retry: Duration,
    /// First pause between two resyncs with one peer whose checksum still differs; doubles up to `resync_max`.
    pub resync: Duration,
    pub resync_max: Duration,
    /// Keep-alive period of owned elements, spread by ±50 % (RFC 5352 section 3.4).
    pub keep_alive: Duration,
    /// After this an unanswered keep-alive is sent again.
    pub keep_alive_timeout: Duration,
    /// After this the last unanswered keep-alive removes the element.
    pub keep_alive_last_timeout: Duration,
    /// Both waits after evidence that the element's process is gone.
    pub keep_alive_evidence: Duration,
    /// Unanswered keep-alives that remove an element.
    pub keep_alive_probes: u8,
    /// Smallest distance of two keep-alives to one element (RFC 5355 section 2.14).
    pub keep_alive_min: Duration,
    /// Secure mode: elements dial registrars, never the reverse. Those that were taken over have so long to find their
    /// new home.
    pub hunt: Duration,
    /// Counters of unreachability reports halve in this time.
    pub report_halving: Duration,
    /// Load-only changes are pushed to subscribers at most once in this time.
    pub push: Duration,
    /// Changes of a pool's membership are pushed at once, but those that follow each other faster than this together.
    pub push_min: Duration,
    /// A core called this much later than it asked for was starved, and everyone gets the time again.
    pub starvation: Duration,
}

/// What the network can make this registrar hold and do. An *address* is an IPv4 address or an IPv6 network
/// ([`Limits::ipv6_prefix`]); configured peers are not limited by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Elements in all pools.
    pub elements: usize,
    /// Elements in one pool.
    pub elements_per_pool: usize,
    /// Bytes of a pool handle and an element together: they have to fit every message that carries them.
    pub entry_bytes: usize,
    /// Elements in an answer to a resolution that does not say how many it wants.
    pub default_items: usize,
    /// Elements in an answer to a resolution, whatever it wants; a message's size limits it as well.
    pub max_items: usize,
    /// Subscriptions of one association.
    pub subscriptions: usize,
    /// Subscriptions from one address.
    pub subscriptions_per_address: usize,
    /// Subscriptions in all.
    pub all_subscriptions: usize,
    /// Associations and connections of elements and users from one address.
    pub associations_per_address: usize,
    /// Associations of registrars from one address.
    pub registrar_associations_per_address: usize,
    /// Elements over associations from one address.
    pub elements_per_address: usize,
    /// Messages from one address: so many at once, and so many a second. Each 1,024 bytes of what is sent to it count as
    /// one more.
    pub requests_per_second: u32,
    /// Unreachability reports from one address: so many at once, and so many a second.
    pub reports_per_second: u32,
    /// How much of an IPv6 address tells whose it is, in bits.
    pub ipv6_prefix: u8,
    /// Elements in one HANDLE_TABLE_RESPONSE.
    pub table_elements: usize,
    /// Bytes of one HANDLE_TABLE_RESPONSE.
    pub table_bytes: usize,
    /// Peers known at a time.
    pub peers: usize,
    /// Addresses from multicast presences that are dialled at a time, before a registrar has spoken there.
    pub discovered: usize,
}

impl Config {
    /// Telephony's timers; alone, at this address.
    pub fn new(address: IpAddr) -> Self {
        Self {
            addresses: vec![address],
            udp_port: dialtone_transport::ENCAPSULATION_PORT,
            enrp_port: ENRP_PORT,
            peers: Vec::new(),
            multicast: false,
            mentors: Vec::new(),
            alone_after: Some(Duration::from_secs(2)),
            advertised_pools: ["sip-edge-udp", "sip-edge-tcp", "sip-edge-tls"]
                .iter()
                .filter_map(|pool| pool.parse().ok())
                .collect(),
            security: None,
            timers: TimerConfig::telephony(),
            limits: Limits::default(),
            max_bad_pe_reports: 3,
            compat: Compat::Rfc,
            bugs: Bugs::default(),
        }
    }
}

impl TimerConfig {
    /// A dead element is out of the pool in 3 s at most, a dead registrar replaced in 6 s.
    pub fn telephony() -> Self {
        let ms = Duration::from_millis;
        Self {
            heartbeat: ms(1000),
            last_heard: ms(2500),
            no_response: ms(1000),
            no_response_evidence: ms(500),
            takeover_ack: ms(1000),
            takeover_guard: ms(3000),
            session: ms(1000),
            retry: ms(250),
            resync: ms(1000),
            resync_max: ms(30_000),
            keep_alive: ms(1000),
            keep_alive_timeout: ms(500),
            // The second wait is longer, so that 1 s without CPU removes no element; 1.5 + 0.5 + 0.75 s stay in 3 s.
            keep_alive_last_timeout: ms(750),
            keep_alive_evidence: ms(200),
            keep_alive_probes: 2,
            keep_alive_min: ms(100),
            hunt: ms(6000),
            report_halving: ms(30_000),
            push: ms(1000),
            push_min: ms(20),
            starvation: ms(200),
        }
    }

    /// The values of RFC 5353 section 4.2; what the RFCs leave open as rsplib has it.
    pub fn rfc() -> Self {
        let s = Duration::from_secs;
        Self {
            heartbeat: s(30),
            last_heard: s(61),
            no_response: s(5),
            no_response_evidence: s(5),
            takeover_ack: s(5),
            takeover_guard: s(15),
            session: s(5),
            retry: s(2),
            resync: s(5),
            resync_max: s(300),
            keep_alive: s(5),
            keep_alive_timeout: s(5),
            keep_alive_last_timeout: s(5),
            keep_alive_evidence: s(5),
            keep_alive_probes: 1,
            keep_alive_min: Duration::from_millis(500),
            hunt: s(60),
            report_halving: s(30),
            push: s(1),
            push_min: Duration::from_millis(100),
            starvation: Duration::from_millis(500),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            elements: 200_000,
            elements_per_pool: 50_000,
            entry_bytes: 2048,
            default_items: 128,
            max_items: 4096,
            subscriptions: 1024,
            subscriptions_per_address: 4096,
            all_subscriptions: 100_000,
            associations_per_address: 256,
            registrar_associations_per_address: 8,
            elements_per_address: 20_000,
            requests_per_second: 20_000,
            reports_per_second: 100,
            ipv6_prefix: 64,
            table_elements: 256,
            table_bytes: 32_000,
            peers: 64,
            discovered: 32,
        }
    }
}
