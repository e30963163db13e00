//! The daemon's configuration file. `packaging/examples/sip-gateway.toml` is its commented form.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use dialtone_asap_client::{TlsConfig, parse_registrar};
use dialtone_daemon::{Checked, Problems};
use serde::Deserialize;

use crate::core::{Bounds, Choice};

/// Keys of the configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How this gateway calls itself in the ready file and in logs.
    #[serde(default = "default_name")]
    pub name: String,
    /// Address and TCP port for proxies and other gateways. Not the wildcard: it is registered. Port 0 takes a free one.
    pub core: SocketAddr,
    /// Address and port for phones, UDP and TCP. Port 0 takes a free one, the same for both.
    pub edge: SocketAddr,
    /// What phones use to reach `edge`, when that is another address: a public one, or the machine's own when `edge` is
    /// the wildcard.
    pub advertised: Option<SocketAddr>,
    /// Registrars: `[sctp:|tcp:]ADDRESS[:PORT]`.
    pub registrars: Vec<String>,
    /// Secure mode towards registrars: own certificate, and whom to trust.
    pub tls: Option<TlsConfig>,
    /// File with the keys that sign tokens; the same for all gateways and proxies. Created when it is not there.
    pub key_file: PathBuf,
    /// A folder of its own: element identifiers.
    pub data_dir: PathBuf,
    /// Where the admin interface listens; absent: port 9090 of `core`.
    pub admin: Option<SocketAddr>,
    /// How proxies are chosen.
    #[serde(default)]
    pub choice: Choice,
    /// How long a request waits for a proxy when there is none, in milliseconds.
    #[serde(default = "default_wait")]
    pub wait_ms: u64,
    /// How often UDP pinholes of registered phones are refreshed, in seconds.
    #[serde(default = "default_keep_alive")]
    pub keep_alive_s: u64,
    /// Bounds.
    #[serde(default)]
    pub limits: Limits,
}

/// Bounds of what a gateway remembers and takes.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections of phones at a time.
    pub connections: usize,
    /// Seconds after which a phone's connection without a byte is closed.
    pub idle_s: u64,
    /// Requests of phones that wait for an answer.
    pub legs: usize,
    /// Deliveries towards phones, including those answered in the last 32 s.
    pub deliveries: usize,
    /// Dialog records.
    pub dialogs: usize,
    /// Phones whose UDP pinhole is kept open.
    pub pinholes: usize,
    /// Messages per second from one IP address; 0: no bound.
    pub per_source: u32,
    /// Server transactions at which new requests of phones are refused; over UDP each lives for 32 s after its answer.
    pub transactions: usize,
    /// Longest message in bytes.
    pub message: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let Bounds { deliveries, dialogs, legs, message, pinholes, per_source, transactions } =
            Bounds::default();
        Self {
            connections: 20_000,
            idle_s: 3_600,
            legs,
            deliveries,
            dialogs,
            pinholes,
            per_source,
            transactions,
            message,
        }
    }
}

impl Limits {
    pub(crate) fn bounds(&self) -> Bounds {
        let Self { legs, deliveries, dialogs, pinholes, per_source, transactions, message, .. } =
            *self;
        Bounds { deliveries, dialogs, legs, message, pinholes, per_source, transactions }
    }
}

impl Checked for Limits {
    fn check(&self, problems: &mut Problems) {
        problems.in_range("connections", self.connections, 1..=1_000_000);
        problems.in_range("idle_s", self.idle_s, 10..=86_400);
        problems.in_range("legs", self.legs, 1..=10_000_000);
        problems.in_range("deliveries", self.deliveries, 1..=10_000_000);
        problems.in_range("dialogs", self.dialogs, 1..=10_000_000);
        problems.in_range("pinholes", self.pinholes, 1..=10_000_000);
        problems.in_range("transactions", self.transactions, 100..=10_000_000);
        problems.in_range("message", self.message, 4_096..=1_000_000);
    }
}

impl Checked for Config {
    fn check(&self, problems: &mut Problems) {
        if self.core.ip().is_unspecified() {
            problems.add("core", "the wildcard address", "name the address that proxies reach");
        }
        match self.advertised {
            None if self.edge.ip().is_unspecified() => {
                problems.add(
                    "edge",
                    "the wildcard address",
                    "name the address that phones reach in `advertised`",
                );
            }
            Some(advertised) if advertised.ip().is_unspecified() => {
                problems.add(
                    "advertised",
                    "the wildcard address",
                    "name the address that phones reach",
                );
            }
            _ => {}
        }
        if self.name.is_empty() {
            problems.add("name", "empty", "give this gateway a name");
        }
        if self.registrars.is_empty() {
            problems.add(
                "registrars",
                "no registrar",
                "name at least one, for example [\"127.0.0.1\"]",
            );
        }
        for (number, registrar) in self.registrars.iter().enumerate() {
            if let Err(error) = parse_registrar(registrar) {
                problems.add(
                    &format!("registrars[{number}]"),
                    error,
                    "use [sctp:|tcp:]ADDRESS[:PORT]",
                );
            }
        }
        problems.in_range("wait_ms", self.wait_ms, 0..=10_000);
        problems.in_range("keep_alive_s", self.keep_alive_s, 5..=600);
        problems.section("limits", &self.limits);
    }
}

impl Config {
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin.unwrap_or(SocketAddr::new(self.core.ip(), 9090))
    }

    pub(crate) fn wait(&self) -> Duration {
        Duration::from_millis(self.wait_ms)
    }

    pub(crate) fn keep_alive(&self) -> Duration {
        Duration::from_secs(self.keep_alive_s)
    }
}

fn default_name() -> String {
    "sip-gateway".to_owned()
}

const fn default_wait() -> u64 {
    2_000
}

const fn default_keep_alive() -> u64 {
    25
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const EXAMPLE: &str = include_str!("../../packaging/examples/sip-gateway.toml");

    fn parse(text: &str) -> Result<Config, String> {
        dialtone_daemon::config::parse(Path::new("sip-gateway.toml"), text)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_example_names_every_key_and_its_default() {
        let plain = parse(EXAMPLE).unwrap();
        // What is commented out is the default, or an example where there is none.
        let all: String = EXAMPLE
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if !rest.starts_with(' ') && !rest.is_empty() => rest,
                _ => line,
            })
            .map(|line| format!("{line}\n"))
            .collect();
        let all = parse(&all).unwrap();
        assert!(all.advertised.is_some() && all.admin.is_some() && all.tls.is_some());
        let without = |config: &Config| {
            let config = Config { advertised: None, admin: None, tls: None, ..config.clone() };
            format!("{config:?}")
        };
        assert_eq!(without(&plain), without(&all));
    }

    #[test]
    fn what_is_wrong_is_named_with_what_would_be_right() {
        for (from, to, expected) in [
            (
                "core = \"127.0.0.1:5070\"",
                "core = \"0.0.0.0:5070\"",
                "key core: the wildcard address",
            ),
            ("[\"127.0.0.1\"]", "[\"nowhere\"]", "key registrars[0]:"),
            ("#keep_alive_s = 25", "keep_alive_s = 1", "use 5 to 600"),
            ("edge =", "egde =", "egde"),
        ] {
            assert!(EXAMPLE.contains(from), "{from}");
            let error = parse(&EXAMPLE.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
