//! Readiness: whether this process is in service, told by `/readyz` and by a file that launchers wait for.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::{Deserialize, Serialize};

use crate::data_dir::write_atomically;

/// The disk is full, which is nobody's mistake in configuring this process.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The ready file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the ready file {}: {source}", path.display())]
pub struct ReadyError {
    path: PathBuf,
    source: io::Error,
}

/// What the ready file says, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyFile {
    pub name: String,
    pub role: String,
    pub pid: u32,
    /// Where this process listens, by purpose: `asap`, `sip-udp`, `sip-tcp`, `sip-core`, `admin` …
    pub addresses: BTreeMap<String, String>,
}

/// Whether the process is in service. Clones share the state.
#[derive(Clone, Debug)]
pub struct Ready {
    role: &'static str,
    file: Option<PathBuf>,
    in_service: Arc<AtomicBool>,
}

impl Ready {
    /// Not in service yet. A file left by an earlier run is removed, so that nobody is misled.
    pub fn new(role: &'static str, file: Option<PathBuf>) -> Self {
        if let Some(file) = &file {
            let _ = std::fs::remove_file(file);
        }
        Self { role, file, in_service: Arc::default() }
    }

    /// In service: `/readyz` answers 200, and the ready file, if one was asked for, appears by one rename.
    /// May be called again (when service is regained, or addresses changed).
    pub fn in_service<K: Into<String>, V: Into<String>>(
        &self,
        name: &str,
        addresses: impl IntoIterator<Item = (K, V)>,
    ) -> Result<(), ReadyError> {
        self.in_service.store(true, Ordering::Release);
        let addresses: BTreeMap<String, String> =
            addresses.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        tracing::info!(name, role = self.role, ?addresses, "in service");
        let Some(path) = &self.file else { return Ok(()) };
        let content = ReadyFile {
            name: name.to_owned(),
            role: self.role.to_owned(),
            pid: std::process::id(),
            addresses,
        };
        let written = serde_json::to_vec_pretty(&content)
            .map_err(io::Error::other)
            .and_then(|json| write_atomically(path, &json, 0o644))
            .map_err(|source| ReadyError { path: path.clone(), source });
        match written {
            // Whoever waits for the file waits on; all others are served.
            Err(error) if is_full(&error.source) => {
                tracing::error!("{error}; service begins without it");
                Ok(())
            }
            written => written,
        }
    }

    /// `/readyz` answers 503 from now on.
    pub fn out_of_service(&self) {
        self.in_service.store(false, Ordering::Release);
    }

    /// Whether the process is in service.
    pub fn is_in_service(&self) -> bool {
        self.in_service.load(Ordering::Acquire)
    }
}
