//! The configuration file; `packaging/examples/media-relay.toml` has all keys with explanations.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use dialtone_asap_client::{TlsConfig, parse_registrar};
use dialtone_daemon::{Checked, Problems};
use serde::Deserialize;

use crate::core::{self, Local, Settings};
use crate::plane::{PlaneConfig, PortsConfig};
use crate::record::{Formats, RecorderConfig};

/// `media-relay.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How this process calls itself.
    #[serde(default = "default_name")]
    pub name: String,
    /// A folder of its own.
    pub data_dir: PathBuf,
    /// Admin HTTP; port 9090 of the control listener's address without it.
    pub admin: Option<SocketAddr>,
    /// Registrars of the name service; none: this relay stands alone.
    #[serde(default)]
    pub registrars: Vec<String>,
    /// Secure mode towards registrars: own certificate, and whom to trust.
    pub tls: Option<TlsConfig>,
    /// Where proxies send NG (UDP).
    pub control: SocketAddr,
    /// Threads that forward packets; as many as there are processors without it.
    pub workers: Option<usize>,
    /// Whether each of them stays on one processor.
    #[serde(default)]
    pub pin_workers: bool,
    /// Networks that have parties of calls in them; the first serves whoever asks for none.
    pub interface: Vec<Interface>,
    #[serde(default)]
    pub ports: PortSection,
    #[serde(default)]
    pub limits: LimitSection,
    #[serde(default)]
    pub timeouts: Timeouts,
    #[serde(default)]
    pub recording: Recording,
    /// Drop packets from other sources than the latched one, also if `strict-source` was not asked for.
    #[serde(default = "default_strict")]
    pub strict_source: bool,
}

/// Local addresses of one network.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// As `direction` names it.
    pub name: String,
    pub ipv4: Option<Ipv4Addr>,
    /// What stands in session descriptions instead.
    pub advertised_ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    pub advertised_ipv6: Option<Ipv6Addr>,
}

/// Ports for media, the same on all interfaces.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct PortSection {
    pub first: u16,
    pub last: u16,
    /// Seconds that a port rests before it is used again.
    pub quarantine: u64,
    /// Bytes of the receive buffer of each port.
    pub receive_buffer: usize,
    /// Type of service of media packets.
    pub tos: Option<u8>,
}

/// Beyond these, new calls are refused.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSection {
    pub sessions: usize,
    /// Megabit a second, in and out.
    pub bandwidth: Option<u64>,
    /// Percent of the workers' processors.
    pub load: u32,
    /// Packets a second that one end of a stream may send; what comes beyond is dropped.
    pub packet_rate: u32,
}

/// Seconds.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// An offer without an answer.
    pub offer: u64,
    /// A call without a packet.
    pub media: u64,
    /// A call on hold without a packet.
    pub hold: u64,
    /// How long a deleted call goes on, unless the request says so itself.
    pub delete_delay: u64,
    /// How long calls that there are may go on when the process is asked to stop.
    pub drain: u64,
}

/// What becomes of calls whose recording a control message demands.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Recording {
    /// Nothing is recorded without it.
    pub folder: Option<PathBuf>,
    /// `audit.log` in the folder without it.
    pub audit_log: Option<PathBuf>,
    pub pcap: bool,
    pub wav: bool,
    /// Megabytes of one file.
    pub max_file: u64,
    /// Calls at a time.
    pub max_calls: u64,
}

impl Default for PortSection {
    fn default() -> Self {
        let PortsConfig { range, quarantine, receive_buffer, tos } = PortsConfig::default();
        Self {
            first: *range.start(),
            last: *range.end(),
            quarantine: quarantine.as_secs(),
            receive_buffer: receive_buffer.unwrap_or_default(),
            tos,
        }
    }
}

