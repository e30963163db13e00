//! The daemon's configuration file. `packaging/examples/registrar-ns.toml` is its commented form.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use dialtone_daemon::{Checked, Problems};
use dialtone_handlespace::Handle;
use dialtone_transport::multicast::{asap_group, enrp_group};
use dialtone_transport::tls::{Tls, TlsError};
use dialtone_transport::{
    ASAP_PORT, ENCAPSULATION_PORT, ENRP_PORT, ENRP_TLS_PORT, EndpointConfig, Secure,
};
use dialtone_wire::{Compat, ServerId};
use serde::Deserialize;

use crate::core::{Config, Limits, TimerConfig};
use crate::tls::TlsSettings;

/// Keys of the configuration file. Durations are in milliseconds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How this registrar calls itself in the ready file and in logs.
    #[serde(default = "default_name")]
    pub name: String,
    /// Own address. One of this machine's, not the wildcard: peers and elements are told it.
    pub address: IpAddr,
    /// UDP port that carries SCTP (RFC 6951). Peers that learn of this registrar from others expect 9899.
    #[serde(default = "default_port")]
    pub port: u16,
    /// TCP port for pool users; 0: none. In secure mode whoever comes here is told so.
    #[serde(default = "default_tcp_port")]
    pub tcp_port: u16,
    /// Own identifier, hexadecimal; random when absent, which is right unless a test wants a known one.
    pub server_id: Option<HexId>,
    /// The other registrars.
    #[serde(default)]
    pub peers: Vec<PeerAddress>,
    /// Whom to ask for the handlespace at start, in this order; all peers when absent.
    pub mentors: Option<Vec<PeerAddress>>,
    /// Begin without a mentor when none answers for this long.
    #[serde(default = "default_alone_after")]
    pub alone_after_ms: u64,
    /// Wait for a mentor for ever instead: for installations in which some registrar always runs.
    #[serde(default)]
    pub never_alone: bool,
    /// Timers to start from.
    #[serde(default)]
    pub profile: Profile,
    /// Single timers that differ from the profile.
    #[serde(default)]
    pub timers: TimerSettings,
    /// What others may cost.
    #[serde(default)]
    pub limits: LimitSettings,
    /// MAX-BAD-PE-REPORT.
    #[serde(default = "default_reports")]
    pub max_bad_pe_reports: u32,
    /// Pools whose elements register addresses that are not their own.
    #[serde(default = "default_advertised")]
    pub advertised_pools: Vec<String>,
    /// Elements in an answer to a resolution that names no number.
    #[serde(default = "default_items")]
    pub default_items: usize,
    /// Elements in all pools together.
    #[serde(default = "default_elements")]
    pub max_elements: usize,
    /// Where the admin interface listens; absent: port 9090 of `address`.
    pub admin: Option<SocketAddr>,
    /// Announce this registrar by multicast from `address`, so that elements and users find it (RFC 5352 section 3.6).
    #[serde(default)]
    pub announce: bool,
    /// Group and port of announcements; absent: the ones of RFC 5352 section 8.4.
    pub announce_group: Option<SocketAddr>,
    /// Find the other registrars by multicast from `address`, and be found: none has to stand in `peers`.
    #[serde(default)]
    pub discover: bool,
    /// Group and port of the presences that registrars find each other by; absent: rsplib's 239.0.0.51:9901, or
    /// `[ff12::9901]:9901`.
    pub discover_group: Option<SocketAddr>,
    /// A folder of its own, locked while the process runs. The registrar keeps nothing in it yet.
    pub data_dir: Option<PathBuf>,
    /// Secure mode: TLS for everybody, with certificates, and nothing else.
    pub tls: Option<TlsSettings>,
    /// Whose habits to follow where they differ from the RFCs.
    #[serde(default)]
    pub compat: CompatSetting,
}

