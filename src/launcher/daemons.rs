//! The configuration of each daemon: names, addresses in the slice, TOML files.
//!
//! Registrar n is at 127.X.Y.n, gateway n's core at .(20+n), proxy n at .(40+n), sidecars from .60 on, relay n at
//! .(130+n), conference server n at .(150+n). Registrars have the standard ports: UDP 9899 (SCTP), TCP 3863 (ASAP); relays
//! have UDP 2223 (NG). Admin HTTP is TCP 9090 of each daemon's own address.

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::Path,
    time::Duration,
};

use super::{Error, Launcher, TlsFiles, galera, tls};

/// The port of everybody's admin server.
pub(super) const ADMIN_PORT: u16 = 9090;

/// The port of everybody's core listener.
const CORE_PORT: u16 = 5060;

/// As many fit below the proxies' addresses.
const MAX_GATEWAYS: u8 = 19;

/// Nothing has more servers.
pub(super) const MAX_OF_A_KIND: u8 = 19;

/// As many fit above the first media port, see [`media_ports`].
const MAX_RELAYS: u8 = 19;

/// Media ports where relays share an address: the first, and how many each relay has.
const FIRST_MEDIA_PORT: u16 = 20_000;
const MEDIA_PORTS: u16 = 2_000;

/// The same of conference servers, below: as many fit.
const FIRST_CONFERENCE_PORT: u16 = 10_000;
const CONFERENCE_PORTS: u16 = 1_000;
const MAX_CONFERENCES: u8 = 10;

/// Media ports of a relay or conference server that has an address of its own.
const OWN_MEDIA_PORTS: RangeInclusive<u16> = 20_000..=59_999;

/// Participants whom a conference server takes by default.
const MOST_PARTICIPANTS: usize = 2_000;

/// Seconds that a relay's calls may go on when it is stopped: nobody waits for the end of a call here.
const DRAIN: u64 = 1;

/// The host number of the location database's sidecar.
const LOCATION_DB: u8 = 60;

/// What all configurations have in common.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Registrars announce themselves by multicast, too.
    pub announce: bool,
    /// Users need a password: the algorithms that proxies offer, as their configuration has them.
    pub auth: Option<Vec<String>>,
    /// Conference servers. 0: proxies look for none.
    pub conferences: u8,
    /// Participants whom a conference server takes. `None`: 2,000, or as many as it has ports for.
    pub conference_participants: Option<u32>,
    /// Threads of a conference server that mix. `None`: as many as there are processors.
    pub conference_workers: Option<u32>,
    /// Participants of conferences send media to the servers, even if other calls have relays.
    pub direct_conferences: bool,
    /// The domain whose users are served, besides localhost and the gateways' own addresses.
    pub domain: String,
    /// Where phones reach the gateways.
    pub edge_address: IpAddr,
    /// The edge port of gateway 1; gateway n has it plus 10(n-1). `None`: 5062 of the gateway's address in the slice,
    /// so that tests do not meet each other.
    pub edge_port: Option<u16>,
    /// Where bindings are kept.
    pub location: Location,
    /// How many registrars there are for the others to name.
    pub registrars: u8,
    /// The period of registrars' keep-alives to elements. `None`: the default.
    pub registrars_keep_alive: Option<Duration>,
    /// Registrars take whatever one address sends, since all load comes from there, and as many elements as there are.
    pub registrars_unlimited: bool,
    /// Media relays. 0: proxies use none, and phones send media to each other.
    pub relays: u8,
    /// Calls that a relay may have. `None`: as many as it has ports for.
    pub relay_sessions: Option<u32>,
    /// Threads of a relay that forward packets. `None`: as many as there are processors.
    pub relay_workers: Option<u32>,
    /// Secure mode of the name service, with certificates for all.
    pub secure: bool,
    /// In secure mode: pools and who may register there, besides the servers of the system.
    pub grants: Vec<(String, String)>,
}

/// Where bindings are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Location {
    /// MariaDB nodes, 1 to 5; two get an arbitrator.
    Galera { nodes: u8 },
    /// A file that the proxies share.
    #[default]
    Sqlite,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            announce: false,
            auth: None,
            conferences: 0,
            conference_participants: None,
            conference_workers: None,
            direct_conferences: false,
            domain: "dialtone.test".to_owned(),
            edge_address: Ipv4Addr::LOCALHOST.into(),
            edge_port: None,
            location: Location::default(),
            registrars: 2,
            registrars_keep_alive: None,
            registrars_unlimited: false,
            relays: 0,
            relay_sessions: None,
            relay_workers: None,
            secure: false,
            grants: Vec::new(),
        }
    }
}

