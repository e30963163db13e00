//! The `[tls]` section of the configuration: secure mode.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use dialtone_daemon::{Checked, Problems};
use dialtone_handlespace::Handle;
use dialtone_transport::tls::TlsConfig;
use dialtone_transport::{ASAP_TLS_PORT, ENRP_TLS_PORT};
use serde::Deserialize;

use crate::core::{Access, Security};

/// Stands for every pool.
const EVERY_POOL: &str = "*";

/// Keys of the section. All files are PEM.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSettings {
    /// Own certificate, and those between it and the authority's after it.
    pub certificate: PathBuf,
    /// The key of the own certificate.
    pub key: PathBuf,
    /// Certificates of the authorities that everybody has theirs from.
    pub authority: PathBuf,
    /// DNS names of registrars; absent: the certificate of a peer has to name the address in `peers`.
    #[serde(default)]
    pub registrar_names: Vec<String>,
    /// TCP port of elements and users.
    #[serde(default = "default_port")]
    pub port: u16,
    /// TCP port of the other registrars.
    #[serde(default = "default_enrp_port")]
    pub enrp_port: u16,
    /// Users without a certificate get answers at `tcp_port`.
    #[serde(default)]
    pub plain_resolutions: bool,
    /// Who may register: pool, and names of certificates.
    pub access: BTreeMap<String, Vec<String>>,
}

fn default_port() -> u16 {
    ASAP_TLS_PORT
}

fn default_enrp_port() -> u16 {
    ENRP_TLS_PORT
}

impl Checked for TlsSettings {
    fn check(&self, problems: &mut Problems) {
        for (key, port, usual) in
            [("port", self.port, ASAP_TLS_PORT), ("enrp_port", self.enrp_port, ENRP_TLS_PORT)]
        {
            if port == 0 {
                problems.add(key, "nobody can find port 0", format_args!("use {usual}"));
            }
        }
        if self.access.is_empty() {
            problems.add(
                "access",
                "it lets nobody register",
                "name who may, like sip-proxy = [\"proxy-1.example.org\"]",
            );
        }
        for (pool, names) in &self.access {
            if pool != EVERY_POOL
                && let Err(error) = pool.parse::<Handle>()
            {
                problems.add(
                    &format!("access.{pool}"),
                    error,
                    "use a pool handle, or \"*\" for all",
                );
            }
            for (index, name) in names.iter().enumerate() {
                if name.is_empty() || !name.is_ascii() {
                    problems.add(
                        &format!("access.{pool}[{index}]"),
                        format_args!("{name:?} stands in no certificate"),
                        "use a DNS name in its ASCII form, or a URI",
                    );
                }
            }
        }
    }
}

impl TlsSettings {
    /// What the transport is told; `peers` are the other registrars.
    pub(crate) fn config(&self, peers: Vec<IpAddr>) -> TlsConfig {
        TlsConfig {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            authority: self.authority.clone(),
            registrar_names: self.registrar_names.clone(),
            peers,
        }
    }

    /// What the core is told.
    pub(crate) fn security(&self) -> Security {
        let mut access = Access::default();
        for (pool, names) in &self.access {
            if pool == EVERY_POOL {
                access.grant(None, names.iter().cloned());
            } else if let Ok(pool) = pool.parse() {
                access.grant(Some(pool), names.iter().cloned());
            }
        }
        Security { access, plain_resolutions: self.plain_resolutions }
    }

    pub(crate) fn asap(&self, address: IpAddr) -> SocketAddr {
        SocketAddr::new(address, self.port)
    }

    pub(crate) fn enrp(&self, address: IpAddr) -> SocketAddr {
        SocketAddr::new(address, self.enrp_port)
    }
}
