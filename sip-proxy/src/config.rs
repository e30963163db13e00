//! The configuration file; `packaging/examples/sip-proxy.toml` has all keys with explanations.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use dialtone_asap_client::{TlsConfig, parse_registrar};
use dialtone_daemon::{Checked, Problems};
use dialtone_handlespace::Handle;
use dialtone_sip::digest::Algorithm;
use serde::Deserialize;

use crate::core::{AuthSettings, ConferenceSettings, Limits, MediaSettings, WithoutRelay};

/// `sip-proxy.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How this process calls itself.
    #[serde(default = "default_name")]
    pub name: String,
    /// A folder of its own.
    pub data_dir: PathBuf,
    /// Shared with the gateways; made if it is not there.
    pub key_file: PathBuf,
    /// Own address: where registrars see it.
    pub address: IpAddr,
    /// Admin HTTP; port 9090 of `address` without it.
    pub admin: Option<SocketAddr>,
    /// Registrars of the name service; none: this proxy stands alone.
    #[serde(default)]
    pub registrars: Vec<String>,
    /// Secure mode towards registrars: own certificate, and whom to trust.
    pub tls: Option<TlsConfig>,
    /// Where gateways connect (TCP).
    pub core: SocketAddr,
    /// The database file, if it is not to be found through the pool `location-db`.
    pub location_db: Option<PathBuf>,
    /// Database files that the pool names are used below this folder only.
    pub location_dir: Option<PathBuf>,
    /// User and password for the MariaDB servers of the pool `location-db`, which are used instead of a file then; in
    /// my.cnf form, mode 0600.
    pub location_credentials: Option<PathBuf>,
    /// The first one is the domain of all users, the others are other names for it.
    pub domains: Vec<String>,
    #[serde(default)]
    pub edge: Edge,
    #[serde(default)]
    pub registration: Registration,
    #[serde(default)]
    pub auth: Auth,
    #[serde(default)]
    pub media: Media,
    #[serde(default)]
    pub conference: Conference,
}

/// Whether calls get their audio through media relays.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Media {
    /// Handle of the pool of the relays; without it phones send media to each other.
    pub pool: Option<String>,
    pub without_relay: WithoutRelay,
    /// Milliseconds.
    pub answer_within_ms: u64,
}

impl Default for Media {
    fn default() -> Self {
        let MediaSettings { without_relay, answer_within } = MediaSettings::default();
        Self { pool: None, without_relay, answer_within_ms: answer_within.as_millis() as u64 }
    }
}

impl Media {
    /// For the core; `None` when no relays are used.
    pub fn settings(&self) -> Option<MediaSettings> {
        self.pool.as_ref()?;
        Some(MediaSettings {
            without_relay: self.without_relay,
            answer_within: Duration::from_millis(self.answer_within_ms),
        })
    }
}

/// Whether there are conferences, and how they are found.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Conference {
    /// Handle of the pool of the conference servers; without it there are no conferences.
    pub pool: Option<String>,
    pub prefix: String,
    pub media: ConferenceMedia,
    /// Names claimed at once.
    pub max_rooms: usize,
    /// Seconds.
    pub lease: u64,
    /// Milliseconds.
    pub claim_timeout_ms: u64,
}

/// See [`Conference::media`].
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum ConferenceMedia {
    /// Between phones and conference servers.
    Direct,
    /// Through relays, if other calls have them.
    Relay,
}

impl Default for Conference {
    fn default() -> Self {
        let ConferenceSettings { prefix, relayed, max_rooms, lease, claim_timeout, .. } =
            ConferenceSettings::default();
        Self {
            pool: None,
            prefix: prefix.into(),
            media: if relayed { ConferenceMedia::Relay } else { ConferenceMedia::Direct },
            max_rooms,
            lease: lease.as_secs(),
            claim_timeout_ms: claim_timeout.as_millis() as u64,
        }
    }
}

impl Conference {
    /// For the core; `None` when there are no conferences.
    pub fn settings(&self) -> Option<ConferenceSettings> {
        Some(ConferenceSettings {
            pool: self.pool.as_deref()?.into(),
            prefix: self.prefix.as_str().into(),
            relayed: self.media == ConferenceMedia::Relay,
            lease: Duration::from_secs(self.lease),
            max_rooms: self.max_rooms,
            claim_timeout: Duration::from_millis(self.claim_timeout_ms),
        })
    }
}

