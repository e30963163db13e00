//! The configuration file; `packaging/examples/conference.toml` has all keys with explanations.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use dialtone_asap_client::{TlsConfig, parse_registrar};
use dialtone_daemon::{Checked, Problems};
use serde::Deserialize;

use crate::core::{RoomOptions, Settings};
use crate::media::MediaConfig;
use crate::mix::{RoomSettings, TICKS_PER_SECOND};

/// `conference.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How this process calls itself.
    #[serde(default = "default_name")]
    pub name: String,
    /// A folder of its own.
    pub data_dir: PathBuf,
    /// Admin HTTP; port 9090 of the SIP listener's address without it.
    pub admin: Option<SocketAddr>,
    /// Registrars of the name service; none: this server stands alone.
    #[serde(default)]
    pub registrars: Vec<String>,
    /// Secure mode towards registrars: own certificate, and whom to trust.
    pub tls: Option<TlsConfig>,
    /// Where proxies connect (TCP).
    pub core: SocketAddr,
    /// For SIP over UDP as well.
    pub udp: Option<SocketAddr>,
    /// The host of conference URIs.
    pub domain: String,
    /// What the user part of a conference URI begins with.
    #[serde(default = "default_prefix")]
    pub prefix: String,
    #[serde(default)]
    pub media: Media,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub session: Session,
    /// Rooms that differ from the others, by name.
    #[serde(default)]
    pub rooms: BTreeMap<String, Room>,
}

/// Sound.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Media {
    /// Where sockets are; the address of `core` without it.
    pub address: Option<IpAddr>,
    /// What phones are told instead.
    pub advertised: Option<IpAddr>,
    pub first_port: u16,
    pub last_port: u16,
    /// Threads; as many as there are processors without it.
    pub workers: Option<usize>,
    /// Seconds without a packet after which a participant is hung up.
    pub timeout: u32,
    /// Whether coming, going and being alone are heard.
    pub tones: bool,
    /// Whether G.722 is spoken with those who can.
    pub wideband: bool,
    /// Seconds that there are to type a room's number.
    pub pin_timeout: u32,
    /// Where rooms that record do so.
    pub recordings: Option<PathBuf>,
}

impl Default for Media {
    fn default() -> Self {
        Self {
            address: None,
            advertised: None,
            first_port: 40_000,
            last_port: 49_999,
            workers: None,
            timeout: 30,
            tones: true,
            wideband: true,
            pin_timeout: 30,
            recordings: None,
        }
    }
}

/// What is beyond is refused.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Of all rooms together.
    pub participants: usize,
    /// Of one room.
    pub room: usize,
    pub rooms: usize,
    /// Of one room.
    pub subscriptions: usize,
    pub transactions: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            participants: 2000,
            room: 500,
            rooms: 1000,
            subscriptions: 100,
            transactions: 50_000,
        }
    }
}

/// Session timers (RFC 4028), seconds.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Session {
    pub expires: u64,
    pub min_expires: u64,
}

impl Default for Session {
    fn default() -> Self {
        Self { expires: 1800, min_expires: 90 }
    }
}

/// How one room differs.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Room {
    /// Digits that callers must type.
    pub pin: Option<String>,
    pub participants: Option<usize>,
    pub record: bool,
}

fn default_name() -> String {
    "conference".to_owned()
}

fn default_prefix() -> String {
    "conf-".to_owned()
}

impl Config {
    /// Where the admin server listens.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.unwrap_or(SocketAddr::new(self.core.ip(), 9090))
    }

    /// For the media threads.
    pub fn media(&self) -> MediaConfig {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        MediaConfig {
            address: self.media.address.unwrap_or(self.core.ip()),
            ports: self.media.first_port..=self.media.last_port,
            workers: self.media.workers.unwrap_or_else(processors),
            recordings: self.media.recordings.clone(),
        }
    }

    /// For the core, which listens at these addresses.
    pub fn settings(&self, core: SocketAddr, udp: Option<SocketAddr>) -> Settings {
        let rooms = self.rooms.iter().map(|(name, room)| {
            let options = RoomOptions {
                pin: room.pin.as_deref().map(Into::into),
                max_participants: room.participants,
                record: room.record,
            };
            (name.as_str().into(), options)
        });
        Settings {
            udp,
            media_address: self.media.advertised,
            domain: self.domain.as_str().into(),
            prefix: self.prefix.as_str().into(),
            max_rooms: self.limits.rooms,
            max_participants: self.limits.participants,
            max_room: self.limits.room,
            max_subscriptions: self.limits.subscriptions,
            max_transactions: self.limits.transactions,
            rooms: rooms.collect(),
            wideband: self.media.wideband,
            media: RoomSettings {
                pin_ticks: self.media.pin_timeout * TICKS_PER_SECOND,
                tones: self.media.tones,
                timeout_ticks: self.media.timeout * TICKS_PER_SECOND,
                cname: format!("conference@{}", core.ip()).into(),
                ..RoomSettings::default()
            },
            session_expires: Duration::from_secs(self.session.expires),
            min_session_expires: Duration::from_secs(self.session.min_expires),
            ..Settings::new(core)
        }
    }
}