impl Layout {
    /// Where gateway `n` has its phones, given its address in the slice.
    pub fn edge(&self, n: u8, own: IpAddr) -> SocketAddr {
        let port = self.edge_port.map_or(5062, |port| port + 10 * u16::from(n - 1));
        SocketAddr::new(self.edge_ip(own), port)
    }

    fn edge_ip(&self, own: IpAddr) -> IpAddr {
        if self.edge_port.is_some() { self.edge_address } else { own }
    }
}

/// A sidecar of a test's own.
#[derive(Clone, Debug)]
pub struct Sidecar {
    pub name: String,
    pub pool: String,
    /// As `--transport` has it.
    pub transport: String,
    /// Further options, such as `--check`.
    pub options: Vec<String>,
    /// The server; empty if it is started by somebody else.
    pub command: Vec<OsString>,
}

pub(super) type Started = Result<(String, Vec<OsString>), Error>;

pub(super) fn registrar(launcher: &Launcher, n: u8) -> Started {
    let name = format!("registrar-ns-{n}");
    let address = launcher.slice.host(n);
    let mut toml = header(&name);
    let peers: Vec<IpAddr> = registrars(launcher).filter(|peer| *peer != address).collect();
    key(&mut toml, "name", &name);
    key(&mut toml, "data_dir", data(launcher, &name));
    key(&mut toml, "address", address);
    key(&mut toml, "admin", SocketAddr::new(address, ADMIN_PORT));
    key(&mut toml, "peers", peers);
    key(&mut toml, "announce", launcher.layout.announce);
    if launcher.layout.registrars_unlimited {
        toml.push_str(
            "max_elements = 10000000\n[limits]\nrequests_per_second = 100000000\n\
             associations_per_address = 1000000\nelements_per_address = 10000000\n\
             elements_per_pool = 10000000\n",
        );
    }
    if let Some(period) = launcher.layout.registrars_keep_alive {
        toml.push_str("[timers]\n");
        key(&mut toml, "keep_alive_ms", period.as_millis() as u64);
    }
    if launcher.layout.secure {
        tls_section(&mut toml, &tls::issue(&launcher.folder, &name, Some(address))?);
        toml.push_str("[tls.access]\n");
        for (pool, names) in tls::access(launcher) {
            key(&mut toml, &pool, names);
        }
    }
    configured(launcher, "registrar-ns", name, &toml)
}

pub(super) fn gateway(launcher: &Launcher, n: u8) -> Started {
    let name = format!("sip-gateway-{n}");
    let address = launcher.slice.host(20 + n);
    let mut toml = common(launcher, &name, address);
    key(&mut toml, "edge", launcher.layout.edge(n, address));
    secured(launcher, &mut toml, &name)?;
    configured(launcher, "sip-gateway", name, &toml)
}

pub(super) fn proxy(launcher: &Launcher, n: u8) -> Started {
    let name = format!("sip-proxy-{n}");
    let address = launcher.slice.host(40 + n);
    let mut toml = common(launcher, &name, address);
    key(&mut toml, "address", address);
    match launcher.layout.location {
        Location::Galera { .. } => {
            key(&mut toml, "location_credentials", text(&galera::credentials(launcher)));
        }
        Location::Sqlite => {
            key(&mut toml, "location_dir", text(&launcher.folder.join("location")));
        }
    }
    let mut domains = vec![launcher.layout.domain.clone(), "localhost".to_owned()];
    // Phones also write the address of the gateway that they use for the domain.
    let edge = |n| launcher.layout.edge_ip(launcher.slice.host(20 + n)).to_string();
    domains.extend((1..=MAX_GATEWAYS).map(edge));
    domains.sort_unstable();
    domains.dedup();
    // The first one is the domain of all users.
    domains.sort_by_key(|domain| *domain != launcher.layout.domain);
    key(&mut toml, "domains", domains);
    if launcher.layout.relays > 0 {
        toml.push_str("[media]\n");
        key(&mut toml, "pool", dialtone_media_relay::POOL);
    }
    if launcher.layout.conferences > 0 {
        toml.push_str("[conference]\n");
        key(&mut toml, "pool", dialtone_conference::POOL);
        if launcher.layout.direct_conferences {
            key(&mut toml, "media", "direct");
        }
    }
    if let Some(algorithms) = &launcher.layout.auth {
        toml.push_str("[auth]\n");
        key(&mut toml, "required", true);
        key(&mut toml, "algorithms", algorithms);
    }
    secured(launcher, &mut toml, &name)?;
    configured(launcher, "sip-proxy", name, &toml)
}

