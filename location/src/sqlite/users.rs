//! Credentials to rows and back.

use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use crate::credential::{Credential, CredentialChange, CredentialOutcome};
use crate::decide;

const COLUMNS: &str = "user, realm, ha1_md5, ha1_sha256, revision, removed";

/// The revision of the last change that was committed.
pub(crate) fn revision(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT revision FROM credential_revision")?
        .query_row([], |row| row.get::<_, i64>(0))
        .map(|revision| revision as u64)
}

/// Carries a change out; the caller's transaction makes it all or none.
pub(crate) fn change(
    connection: &Connection,
    change: &CredentialChange,
) -> rusqlite::Result<Vec<CredentialOutcome>> {
    let mut revision = revision(connection)?;
    let outcomes = match change {
        CredentialChange::Put(list) => {
            let mut outcomes = Vec::with_capacity(list.len());
            for new in list {
                let old = find(connection, &new.user, &new.realm)?;
                revision += 1;
                let credential = decide::put_credential(new, revision);
                write(connection, &credential)?;
                let existed = old.is_some_and(|old| !old.removed);
                outcomes.push(CredentialOutcome { existed, credential: Some(credential) });
            }
            outcomes
        }
        CredentialChange::Remove { user, realm } => {
            let old = find(connection, user, realm)?;
            let credential = decide::remove_credential(old.as_ref(), revision + 1);
            if let Some(credential) = &credential {
                revision += 1;
                write(connection, credential)?;
            }
            vec![CredentialOutcome { existed: credential.is_some(), credential }]
        }
    };
    connection
        .prepare_cached("UPDATE credential_revision SET revision = ?1")?
        .execute([revision as i64])?;
    Ok(outcomes)
}

/// The changes behind a revision, removals included unless this is the first look; at most `limit`.
pub(crate) fn since(
    connection: &Connection,
    revision: u64,
    removed_too: bool,
    limit: usize,
) -> rusqlite::Result<Vec<Credential>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM credentials WHERE revision > ?1 AND removed <= ?2 ORDER BY revision LIMIT ?3"
    );
    connection
        .prepare_cached(&sql)?
        .query_map(params![revision as i64, removed_too, limit as i64], read)?
        .collect()
}

pub(crate) fn list(
    connection: &Connection,
    after: Option<&(Box<str>, Box<str>)>,
    limit: usize,
) -> rusqlite::Result<Vec<Credential>> {
    // No user has an empty name, so everything is behind this pair.
    let (user, realm) = after.map_or(("", ""), |(user, realm)| (&**user, &**realm));
    let sql = format!(
        "SELECT {COLUMNS} FROM credentials WHERE (user, realm) > (?1, ?2) AND NOT removed \
         ORDER BY user, realm LIMIT ?3"
    );
    connection
        .prepare_cached(&sql)?
        .query_map(params![user, realm, i64::try_from(limit).unwrap_or(i64::MAX)], read)?
        .collect()
}

fn find(connection: &Connection, user: &str, realm: &str) -> rusqlite::Result<Option<Credential>> {
    let sql = format!("SELECT {COLUMNS} FROM credentials WHERE user = ?1 AND realm = ?2");
    connection.prepare_cached(&sql)?.query_row([user, realm], read).optional()
}

fn write(connection: &Connection, credential: &Credential) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO credentials (user, realm, ha1_md5, ha1_sha256, revision, removed) \
             VALUES (:user, :realm, :ha1_md5, :ha1_sha256, :revision, :removed)",
        )?
        .execute(named_params! {
            ":user": &*credential.user,
            ":realm": &*credential.realm,
            ":ha1_md5": credential.ha1_md5.as_ref().map(|hash| &hash[..]),
            ":ha1_sha256": credential.ha1_sha256.as_ref().map(|hash| &hash[..]),
            ":revision": credential.revision as i64,
            ":removed": credential.removed,
        })
        .map(drop)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Credential> {
    let text =
        |index: usize| -> rusqlite::Result<Box<str>> { Ok(row.get_ref(index)?.as_str()?.into()) };
    Ok(Credential {
        user: text(0)?,
        realm: text(1)?,
        ha1_md5: row.get(2)?,
        ha1_sha256: row.get(3)?,
        revision: row.get::<_, i64>(4)? as u64,
        removed: row.get(5)?,
    })
}
