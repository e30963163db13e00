//! Opening a file: whose it is, which version, and the tables of a new one.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use crate::error::Error;

/// `PRAGMA application_id` of our files: "DiaL".
const APPLICATION_ID: u32 = 0x4469_614C;
const SCHEMA_VERSION: i64 = 2;

const TABLES: &str = "
CREATE TABLE bindings (
    id INTEGER PRIMARY KEY,
    aor TEXT NOT NULL,
    key TEXT NOT NULL,
    contact TEXT NOT NULL,
    params TEXT NOT NULL,
    q INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    lifetime INTEGER NOT NULL,
    call_id TEXT NOT NULL,
    cseq INTEGER NOT NULL,
    user_agent TEXT NOT NULL,
    received TEXT NOT NULL,
    path TEXT NOT NULL,
    gateway INTEGER NOT NULL,
    flow_token TEXT NOT NULL,
    instance TEXT NOT NULL,
    reg_id INTEGER NOT NULL,
    writer INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    deleted_at INTEGER,
    purge_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX bindings_key ON bindings (aor, key);
CREATE UNIQUE INDEX bindings_changes ON bindings (writer, sequence);
CREATE INDEX bindings_purge ON bindings (purge_at);
CREATE TABLE writers (
    id INTEGER PRIMARY KEY,
    sequence INTEGER NOT NULL
) STRICT;
CREATE TABLE claims (
    name TEXT PRIMARY KEY,
    owner INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    lease_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// What version 2 has and version 1 had not; that had a table `credentials` which nobody used.
const CREDENTIALS: &str = "
DROP TABLE IF EXISTS credentials;
CREATE TABLE credentials (
    user TEXT NOT NULL,
    realm TEXT NOT NULL,
    ha1_md5 BLOB,
    ha1_sha256 BLOB,
    revision INTEGER NOT NULL,
    removed INTEGER NOT NULL,
    PRIMARY KEY (user, realm)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX credentials_changes ON credentials (revision);
CREATE TABLE credential_revision (revision INTEGER NOT NULL) STRICT;
INSERT INTO credential_revision (revision) VALUES (0);
";

/// Opens for writing; makes the tables if the file is new, and what is missing if it is old.
pub(crate) fn open_writing(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let explain = |source| explain(path, source);
    // Who can read what users must know can pretend to be them. SQLite gives its other files the same mode. That the file
    // is there already is the usual thing, and what else is wrong SQLite will say.
    let _ = File::options().write(true).create_new(true).mode(0o600).open(path);
    let mut connection = Connection::open_with_flags(path, flags).map_err(explain)?;
    connection.busy_timeout(Duration::from_secs(10)).map_err(explain)?;
    // Look before anything is written: a foreign file stays as it is.
    verify(&connection, path, true)?;
    switch_to_wal(&connection).map_err(explain)?;
    connection
        .execute_batch(
            // NORMAL: no fsync at COMMIT. The writer does it itself, after the lock is released.
            // A million contacts are registered in an order that no index likes: a log that is carried over seldom writes
            // a page once for many rows, and a cache above 2 MB reads it seldom.
            "PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=16000; PRAGMA cache_size=-32768; PRAGMA temp_store=MEMORY;",
        )
        .map_err(explain)?;
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(explain)?;
    // Another process may have been first.
    let found = verify(&transaction, path, true)?;
    if found == 0 {
        transaction.execute_batch(TABLES).map_err(explain)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(explain)?;
    }
    if found < 2 {
        transaction.execute_batch(CREDENTIALS).map_err(explain)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(explain)?;
    }
    transaction.commit().map_err(explain)?;
    Ok(connection)
}

/// The write-ahead log next to a database that is open in this process, which keeps it from being removed.
pub(crate) fn open_log(path: &Path) -> Result<File, Error> {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    let log = PathBuf::from(name);
    // Not the database itself: closing a second descriptor of that would release SQLite's locks on it.
    File::options().write(true).open(&log).map_err(|source| Error::Io { path: log, source })
}

/// Opens for reading; the file must be ours already.
pub(crate) fn open_reading(path: &Path) -> Result<Connection, Error> {
    // Readers of a WAL write to its shared memory, so the file is not opened read-only.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let explain = |source| explain(path, source);
    let connection = Connection::open_with_flags(path, flags).map_err(explain)?;
    connection.busy_timeout(Duration::from_millis(200)).map_err(explain)?;
    verify(&connection, path, false)?;
    connection.execute_batch("PRAGMA query_only=ON; PRAGMA temp_store=MEMORY;").map_err(explain)?;
    Ok(connection)
}

/// The schema's version, 0 for an empty file that may be filled; an error if the file is not ours.
fn verify(connection: &Connection, path: &Path, may_be_new: bool) -> Result<i64, Error> {
    let read = || -> rusqlite::Result<(u32, i64, i64)> {
        // All at one moment: a file that another process is filling belongs to nobody before, and to us afterwards.
        let _moment =
            connection.is_autocommit().then(|| connection.unchecked_transaction()).transpose()?;
        let application: i32 =
            connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        let version = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let tables =
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        Ok((application as u32, version, tables))
    };
    let (found, version, tables) = read().map_err(|source| explain(path, source))?;
    if may_be_new && found == 0 && version == 0 && tables == 0 {
        return Ok(0);
    }
    if found != APPLICATION_ID {
        return Err(Error::Foreign { path: path.to_owned(), found, expected: APPLICATION_ID });
    }
    if !(1..=SCHEMA_VERSION).contains(&version) {
        return Err(Error::Version {
            path: path.to_owned(),
            found: version,
            known: SCHEMA_VERSION,
        });
    }
    Ok(version)
}

/// SQLite does not call its busy handler for this switch, and two processes may start at once.
fn switch_to_wal(connection: &Connection) -> rusqlite::Result<()> {
    let mut tries = 0;
    loop {
        match connection
            .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))
        {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && tries < 500 =>
            {
                tries += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other.map(drop),
        }
    }
}

/// Says what the database's error means for the file.
pub(crate) fn explain(path: &Path, source: rusqlite::Error) -> Error {
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            Error::Damaged { path: path.to_owned(), detail: source.to_string() }
        }
        _ => Error::Database { path: path.to_owned(), source },
    }
}