pub(super) fn media_relay(launcher: &Launcher, n: u8) -> Started {
    let name = format!("media-relay-{n}");
    let address = relay_host(launcher, n);
    let (media, ports) = media_ports(launcher, n);
    let mut toml = header(&name);
    key(&mut toml, "name", &name);
    key(&mut toml, "data_dir", data(launcher, &name));
    key(&mut toml, "control", SocketAddr::new(address, dialtone_ng::NG_PORT));
    key(&mut toml, "admin", SocketAddr::new(address, ADMIN_PORT));
    key(&mut toml, "registrars", registrars(launcher).collect::<Vec<_>>());
    if let Some(workers) = launcher.layout.relay_workers {
        key(&mut toml, "workers", workers);
    }
    toml.push_str("[[interface]]\n");
    key(&mut toml, "name", "default");
    key(&mut toml, if media.is_ipv4() { "ipv4" } else { "ipv6" }, media);
    toml.push_str("[ports]\n");
    key(&mut toml, "first", ports.start());
    key(&mut toml, "last", ports.end());
    toml.push_str("[limits]\n");
    // A call needs a pair on either side.
    let room = (ports.len() / 4) as u32;
    key(&mut toml, "sessions", launcher.layout.relay_sessions.unwrap_or(room));
    toml.push_str("[timeouts]\n");
    key(&mut toml, "drain", DRAIN);
    secured(launcher, &mut toml, &name)?;
    configured(launcher, "media-relay", name, &toml)
}

pub(super) fn conference(launcher: &Launcher, n: u8) -> Started {
    let name = format!("conference-{n}");
    let address = conference_host(launcher, n);
    let (media, ports) = conference_ports(launcher, n);
    let mut toml = header(&name);
    key(&mut toml, "name", &name);
    key(&mut toml, "data_dir", data(launcher, &name));
    key(&mut toml, "core", SocketAddr::new(address, CORE_PORT));
    key(&mut toml, "admin", SocketAddr::new(address, ADMIN_PORT));
    key(&mut toml, "registrars", registrars(launcher).collect::<Vec<_>>());
    key(&mut toml, "domain", &launcher.layout.domain);
    toml.push_str("[media]\n");
    key(&mut toml, "address", media);
    key(&mut toml, "first_port", ports.start());
    key(&mut toml, "last_port", ports.end());
    if let Some(workers) = launcher.layout.conference_workers {
        key(&mut toml, "workers", workers);
    }
    toml.push_str("[limits]\n");
    let room = (ports.len() / 2).min(MOST_PARTICIPANTS) as u32;
    let participants = launcher.layout.conference_participants.unwrap_or(room);
    key(&mut toml, "participants", participants);
    secured(launcher, &mut toml, &name)?;
    configured(launcher, "conference", name, &toml)
}

fn conference_host(launcher: &Launcher, n: u8) -> IpAddr {
    launcher.slice.host(150 + n)
}

/// Where conference server `n` has its media, as [`media_ports`] of a relay.
pub(super) fn conference_ports(launcher: &Launcher, n: u8) -> (IpAddr, RangeInclusive<u16>) {
    let own = conference_host(launcher, n);
    let media = launcher.layout.edge_ip(own);
    if media == own {
        return (own, OWN_MEDIA_PORTS);
    }
    let n = u16::from(n.clamp(1, MAX_CONFERENCES)) - 1;
    let first = FIRST_CONFERENCE_PORT + CONFERENCE_PORTS * n;
    (media, first..=first + CONFERENCE_PORTS - 1)
}

fn relay_host(launcher: &Launcher, n: u8) -> IpAddr {
    launcher.slice.host(130 + n)
}

