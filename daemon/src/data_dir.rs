//! The data folder: created, proved writable, locked against a second process, and the small files kept in it.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::fcntl::{Flock, FlockArg};
use ring::rand::SecureRandom;

/// The data folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataDirError {
    #[error("cannot create the data folder {} (key {key}): {source}; choose a folder that this user may write", path.display())]
    Create { path: PathBuf, key: String, source: io::Error },
    #[error("{}: {text}; remove the file to have a new one made", path.display())]
    Damaged { path: PathBuf, text: String },
    #[error("the data folder {} (key {key}) is in use by another process; give each process its own", path.display())]
    Locked { path: PathBuf, key: String },
    #[error("the data folder {} (key {key}) cannot be written: {source}; choose a folder that this user may write", path.display())]
    NotWritable { path: PathBuf, key: String, source: io::Error },
    #[error("no randomness from the operating system")]
    Randomness,
    #[error("{}: {source}", path.display())]
    Store { path: PathBuf, source: io::Error },
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

    /// This process's element identifier in a pool: 32 bits, random at first, the same ever after, never 0.
    /// `pool` becomes part of a file name; bytes that file names dislike are replaced.
    pub fn element_id(&self, pool: &str) -> Result<u32, DataDirError> {
        let safe = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '_' };
        let path =
            self.path.join(format!("element-id.{}", pool.chars().map(safe).collect::<String>()));
        let damaged =
            |text: &str| DataDirError::Damaged { path: path.clone(), text: text.to_owned() };
        match fs::read_to_string(&path) {
            Ok(text) => match u32::from_str_radix(text.trim().trim_start_matches("0x"), 16) {
                Ok(0) => Err(damaged("an element identifier is never 0")),
                Ok(id) => Ok(id),
                Err(_) => Err(damaged("holds no element identifier of up to 8 hex digits")),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let id = random_id()?;
                write_atomically(&path, format!("{id:#010x}\n").as_bytes(), 0o600)
                    .map_err(|source| DataDirError::Store { path: path.clone(), source })?;
                Ok(id)
            }
            Err(source) => Err(DataDirError::Store { path: path.clone(), source }),
        }
    }
}

/// A random element identifier, never 0.
pub fn random_id() -> Result<u32, DataDirError> {
    let mut bytes = [0; 4];
    loop {
        ring::rand::SystemRandom::new().fill(&mut bytes).map_err(|_| DataDirError::Randomness)?;
        match u32::from_be_bytes(bytes) {
            0 => {}
            id => return Ok(id),
        }
    }
}

/// Names this machine, so that an element's local path is used only by processes of the same machine.
pub fn machine_id() -> String {
    let mut text = String::new();
    let read =
        File::open("/etc/machine-id").and_then(|file| file.take(64).read_to_string(&mut text));
    match (read, text.trim()) {
        (Ok(_), id) if !id.is_empty() => id.to_owned(),
        // Containers often have none; the boot's identifier serves as long as the machine runs.
        _ => fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map(|id| id.trim().replace('-', ""))
            .unwrap_or_else(|_| "localhost".to_owned()),
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