impl Default for LimitSection {
    fn default() -> Self {
        Self {
            sessions: 2_000,
            bandwidth: None,
            load: 90,
            packet_rate: PlaneConfig::default().rate_limit,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { offer: 240, media: 60, hold: 3_600, delete_delay: 0, drain: 60 }
    }
}

impl Default for Recording {
    fn default() -> Self {
        Self {
            folder: None,
            audit_log: None,
            pcap: true,
            wav: true,
            max_file: 1_024,
            max_calls: 100,
        }
    }
}

fn default_name() -> String {
    "media-relay".to_owned()
}

const fn default_strict() -> bool {
    true
}

impl Config {
    /// Where the admin server listens.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.unwrap_or(SocketAddr::new(self.control.ip(), 9090))
    }

    /// Of the core; `epoch` is now, on both clocks.
    pub fn settings(&self, epoch: (Instant, u64)) -> Settings {
        let interfaces = self.interface.iter().map(Interface::for_core).collect();
        let Timeouts { offer, media, hold, delete_delay, .. } = self.timeouts;
        Settings {
            limits: core::Limits {
                sessions: self.limits.sessions,
                // In bytes.
                bandwidth: self.limits.bandwidth.map(|megabit| megabit * 125_000),
                load: Some(f64::from(self.limits.load) / 100.0),
            },
            offer_timeout: Duration::from_secs(offer),
            media_timeout: Duration::from_secs(media),
            hold_timeout: Duration::from_secs(hold),
            delete_delay: Duration::from_secs(delete_delay),
            strict_source: self.strict_source,
            recording: self.recording.folder.is_some(),
            ..Settings::new(interfaces, epoch)
        }
    }

    pub fn plane(&self) -> PlaneConfig {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        PlaneConfig {
            workers: self.workers.unwrap_or_else(processors),
            rate_limit: self.limits.packet_rate,
            pin: self.pin_workers,
        }
    }

    pub fn ports(&self) -> PortsConfig {
        let PortSection { first, last, quarantine, receive_buffer, tos } = self.ports;
        PortsConfig {
            range: first..=last,
            quarantine: Duration::from_secs(quarantine),
            receive_buffer: (receive_buffer > 0).then_some(receive_buffer),
            tos,
        }
    }

    /// What is needed to record calls; `None` if they are not to be.
    pub fn recorder(&self) -> Option<(RecorderConfig, Formats, PathBuf)> {
        let Recording { folder, audit_log, pcap, wav, max_file, max_calls } = &self.recording;
        let folder = folder.clone()?;
        let audit_log = audit_log.clone().unwrap_or_else(|| folder.join("audit.log"));
        let config = RecorderConfig {
            folder,
            queue_bytes: 64 << 20,
            file_bytes: max_file << 20,
            recordings: *max_calls,
        };
        Some((config, Formats { pcap: *pcap, wav: *wav }, audit_log))
    }
}

impl Interface {
    fn for_core(&self) -> core::Interface {
        let local = |bind: Option<IpAddr>, advertised: Option<IpAddr>| {
            bind.map(|bind| Local { bind, advertised: advertised.unwrap_or(bind) })
        };
        core::Interface {
            name: self.name.clone(),
            v4: local(self.ipv4.map(IpAddr::V4), self.advertised_ipv4.map(IpAddr::V4)),
            v6: local(self.ipv6.map(IpAddr::V6), self.advertised_ipv6.map(IpAddr::V6)),
        }
    }

    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        [self.ipv4.map(IpAddr::V4), self.ipv6.map(IpAddr::V6)].into_iter().flatten()
    }
}

