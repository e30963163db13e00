//! The data folder: created, proved writable, locked against a second process.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::fcntl::{Flock, FlockArg};

/// The data folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataDirError {
    #[error("cannot create the data folder {} (key {key}): {source}; choose a folder that this user may write", path.display())]
    Create { path: PathBuf, key: String, source: io::Error },
    #[error("the data folder {} (key {key}) is in use by another process; give each process its own", path.display())]
    Locked { path: PathBuf, key: String },
    #[error("the data folder {} (key {key}) cannot be written: {source}; choose a folder that this user may write", path.display())]
    NotWritable { path: PathBuf, key: String, source: io::Error },
}

/// A folder that this process alone keeps its state in, until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: Arc<Flock<File>>,
}

impl DataDir {
    /// Creates the folder if need be (mode 0700), proves that it can be written and locks it.
    /// `key` is the configuration key that `path` came from.
    pub fn open(path: &Path, key: &str) -> Result<Self, DataDirError> {
        let key = key.to_owned();
        if !path.is_dir() {
            fs::create_dir_all(path)
                .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o700)))
                .map_err(|source| DataDirError::Create {
                    path: path.to_owned(),
                    key: key.clone(),
                    source,
                })?;
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join(".lock"));
        match lock.map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock)) {
            Ok(Ok(lock)) => Ok(Self { path: path.to_owned(), _lock: Arc::new(lock) }),
            Ok(Err(_)) => Err(DataDirError::Locked { path: path.to_owned(), key }),
            Err(source) => Err(DataDirError::NotWritable { path: path.to_owned(), key, source }),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Replaces the file at `path` by one rename, so that no reader sees half of it and a crash leaves the old or the new.
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}
