//! Records to rows and back.

use std::sync::LazyLock;

use rusqlite::{Connection, Row, named_params};

use crate::record::{BindingKey, Record, Version, WriterId};

pub(crate) const COLUMNS: &str = "aor, key, contact, params, q, expires_at, lifetime, call_id, cseq, user_agent, \
     received, path, gateway, flow_token, instance, reg_id, writer, sequence, changed_at, deleted_at";

pub(crate) fn read(row: &Row<'_>) -> rusqlite::Result<Record> {
    let text =
        |index: usize| -> rusqlite::Result<Box<str>> { Ok(row.get_ref(index)?.as_str()?.into()) };
    let number = |index: usize| -> rusqlite::Result<u64> { Ok(row.get::<_, i64>(index)? as u64) };
    Ok(Record {
        aor: text(0)?,
        key: BindingKey::stored(row.get_ref(1)?.as_str()?),
        contact: text(2)?,
        params: text(3)?,
        q: row.get(4)?,
        expires_at: number(5)?,
        lifetime: row.get(6)?,
        call_id: text(7)?,
        cseq: row.get(8)?,
        user_agent: text(9)?,
        received: text(10)?,
        path: text(11)?,
        gateway: row.get(12)?,
        flow_token: text(13)?,
        instance: text(14)?,
        reg_id: row.get(15)?,
        version: Version { writer: WriterId(row.get(16)?), sequence: number(17)? },
        changed_at: number(18)?,
        deleted_at: row.get::<_, Option<i64>>(19)?.map(|at| at as u64),
    })
}

pub(crate) fn of_aor(connection: &Connection, aor: &str) -> rusqlite::Result<Vec<Record>> {
    static SQL: LazyLock<String> =
        LazyLock::new(|| format!("SELECT {COLUMNS} FROM bindings WHERE aor = ?1 ORDER BY key"));
    connection.prepare_cached(&SQL)?.query_map([aor], read)?.collect()
}

/// The newest change, `None` if there is none: reads the whole table.
pub(crate) fn newest(connection: &Connection) -> rusqlite::Result<Option<u64>> {
    let newest: Option<i64> =
        connection.query_row("SELECT max(changed_at) FROM bindings", [], |row| row.get(0))?;
    Ok(newest.map(|newest| newest as u64))
}

/// About the newest change of others than `own`, `None` if there is none: the last one of each.
pub(crate) fn newest_of_others(
    connection: &Connection,
    own: WriterId,
) -> rusqlite::Result<Option<u64>> {
    let newest: Option<i64> = connection
        .prepare_cached(
            "SELECT max((SELECT changed_at FROM bindings WHERE writer = writers.id \
             ORDER BY sequence DESC LIMIT 1)) FROM writers WHERE id <> ?1",
        )?
        .query_row([own.0], |row| row.get(0))?;
    Ok(newest.map(|newest| newest as u64))
}

pub(crate) fn write(connection: &Connection, record: &Record) -> rusqlite::Result<()> {
    const SQL: &str = "INSERT INTO bindings (aor, key, contact, params, q, expires_at, lifetime, call_id, cseq, \
         user_agent, received, path, gateway, flow_token, instance, reg_id, writer, sequence, changed_at, \
         deleted_at, purge_at) \
         VALUES (:aor, :key, :contact, :params, :q, :expires_at, :lifetime, :call_id, :cseq, :user_agent, :received, \
         :path, :gateway, :flow_token, :instance, :reg_id, :writer, :sequence, :changed_at, :deleted_at, :purge_at) \
         ON CONFLICT (aor, key) DO UPDATE SET contact = excluded.contact, params = excluded.params, q = excluded.q, \
         expires_at = excluded.expires_at, lifetime = excluded.lifetime, call_id = excluded.call_id, \
         cseq = excluded.cseq, user_agent = excluded.user_agent, received = excluded.received, path = excluded.path, \
         gateway = excluded.gateway, flow_token = excluded.flow_token, instance = excluded.instance, \
         reg_id = excluded.reg_id, writer = excluded.writer, sequence = excluded.sequence, \
         changed_at = excluded.changed_at, deleted_at = excluded.deleted_at, purge_at = excluded.purge_at";
    connection
        .prepare_cached(SQL)?
        .execute(named_params! {
            ":aor": &*record.aor,
            ":key": record.key.as_str(),
            ":contact": &*record.contact,
            ":params": &*record.params,
            ":q": record.q,
            ":expires_at": record.expires_at as i64,
            ":lifetime": record.lifetime,
            ":call_id": &*record.call_id,
            ":cseq": record.cseq,
            ":user_agent": &*record.user_agent,
            ":received": &*record.received,
            ":path": &*record.path,
            ":gateway": record.gateway,
            ":flow_token": &*record.flow_token,
            ":instance": &*record.instance,
            ":reg_id": record.reg_id,
            ":writer": record.version.writer.0,
            ":sequence": record.version.sequence as i64,
            ":changed_at": record.changed_at as i64,
            ":deleted_at": record.deleted_at.map(|at| at as i64),
            ":purge_at": record.purge_at() as i64,
        })
        .map(drop)
}
