//! Secure mode (RFC 5352 section 9, RFC 5353 section 6): TLS 1.3 over TCP, certificates on both sides.
//!
//! DEVIATION(G31): the suite that the RFCs name, RSA key exchange with AES-CBC, and PSK are not offered: TLS 1.3 knows
//! neither, and RFC 8996 and RFC 9325 advise against them. Who owns a certificate of the authority is who a PSK's owner
//! would be.
//!
//! Sessions are never resumed and no early data is taken: every connection proves both sides anew, so nothing that was
//! recorded on one connection means anything on another.

mod limit;
mod verify;

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::model::Protocol;
pub(crate) use limit::{Handshakes, Limits, Seldom};
pub(crate) use verify::identity;
use verify::{Callers, Registrars};

/// Who this process is, and whom it trusts. Files are PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Own certificate, and those between it and the authority's after it.
    pub certificate: PathBuf,
    /// The key of the own certificate.
    pub key: PathBuf,
    /// Certificates of the authorities that registrars, elements and users have theirs from.
    pub authority: PathBuf,
    /// DNS names of registrars: one of them has to stand in a registrar's certificate. Without any, the address that
    /// it is dialled at.
    #[serde(default)]
    pub registrar_names: Vec<String>,
    /// Addresses of the registrars that may be peers, with no names given.
    #[serde(skip)]
    pub peers: Vec<IpAddr>,
}

/// Certificates and keys that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read or is no PEM; `key` is the configuration key that names it.
    #[error("{} (tls.{key}): {problem}", path.display())]
    File { key: &'static str, path: PathBuf, problem: String },
    /// A name of a registrar is none.
    #[error("{name:?} (tls.registrar_names) is no DNS name; use one like \"ns1.example.org\"")]
    Name { name: String },
    /// Certificate and key do not go together.
    #[error("{} (tls.certificate, tls.key): {problem}", path.display())]
    Mismatch { path: PathBuf, problem: String },
}

/// What was loaded, and is loaded again when the files change. Connections that are up keep what they began with.
#[derive(Debug)]
pub struct Tls {
    config: TlsConfig,
    names: Vec<ServerName<'static>>,
    loaded: RwLock<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    prints: Prints,
    client: Arc<ClientConfig>,
    asap: Arc<ServerConfig>,
    enrp: Arc<ServerConfig>,
}

/// By which a changed file is known: inode, size, and time of its last change.
type Prints = [Option<(u64, u64, i64, i64)>; 3];

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn load(config: TlsConfig) -> Result<Arc<Self>, TlsError> {
        let name =
            |name: &String| reference(name).ok_or_else(|| TlsError::Name { name: name.clone() });
        let names = config.registrar_names.iter().map(name).collect::<Result<Vec<_>, _>>()?;
        let loaded = read(&config, &names, prints(&config))?;
        Ok(Arc::new(Self { config, names, loaded: RwLock::new(loaded) }))
    }

    /// Reads the files again if they have changed; `true` if new certificates are used from now on. What cannot be
    /// used changes nothing.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn refresh(&self) -> Result<bool, TlsError> {
        let now = prints(&self.config);
        if self.loaded().prints == now {
            return Ok(false);
        }
        let loaded = read(&self.config, &self.names, now)?;
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(true)
    }

    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.loaded().client)
    }

    pub(crate) fn server(&self, protocol: Protocol) -> Arc<ServerConfig> {
        let loaded = self.loaded();
        Arc::clone(match protocol {
            Protocol::Asap => &loaded.asap,
            Protocol::Enrp => &loaded.enrp,
        })
    }

    fn loaded(&self) -> RwLockReadGuard<'_, Loaded> {
        // Replaced as a whole: a panic elsewhere leaves it whole.
        self.loaded.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A DNS name that registrars are known by. RFC 5352 section 9.2: names are compared with names, and international ones
/// in their ASCII form.
fn reference(name: &str) -> Option<ServerName<'static>> {
    let ascii =
        if name.is_ascii() { name.to_owned() } else { idna::domain_to_ascii_strict(name).ok()? };
    ServerName::try_from(ascii).ok().filter(|name| matches!(name, ServerName::DnsName(_)))
}

fn prints(config: &TlsConfig) -> Prints {
    [&config.certificate, &config.key, &config.authority].map(|path| {
        let found = fs::metadata(path).ok()?;
        Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
    })
}

fn read(
    config: &TlsConfig,
    names: &[ServerName<'static>],
    prints: Prints,
) -> Result<Loaded, TlsError> {
    let chain = certificates("certificate", &config.certificate)?;
    keep_secret(&config.key)?;
    let key = PrivateKeyDer::from_pem_file(&config.key)
        .map_err(|error| unreadable("key", &config.key, &error, "no private key in it"))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates("authority", &config.authority)? {
        roots.add(certificate).map_err(|error| TlsError::File {
            key: "authority",
            path: config.authority.clone(),
            problem: error.to_string(),
        })?;
    }
    let roots = Arc::new(roots);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let registrars = Registrars::new(Arc::clone(&roots), names.to_vec(), &provider);
    let mismatch = |problem: &dyn std::fmt::Display| TlsError::Mismatch {
        path: config.certificate.clone(),
        problem: problem.to_string(),
    };

    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| mismatch(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(registrars.clone()))
        .with_client_auth_cert(chain.clone(), key.clone_key())
        .map_err(|error| mismatch(&error))?;
    client.resumption = Resumption::disabled();

    let any = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(|error| mismatch(&error))?;
    let server = |callers: Callers| -> Result<Arc<ServerConfig>, TlsError> {
        let mut server =
            ServerConfig::builder_with_provider(Arc::<CryptoProvider>::clone(&provider))
                .with_protocol_versions(&[&TLS13])
                .map_err(|error| mismatch(&error))?
                .with_client_cert_verifier(Arc::new(callers))
                .with_single_cert(chain.clone(), key.clone_key())
                .map_err(|error| mismatch(&error))?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Arc::new(server))
    };
    Ok(Loaded {
        prints,
        client: Arc::new(client),
        asap: server(Callers::anybody(Arc::clone(&any)))?,
        enrp: server(Callers::registrars(any, registrars, config.peers.clone()))?,
    })
}

/// Who can read a registrar's key can change every pool. A group of the machine's may, as it is usual for keys.
fn keep_secret(path: &Path) -> Result<(), TlsError> {
    // That it cannot be read is said by who reads it.
    let Ok(found) = fs::metadata(path) else { return Ok(()) };
    if found.is_file() && found.mode() & 0o007 != 0 {
        let problem = format!(
            "its mode is {:04o}: everybody on this machine can use the key; chmod 0600 (or 0640)",
            found.mode() & 0o7777
        );
        return Err(TlsError::File { key: "key", path: path.to_owned(), problem });
    }
    Ok(())
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |error: &pem::Error| unreadable(key, path, error, "no certificate in it");
    let all = CertificateDer::pem_file_iter(path)
        .map_err(|error| unreadable(&error))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unreadable(&error))?;
    if all.is_empty() { Err(unreadable(&pem::Error::NoItemsFound)) } else { Ok(all) }
}

fn unreadable(key: &'static str, path: &Path, error: &pem::Error, nothing: &str) -> TlsError {
    let problem = match error {
        pem::Error::NoItemsFound => nothing.to_owned(),
        pem::Error::Io(error) => error.to_string(),
        other => other.to_string(),
    };
    TlsError::File { key, path: path.to_owned(), problem }
}