/// Timers of the configuration file, in milliseconds; absent ones are the profile's.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimerSettings {
    /// PEER-HEARTBEAT-CYCLE.
    pub heartbeat_ms: Option<u64>,
    /// MAX-TIME-LAST-HEARD.
    pub last_heard_ms: Option<u64>,
    /// MAX-TIME-NO-RESPONSE.
    pub no_response_ms: Option<u64>,
    /// Acknowledgements of a takeover.
    pub takeover_ack_ms: Option<u64>,
    /// Period of keep-alives to elements, spread by half of it.
    pub keep_alive_ms: Option<u64>,
    /// After this an unanswered keep-alive is repeated; one and a half times this after the last one, the element is
    /// removed.
    pub keep_alive_timeout_ms: Option<u64>,
    /// Counters of unreachability reports halve in this time.
    pub report_halving_ms: Option<u64>,
    /// Subscribers are told of changed loads at most once in this time.
    pub push_ms: Option<u64>,
}

/// What others may cost; absent keys are [`Limits`]' defaults. An address is an IPv4 address or an IPv6 network.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitSettings {
    /// SCTP associations in all.
    pub associations: Option<usize>,
    /// TCP connections in all.
    pub connections: Option<usize>,
    /// Associations and connections of elements and users from one address.
    pub associations_per_address: Option<usize>,
    /// Associations of registrars from one address.
    pub registrar_associations_per_address: Option<usize>,
    /// Elements over associations from one address.
    pub elements_per_address: Option<usize>,
    /// Elements in one pool.
    pub elements_per_pool: Option<usize>,
    /// Bytes of a pool handle and an element together.
    pub entry_bytes: Option<usize>,
    /// Subscriptions from one address.
    pub subscriptions_per_address: Option<usize>,
    /// Subscriptions in all.
    pub subscriptions: Option<usize>,
    /// Messages from one address; each 1,024 bytes of answers count as one more.
    pub requests_per_second: Option<u32>,
    /// Unreachability reports from one address.
    pub reports_per_second: Option<u32>,
    /// Registrars known at a time, beyond those in `peers`.
    pub peers: Option<usize>,
    /// How much of an IPv6 address tells whose it is, in bits.
    pub ipv6_prefix: Option<u8>,
}

/// Timers to start from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    #[default]
    Telephony,
    Rfc,
}

/// Whose habits to follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CompatSetting {
    #[default]
    Rfc,
    Rsplib,
}

/// `IP` or `IP:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PeerAddress {
    pub ip: IpAddr,
    /// UDP port of SCTP encapsulation, or TCP port of ENRP over TLS; absent: the usual one.
    pub port: Option<u16>,
}

impl TryFrom<String> for PeerAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&text);
        text.parse()
            .map(|addr: SocketAddr| Self { ip: addr.ip(), port: Some(addr.port()) })
            .or_else(|_| bare.parse().map(|ip: IpAddr| Self { ip, port: None }))
            .map_err(|_| {
                format!(
                    "{text:?} is not an address; use IP or IP:UDP-PORT, like \"192.0.2.1:9899\""
                )
            })
    }
}

/// A server identifier: up to 8 hexadecimal digits, `0x` before them or not, not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HexId(pub u32);

impl TryFrom<String> for HexId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match u32::from_str_radix(text.trim_start_matches("0x"), 16) {
            Ok(0) | Err(_) => Err(format!(
                "{text:?} is not a server identifier; use one like \"0x1a2b3c4d\", not 0"
            )),
            Ok(id) => Ok(Self(id)),
        }
    }
}

fn default_name() -> String {
    "registrar-ns".to_owned()
}

fn default_port() -> u16 {
    ENCAPSULATION_PORT
}

fn default_tcp_port() -> u16 {
    ASAP_PORT
}

fn default_alone_after() -> u64 {
    2000
}

fn default_reports() -> u32 {
    3
}

fn default_advertised() -> Vec<String> {
    ["sip-edge-udp", "sip-edge-tcp", "sip-edge-tls"].map(str::to_owned).to_vec()
}

fn default_items() -> usize {
    Limits::default().default_items
}

