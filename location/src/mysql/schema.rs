//! The tables, whose they are, and which version.
//!
//! | table | what |
//! |---|---|
//! | `meta` | one row: that this is a location database, its version, and what all writers line up for |
//! | `writers` | one row for each process that writes: the last sequence number that it used, and its last transaction |
//! | `bindings` | one row for each binding, and for each one that was removed and is still remembered |
//! | `changes` | which bindings each transaction has changed, for those who follow; for two minutes |
//! | `claims` | names that belong to one element at a time |
//! | `credentials` | what users must know; removed users stay, so that followers see it |
//!
//! Keys of bindings and claims may be longer than what an index takes, so rows are found by the first 16 bytes of the
//! SHA-256 of the exact text (`aor_id`, `key_id`, `name_id`). `stamp` is another number for every version of a row.
//! Times are milliseconds since 1970.
//!
//! `bindings` has no other index: a registration that is refreshed every few minutes would change each of them every
//! time, at every node, which costs as much again as the row itself. Followers find changes through `changes`, what has
//! ended is found by going round the table in parts.
//!
//! Every transaction that writes begins with `UPDATE meta SET revision = revision + 1`. That row is the lock of the
//! whole database: writers of one node wait there for each other, and a cluster lets only one of two transactions pass
//! that were under way at different nodes at the same time. So what a transaction has seen stays true until it is
//! committed, for rows that do not exist yet as well, which row locks and certification alone would not give.

use super::connect::{Connection, Fault};
use super::sql::{self, number, text};
use super::{ADMIN_PATIENCE, Error};
use crate::record::WriterId;

/// `meta.application`.
const APPLICATION: &str = "dialtone location";
const VERSION: u32 = 1;

const META: &str = "CREATE TABLE IF NOT EXISTS meta (\
    id TINYINT UNSIGNED NOT NULL PRIMARY KEY, \
    application VARCHAR(64) NOT NULL, \
    version INT UNSIGNED NOT NULL, \
    revision BIGINT UNSIGNED NOT NULL COMMENT 'transactions so far; the lock of all writers', \
    credential_revision BIGINT UNSIGNED NOT NULL COMMENT 'the highest in credentials')";

const TABLES: [(&str, &str); 5] = [
    (
        "writers",
        "CREATE TABLE IF NOT EXISTS writers (\
        id INT UNSIGNED NOT NULL PRIMARY KEY COMMENT 'pool element identifier', \
        sequence BIGINT UNSIGNED NOT NULL COMMENT 'the last one used in bindings', \
        token BIGINT UNSIGNED NOT NULL COMMENT 'names its last transaction', \
        changed_at BIGINT UNSIGNED NOT NULL COMMENT 'the highest it has written in bindings')",
    ),
    (
        "bindings",
        "CREATE TABLE IF NOT EXISTS bindings (\
        aor_id BINARY(16) NOT NULL COMMENT 'of SHA-256(aor)', \
        key_id BINARY(16) NOT NULL COMMENT 'of SHA-256(key)', \
        aor MEDIUMTEXT NOT NULL, \
        `key` MEDIUMTEXT NOT NULL COMMENT 'contact, flow, or * for a removal of everything', \
        contact MEDIUMTEXT NOT NULL, \
        params MEDIUMTEXT NOT NULL, \
        q SMALLINT UNSIGNED NOT NULL COMMENT 'thousandths', \
        expires_at BIGINT UNSIGNED NOT NULL, \
        lifetime INT UNSIGNED NOT NULL COMMENT 'seconds, 0 for a removal', \
        call_id MEDIUMTEXT NOT NULL, \
        cseq INT UNSIGNED NOT NULL, \
        user_agent MEDIUMTEXT NOT NULL, \
        received MEDIUMTEXT NOT NULL, \
        path MEDIUMTEXT NOT NULL, \
        gateway INT UNSIGNED NOT NULL, \
        flow_token MEDIUMTEXT NOT NULL, \
        instance MEDIUMTEXT NOT NULL, \
        reg_id INT UNSIGNED NOT NULL, \
        writer INT UNSIGNED NOT NULL, \
        sequence BIGINT UNSIGNED NOT NULL, \
        changed_at BIGINT UNSIGNED NOT NULL, \
        deleted_at BIGINT UNSIGNED, \
        purge_at BIGINT UNSIGNED NOT NULL COMMENT 'may be forgotten then', \
        stamp BIGINT UNSIGNED NOT NULL, \
        PRIMARY KEY (aor_id, key_id))",
    ),
    (
        "changes",
        "CREATE TABLE IF NOT EXISTS changes (\
        writer INT UNSIGNED NOT NULL, \
        sequence BIGINT UNSIGNED NOT NULL COMMENT 'of the writer, after the transaction', \
        former BIGINT UNSIGNED NOT NULL COMMENT 'the same before it', \
        aor_ids LONGBLOB NOT NULL COMMENT 'of the bindings, 16 bytes each', \
        written_at BIGINT UNSIGNED NOT NULL COMMENT 'by the clock of the node', \
        PRIMARY KEY (writer, sequence), \
        KEY changes_age (written_at))",
    ),
    (
        "claims",
        "CREATE TABLE IF NOT EXISTS claims (\
        name_id BINARY(16) NOT NULL PRIMARY KEY COMMENT 'of SHA-256(name)', \
        name MEDIUMTEXT NOT NULL, \
        owner INT UNSIGNED NOT NULL COMMENT '0 when it was given up', \
        generation BIGINT UNSIGNED NOT NULL, \
        lease_until BIGINT UNSIGNED NOT NULL, \
        stamp BIGINT UNSIGNED NOT NULL)",
    ),
    (
        "credentials",
        "CREATE TABLE IF NOT EXISTS credentials (\
        user VARCHAR(256) NOT NULL, \
        realm VARCHAR(255) NOT NULL, \
        ha1_md5 BINARY(16), \
        ha1_sha256 BINARY(32), \
        revision BIGINT UNSIGNED NOT NULL, \
        removed BOOLEAN NOT NULL, \
        PRIMARY KEY (user, realm), \
        KEY credentials_changes (revision))",
    ),
];

