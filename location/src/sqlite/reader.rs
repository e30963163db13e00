//! The thread that answers lookups.

use std::sync::mpsc::Receiver;

use rusqlite::{Connection, OptionalExtension, params};

use crate::claim::Claim;
use crate::sqlite::{rows, users};
use crate::store::{Answer, Request, Sink, StoreEvent, Ticket};

pub(crate) fn run(connection: Connection, queue: &Receiver<(Ticket, Request)>, sink: &dyn Sink) {
    while let Ok(first) = queue.recv() {
        let events = std::iter::once(first)
            .chain(queue.try_iter().take(255))
            .map(|(ticket, request)| {
                let answer = answer(&connection, request)
                    .unwrap_or_else(|error| Answer::Failed(error.to_string().into()));
                StoreEvent::Answer { ticket, answer }
            })
            .collect();
        sink(events);
    }
}

fn answer(connection: &Connection, request: Request) -> rusqlite::Result<Answer> {
    match request {
        Request::Lookup { aor, now_ms } => {
            let mut records = rows::of_aor(connection, &aor)?;
            records.retain(|record| record.is_live(now_ms));
            Ok(Answer::Found(records))
        }
        Request::ReadClaim { name } => read_claim(connection, &name).map(Answer::ReadClaim),
        Request::ListCredentials { after, limit } => {
            users::list(connection, after.as_ref(), limit).map(Answer::CredentialList)
        }
        Request::ListClaims { after, limit } => {
            list_claims(connection, after.as_deref(), limit).map(Answer::ClaimList)
        }
        Request::Save(_)
        | Request::Expire { .. }
        | Request::Claim(_)
        | Request::Merge(_)
        | Request::Credentials(_) => {
            Ok(Answer::Failed("a write was given to the reading thread".into()))
        }
    }
}

fn list_claims(
    connection: &Connection,
    after: Option<&str>,
    limit: usize,
) -> rusqlite::Result<Vec<Claim>> {
    connection
        .prepare_cached(
            "SELECT name, owner, generation, lease_until FROM claims WHERE name > ?1 ORDER BY name LIMIT ?2",
        )?
        .query_map(params![after.unwrap_or(""), i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
            Ok(Claim {
                name: row.get_ref(0)?.as_str()?.into(),
                owner: row.get(1)?,
                generation: row.get::<_, i64>(2)? as u64,
                lease_until: row.get::<_, i64>(3)? as u64,
            })
        })?
        .collect()
}

/// The claim as it is stored; one that was given up has owner 0 and counts as none.
pub(crate) fn read_claim(connection: &Connection, name: &str) -> rusqlite::Result<Option<Claim>> {
    let claim = stored_claim(connection, name)?;
    Ok(claim.filter(|claim| claim.owner != 0))
}

pub(crate) fn stored_claim(connection: &Connection, name: &str) -> rusqlite::Result<Option<Claim>> {
    connection
        .prepare_cached("SELECT owner, generation, lease_until FROM claims WHERE name = ?1")?
        .query_row([name], |row| {
            Ok(Claim {
                name: name.into(),
                owner: row.get(0)?,
                generation: row.get::<_, i64>(1)? as u64,
                lease_until: row.get::<_, i64>(2)? as u64,
            })
        })
        .optional()
}
