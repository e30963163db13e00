//! The words of the command line: transports, policies, checks, durations.

use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use dialtone_location::{
    mysql::ClientFile,
    opaque::{DatabaseName, machine_id},
};
use dialtone_wire::{Policy, Transport};

/// Where users reach the server: `tcp:HOST:PORT`, `udp:HOST:PORT` or `sqlite:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// A database file of this machine; absolute.
    Sqlite(PathBuf),
    Tcp(SocketAddr),
    Udp(SocketAddr),
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("tcp", host)) => local_address(host).map(Self::Tcp),
            Some(("udp", host)) => local_address(host).map(Self::Udp),
            Some(("sqlite", path)) => absolute(path).map(Self::Sqlite),
            _ => Err("use tcp:HOST:PORT, udp:HOST:PORT or sqlite:PATH".to_owned()),
        }
    }
}

impl Service {
    /// The host and port, if it has them.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Sqlite(_) => None,
            Self::Tcp(address) | Self::Udp(address) => Some(*address),
        }
    }

    /// The transport parameter of the element (RFC 5354 sections 3.2, 3.3 and 3.7).
    pub fn transport(&self) -> Result<Transport<'static>, dialtone_location::Error> {
        Ok(match self {
            Self::Sqlite(path) => {
                // Machines without an identity of their own get one beside the database.
                let machine = machine_id(&path.with_file_name("machine-id"))?;
                let name = DatabaseName { machine: machine.into(), path: path.clone() };
                Transport::Opaque(name.encode().into())
            }
            Self::Tcp(address) => Transport::Tcp { port: address.port(), addr: address.ip() },
            Self::Udp(address) => Transport::Udp { port: address.port(), addr: address.ip() },
        })
    }
}

/// Reads HOST:PORT and demands that it is an address of this machine: an element registers from where it serves.
fn local_address(text: &str) -> Result<SocketAddr, String> {
    let found: Vec<SocketAddr> = text
        .to_socket_addrs()
        .map_err(|error| format!("{text}: {error}; use HOST:PORT"))?
        .collect();
    if found.iter().any(|address| address.port() == 0) {
        return Err("port 0; name the port that the server listens at".to_owned());
    }
    if found.iter().any(|address| address.ip().is_unspecified() || address.ip().is_multicast()) {
        return Err(format!(
            "{text} names no single address; use the one that the server's users should connect to"
        ));
    }
    found.into_iter().find(|address| is_local(address.ip())).ok_or_else(|| {
        format!(
            "{text} is not an address of this machine; run the sidecar on the server's own machine \
             (`ip address` lists the addresses here)"
        )
    })
}

/// Whether sockets can be bound to it.
pub fn is_local(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

fn absolute(path: &str) -> Result<PathBuf, String> {
    if path.is_empty() {
        return Err("no path after sqlite:".to_owned());
    }
    let path = Path::new(path);
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder =
        folder.canonicalize().map_err(|error| format!("folder {}: {error}", folder.display()))?;
    match path.file_name() {
        Some(name) => Ok(folder.join(name)),
        None => Err(format!("{} names no file", path.display())),
    }
}

/// Reads a policy of RFC 5356: `rr`, `wrr:WEIGHT`, `rand`, `wrand:WEIGHT`, `prio:PRIORITY`, `lu:LOAD`, `rlu:LOAD`,
/// `lud:LOAD:DEGRADATION` or `plu:LOAD:DEGRADATION`; LOAD and DEGRADATION are percentages (`30%`) or fractions of
/// 4294967295.
pub fn parse_policy(text: &str) -> Result<Policy<'static>, String> {
    let number = |text: &str, what: &str| {
        text.parse::<u32>()
            .map_err(|_| format!("{what} {text:?}; use an integer from 0 to 4294967295"))
    };
    let part = |text: &str, what: &str| match text.strip_suffix('%') {
        None => number(text, what),
        Some(percent) => match percent.parse::<u32>() {
            Ok(percent @ 0..=100) => Ok((u64::from(u32::MAX) * u64::from(percent) / 100) as u32),
            _ => Err(format!("{what} {text:?}; use 0% to 100%")),
        },
    };
    let load = |text: &str| part(text, "load");
    let degradation = |text: &str| part(text, "degradation");
    let mut parts = text.splitn(3, ':');
    Ok(match (parts.next().unwrap_or_default(), parts.next(), parts.next()) {
        ("rr", None, None) => Policy::RoundRobin,
        ("rand", None, None) => Policy::Random,
        ("wrr", Some(weight), None) => {
            Policy::WeightedRoundRobin { weight: number(weight, "weight")? }
        }
        ("wrand", Some(weight), None) => {
            Policy::WeightedRandom { weight: number(weight, "weight")? }
        }
        ("prio", Some(priority), None) => {
            Policy::Priority { priority: number(priority, "priority")? }
        }
        ("lu", Some(text), None) => Policy::LeastUsed { load: load(text)? },
        ("rlu", Some(text), None) => Policy::RandomizedLeastUsed { load: load(text)? },
        ("lud", Some(text), Some(more)) => {
            Policy::LeastUsedDegradation { load: load(text)?, degradation: degradation(more)? }
        }
        ("plu", Some(text), Some(more)) => {
            Policy::PriorityLeastUsed { load: load(text)?, degradation: degradation(more)? }
        }
        _ => return Err(format!("use {POLICIES}")),
    })
}

const POLICIES: &str = "rr, wrr:WEIGHT, rand, wrand:WEIGHT, prio:PRIORITY, lu:LOAD, rlu:LOAD, lud:LOAD:DEGRADATION or \
                        plu:LOAD:DEGRADATION";