/// nopad: a space at the end makes another text.
const STORED_AS: &str =
    " ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET utf8mb4 COLLATE utf8mb4_nopad_bin";

/// Makes what is missing and a row for this writer; an error if the database is not ours.
pub(crate) async fn prepare(
    connection: &mut Connection,
    database: &str,
    writer: WriterId,
) -> Result<(), Failure> {
    let existing = connection
        .query(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()",
            ADMIN_PATIENCE,
        )
        .await?;
    let existing: Vec<Box<str>> = sql::only(existing)?
        .into_iter()
        .map(|mut row| text(&mut row, 0))
        .collect::<Result<_, _>>()?;
    let has = |table: &str| existing.iter().any(|name| **name == *table);
    let node = connection.node.address;
    if !has("meta") && !existing.is_empty() {
        let found = format!("it has tables, as {}, but no table meta", existing[0]);
        return Err(Error::ForeignDatabase { node, database: database.to_owned(), found }.into());
    }
    if !has("meta") {
        connection.query(&format!("{META}{STORED_AS}"), ADMIN_PATIENCE).await?;
    }
    let read = "SELECT application, version FROM meta WHERE id = 1";
    // Somebody else's table of that name has other columns.
    let foreign = |fault: Fault| match fault {
        Fault::Server { code: sql::BAD_FIELD, message } => Failure::Final(Error::ForeignDatabase {
            node,
            database: database.to_owned(),
            found: message,
        }),
        fault => fault.into(),
    };
    let mut meta = sql::only(connection.query(read, ADMIN_PATIENCE).await.map_err(foreign)?)?;
    if meta.is_empty() {
        let insert = format!(
            "INSERT IGNORE INTO meta (id, application, version, revision, credential_revision) \
             VALUES (1, '{APPLICATION}', {VERSION}, 0, 0)"
        );
        connection.query(&insert, ADMIN_PATIENCE).await?;
        meta = sql::only(connection.query(read, ADMIN_PATIENCE).await?)?;
    }
    let Some(mut row) = meta.pop() else {
        return Err(Fault::Odd("its meta table stays empty".to_owned()).into());
    };
    let application = text(&mut row, 0)?;
    let found: u32 = number(&row, 1)?;
    if *application != *APPLICATION {
        let found = format!("meta says {application:?}");
        return Err(Error::ForeignDatabase { node, database: database.to_owned(), found }.into());
    }
    if found != VERSION {
        let (database, known) = (database.to_owned(), VERSION);
        return Err(Error::DatabaseVersion { node, database, found, known }.into());
    }
    // Asked first: in a cluster such a statement stops everybody for a moment, even if it changes nothing.
    for (name, create) in TABLES {
        if !has(name) {
            connection.query(&format!("{create}{STORED_AS}"), ADMIN_PATIENCE).await?;
        }
    }
    let insert = format!(
        "INSERT IGNORE INTO writers (id, sequence, token, changed_at) VALUES ({}, 0, 0, 0)",
        writer.0
    );
    connection.query(&insert, ADMIN_PATIENCE).await?;
    Ok(())
}

/// Why a database cannot be used: for good, or at this node and now.
#[derive(Debug)]
pub(crate) enum Failure {
    Final(Error),
    Passing(Fault),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Passing(fault)
    }
}