impl Checked for Config {
    fn check(&self, problems: &mut Problems) {
        const ONE: &str = "name one address of this machine";
        if self.name.is_empty() {
            problems.add("name", "it is empty", "give this process a name");
        }
        if nowhere(self.control.ip()) {
            let what = format!("{} is nowhere in particular", self.control.ip());
            problems.add("control", what, ONE);
        }
        for (index, registrar) in self.registrars.iter().enumerate() {
            if let Err(error) = parse_registrar(registrar) {
                problems.add(
                    &format!("registrars[{index}]"),
                    error,
                    "use IP, IP:UDP-PORT or tcp:IP",
                );
            }
        }
        if let Some(workers) = self.workers {
            problems.in_range("workers", workers, 1..=256);
        }
        if self.interface.is_empty() {
            problems.add("interface", "there is none", "add an [[interface]] with an address");
        }
        for (index, interface) in self.interface.iter().enumerate() {
            let key = |name: &str| format!("interface[{index}].{name}");
            let is_known = self.interface[..index].iter().any(|one| one.name == interface.name);
            if interface.name.is_empty() || is_known {
                let what = format!("{:?} is empty, or there twice", interface.name);
                problems.add(&key("name"), what, "give each interface a name of its own");
            }
            if interface.addresses().next().is_none() {
                problems.add(&key("ipv4"), "there is no address", "set ipv4, ipv6 or both");
            }
            for (name, ip) in [
                ("ipv4", interface.ipv4.map(IpAddr::V4)),
                ("ipv6", interface.ipv6.map(IpAddr::V6)),
                ("advertised_ipv4", interface.advertised_ipv4.map(IpAddr::V4)),
                ("advertised_ipv6", interface.advertised_ipv6.map(IpAddr::V6)),
            ] {
                if let Some(ip) = ip.filter(|ip| nowhere(*ip)) {
                    problems.add(&key(name), format!("{ip} is nowhere in particular"), ONE);
                }
            }
            for (name, advertised, bound) in [
                ("advertised_ipv4", interface.advertised_ipv4.is_some(), interface.ipv4.is_some()),
                ("advertised_ipv6", interface.advertised_ipv6.is_some(), interface.ipv6.is_some()),
            ] {
                if advertised && !bound {
                    let own = name.trim_start_matches("advertised_");
                    let right = format!("set {own} as well");
                    problems.add(&key(name), "there is no address behind it", right);
                }
            }
        }
        problems.section("ports", &self.ports);
        problems.section("limits", &self.limits);
        problems.section("timeouts", &self.timeouts);
        problems.section("recording", &self.recording);
        let pairs = (self.ports.first..self.ports.last).filter(|port| port % 2 == 0).count();
        if self.limits.sessions * 2 > pairs * self.interface.len().max(1) {
            let what =
                format!("{} calls need more than {pairs} pairs of ports", self.limits.sessions);
            problems.add("limits.sessions", what, "lower it, or widen [ports]");
        }
    }
}

fn nowhere(ip: IpAddr) -> bool {
    ip.is_unspecified() || ip.is_multicast()
}

impl Checked for PortSection {
    fn check(&self, problems: &mut Problems) {
        problems.in_range("first", self.first, 1_024..=65_500);
        problems.in_range("last", self.last, self.first.saturating_add(3)..=65_535);
        problems.in_range("quarantine", self.quarantine, 0..=600);
        if self.receive_buffer != 0 {
            problems.in_range("receive_buffer", self.receive_buffer, 2_048..=16 << 20);
        }
    }
}

impl Checked for LimitSection {
    fn check(&self, problems: &mut Problems) {
        problems.in_range("sessions", self.sessions, 1..=1_000_000);
        if let Some(bandwidth) = self.bandwidth {
            problems.in_range("bandwidth", bandwidth, 1..=1_000_000);
        }
        problems.in_range("load", self.load, 1..=100);
        problems.in_range("packet_rate", self.packet_rate, 10..=1_000_000);
    }
}

impl Checked for Timeouts {
    fn check(&self, problems: &mut Problems) {
        problems.in_range("offer", self.offer, 1..=86_400);
        problems.in_range("media", self.media, 1..=86_400);
        problems.in_range("hold", self.hold, self.media..=86_400);
        problems.in_range("delete_delay", self.delete_delay, 0..=3_600);
        problems.in_range("drain", self.drain, 0..=86_400);
    }
}