/// Whether users need a password, and how they prove that they know it.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    pub required: bool,
    /// Of all users; the first domain without it.
    pub realm: Option<String>,
    /// Names of RFC 7616, the best first.
    pub algorithms: Vec<String>,
    /// Seconds.
    pub nonce_life: u64,
    /// Take answers without `qop` (RFC 2069).
    pub without_qop: bool,
    /// Wrong passwords within the window.
    pub per_source: u32,
    pub per_user: u32,
    /// Seconds.
    pub window: u64,
}

impl Default for Auth {
    fn default() -> Self {
        let AuthSettings { algorithms, nonce_life, without_qop, limits, .. } =
            AuthSettings::new("");
        Self {
            required: false,
            realm: None,
            algorithms: algorithms.iter().map(|name| name.as_str().to_owned()).collect(),
            nonce_life: nonce_life.as_secs(),
            without_qop,
            per_source: limits.per_source,
            per_user: limits.per_user,
            window: limits.window.as_secs(),
        }
    }
}

impl Auth {
    /// For the core; `None` when nobody is asked.
    pub fn settings(&self, domains: &[String]) -> Option<AuthSettings> {
        let realm = self.realm.as_ref().or(domains.first()).filter(|_| self.required)?;
        let defaults = AuthSettings::new(realm.as_str());
        Some(AuthSettings {
            algorithms: self.algorithms.iter().filter_map(|name| Algorithm::parse(name)).collect(),
            nonce_life: Duration::from_secs(self.nonce_life),
            without_qop: self.without_qop,
            limits: Limits {
                per_source: self.per_source,
                per_user: self.per_user,
                window: Duration::from_secs(self.window),
                ..defaults.limits
            },
            ..defaults
        })
    }
}

/// Listeners for phones that use this proxy without a gateway.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Edge {
    pub udp: Option<SocketAddr>,
    pub tcp: Option<SocketAddr>,
    /// Stay in the path of dialogs.
    pub record_route: bool,
}

/// Lives of bindings, in seconds, and their number.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Registration {
    pub min_expires: u32,
    pub max_expires: u32,
    pub default_expires: u32,
    /// Contacts of one address-of-record.
    pub max_contacts: usize,
    /// What becomes of a request for one more.
    pub when_full: WhenFull,
    /// A database that does not answer within this time makes the answer 503; milliseconds.
    pub store_timeout_ms: u64,
}

/// See [`Registration::when_full`].
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// The contact that was not refreshed for the longest time makes room.
    EvictOldest,
    /// It is answered 403.
    Refuse,
}

impl Default for Registration {
    fn default() -> Self {
        Self {
            min_expires: 60,
            max_expires: 7200,
            default_expires: 3600,
            max_contacts: 16,
            when_full: WhenFull::EvictOldest,
            store_timeout_ms: 4000,
        }
    }
}

fn default_name() -> String {
    "sip-proxy".to_owned()
}

impl Config {
    /// Where the admin server listens.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.unwrap_or(SocketAddr::new(self.address, 9090))
    }
}

