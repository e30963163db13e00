//! The task that answers lookups, on a connection of its own and from any node: a lookup sees what its node has
//! applied, which may be some milliseconds behind what was committed at another one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::connect::{Connection, Fault};
use super::route::Route;
use super::sql::{self, Id};
use super::{NO_NODE, Shared, clock};
use crate::claim::Claim;
use crate::record::Record;
use crate::store::{Answer, Request, StoreEvent, Ticket};

/// Lookups in one question.
const TOGETHER: usize = 64;
/// A node that does not answer within this is given up.
const ANSWER_WITHIN: Duration = Duration::from_millis(400);
/// How often a question is asked again, at other nodes if there are any.
const TRIES: u32 = 4;

pub(crate) async fn run(
    shared: Arc<Shared>,
    mut route: Route,
    mut queue: mpsc::Receiver<(Ticket, Request)>,
) {
    let mut connection = None;
    let mut group = Vec::with_capacity(TOGETHER);
    while queue.recv_many(&mut group, TOGETHER).await > 0 {
        let found = match &shared.reach {
            reach if reach.is_hopeless(clock()) => Err(Fault::Gone(NO_NODE.to_owned())),
            _ => answer(&mut connection, &mut route, &group).await,
        };
        let events = match found {
            Ok(events) => events,
            Err(fault) => {
                let reason: Arc<str> = fault.to_string().into();
                let failed = |(ticket, _): &(Ticket, Request)| StoreEvent::Answer {
                    ticket: *ticket,
                    answer: Answer::Failed(reason.clone()),
                };
                group.iter().map(failed).collect()
            }
        };
        group.clear();
        (shared.sink)(events);
    }
}

async fn answer(
    open: &mut Option<Connection>,
    route: &mut Route,
    group: &[(Ticket, Request)],
) -> Result<Vec<StoreEvent>, Fault> {
    let mut last = Fault::Silent;
    for tries in 0..TRIES {
        if tries > 0 {
            sleep(Duration::from_millis(20) * tries).await;
        }
        let mut connection = match open.take() {
            Some(connection) => connection,
            None => match route.connect().await {
                Ok(connection) => connection,
                Err(fault) => {
                    last = fault;
                    continue;
                }
            },
        };
        match ask(&mut connection, group).await {
            Ok(events) => {
                *open = Some(connection);
                return Ok(events);
            }
            Err(fault) => {
                route.suspect(connection.node);
                last = fault;
            }
        }
    }
    Err(last)
}

async fn ask(
    connection: &mut Connection,
    group: &[(Ticket, Request)],
) -> Result<Vec<StoreEvent>, Fault> {
    let (mut aors, mut names) = (BTreeSet::new(), BTreeSet::new());
    for (_, request) in group {
        match request {
            Request::Lookup { aor, .. } => _ = aors.insert(Id::of(aor)),
            Request::ReadClaim { name } => _ = names.insert(Id::of(name)),
            _ => {}
        }
    }
    let mut statements = Vec::new();
    let mut add = |select: &str, ids: &BTreeSet<Id>| {
        if !ids.is_empty() {
            let mut sql = select.to_owned();
            sql::push_ids(&mut sql, ids);
            statements.push(sql);
        }
    };
    let bindings =
        format!("SELECT {} FROM bindings FORCE INDEX (PRIMARY) WHERE aor_id IN ", sql::COLUMNS);
    add(&bindings, &aors);
    add("SELECT name, owner, generation, lease_until, stamp FROM claims WHERE name_id IN ", &names);
    let mut bindings: BTreeMap<Box<str>, Vec<Record>> = BTreeMap::new();
    let mut claims: BTreeMap<Box<str>, Claim> = BTreeMap::new();
    if !statements.is_empty() {
        let mut sets = connection.query(&statements.join(";"), ANSWER_WITHIN).await?.into_iter();
        if !aors.is_empty() {
            for mut row in sets.next().unwrap_or_default() {
                let record = sql::record(&mut row)?;
                bindings.entry(record.aor.clone()).or_default().push(record);
            }
        }
        if !names.is_empty() {
            for mut row in sets.next().unwrap_or_default() {
                let (claim, _) = sql::claim(&mut row)?;
                claims.insert(claim.name.clone(), claim);
            }
        }
    }
    bindings.values_mut().for_each(|list| list.sort_by(|left, right| left.key.cmp(&right.key)));
    let mut events = Vec::with_capacity(group.len());
    for (ticket, request) in group {
        let answer = match request {
            Request::Lookup { aor, now_ms } => {
                let found = bindings.get(aor).map_or(&[][..], Vec::as_slice);
                Answer::Found(
                    found.iter().filter(|record| record.is_live(*now_ms)).cloned().collect(),
                )
            }
            // One that was given up has owner 0 and counts as none.
            Request::ReadClaim { name } => {
                Answer::ReadClaim(claims.get(name).filter(|claim| claim.owner != 0).cloned())
            }
            Request::ListClaims { after, limit } => {
                list_claims(connection, after.as_deref().unwrap_or(""), *limit).await?
            }
            Request::ListCredentials { after, limit } => {
                list_credentials(connection, after.as_ref(), *limit).await?
            }
            Request::Save(_)
            | Request::Expire { .. }
            | Request::Claim(_)
            | Request::Merge(_)
            | Request::Credentials(_) => {
                Answer::Failed("a write was given to the reading task".into())
            }
        };
        events.push(StoreEvent::Answer { ticket: *ticket, answer });
    }
    Ok(events)
}

async fn list_claims(
    connection: &mut Connection,
    after: &str,
    limit: usize,
) -> Result<Answer, Fault> {
    let mut sql =
        "SELECT name, owner, generation, lease_until, stamp FROM claims WHERE name > ".to_owned();
    sql::push_text(&mut sql, after);
    let _ = write!(sql, " ORDER BY name LIMIT {limit}");
    let rows = sql::only(connection.query(&sql, super::ADMIN_PATIENCE).await?)?;
    rows.into_iter()
        .map(|mut row| sql::claim(&mut row).map(|(claim, _)| claim))
        .collect::<Result<_, _>>()
        .map(Answer::ClaimList)
}

async fn list_credentials(
    connection: &mut Connection,
    after: Option<&(Box<str>, Box<str>)>,
    limit: usize,
) -> Result<Answer, Fault> {
    let mut sql = format!("SELECT {} FROM credentials WHERE NOT removed", sql::CREDENTIAL_COLUMNS);
    if let Some((user, realm)) = after {
        let (mut last_user, mut last_realm) = (String::new(), String::new());
        sql::push_text(&mut last_user, user);
        sql::push_text(&mut last_realm, realm);
        let _ = write!(
            sql,
            " AND (user > {last_user} OR (user = {last_user} AND realm > {last_realm}))"
        );
    }
    let _ = write!(sql, " ORDER BY user, realm LIMIT {limit}");
    let rows = sql::only(connection.query(&sql, super::ADMIN_PATIENCE).await?)?;
    rows.into_iter()
        .map(|mut row| sql::credential(&mut row))
        .collect::<Result<_, _>>()
        .map(Answer::CredentialList)
}