impl Checked for Recording {
    fn check(&self, problems: &mut Problems) {
        let paths = [("folder", &self.folder), ("audit_log", &self.audit_log)];
        for (key, path) in paths {
            if let Some(path) = path.as_ref().filter(|path| !path.is_absolute()) {
                let what = format!("{} is relative", path.display());
                problems.add(key, what, "use an absolute path");
            }
        }
        if self.folder.is_some() && !self.pcap && !self.wav {
            problems.add("folder", "nothing is written there", "set pcap, wav or both to true");
        }
        problems.in_range("max_file", self.max_file, 1..=4_000);
        problems.in_range("max_calls", self.max_calls, 1..=100_000);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const EXAMPLE: &str = include_str!("../../packaging/examples/media-relay.toml");

    fn parse(text: &str) -> Result<Config, String> {
        let parsed = dialtone_daemon::config::parse::<Config>(Path::new("x.toml"), text);
        parsed.map_err(|error| error.to_string())
    }

    #[test]
    fn the_example_is_right_and_shows_every_default() {
        let config = parse(EXAMPLE).expect("the example");
        // With every commented key in force.
        let all: String = EXAMPLE
            .lines()
            .map(|line| {
                line.strip_prefix('#')
                    .filter(|rest| !rest.starts_with(' ') && !rest.is_empty())
                    .unwrap_or(line)
            })
            .map(|line| format!("{line}\n"))
            .collect();
        let all = parse(&all).expect("all keys");
        assert_eq!(all.admin_addr(), config.admin_addr());
        assert_eq!(all.ports, PortSection { tos: all.ports.tos, ..PortSection::default() });
        assert_eq!(
            all.limits,
            LimitSection { bandwidth: all.limits.bandwidth, ..LimitSection::default() }
        );
        assert_eq!(all.timeouts, Timeouts::default());
        let Recording { folder, audit_log, .. } = all.recording.clone();
        assert!(folder.is_some() && audit_log.is_some());
        assert_eq!(all.recording, Recording { folder, audit_log, ..Recording::default() });
        assert_eq!(all.strict_source, config.strict_source);
        assert_eq!(all.pin_workers, config.pin_workers);
        assert!(all.workers.is_some() && all.interface[0].ipv6.is_some());
        assert!(config.recorder().is_none() && all.recorder().is_some());
    }

    #[test]
    fn mistakes_are_named_with_their_key() {
        for (from, to, key) in [
            ("control = \"127.0.0.81", "control = \"0.0.0.0", "key control"),
            ("registrars = [\"127.0.0.1\"", "registrars = [\"nowhere\"", "key registrars[0]"),
            ("ipv4 = \"127.0.0.81\"", "ipv4 = \"224.0.0.1\"", "key interface[0].ipv4"),
            ("ipv4 = \"127.0.0.81\"", "", "key interface[0].ipv4"),
            ("ipv4 = \"127.0.0.81\"", "ipv4 = \"::1\"", "key interface"),
            ("name = \"default\"", "name = \"\"", "key interface[0].name"),
            ("#[ports]", "[ports]\nfirst = 40000\nlast = 40001", "key ports.last"),
            ("#[ports]", "[ports]\nfirst = 40000\nlast = 40100", "key limits.sessions"),
            ("#[timeouts]", "[timeouts]\nmedia = 0", "key timeouts.media"),
            ("#[timeouts]", "[timeouts]\nmedia = 4000", "key timeouts.hold"),
            ("#[recording]", "[recording]\nfolder = \"x\"", "key recording.folder"),
            ("#[limits]", "[limits]\nload = 101", "key limits.load"),
            ("#[limits]", "[limits]\nsession = 1", "key limits.session"),
        ] {
            assert!(EXAMPLE.contains(from), "{from}");
            let error = parse(&EXAMPLE.replacen(from, to, 1)).expect_err(to);
            assert!(error.contains(key) && error.starts_with("x.toml:"), "{to}: {error}");
        }
    }
}
