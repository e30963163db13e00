//! Opening a file: whose it is, which version, and the tables of a new one.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use crate::error::Error;

/// `PRAGMA application_id` of our files: "DiaL".
const APPLICATION_ID: u32 = 0x4469_614C;
const SCHEMA_VERSION: i64 = 1;

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
CREATE TABLE credentials (
    user TEXT NOT NULL,
    realm TEXT NOT NULL,
    ha1_md5 TEXT NOT NULL,
    ha1_sha256 TEXT NOT NULL,
    PRIMARY KEY (user, realm)
) STRICT, WITHOUT ROWID;
";

/// Opens for writing; makes the tables if the file is new.
pub(crate) fn open_writing(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let explain = |source| explain(path, source);
    let mut connection = Connection::open_with_flags(path, flags).map_err(explain)?;
    connection.busy_timeout(Duration::from_secs(10)).map_err(explain)?;
    // Look before anything is written: a foreign file stays as it is.
    verify(&connection, path, true)?;
    switch_to_wal(&connection).map_err(explain)?;
    connection
        .execute_batch(
            "PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=4000; PRAGMA temp_store=MEMORY;",
        )
        .map_err(explain)?;
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(explain)?;
    // Another process may have been first.
    if verify(&transaction, path, true)? {
        transaction.execute_batch(TABLES).map_err(explain)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(explain)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(explain)?;
    }
    transaction.commit().map_err(explain)?;
    Ok(connection)
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

/// Whether the file is empty and may be filled; an error if it is not ours.
fn verify(connection: &Connection, path: &Path, may_be_new: bool) -> Result<bool, Error> {
    let read = || -> rusqlite::Result<(u32, i64, i64)> {
        let application: i32 =
            connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        let version = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let tables =
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        Ok((application as u32, version, tables))
    };
    let (found, version, tables) = read().map_err(|source| explain(path, source))?;
    if may_be_new && found == 0 && version == 0 && tables == 0 {
        return Ok(true);
    }
    if found != APPLICATION_ID {
        return Err(Error::Foreign { path: path.to_owned(), found, expected: APPLICATION_ID });
    }
    if version != SCHEMA_VERSION {
        return Err(Error::Version {
            path: path.to_owned(),
            found: version,
            known: SCHEMA_VERSION,
        });
    }
    Ok(false)
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