fn default_elements() -> usize {
    Limits::default().elements
}

impl Checked for Settings {
    fn check(&self, problems: &mut Problems) {
        if self.address.is_unspecified() || self.address.is_multicast() {
            problems.add(
                "address",
                format_args!("{} names no single address", self.address),
                "use the address that peers and elements reach",
            );
        }
        if self.port == 0 {
            problems.add("port", "peers cannot find port 0", "use 9899");
        }
        for (key, used, group, usual) in [
            ("announce", self.announce, self.announce_group, asap_group(self.address)),
            ("discover", self.discover, self.discover_group, enrp_group(self.address)),
        ] {
            if used && self.port != ENCAPSULATION_PORT {
                let what = format_args!("whoever finds port {} expects 9899", self.port);
                problems.add(key, what, "use port 9899, or false here");
            }
            let Some(group) = group else { continue };
            let key = format!("{key}_group");
            if !group.ip().is_multicast() {
                let what = format_args!("{group} is no multicast group");
                problems.add(&key, what, format_args!("use one like \"{usual}\""));
            } else if group.is_ipv4() != self.address.is_ipv4() {
                let what = format_args!("{group} is of another family than `address`");
                problems.add(&key, what, format_args!("use one like \"{usual}\""));
            }
        }
        if let Some(tls) = &self.tls {
            problems.section("tls", tls);
            if self.discover {
                problems.add("discover", "in secure mode peers are those in `peers`", "use false");
            }
            if self.compat == CompatSetting::Rsplib {
                problems.add("compat", "rsplib has no TLS", "use \"rfc\", or no [tls]");
            }
        }
        problems.in_range("alone_after_ms", self.alone_after_ms, 0..=3_600_000);
        problems.in_range("max_bad_pe_reports", self.max_bad_pe_reports, 0..=1000);
        problems.in_range("default_items", self.default_items, 1..=4096);
        problems.in_range("max_elements", self.max_elements, 1..=10_000_000);
        for (index, pool) in self.advertised_pools.iter().enumerate() {
            if let Err(error) = pool.parse::<Handle>() {
                problems.add(&format!("advertised_pools[{index}]"), error, "use a pool handle");
            }
        }
        let l = &self.limits;
        for (key, value, most) in [
            ("associations", l.associations, 1_000_000),
            ("connections", l.connections, 1_000_000),
            ("associations_per_address", l.associations_per_address, 1_000_000),
            ("registrar_associations_per_address", l.registrar_associations_per_address, 10_000),
            ("elements_per_address", l.elements_per_address, 10_000_000),
            ("elements_per_pool", l.elements_per_pool, 10_000_000),
            // What fits every message that carries it.
            ("entry_bytes", l.entry_bytes, 16_000),
            ("subscriptions_per_address", l.subscriptions_per_address, 10_000_000),
            ("subscriptions", l.subscriptions, 10_000_000),
            ("requests_per_second", l.requests_per_second.map(|rate| rate as usize), 100_000_000),
            ("reports_per_second", l.reports_per_second.map(|rate| rate as usize), 1_000_000),
            ("peers", l.peers, 10_000),
            ("ipv6_prefix", l.ipv6_prefix.map(usize::from), 128),
        ] {
            if let Some(value) = value {
                problems.in_range(&format!("limits.{key}"), value, 1..=most);
            }
        }
        let t = &self.timers;
        for (key, value) in [
            ("timers.heartbeat_ms", t.heartbeat_ms),
            ("timers.last_heard_ms", t.last_heard_ms),
            ("timers.no_response_ms", t.no_response_ms),
            ("timers.takeover_ack_ms", t.takeover_ack_ms),
            ("timers.keep_alive_ms", t.keep_alive_ms),
            ("timers.keep_alive_timeout_ms", t.keep_alive_timeout_ms),
            ("timers.report_halving_ms", t.report_halving_ms),
            ("timers.push_ms", t.push_ms),
        ] {
            if let Some(value) = value {
                problems.in_range(key, value, 10..=3_600_000);
            }
        }
        let timers = self.timer_config();
        if timers.last_heard <= timers.heartbeat {
            problems.add(
                "timers.last_heard_ms",
                format_args!(
                    "a live peer is silent for a heartbeat of {} ms",
                    timers.heartbeat.as_millis()
                ),
                "use more than timers.heartbeat_ms, better twice as much",
            );
        }
    }
}

