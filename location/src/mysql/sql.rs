//! Records as SQL text, and rows as records.
//!
//! Statements are sent as text, since one packet has to carry a whole transaction. Text is escaped by the client
//! library under a fixed `sql_mode` and character set; what is no text is written as a number or in hexadecimal.

use std::fmt::Write;
use std::sync::LazyLock;

use mysql_async::{Row, Value};

use super::connect::Fault;
use crate::claim::Claim;
use crate::credential::Credential;
use crate::record::{BindingKey, Record, Version, WriterId};

/// `ER_BAD_FIELD_ERROR`.
pub(crate) const BAD_FIELD: u16 = 1054;

/// The clock of the node, milliseconds since 1970.
pub(crate) const NOW: &str = "FLOOR(UNIX_TIMESTAMP(NOW(3)) * 1000)";

/// As [`record`] reads them.
pub(crate) const COLUMNS: &str = "aor, `key`, contact, params, q, expires_at, lifetime, call_id, cseq, user_agent, \
     received, path, gateway, flow_token, instance, reg_id, writer, sequence, changed_at, deleted_at";

/// The first bytes of a SHA-256: as good as the text itself to find a row by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id(pub(crate) [u8; 16]);

impl Id {
    pub(crate) fn of(text: &str) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&digest.as_ref()[..16]);
        Self(id)
    }

    /// What stands one behind the other.
    pub(crate) fn list(value: Option<Value>) -> Vec<Self> {
        let Some(Value::Bytes(bytes)) = value else { return Vec::new() };
        bytes.chunks_exact(16).filter_map(|id| id.try_into().ok().map(Self)).collect()
    }

    /// What `HEX()` says.
    pub(crate) fn from_hex(value: Option<&Value>) -> Option<Self> {
        let Some(Value::Bytes(digits)) = value else { return None };
        if digits.len() != 32 {
            return None;
        }
        let mut id = [0; 16];
        for (byte, pair) in id.iter_mut().zip(digits.chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(id))
    }

    pub(crate) fn push(self, sql: &mut String) {
        push_hex(sql, &self.0);
    }
}

/// Ids as a list for `IN`.
pub(crate) fn push_ids<'a>(sql: &mut String, ids: impl IntoIterator<Item = &'a Id>) {
    sql.push('(');
    for (index, id) in ids.into_iter().enumerate() {
        if index > 0 {
            sql.push(',');
        }
        id.push(sql);
    }
    sql.push(')');
}

pub(crate) fn push_hex(sql: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    sql.push_str("X'");
    for byte in bytes {
        sql.push(DIGITS[usize::from(byte >> 4)] as char);
        sql.push(DIGITS[usize::from(byte & 15)] as char);
    }
    sql.push('\'');
}

/// A string literal.
pub(crate) fn push_text(sql: &mut String, text: &str) {
    // Most need no escape, and the library copies twice.
    if text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'\'' | b'"' | b'\\')) {
        sql.push('\'');
        sql.push_str(text);
        sql.push('\'');
    } else {
        sql.push_str(&Value::Bytes(text.as_bytes().to_vec()).as_sql(false));
    }
}

/// A statement that writes these records, new or known.
pub(crate) fn push_bindings<'a>(
    sql: &mut String,
    rows: impl IntoIterator<Item = (&'a (Id, Id), &'a Record)>,
) {
    static UPDATE: LazyLock<String> = LazyLock::new(|| {
        let columns = COLUMNS
            .split(", ")
            .chain(["stamp", "purge_at"])
            .filter(|name| !["aor", "`key`"].contains(name));
        let set: Vec<String> = columns.map(|name| format!("{name}=VALUES({name})")).collect();
        format!(" ON DUPLICATE KEY UPDATE {}", set.join(","))
    });
    let _ =
        write!(sql, "INSERT INTO bindings (aor_id, key_id, {COLUMNS}, stamp, purge_at) VALUES ");
    for (index, ((aor_id, key_id), record)) in rows.into_iter().enumerate() {
        sql.push_str(if index == 0 { "(" } else { ",(" });
        aor_id.push(sql);
        sql.push(',');
        key_id.push(sql);
        let text = |sql: &mut String, text: &str| {
            sql.push(',');
            push_text(sql, text);
        };
        text(sql, &record.aor);
        text(sql, record.key.as_str());
        text(sql, &record.contact);
        text(sql, &record.params);
        let _ = write!(sql, ",{},{},{}", record.q, record.expires_at, record.lifetime);
        text(sql, &record.call_id);
        let _ = write!(sql, ",{}", record.cseq);
        text(sql, &record.user_agent);
        text(sql, &record.received);
        text(sql, &record.path);
        let _ = write!(sql, ",{}", record.gateway);
        text(sql, &record.flow_token);
        text(sql, &record.instance);
        let Version { writer, sequence } = record.version;
        let _ = write!(sql, ",{},{},{sequence},{},", record.reg_id, writer.0, record.changed_at);
        match record.deleted_at {
            Some(at) => _ = write!(sql, "{at}"),
            None => sql.push_str("NULL"),
        }
        let _ = write!(sql, ",{},{})", stamp(record.version), record.purge_at());
    }
    sql.push_str(&UPDATE);
}

