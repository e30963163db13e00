//! Names of database files in an Opaque transport parameter (RFC 5354 section 2.6): `sqlite:<machine id>:<path>`.
//!
//! A file is of use only on its own machine, so the machine's identity is part of the name.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;

/// A database file of one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseName {
    pub machine: Box<str>,
    /// Absolute.
    pub path: PathBuf,
}

impl DatabaseName {
    /// The bytes of the transport parameter.
    pub fn encode(&self) -> Vec<u8> {
        format!("sqlite:{}:{}", self.machine, self.path.display()).into_bytes()
    }

    /// Reads a transport parameter; `None` if it names no database file, or one with a path that is not plain
    /// (relative, or with `..` in it).
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (machine, path) =
            std::str::from_utf8(bytes).ok()?.strip_prefix("sqlite:")?.split_once(':')?;
        let path = PathBuf::from(path);
        let plain = path.is_absolute()
            && !path.components().any(|part| part == std::path::Component::ParentDir);
        (plain && !machine.is_empty()).then(|| Self { machine: machine.into(), path })
    }

    /// Whether this process may open the file: same machine, and below `folder`.
    pub fn is_usable(&self, machine: &str, folder: &Path) -> bool {
        *self.machine == *machine && self.path.starts_with(folder)
    }
}

/// The identity of this machine: `/etc/machine-id`; where there is none, as in many containers, that of the running
/// kernel, so that all processes see the same; or else what `fallback` holds; that file is made at first use.
///
/// # Errors
/// [`Error::Io`] with the path if the fallback is needed and can be neither read nor written.
pub fn machine_id(fallback: &Path) -> Result<String, Error> {
    let usable = |text: String| {
        Some(text.trim().to_owned()).filter(|id| !id.is_empty() && !id.contains(':'))
    };
    for path in ["/etc/machine-id", "/proc/sys/kernel/random/boot_id"] {
        if let Some(id) = fs::read_to_string(path).ok().and_then(usable) {
            return Ok(id);
        }
    }
    if let Some(id) = fs::read_to_string(fallback).ok().and_then(usable) {
        return Ok(id);
    }
    let random = || -> std::io::Result<String> {
        let mut bytes = [0u8; 16];
        std::io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut bytes)?;
        let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(fallback, &id)?;
        Ok(id)
    };
    random().map_err(|source| Error::Io { path: fallback.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_refuse_what_is_elsewhere() {
        let name =
            DatabaseName { machine: "cafe01".into(), path: "/var/lib/dialtone/location.db".into() };
        assert_eq!(DatabaseName::decode(&name.encode()), Some(name.clone()));
        assert!(name.is_usable("cafe01", Path::new("/var/lib/dialtone")));
        assert!(!name.is_usable("cafe02", Path::new("/var/lib/dialtone")));
        assert!(!name.is_usable("cafe01", Path::new("/srv")));
        for wrong in [
            "",
            "sqlite:",
            "sqlite::/x",
            "sqlite:a:relative",
            "sqlite:a:/x/../etc/passwd",
            "mysql:a:/x",
        ] {
            assert_eq!(DatabaseName::decode(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(DatabaseName::decode(b"sqlite:a:/\xff"), None);
    }
}
