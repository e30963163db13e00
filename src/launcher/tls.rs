//! Secure mode on one machine: an authority in the launcher's folder, a certificate for every process, and who may
//! register where.
//!
//! The authority stays; certificates are made anew whenever a configuration is written, since addresses may be others.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use dialtone_cert::{Authority, Paths, Request};

use super::{Error, Launcher, daemons::MAX_OF_A_KIND};

const AUTHORITY_DAYS: u32 = 3_650;
const DAYS: u32 = 365;

/// Files of one process.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub authority: PathBuf,
}

impl TlsFiles {
    /// As options of tools.
    pub fn options(&self) -> Vec<String> {
        let option = |name: &str, path: &Path| format!("--tls-{name}={}", path.display());
        vec![
            option("certificate", &self.certificate),
            option("key", &self.key),
            option("authority", &self.authority),
        ]
    }
}

/// A certificate for a process of this name; for a registrar, if it has an address.
pub(super) fn issue(
    folder: &Path,
    name: &str,
    registrar: Option<IpAddr>,
) -> Result<TlsFiles, Error> {
    let failed = |error: dialtone_cert::Error| Error::Certificates(error.to_string());
    let folder = folder.join("tls");
    let authority = match Authority::open(&folder) {
        Err(dialtone_cert::Error::NoAuthority { .. }) => Authority::create(&folder, AUTHORITY_DAYS),
        other => other,
    };
    let authority = authority.map_err(failed)?;
    for ending in ["pem", "key"] {
        let path = folder.join(format!("{name}.{ending}"));
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Error::File { path, source });
            }
            _ => {}
        }
    }
    let request = match registrar {
        Some(ip) => Request::registrar(name, ip, DAYS),
        None => Request::new(name, DAYS),
    };
    let Paths { certificate, key } =
        authority.issue(&request).and_then(|issued| issued.write(&folder, name)).map_err(failed)?;
    Ok(TlsFiles { certificate, key, authority: Authority::path(&folder) })
}

/// Who may register in which pool: the servers of each kind in theirs, and what the layout grants beside that.
pub(super) fn access(launcher: &Launcher) -> BTreeMap<String, Vec<String>> {
    let numbered =
        |kind: &str| (1..=MAX_OF_A_KIND).map(|n| format!("{kind}-{n}")).collect::<Vec<_>>();
    let mut databases = numbered("location-db");
    databases.push("location-db".to_owned());
    let mut access: BTreeMap<String, Vec<String>> = [
        ("conference", numbered("conference")),
        ("location-db", databases.clone()),
        ("location-db-begun", databases.clone()),
        ("location-db-waiting", databases),
        ("media-relay", numbered("media-relay")),
        ("sip-edge-tcp", numbered("sip-gateway")),
        ("sip-edge-udp", numbered("sip-gateway")),
        ("sip-gateway", numbered("sip-gateway")),
        ("sip-proxy", numbered("sip-proxy")),
    ]
    .map(|(pool, names)| (pool.to_owned(), names))
    .into();
    for (pool, name) in &launcher.layout.grants {
        access.entry(pool.clone()).or_default().push(name.clone());
    }
    access
}