impl Settings {
    /// Where the admin interface listens.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.unwrap_or(SocketAddr::new(self.address, 9090))
    }

    /// Where this registrar announces itself, if it does.
    pub fn announce_group(&self) -> Option<SocketAddr> {
        self.announce.then(|| self.announce_group.unwrap_or(asap_group(self.address)))
    }

    /// Where it and the others find each other, if they do.
    pub fn discover_group(&self) -> Option<SocketAddr> {
        self.discover.then(|| self.discover_group.unwrap_or(enrp_group(self.address)))
    }

    fn timer_config(&self) -> TimerConfig {
        let mut timers = match self.profile {
            Profile::Telephony => TimerConfig::telephony(),
            Profile::Rfc => TimerConfig::rfc(),
        };
        let s = &self.timers;
        let set = |slot: &mut Duration, value: Option<u64>| {
            if let Some(value) = value {
                *slot = Duration::from_millis(value);
            }
        };
        set(&mut timers.heartbeat, s.heartbeat_ms);
        set(&mut timers.last_heard, s.last_heard_ms);
        set(&mut timers.no_response, s.no_response_ms);
        timers.no_response_evidence = timers.no_response_evidence.min(timers.no_response);
        set(&mut timers.takeover_ack, s.takeover_ack_ms);
        if s.takeover_ack_ms.is_some() {
            timers.takeover_guard = 3 * timers.takeover_ack;
        }
        set(&mut timers.keep_alive, s.keep_alive_ms);
        set(&mut timers.keep_alive_timeout, s.keep_alive_timeout_ms);
        if s.keep_alive_timeout_ms.is_some() {
            timers.keep_alive_last_timeout = timers.keep_alive_timeout.mul_f64(1.5);
            timers.keep_alive_evidence = timers.keep_alive_evidence.min(timers.keep_alive_timeout);
        }
        set(&mut timers.report_halving, s.report_halving_ms);
        set(&mut timers.push, s.push_ms);
        timers
    }

    fn core_limits(&self) -> Limits {
        let (l, d) = (&self.limits, Limits::default());
        let or = Option::<usize>::unwrap_or;
        Limits {
            elements: self.max_elements,
            default_items: self.default_items,
            elements_per_pool: or(l.elements_per_pool, d.elements_per_pool),
            entry_bytes: or(l.entry_bytes, d.entry_bytes),
            subscriptions_per_address: or(l.subscriptions_per_address, d.subscriptions_per_address),
            all_subscriptions: or(l.subscriptions, d.all_subscriptions),
            associations_per_address: or(l.associations_per_address, d.associations_per_address),
            registrar_associations_per_address: or(
                l.registrar_associations_per_address,
                d.registrar_associations_per_address,
            ),
            elements_per_address: or(l.elements_per_address, d.elements_per_address),
            requests_per_second: l.requests_per_second.unwrap_or(d.requests_per_second),
            reports_per_second: l.reports_per_second.unwrap_or(d.reports_per_second),
            peers: or(l.peers, d.peers),
            ipv6_prefix: l.ipv6_prefix.unwrap_or(d.ipv6_prefix),
            ..d
        }
    }

    /// What the core is told.
    pub fn core_config(&self) -> Config {
        // Where this registrar is to its peers.
        let (own, usual_port) = match &self.tls {
            Some(tls) => (tls.enrp(self.address), ENRP_TLS_PORT),
            None => (SocketAddr::new(self.address, self.port), ENCAPSULATION_PORT),
        };
        let at = |peers: &[PeerAddress]| -> Vec<SocketAddr> {
            let addr =
                |peer: &PeerAddress| SocketAddr::new(peer.ip, peer.port.unwrap_or(usual_port));
            peers.iter().map(addr).collect()
        };
        let peers = at(&self.peers);
        let mentors = self.mentors.as_deref().map_or_else(|| peers.clone(), at);
        Config {
            udp_port: own.port(),
            enrp_port: if self.tls.is_some() { own.port() } else { ENRP_PORT },
            security: self.tls.as_ref().map(TlsSettings::security),
            mentors: mentors.into_iter().filter(|mentor| *mentor != own).collect(),
            peers,
            multicast: self.discover,
            alone_after: (!self.never_alone).then(|| Duration::from_millis(self.alone_after_ms)),
            advertised_pools: self
                .advertised_pools
                .iter()
                .filter_map(|pool| pool.parse().ok())
                .collect(),
            timers: self.timer_config(),
            limits: self.core_limits(),
            max_bad_pe_reports: self.max_bad_pe_reports,
            compat: match self.compat {
                CompatSetting::Rfc => Compat::Rfc,
                CompatSetting::Rsplib => Compat::Rsplib,
            },
            ..Config::new(self.address)
        }
    }

    /// What to bind.
    ///
    /// # Errors
    /// Certificates that cannot be used.
    pub fn endpoint_config(&self) -> Result<EndpointConfig, TlsError> {
        let udp = SocketAddr::new(self.address, self.port);
        let tcp = (self.tcp_port != 0).then(|| SocketAddr::new(self.address, self.tcp_port));
        let mut config = EndpointConfig::registrar(udp, tcp);
        config.max_associations = self.limits.associations.unwrap_or(config.max_associations);
        config.max_connections = self.limits.connections.unwrap_or(config.max_connections);
        // The core counts elements and users apart from registrars, and answers; this only keeps what it may have.
        let core = self.core_limits();
        let one = core.associations_per_address + core.registrar_associations_per_address;
        config.max_associations_per_address = config.max_associations_per_address.max(one);
        let Some(tls) = &self.tls else { return Ok(config) };
        let peers = self.peers.iter().map(|peer| peer.ip).filter(|ip| *ip != self.address);
        let loaded = Tls::load(tls.config(peers.collect()))?;
        let secure = Secure::registrar(loaded, tls.asap(self.address), tls.enrp(self.address));
        Ok(EndpointConfig { secure: Some(secure), ..config })
    }

    /// The identifier from the file, or a random one (RFC 5353 section 3.2.1).
    pub fn identifier(&self, rng: &mut fastrand::Rng) -> ServerId {
        ServerId(self.server_id.map_or_else(|| rng.u32(1..), |id| id.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn parse(text: &str) -> Result<Settings, String> {
        dialtone_daemon::config::parse(Path::new("registrar-ns.toml"), text)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_one_address_may_have_reaches_the_endpoint() {
        let endpoint = |limits: &str| {
            let text = format!("address = \"192.0.2.1\"\n{limits}");
            parse(&text).unwrap().endpoint_config().unwrap().max_associations_per_address
        };
        assert_eq!(endpoint("[limits]\nassociations_per_address = 50000\n"), 50_008);
        assert_eq!(
            endpoint(""),
            EndpointConfig::element(([0; 4], 0).into()).max_associations_per_address
        );
    }

    /// Each process draws with a generator of its own, as a daemon does.
    ///
    /// Proves E-009.
    #[test]
    fn identifiers_are_random_unless_the_file_names_one() {
        let settings = parse("address = \"192.0.2.1\"\n").unwrap();
        let mut ids: Vec<u32> =
            (0..1000).map(|_| settings.identifier(&mut fastrand::Rng::new()).0).collect();
        for bit in 0..32 {
            let ones = ids.iter().filter(|id| *id >> bit & 1 == 1).count();
            // Six standard deviations.
            assert!((405..=595).contains(&ones), "bit {bit}: {ones} of 1000");
        }
        ids.sort_unstable();
        ids.dedup();
        assert!(ids.len() >= 999 && ids[0] != 0, "{}", ids.len());
        let named = parse("address = \"192.0.2.1\"\nserver_id = \"0x1a\"\n").unwrap();
        assert_eq!(named.identifier(&mut fastrand::Rng::new()), ServerId(0x1a));
    }

    #[test]
    fn the_shipped_example_is_right() {
        let settings = parse(include_str!("../../packaging/examples/registrar-ns.toml")).unwrap();
        let config = settings.core_config();
        assert_eq!(config.peers.len(), 1);
        assert_eq!(config.mentors, config.peers);
        assert_eq!(config.timers, TimerConfig::telephony());
    }

    /// Every key that the example shows commented out is a key, with the default that it shows.
    #[test]
    fn the_commented_keys_of_the_example_are_right() {
        let text: String = include_str!("../../packaging/examples/registrar-ns.toml")
            .lines()
            .map(|line| match line.strip_prefix("#") {
                Some(key) if !key.starts_with(' ') => format!("{key}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let settings = parse(&text).unwrap();
        let config = settings.core_config();
        assert_eq!(config.timers, TimerConfig::telephony());
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.advertised_pools, Config::new(settings.address).advertised_pools);
        assert!(settings.server_id.is_some());
    }

    #[test]
    fn wrong_settings_are_named() {
        let tls = |rest: &str| {
            format!(
                "address = \"127.0.0.1\"\n[tls]\ncertificate = \"c\"\nkey = \"k\"\nauthority = \"a\"\n{rest}"
            )
        };
        let wrong = [
            ("", "address"),
            ("address = \"0.0.0.0\"", "address"),
            ("address = \"127.0.0.1\"\npears = []", "pears"),
            ("address = \"127.0.0.1\"\npeers = [\"localhost\"]", "IP:UDP-PORT"),
            ("address = \"127.0.0.1\"\nserver_id = \"0\"", "not 0"),
            ("address = \"127.0.0.1\"\nprofile = \"fast\"", "telephony"),
            ("address = \"127.0.0.1\"\n[timers]\nlast_heard_ms = 500", "heartbeat"),
            ("address = \"127.0.0.1\"\nport = 0", "9899"),
            ("address = \"127.0.0.1\"\nport = 9\ndiscover = true", "9899"),
            ("address = \"127.0.0.1\"\n[tls]\ncertificate = \"c\"\nkey = \"k\"", "authority"),
            (&tls("port = 0\n[tls.access]\necho = [\"a\"]"), "3864"),
            (&tls("[tls.access]"), "nobody"),
            (&tls("[tls.access]\necho = [\"bücher.example\"]"), "ASCII"),
            (&tls("[tls.access]\n\"\" = [\"a\"]"), "pool handle"),
            (&format!("discover = true\n{}", tls("[tls.access]\n\"*\" = [\"*\"]")), "discover"),
            (&format!("compat = \"rsplib\"\n{}", tls("[tls.access]\n\"*\" = [\"*\"]")), "compat"),
            ("address = \"127.0.0.1\"\n[limits]\nentry_bytes = 60000", "key limits.entry_bytes"),
            ("address = \"127.0.0.1\"\n[limits]\nipv6_prefix = 0", "use 1 to 128"),
            ("address = \"::1\"\nannounce_group = \"224.0.1.185:3863\"", "[ff02::133]:3863"),
            ("address = \"::1\"\ndiscover_group = \"[fd00::1]:9901\"", "[ff12::9901]:9901"),
        ];
        for (text, hint) in wrong {
            let error = parse(text).unwrap_err();
            assert!(
                error.contains(hint) && error.starts_with("registrar-ns.toml:"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn our_own_entry_is_no_mentor() {
        let settings =
            parse("address = \"127.0.0.1\"\npeers = [\"127.0.0.1\", \"127.0.0.2\"]").unwrap();
        assert_eq!(settings.core_config().mentors, ["127.0.0.2:9899".parse().unwrap()]);
    }
}
