//! The authority, in a folder or in memory, and what it issues.

use std::{
    fmt,
    fs::{self, DirBuilder, OpenOptions},
    io::{ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _,
};
use ring::digest::{SHA256, digest};

use crate::{Error, Request};

const CERTIFICATE: &str = "authority.pem";
const KEY: &str = "authority.key";

/// Who issues certificates that registrars, elements and users trust.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate and its key, PEM.
#[derive(Clone)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// Where a certificate and its key were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// A new one, in memory only. Its own name and time of life are those of `request`'s time.
    ///
    /// # Errors
    /// [`Error::Make`].
    pub fn new(days: u32) -> Result<Self, Error> {
        let key = KeyPair::generate()?;
        let validity = Request::new("", days);
        let mut params = params(&key);
        params.not_before = validity.not_before.into();
        params.not_after = validity.not_after.into();
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// A new one, kept in `dir`: `authority.pem`, which everybody may read, and `authority.key`, mode 0600.
    ///
    /// # Errors
    /// [`Error::Exists`] if there is one already; [`Error::File`].
    pub fn create(dir: &Path, days: u32) -> Result<Self, Error> {
        make_dir(dir)?;
        let authority = Self::new(days)?;
        let (certificate, key) = (dir.join(CERTIFICATE), dir.join(KEY));
        write_pair(
            &certificate,
            &authority.certificate,
            &key,
            &authority.issuer.key().serialize_pem(),
        )?;
        Ok(authority)
    }

    /// The one that was created in `dir`.
    ///
    /// # Errors
    /// [`Error::NoAuthority`], [`Error::File`], [`Error::Key`].
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let read = |path: PathBuf| match fs::read_to_string(&path) {
            Ok(text) => Ok(text),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(Error::NoAuthority { dir: dir.to_owned() })
            }
            Err(source) => Err(Error::File { path, source }),
        };
        let certificate = read(dir.join(CERTIFICATE))?;
        let key = KeyPair::from_pem(&read(dir.join(KEY))?)
            .map_err(|source| Error::Key { path: dir.join(KEY), source })?;
        Ok(Self { issuer: Issuer::new(params(&key), key), certificate })
    }

    /// Its own certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Where [`Authority::create`] keeps its own certificate.
    pub fn path(dir: &Path) -> PathBuf {
        dir.join(CERTIFICATE)
    }

    /// Makes a key and a certificate for it.
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::Make`].
    pub fn issue(&self, request: &Request) -> Result<Issued, Error> {
        let key = KeyPair::generate()?;
        let certificate = request.params()?.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { certificate, key: key.serialize_pem() })
    }
}

impl Issued {
    /// Writes `NAME.pem` and, mode 0600, `NAME.key` into `dir`.
    ///
    /// # Errors
    /// [`Error::Exists`] if either is there; nothing was written then. [`Error::File`].
    pub fn write(&self, dir: &Path, name: &str) -> Result<Paths, Error> {
        make_dir(dir)?;
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let name: String = name.chars().map(plain).collect();
        let paths = Paths {
            certificate: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}.key")),
        };
        write_pair(&paths.certificate, &self.certificate, &paths.key, &self.key)?;
        Ok(paths)
    }
}

/// Follows from the key alone, so that the key is all that an authority has to remember.
fn params(key: &KeyPair) -> CertificateParams {
    let print = digest(&SHA256, &key.subject_public_key_info());
    let print: String = print.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Dialtone authority {print}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn make_dir(dir: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| Error::File { path: dir.to_owned(), source })
}

/// Neither is written if one of them exists.
fn write_pair(
    certificate: &Path,
    certificate_pem: &str,
    key: &Path,
    key_pem: &str,
) -> Result<(), Error> {
    if key.exists() {
        return Err(Error::Exists { path: key.to_owned() });
    }
    write_new(certificate, certificate_pem, 0o644)?;
    write_new(key, key_pem, 0o600)
}

fn write_new(path: &Path, content: &str, mode: u32) -> Result<(), Error> {
    let written = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(content.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|source| match source.kind() {
        ErrorKind::AlreadyExists => Error::Exists { path: path.to_owned() },
        _ => Error::File { path: path.to_owned(), source },
    })
}