/// Where relay `n` has its media: at the address that phones use. Relays that share one have ports of their own there.
pub(super) fn media_ports(launcher: &Launcher, n: u8) -> (IpAddr, RangeInclusive<u16>) {
    let own = relay_host(launcher, n);
    let media = launcher.layout.edge_ip(own);
    if media == own {
        return (own, OWN_MEDIA_PORTS);
    }
    let first = FIRST_MEDIA_PORT + MEDIA_PORTS * (u16::from(n.clamp(1, MAX_RELAYS)) - 1);
    (media, first..=first + MEDIA_PORTS - 1)
}

/// What gateways and proxies have in common.
fn common(launcher: &Launcher, name: &str, address: IpAddr) -> String {
    let mut toml = header(name);
    key(&mut toml, "name", name);
    key(&mut toml, "data_dir", data(launcher, name));
    key(&mut toml, "key_file", text(&launcher.folder.join("keys")));
    key(&mut toml, "core", SocketAddr::new(address, CORE_PORT));
    key(&mut toml, "admin", SocketAddr::new(address, ADMIN_PORT));
    key(&mut toml, "registrars", registrars(launcher).collect::<Vec<_>>());
    toml
}

pub(super) fn location_db(launcher: &Launcher) -> Started {
    let path = launcher.folder.join("location/location.db");
    let address = launcher.slice.host(LOCATION_DB);
    let sidecar = Sidecar {
        name: "location-db".to_owned(),
        pool: "location-db".to_owned(),
        transport: format!("sqlite:{}", path.display()),
        options: vec![
            format!("--address={address}"),
            format!("--admin={}", SocketAddr::new(address, ADMIN_PORT)),
        ],
        command: Vec::new(),
    };
    self::sidecar(launcher, &sidecar)
}

pub(super) fn sidecar(launcher: &Launcher, sidecar: &Sidecar) -> Started {
    let mut arguments = vec![
        "pool-element".to_owned(),
        format!("--name={}", sidecar.name),
        format!("--pool={}", sidecar.pool),
        format!("--transport={}", sidecar.transport),
        format!("--data-dir={}", data(launcher, &sidecar.name)),
    ];
    arguments.extend(registrars(launcher).map(|registrar| format!("--registrar={registrar}")));
    arguments.extend(sidecar.options.iter().cloned());
    arguments.extend(tls_options(launcher, &sidecar.name)?);
    let mut arguments: Vec<OsString> = arguments.into_iter().map(OsString::from).collect();
    if !sidecar.command.is_empty() {
        arguments.push("--".into());
        arguments.extend(sidecar.command.iter().cloned());
    }
    Ok((sidecar.name.clone(), arguments))
}

/// In secure mode: the certificate of a daemon that dials registrars. The last section of its configuration.
fn secured(launcher: &Launcher, toml: &mut String, name: &str) -> Result<(), Error> {
    if launcher.layout.secure {
        tls_section(toml, &tls::issue(&launcher.folder, name, None)?);
    }
    Ok(())
}

fn tls_section(toml: &mut String, files: &TlsFiles) {
    toml.push_str("[tls]\n");
    key(toml, "certificate", text(&files.certificate));
    key(toml, "key", text(&files.key));
    key(toml, "authority", text(&files.authority));
}

/// The same for a process without a configuration file.
pub(super) fn tls_options(launcher: &Launcher, name: &str) -> Result<Vec<String>, Error> {
    if !launcher.layout.secure {
        return Ok(Vec::new());
    }
    let files = tls::issue(&launcher.folder, name, None)?;
    Ok(files.options())
}

pub(super) fn registrars(launcher: &Launcher) -> impl Iterator<Item = IpAddr> + '_ {
    (1..=launcher.layout.registrars).map(|n| launcher.slice.host(n))
}

fn data(launcher: &Launcher, name: &str) -> String {
    text(&launcher.folder.join(name))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn header(name: &str) -> String {
    format!("# {name}: written by the launcher; changes are overwritten.\n")
}

/// Strings and arrays of strings look the same in JSON and TOML.
fn key(toml: &mut String, name: &str, value: impl serde::Serialize) {
    if let Ok(value) = serde_json::to_string(&value) {
        let _ = writeln!(toml, "{name} = {value}");
    }
}

fn configured(launcher: &Launcher, subcommand: &str, name: String, toml: &str) -> Started {
    let path = launcher.folder.join("run").join(format!("{name}.toml"));
    fs::write(&path, toml).map_err(|source| Error::File { path: path.clone(), source })?;
    Ok((name, vec![subcommand.into(), "--config".into(), path.into()]))
}