/// Another number for every version of a row: sums of them tell whether rows are still those that were read.
pub(crate) fn stamp(version: Version) -> u64 {
    // The finisher of splitmix64, over both numbers.
    let mix = |mut x: u64| {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    mix(version
        .sequence
        .wrapping_add(mix(u64::from(version.writer.0).wrapping_add(0x9e37_79b9_7f4a_7c15))))
}

/// A row of [`COLUMNS`].
pub(crate) fn record(row: &mut Row) -> Result<Record, Fault> {
    Ok(Record {
        aor: text(row, 0)?,
        key: BindingKey::stored(&text(row, 1)?),
        contact: text(row, 2)?,
        params: text(row, 3)?,
        q: number(row, 4)?,
        expires_at: number(row, 5)?,
        lifetime: number(row, 6)?,
        call_id: text(row, 7)?,
        cseq: number(row, 8)?,
        user_agent: text(row, 9)?,
        received: text(row, 10)?,
        path: text(row, 11)?,
        gateway: number(row, 12)?,
        flow_token: text(row, 13)?,
        instance: text(row, 14)?,
        reg_id: number(row, 15)?,
        version: Version { writer: WriterId(number(row, 16)?), sequence: number(row, 17)? },
        changed_at: number(row, 18)?,
        deleted_at: nullable(row, 19)?,
    })
}

/// A row of name, owner, generation, lease_until, stamp.
pub(crate) fn claim(row: &mut Row) -> Result<(Claim, u64), Fault> {
    let claim = Claim {
        name: text(row, 0)?,
        owner: number(row, 1)?,
        generation: number(row, 2)?,
        lease_until: number(row, 3)?,
    };
    Ok((claim, number(row, 4)?))
}

/// As [`credential`] reads them.
pub(crate) const CREDENTIAL_COLUMNS: &str = "user, realm, ha1_md5, ha1_sha256, revision, removed";

pub(crate) fn credential(row: &mut Row) -> Result<Credential, Fault> {
    fn hash<const N: usize>(row: &Row, index: usize) -> Result<Option<[u8; N]>, Fault> {
        match row.as_ref(index) {
            Some(Value::NULL) => Ok(None),
            Some(Value::Bytes(bytes)) => {
                bytes.as_slice().try_into().map(Some).map_err(|_| Fault::odd_column(index))
            }
            _ => Err(Fault::odd_column(index)),
        }
    }
    Ok(Credential {
        user: text(row, 0)?,
        realm: text(row, 1)?,
        ha1_md5: hash(row, 2)?,
        ha1_sha256: hash(row, 3)?,
        revision: number(row, 4)?,
        removed: number::<u8>(row, 5)? != 0,
    })
}

pub(crate) fn text(row: &mut Row, index: usize) -> Result<Box<str>, Fault> {
    match row.take(index) {
        Some(Value::Bytes(bytes)) => String::from_utf8(bytes)
            .map(String::into_boxed_str)
            .map_err(|_| Fault::odd_column(index)),
        _ => Err(Fault::odd_column(index)),
    }
}

pub(crate) fn number<T: TryFrom<u64>>(row: &Row, index: usize) -> Result<T, Fault> {
    nullable(row, index)?
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| Fault::odd_column(index))
}

pub(crate) fn nullable(row: &Row, index: usize) -> Result<Option<u64>, Fault> {
    match row.as_ref(index) {
        Some(Value::NULL) => Ok(None),
        Some(Value::Bytes(bytes)) => std::str::from_utf8(bytes)
            .ok()
            .and_then(|digits| digits.parse().ok())
            .map(Some)
            .ok_or_else(|| Fault::odd_column(index)),
        _ => Err(Fault::odd_column(index)),
    }
}

/// The rows of a statement that has one result.
pub(crate) fn only(sets: Vec<Vec<Row>>) -> Result<Vec<Row>, Fault> {
    sets.into_iter().next().ok_or_else(|| Fault::Odd("an answer without rows".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_whatever_it_is() {
        let literal = |text: &str| {
            let mut sql = String::new();
            push_text(&mut sql, text);
            sql
        };
        assert_eq!(literal("sip:a@1"), "'sip:a@1'");
        assert_eq!(literal("a'b\\\n\0\""), r#"'a\'b\\\n\0\"'"#);
        assert_eq!(literal("'; DROP TABLE bindings; --"), r"'\'; DROP TABLE bindings; --'");
        assert_eq!(literal("Grüße"), "'Grüße'");
    }

    #[test]
    fn stamps_differ() {
        let stamps: std::collections::BTreeSet<u64> = (0..100)
            .flat_map(|writer| {
                (0..100).map(move |sequence| Version { writer: WriterId(writer), sequence })
            })
            .map(stamp)
            .collect();
        assert_eq!(stamps.len(), 10_000);
    }
}