impl Checked for Config {
    fn check(&self, problems: &mut Problems) {
        if self.name.is_empty() {
            problems.add("name", "it is empty", "give this process a name");
        }
        let udp = self.udp.map(|udp| udp.ip());
        for (key, ip) in
            [("core", Some(self.core.ip())), ("udp", udp), ("media.address", self.media.address)]
        {
            if let Some(ip) = ip.filter(|ip| ip.is_unspecified() || ip.is_multicast()) {
                problems.add(
                    key,
                    format!("{ip} is nowhere in particular"),
                    "name one address of this machine",
                );
            }
        }
        for (index, registrar) in self.registrars.iter().enumerate() {
            if let Err(error) = parse_registrar(registrar) {
                let key = format!("registrars[{index}]");
                problems.add(&key, error, "use IP, IP:UDP-PORT or tcp:IP");
            }
        }
        let is_host =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
        if self.domain.is_empty() || !self.domain.chars().all(is_host) {
            let what = format!("{:?} is no host name", self.domain);
            problems.add("domain", what, "use the domain of your users");
        }
        let is_user =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '*' | '~');
        if self.prefix.is_empty() || self.prefix.len() > 32 || !self.prefix.chars().all(is_user) {
            problems.add(
                "prefix",
                format!("{:?} is empty, long, or has odd characters", self.prefix),
                "use something like \"conf-\", the same as the proxies",
            );
        }
        problems.section("media", &self.media);
        problems.section("limits", &self.limits);
        problems.in_range("session.min_expires", self.session.min_expires, 90..=3600);
        problems.in_range(
            "session.expires",
            self.session.expires,
            self.session.min_expires.max(90)..=86_400,
        );
        let ports = usize::from(self.media.last_port.saturating_sub(self.media.first_port)) + 1;
        if ports < 2 * self.limits.participants {
            problems.add(
                "limits.participants",
                format!("{} ports are not two for each", ports),
                "give more ports between media.first_port and media.last_port, or fewer participants",
            );
        }
        for (name, room) in &self.rooms {
            let key = |key: &str| format!("rooms.{name}.{key}");
            let is_pin = |pin: &str| {
                (1..=16).contains(&pin.len()) && pin.bytes().all(|digit| digit.is_ascii_digit())
            };
            if room.pin.as_deref().is_some_and(|pin| !is_pin(pin)) {
                problems.add(&key("pin"), "it is not 1 to 16 digits", "use digits in quotes");
            }
            if let Some(participants) = room.participants {
                problems.in_range(&key("participants"), participants, 1..=self.limits.room);
            }
            if room.record && self.media.recordings.is_none() {
                let what = "there is no folder for recordings";
                problems.add(&key("record"), what, "name one in media.recordings");
            }
        }
    }
}

impl Checked for Media {
    fn check(&self, problems: &mut Problems) {
        problems.in_range("first_port", self.first_port, 1024..=65_534);
        problems.in_range("last_port", self.last_port, self.first_port.saturating_add(1)..=65_535);
        if let Some(workers) = self.workers {
            problems.in_range("workers", workers, 1..=256);
        }
        problems.in_range("timeout", self.timeout, 1..=86_400);
        problems.in_range("pin_timeout", self.pin_timeout, 5..=600);
    }
}

impl Checked for Limits {
    fn check(&self, problems: &mut Problems) {
        problems.in_range("participants", self.participants, 1..=30_000);
        problems.in_range("room", self.room, 1..=30_000);
        problems.in_range("rooms", self.rooms, 1..=100_000);
        problems.in_range("subscriptions", self.subscriptions, 0..=10_000);
        problems.in_range("transactions", self.transactions, 100..=10_000_000);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const EXAMPLE: &str = include_str!("../../packaging/examples/conference.toml");

    fn parse(text: &str) -> Result<Config, String> {
        dialtone_daemon::config::parse(Path::new("conference.toml"), text)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_example_is_right_and_shows_every_default() {
        let config = parse(EXAMPLE).expect("the example");
        assert!(config.rooms.is_empty());
        let uncomment = |line: &str| {
            let rest =
                line.strip_prefix('#').filter(|rest| !rest.starts_with(' ') && !rest.is_empty());
            format!("{}\n", rest.unwrap_or(line))
        };
        let all: String = EXAMPLE.lines().map(uncomment).collect();
        let all = parse(&all).expect("all keys");
        let media = Media {
            address: all.media.address,
            advertised: all.media.advertised,
            workers: all.media.workers,
            recordings: all.media.recordings.clone(),
            ..Media::default()
        };
        assert_eq!(all.media, media);
        assert_eq!((all.limits, all.session), (Limits::default(), Session::default()));
        assert_eq!((all.prefix.as_str(), all.admin_addr()), ("conf-", config.admin_addr()));
        let board = &all.settings(all.core, all.udp).rooms["board"];
        assert_eq!((board.pin.as_deref(), board.record), (Some("4711"), true));
        assert!(all.udp.is_some() && all.media.advertised.is_some());
    }

    #[test]
    fn mistakes_are_named_with_their_key() {
        let broken = EXAMPLE
            .replace("core = \"127.0.0.101", "core = \"0.0.0.0")
            .replace("domain = \"dialtone.test\"", "domain = \"a b\"\nprefix = \"\"");
        let broken = format!(
            "{broken}\n[media]\nlast_port = 40001\ntimeout = 0\n[session]\nexpires = 5\n[rooms.x]\npin = \"12a\"\n\
             record = true\nparticipants = 0\n"
        );
        let error = parse(&broken).expect_err("refused");
        for key in [
            "core",
            "domain",
            "prefix",
            "media.timeout",
            "limits.participants",
            "session.expires",
            "rooms.x.pin",
            "rooms.x.record",
            "rooms.x.participants",
        ] {
            assert!(error.contains(&format!("key {key}:")), "{key}: {error}");
        }
    }
}