impl Checked for Config {
    fn check(&self, problems: &mut Problems) {
        if self.name.is_empty() {
            problems.add("name", "it is empty", "give this process a name");
        }
        for (key, ip) in [("address", self.address), ("core", self.core.ip())] {
            if ip.is_unspecified() || ip.is_multicast() {
                problems.add(
                    key,
                    format!("{ip} is nowhere in particular"),
                    "name one address of this machine",
                );
            }
        }
        if self.domains.is_empty() {
            problems.add("domains", "it is empty", "name the domain of your users first");
        }
        for (index, domain) in self.domains.iter().enumerate() {
            if domain.is_empty() || domain.contains(|c: char| c.is_whitespace() || c == '@') {
                problems.add(
                    &format!("domains[{index}]"),
                    format!("{domain:?} is no host name"),
                    "use a name or an address",
                );
            }
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
        let files = [("location_db", &self.location_db), ("location_dir", &self.location_dir)];
        if self.location_credentials.is_some() {
            for (key, _) in files.iter().filter(|(_, path)| path.is_some()) {
                problems.add(
                    key,
                    "it is about a file, and location_credentials about servers",
                    "use one of the two",
                );
            }
            if self.registrars.is_empty() {
                problems.add(
                    "location_credentials",
                    "without registrars no server can be found",
                    "name registrars: servers are members of the pool location-db",
                );
            }
        } else if self.location_db.is_none()
            && (self.location_dir.is_none() || self.registrars.is_empty())
        {
            problems.add(
                "location_db",
                "there is no way to a database",
                "name a file, or registrars and location_dir or location_credentials to find one through the pool \
                 location-db",
            );
        }
        if let Some(folder) = self.location_dir.as_ref().filter(|folder| !folder.is_absolute()) {
            problems.add(
                "location_dir",
                format!("{} is relative", folder.display()),
                "use an absolute path",
            );
        }
        problems.section("registration", &self.registration);
        problems.section("auth", &self.auth);
        problems.section("media", &self.media);
        if self.media.pool.is_some() && self.registrars.is_empty() {
            problems.add(
                "media.pool",
                "without registrars no relay can be found",
                "name registrars, or leave it out",
            );
        }
        problems.section("conference", &self.conference);
        if self.conference.pool.is_some() && self.registrars.is_empty() {
            problems.add(
                "conference.pool",
                "without registrars no conference server can be found",
                "name registrars, or leave it out",
            );
        }
    }
}

impl Checked for Registration {
    fn check(&self, problems: &mut Problems) {
        problems.in_range("min_expires", self.min_expires, 1..=3600);
        problems.in_range("max_expires", self.max_expires, self.min_expires..=2_592_000);
        problems.in_range(
            "default_expires",
            self.default_expires,
            self.min_expires..=self.max_expires,
        );
        problems.in_range("max_contacts", self.max_contacts, 1..=100);
        problems.in_range("store_timeout_ms", self.store_timeout_ms, 50..=30_000);
    }
}

impl Checked for Media {
    fn check(&self, problems: &mut Problems) {
        if let Some(pool) = &self.pool
            && pool.parse::<Handle>().is_err()
        {
            problems.add("pool", format!("{pool:?} is no pool handle"), "use \"media-relay\"");
        }
        problems.in_range("answer_within_ms", self.answer_within_ms, 20..=1000);
    }
}

impl Checked for Conference {
    fn check(&self, problems: &mut Problems) {
        if let Some(pool) = &self.pool
            && pool.parse::<Handle>().is_err()
        {
            problems.add("pool", format!("{pool:?} is no pool handle"), "use \"conference\"");
        }
        let is_of_user_part = |c: char| c.is_ascii_alphanumeric() || "-_.!~*'()&=+$,/".contains(c);
        if self.prefix.is_empty() || !self.prefix.chars().all(is_of_user_part) {
            problems.add(
                "prefix",
                format!("{:?} begins no user part of a SIP URI", self.prefix),
                "use what the conference servers have, such as \"conf-\"",
            );
        }
        problems.in_range("max_rooms", self.max_rooms, 1..=10_000_000);
        problems.in_range("lease", self.lease, 600..=2_592_000);
        problems.in_range("claim_timeout_ms", self.claim_timeout_ms, 50..=30_000);
    }
}

impl Checked for Auth {
    fn check(&self, problems: &mut Problems) {
        let is_printable = |c: char| !c.is_control() && !matches!(c, '"' | '\\');
        if let Some(realm) = self.realm.as_ref().filter(|realm| {
            realm.is_empty() || realm.len() > 200 || !realm.chars().all(is_printable)
        }) {
            problems.add(
                "realm",
                format!("{realm:?} is empty, too long, or has quotes in it"),
                "use the realm that the hashes of your users were made with",
            );
        }
        if self.algorithms.is_empty() {
            problems.add("algorithms", "it is empty", "use [\"SHA-256\", \"MD5\"]");
        }
        for (index, name) in self.algorithms.iter().enumerate() {
            let is_new =
                || !self.algorithms[..index].iter().any(|one| one.eq_ignore_ascii_case(name));
            if Algorithm::parse(name).is_none() || !is_new() {
                problems.add(
                    &format!("algorithms[{index}]"),
                    format!("{name:?} is not known, or there twice"),
                    "use SHA-256 and MD5",
                );
            }
        }
        problems.in_range("nonce_life", self.nonce_life, 10..=86_400);
        problems.in_range("per_source", self.per_source, 1..=1_000_000);
        problems.in_range("per_user", self.per_user, 1..=1_000_000);
        problems.in_range("window", self.window, 1..=86_400);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const EXAMPLE: &str = include_str!("../../packaging/examples/sip-proxy.toml");

    #[test]
    fn the_example_is_right_and_shows_every_default() {
        let path = Path::new("sip-proxy.toml");
        let config: Config = dialtone_daemon::config::parse(path, EXAMPLE).expect("the example");
        assert_eq!(config.domains[0], "dialtone.test");
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
        let all: Config = dialtone_daemon::config::parse(path, &all).expect("all keys");
        assert!(all.edge.udp.is_some() && all.edge.tcp.is_some() && all.location_db.is_some());
        let default = Registration::default();
        assert_eq!(format!("{:?}", all.registration), format!("{default:?}"));
        assert_eq!(
            format!("{:?}", all.auth),
            format!("{:?}", Auth { realm: all.auth.realm.clone(), ..Auth::default() })
        );
        assert_eq!(
            format!("{:?}", all.media),
            format!("{:?}", Media { pool: all.media.pool.clone(), ..Media::default() })
        );
        assert!(config.media.settings().is_none(), "off by default");
        assert_eq!(
            format!("{:?}", all.conference),
            format!(
                "{:?}",
                Conference { pool: all.conference.pool.clone(), ..Conference::default() }
            )
        );
        assert!(config.conference.settings().is_none(), "off by default");
        assert_eq!(all.conference.settings(), Some(ConferenceSettings::default()));
        assert_eq!(all.media.settings(), Some(MediaSettings::default()));
        assert!(all.auth.settings(&all.domains).is_none(), "off by default");
        let auth = Auth { required: true, ..Auth::default() }.settings(&all.domains);
        let auth = auth.expect("switched on");
        assert_eq!((&*auth.realm, auth.algorithms.len()), ("dialtone.test", 2));
        assert_eq!(all.admin_addr(), config.admin_addr());
    }

    #[test]
    fn mistakes_are_named_with_their_key() {
        let broken = EXAMPLE
            .replace("address = \"127.0.0.41\"", "address = \"0.0.0.0\"")
            .replace("registrars = [\"127.0.0.1\"", "registrars = [\"nowhere\"");
        let error = dialtone_daemon::config::parse::<Config>(Path::new("x.toml"), &broken)
            .expect_err("refused")
            .to_string();
        assert!(error.contains("key address") && error.contains("key registrars[0]"), "{error}");
        let both =
            EXAMPLE.replace("location_dir = ", "location_credentials = \"/x\"\nlocation_dir = ");
        let error = dialtone_daemon::config::parse::<Config>(Path::new("x.toml"), &both);
        let error = error.expect_err("refused").to_string();
        assert!(error.contains("key location_dir"), "{error}");
        let servers =
            both.lines().filter(|line| !line.starts_with("location_dir")).collect::<Vec<_>>();
        let servers =
            dialtone_daemon::config::parse::<Config>(Path::new("x.toml"), &servers.join("\n"));
        assert!(servers.expect("servers").location_credentials.is_some());
        let broken = format!(
            "{EXAMPLE}\n[auth]\nalgorithms = [\"MD5\", \"SHA-1\", \"md5\"]\nrealm = \"a\\\"\"\nwindow = 0\n"
        );
        let error = dialtone_daemon::config::parse::<Config>(Path::new("x.toml"), &broken)
            .expect_err("refused")
            .to_string();
        for key in ["auth.algorithms[1]", "auth.algorithms[2]", "auth.realm", "auth.window"] {
            assert!(error.contains(&format!("key {key}")), "{key}: {error}");
        }
        let broken = format!("{EXAMPLE}\n[media]\npool = \"\"\nanswer_within_ms = 5\n");
        let error = dialtone_daemon::config::parse::<Config>(Path::new("x.toml"), &broken)
            .expect_err("refused")
            .to_string();
        for key in ["media.pool", "media.answer_within_ms"] {
            assert!(error.contains(&format!("key {key}")), "{key}: {error}");
        }
        let broken = format!(
            "{EXAMPLE}\n[conference]\npool = \"\"\nprefix = \"conf \"\nlease = 1\nmax_rooms = 0\n"
        );
        let error = dialtone_daemon::config::parse::<Config>(Path::new("x.toml"), &broken)
            .expect_err("refused")
            .to_string();
        for key in ["pool", "prefix", "lease", "max_rooms"] {
            assert!(error.contains(&format!("key conference.{key}")), "{key}: {error}");
        }
        let misspelt = format!("{EXAMPLE}\n[media]\nwithout_relay = \"drop\"\n");
        assert!(dialtone_daemon::config::parse::<Config>(Path::new("x.toml"), &misspelt).is_err());
    }
}