/// How the server's health is found out: `tcp`, `sip`, `ng`, `sqlite:PATH`, `mysql:FILE` or `galera:FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// A node of a cluster; who the client is stands in the file.
    Galera(ClientFile),
    /// A MariaDB server alone.
    Mysql(ClientFile),
    /// A media relay, at the address where it is reached unless it has another one for checks.
    Ng(Option<SocketAddr>),
    Sip,
    Sqlite(PathBuf),
    Tcp,
}

impl FromStr for CheckKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "tcp" => Ok(Self::Tcp),
            None if text == "sip" => Ok(Self::Sip),
            None if text == "ng" => Ok(Self::Ng(None)),
            Some(("ng", host)) => local_address(host).map(Some).map(Self::Ng),
            Some(("sqlite", path)) => absolute(path).map(Self::Sqlite),
            Some(("galera", path)) => client(path).map(Self::Galera),
            Some(("mysql", path)) => client(path).map(Self::Mysql),
            _ => {
                Err("use tcp, sip, ng, ng:HOST:PORT, sqlite:PATH, mysql:FILE or galera:FILE"
                    .to_owned())
            }
        }
    }
}

fn client(path: &str) -> Result<ClientFile, String> {
    ClientFile::read(Path::new(path)).map_err(|error| error.to_string())
}

/// Reads `200ms`, `5s` or a bare number of milliseconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?}; use a number with its unit, such as 200ms or 5s");
    if let Some(ms) = text.strip_suffix("ms") {
        ms.parse().map(Duration::from_millis).map_err(|_| wrong())
    } else if let Some(s) = text.strip_suffix('s') {
        s.parse().map(Duration::from_secs).map_err(|_| wrong())
    } else {
        text.parse().map(Duration::from_millis).map_err(|_| wrong())
    }
}

/// A pause between checks that leaves the next check time to succeed before the last one is too old.
pub fn parse_check_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text)?;
    if (Duration::from_millis(20)..=Duration::from_millis(400)).contains(&interval) {
        Ok(interval)
    } else {
        Err(format!(
            "{text} is out of range; use 20ms to 400ms: a check older than 500ms does not count"
        ))
    }
}

/// How long a server may take to stop.
pub fn parse_grace(text: &str) -> Result<Duration, String> {
    let grace = parse_duration(text)?;
    if grace <= Duration::from_secs(3600) {
        Ok(grace)
    } else {
        Err(format!("{text} is out of range; use 0s to 3600s"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services() {
        let tcp = |text: &str| Service::Tcp(text.parse().unwrap());
        assert_eq!("tcp:127.0.0.9:5".parse(), Ok(tcp("127.0.0.9:5")));
        assert_eq!("udp:[::1]:5".parse(), Ok(Service::Udp("[::1]:5".parse().unwrap())));
        assert_eq!(
            "sqlite:/tmp/x.db".parse(),
            Ok(Service::Sqlite(PathBuf::from("/tmp").canonicalize().unwrap().join("x.db")))
        );
        for (wrong, advice) in [
            ("tcp:203.0.113.7:5060", "not an address of this machine"),
            ("tcp:0.0.0.0:5060", "names no single address"),
            ("tcp:127.0.0.1:0", "port 0"),
            ("tcp:127.0.0.1", "use HOST:PORT"),
            ("sctp:127.0.0.1:5", "use tcp:HOST:PORT"),
            ("sqlite:/no/such/folder/x.db", "folder /no/such/folder"),
            ("", "use tcp:HOST:PORT"),
        ] {
            let error = wrong.parse::<Service>().unwrap_err();
            assert!(error.contains(advice), "{wrong}: {error}");
        }
    }

    #[test]
    fn checks() {
        assert_eq!("ng".parse(), Ok(CheckKind::Ng(None)));
        let address = "127.0.0.9:2223".parse().unwrap();
        assert_eq!("ng:127.0.0.9:2223".parse(), Ok(CheckKind::Ng(Some(address))));
        for (wrong, advice) in [
            ("ng:127.0.0.1", "use HOST:PORT"),
            ("ng:127.0.0.1:0", "port 0"),
            ("udp", "use tcp, sip, ng"),
        ] {
            let error = wrong.parse::<CheckKind>().unwrap_err();
            assert!(error.contains(advice), "{wrong}: {error}");
        }
    }

    #[test]
    fn policies() {
        assert_eq!(parse_policy("rr"), Ok(Policy::RoundRobin));
        assert_eq!(parse_policy("wrr:3"), Ok(Policy::WeightedRoundRobin { weight: 3 }));
        assert_eq!(parse_policy("lu:100%"), Ok(Policy::LeastUsed { load: u32::MAX }));
        assert_eq!(parse_policy("lu:7"), Ok(Policy::LeastUsed { load: 7 }));
        assert_eq!(parse_policy("wrand:2"), Ok(Policy::WeightedRandom { weight: 2 }));
        assert_eq!(parse_policy("rlu:0%"), Ok(Policy::RandomizedLeastUsed { load: 0 }));
        let (load, degradation) = (7, u32::MAX);
        assert_eq!(
            parse_policy("lud:7:100%"),
            Ok(Policy::LeastUsedDegradation { load, degradation })
        );
        assert_eq!(parse_policy("plu:7:100%"), Ok(Policy::PriorityLeastUsed { load, degradation }));
        for wrong in
            ["", "wrr", "wrr:-1", "lu:101%", "rr:1", "best", "lud:1", "plu:1:101%", "lu:1:2"]
        {
            assert!(parse_policy(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(parse_check_interval("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(parse_check_interval("50"), Ok(Duration::from_millis(50)));
        assert_eq!(parse_grace("5s"), Ok(Duration::from_secs(5)));
        for wrong in ["1s", "10ms", "x", "", "200 m"] {
            assert!(parse_check_interval(wrong).is_err(), "{wrong}");
        }
    }
}
