//! What a group of requests does to what is stored: from the rows that a node held to the one packet that carries the
//! whole transaction. No connection is used here.
//!
//! Requests are decided in memory, in their order; a later one sees what an earlier one has changed. The transaction
//! checks that what was read still holds, so decisions are exact although nothing was locked while they were made.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use mysql_async::Row;

use super::connect::{Fault, OWN_ROW_GONE};
use super::queue::Entry;
use super::sql::{self, Id, number};
use crate::claim::{Claim, ClaimChange, ClaimOutcome};
use crate::credential::{Credential, CredentialChange, CredentialOutcome};
use crate::decide;
use crate::record::{Record, Version, WriterId};
use crate::store::{Answer, Merge, Request, Save, SaveOutcome, StoreEvent};

/// SQLSTATEs cannot be had from the client library, texts can.
pub(crate) const OTHER_SEQUENCE: &str = "dialtone: the writer has another sequence";
pub(crate) const OTHER_ROWS: &str = "dialtone: the rows have changed";

/// What a group is about.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    aors: BTreeSet<Id>,
    claims: BTreeSet<Id>,
    users: BTreeSet<(Box<str>, Box<str>)>,
}

/// What a node held when it was asked.
#[derive(Debug)]
pub(crate) struct State {
    /// Of this writer.
    pub(crate) sequence: u64,
    /// Names this writer's last transaction.
    pub(crate) token: u64,
    revision: u64,
    credential_revision: u64,
    /// An entry for each address-of-record that was asked for.
    bindings: BTreeMap<Id, Vec<Record>>,
    claims: BTreeMap<Id, Claim>,
    claim_sum: (u64, u64),
    credentials: BTreeMap<(Box<str>, Box<str>), Credential>,
}

/// What is to be done, and what is to be said once it is.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) events: Vec<StoreEvent>,
    /// One packet; `None` if nothing changes.
    pub(crate) transaction: Option<String>,
    /// This writer's sequence before and after.
    pub(crate) range: (u64, u64),
    /// As it stands then, if nobody else has written.
    pub(crate) after: State,
}

impl Scope {
    pub(crate) fn of(group: &[Entry]) -> Self {
        let mut scope = Self::default();
        for Entry { request, .. } in group {
            match request {
                Request::Save(save) => _ = scope.aors.insert(Id::of(&save.aor)),
                Request::Claim(change) => _ = scope.claims.insert(Id::of(change.name())),
                Request::Credentials(CredentialChange::Put(list)) => {
                    scope
                        .users
                        .extend(list.iter().map(|new| (new.user.clone(), new.realm.clone())));
                }
                Request::Credentials(CredentialChange::Remove { user, realm }) => {
                    scope.users.insert((user.clone(), realm.clone()));
                }
                Request::Merge(merge) => {
                    scope.aors.extend(merge.bindings.iter().map(|record| Id::of(&record.aor)));
                    scope.claims.extend(merge.claims.iter().map(|claim| Id::of(&claim.name)));
                }
                Request::Expire { .. }
                | Request::Lookup { .. }
                | Request::ReadClaim { .. }
                | Request::ListClaims { .. }
                | Request::ListCredentials { .. } => {}
            }
        }
        scope
    }

    /// Statements in the order that [`State::read`] expects. The revision is read before the rows: if it still is the
    /// same in the transaction, so are they.
    pub(crate) fn read(&self, writer: WriterId) -> String {
        let mut sql = format!(
            "SELECT sequence, token FROM writers WHERE id = {};\
             SELECT revision, credential_revision FROM meta WHERE id = 1",
            writer.0
        );
        if !self.aors.is_empty() {
            let _ = write!(
                sql,
                ";SELECT {} FROM bindings FORCE INDEX (PRIMARY) WHERE aor_id IN ",
                sql::COLUMNS
            );
            sql::push_ids(&mut sql, &self.aors);
        }
        if !self.claims.is_empty() {
            sql.push_str(
                ";SELECT name, owner, generation, lease_until, stamp FROM claims WHERE name_id IN ",
            );
            sql::push_ids(&mut sql, &self.claims);
        }
        if !self.users.is_empty() {
            let _ = write!(sql, ";SELECT {} FROM credentials WHERE ", sql::CREDENTIAL_COLUMNS);
            for (index, (user, realm)) in self.users.iter().enumerate() {
                sql.push_str(if index == 0 { "(user = " } else { " OR (user = " });
                sql::push_text(&mut sql, user);
                sql.push_str(" AND realm = ");
                sql::push_text(&mut sql, realm);
                sql.push(')');
            }
        }
        sql
    }
}

impl State {
    pub(crate) fn read(scope: &Scope, sets: Vec<Vec<Row>>) -> Result<Self, Fault> {
        let mut sets = sets.into_iter();
        let mut next =
            || sets.next().ok_or_else(|| Fault::Odd("an answer without rows".to_owned()));
        let one = |rows: Vec<Row>| {
            rows.into_iter().next().ok_or_else(|| Fault::Odd(OWN_ROW_GONE.to_owned()))
        };
        let (own, meta) = (one(next()?)?, one(next()?)?);
        let mut state = Self {
            sequence: number(&own, 0)?,
            token: number(&own, 1)?,
            revision: number(&meta, 0)?,
            credential_revision: number(&meta, 1)?,
            bindings: scope.aors.iter().map(|id| (*id, Vec::new())).collect(),
            claims: BTreeMap::new(),
            claim_sum: (0, 0),
            credentials: BTreeMap::new(),
        };
        if !scope.aors.is_empty() {
            for mut row in next()? {
                let record = sql::record(&mut row)?;
                state.bindings.entry(Id::of(&record.aor)).or_default().push(record);
            }
        }
        if !scope.claims.is_empty() {
            for mut row in next()? {
                let (claim, stamp) = sql::claim(&mut row)?;
                state.claim_sum = (state.claim_sum.0 + 1, state.claim_sum.1 ^ stamp);
                state.claims.insert(Id::of(&claim.name), claim);
            }
        }
        if !scope.users.is_empty() {
            for mut row in next()? {
                let credential = sql::credential(&mut row)?;
                state
                    .credentials
                    .insert((credential.user.clone(), credential.realm.clone()), credential);
            }
        }
        Ok(state)
    }

    /// What was read while a transaction was on its way that leaves `before`.
    pub(crate) fn follow(&mut self, before: &Self) {
        self.sequence = before.sequence;
        self.token = before.token;
        self.revision = before.revision;
        self.credential_revision = before.credential_revision;
        for (id, rows) in &mut self.bindings {
            if let Some(before) = before.bindings.get(id) {
                rows.clone_from(before);
            }
        }
    }

    /// Number and stamps of all bindings.
    fn sum(&self) -> (u64, u64) {
        let rows = self.bindings.values().flatten();
        rows.fold((0, 0), |(count, stamps), row| (count + 1, stamps ^ sql::stamp(row.version)))
    }
}

/// Decides a group. `token` names the transaction and must never have been used before.
pub(crate) fn plan(
    writer: WriterId,
    token: u64,
    group: &[Entry],
    scope: &Scope,
    state: State,
) -> Plan {
    let mut work = Work {
        writer,
        before: (state.sequence, state.token, state.revision, state.credential_revision),
        sums: (state.sum(), state.claim_sum),
        state,
        bindings: BTreeMap::new(),
        claims: BTreeMap::new(),
        credentials: BTreeMap::new(),
    };
    let mut events = Vec::with_capacity(group.len());
    for Entry { ticket, request, .. } in group {
        let answer = match request {
            Request::Save(save) => Answer::Save(work.save(save)),
            Request::Claim(change) => Answer::Claim(work.claim(change)),
            Request::Credentials(change) => Answer::Credentials(work.change(change)),
            Request::Merge(merge) => Answer::Merged(work.merge(merge)),
            Request::Expire { .. }
            | Request::Lookup { .. }
            | Request::ReadClaim { .. }
            | Request::ListClaims { .. }
            | Request::ListCredentials { .. } => {
                Answer::Failed("a request that is no write was given to the writing task".into())
            }
        };
        events.push(StoreEvent::Answer { ticket: *ticket, answer });
    }
    let range = (work.before.0, work.state.sequence);
    let transaction = work.transaction(token, scope);
    let mut after = work.state;
    if transaction.is_some() {
        after.token = token;
        after.revision += 1;
    }
    Plan { events, transaction, range, after }
}

struct Work {
    writer: WriterId,
    /// Sequence, token, revision, credential revision.
    before: (u64, u64, u64, u64),
    sums: ((u64, u64), (u64, u64)),
    /// As it would stand now.
    state: State,
    /// What is to be written, the last version of each row.
    bindings: BTreeMap<(Id, Id), Record>,
    claims: BTreeMap<Id, Claim>,
    credentials: BTreeMap<(Box<str>, Box<str>), Credential>,
}

impl Work {
    fn save(&mut self, save: &Save) -> SaveOutcome {
        let aor_id = Id::of(&save.aor);
        let rows = self.state.bindings.entry(aor_id).or_default();
        let mut accepted = match decide::save(save, rows) {
            Ok(accepted) => accepted,
            Err(refused) => return refused,
        };
        for record in &mut accepted.changed {
            self.write(aor_id, record);
        }
        accepted.outcome(save.now_ms)
    }

    /// Gives a record its version and its place.
    fn write(&mut self, aor_id: Id, record: &mut Record) {
        self.state.sequence += 1;
        record.version = Version { writer: self.writer, sequence: self.state.sequence };
        let rows = self.state.bindings.entry(aor_id).or_default();
        match rows.iter_mut().find(|row| row.key == record.key) {
            Some(row) => row.clone_from(record),
            None => rows.push(record.clone()),
        }
        self.bindings.insert((aor_id, Id::of(record.key.as_str())), record.clone());
    }

    fn merge(&mut self, merge: &Merge) -> usize {
        let mut taken = 0;
        for record in &merge.bindings {
            let aor_id = Id::of(&record.aor);
            let rows = self.state.bindings.get(&aor_id).map_or(&[][..], Vec::as_slice);
            if decide::is_newer(record, rows.iter().find(|row| row.key == record.key)) {
                self.write(aor_id, &mut record.clone());
                taken += 1;
            }
        }
        for claim in &merge.claims {
            let id = Id::of(&claim.name);
            if decide::is_later(claim, self.state.claims.get(&id)) {
                self.state.claims.insert(id, claim.clone());
                self.claims.insert(id, claim.clone());
                taken += 1;
            }
        }
        taken
    }

    fn claim(&mut self, change: &ClaimChange) -> ClaimOutcome {
        let id = Id::of(change.name());
        let outcome = decide::claim(change, self.state.claims.get(&id).cloned());
        if let ClaimOutcome::Done(claim) = &outcome {
            self.state.claims.insert(id, claim.clone());
            self.claims.insert(id, claim.clone());
        }
        outcome
    }

    fn change(&mut self, change: &CredentialChange) -> Vec<CredentialOutcome> {
        match change {
            CredentialChange::Put(list) => list
                .iter()
                .map(|new| {
                    let old = self.state.credentials.get(&(new.user.clone(), new.realm.clone()));
                    let existed = old.is_some_and(|old| !old.removed);
                    let credential =
                        decide::put_credential(new, self.state.credential_revision + 1);
                    self.put(credential.clone());
                    CredentialOutcome { existed, credential: Some(credential) }
                })
                .collect(),
            CredentialChange::Remove { user, realm } => {
                let old = self.state.credentials.get(&(user.clone(), realm.clone()));
                let credential = decide::remove_credential(old, self.state.credential_revision + 1);
                if let Some(credential) = &credential {
                    self.put(credential.clone());
                }
                vec![CredentialOutcome { existed: credential.is_some(), credential }]
            }
        }
    }

    fn put(&mut self, credential: Credential) {
        self.state.credential_revision = credential.revision;
        let key = (credential.user.clone(), credential.realm.clone());
        self.state.credentials.insert(key.clone(), credential.clone());
        self.credentials.insert(key, credential);
    }

    /// The whole transaction in one packet, so that a process that is stopped at any moment leaves no row locked at the
    /// server: it has sent all of it or nothing that is carried out.
    fn transaction(&self, token: u64, scope: &Scope) -> Option<String> {
        if self.bindings.is_empty() && self.claims.is_empty() && self.credentials.is_empty() {
            return None;
        }
        let (sequence, last_token, revision, credential_revision) = self.before;
        let newest = self.bindings.values().map(|record| record.changed_at).max().unwrap_or(0);
        let mut sql = String::with_capacity(2_000 + self.bindings.len() * 1_000);
        let _ = write!(
            sql,
            "BEGIN NOT ATOMIC \
             DECLARE n, x BIGINT UNSIGNED; \
             DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END; \
             START TRANSACTION; \
             UPDATE meta SET revision = revision + 1 WHERE id = 1; \
             UPDATE writers SET sequence = {}, token = {token}, changed_at = GREATEST(changed_at, {newest}) \
             WHERE id = {} AND sequence = {sequence} AND token = {last_token}; \
             IF ROW_COUNT() <> 1 THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '{OTHER_SEQUENCE}'; END IF; ",
            self.state.sequence, self.writer.0
        );
        let changed =
            format!("SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '{OTHER_ROWS}'; END IF; ");
        let _ =
            write!(sql, "IF (SELECT revision FROM meta WHERE id = 1) <> {} THEN ", revision + 1);
        let checks = [
            (&scope.aors, "bindings FORCE INDEX (PRIMARY) WHERE aor_id", self.sums.0),
            (&scope.claims, "claims WHERE name_id", self.sums.1),
        ];
        for (ids, of, (count, stamps)) in checks {
            if ids.is_empty() {
                continue;
            }
            let _ = write!(sql, "SELECT COUNT(*), BIT_XOR(stamp) INTO n, x FROM {of} IN ");
            sql::push_ids(&mut sql, ids);
            let _ =
                write!(sql, " LOCK IN SHARE MODE; IF n <> {count} OR x <> {stamps} THEN {changed}");
        }
        // A statement that there must be.
        sql.push_str("SET n = 0; END IF; ");
        if !self.bindings.is_empty() {
            sql::push_bindings(&mut sql, &self.bindings);
            let changed: BTreeSet<Id> = self.bindings.keys().map(|(aor_id, _)| *aor_id).collect();
            let _ = write!(
                sql,
                "; INSERT INTO changes (writer, sequence, former, aor_ids, written_at) VALUES ({}, {}, {sequence}, ",
                self.writer.0, self.state.sequence
            );
            let ids: Vec<u8> = changed.iter().flat_map(|id| id.0).collect();
            sql::push_hex(&mut sql, &ids);
            let _ = write!(sql, ", {}); ", sql::NOW);
        }
        self.write_claims(&mut sql, token);
        self.write_credentials(&mut sql, credential_revision, &changed);
        sql.push_str("COMMIT; END");
        Some(sql)
    }

    fn write_claims(&self, sql: &mut String, token: u64) {
        if self.claims.is_empty() {
            return;
        }
        sql.push_str(
            "INSERT INTO claims (name_id, name, owner, generation, lease_until, stamp) VALUES ",
        );
        for (index, (id, claim)) in self.claims.iter().enumerate() {
            sql.push_str(if index == 0 { "(" } else { ",(" });
            id.push(sql);
            sql.push(',');
            sql::push_text(sql, &claim.name);
            // Other than any before, and than those of the other claims of this transaction.
            let stamp = token.wrapping_add(index as u64);
            let Claim { owner, generation, lease_until, .. } = claim;
            let _ = write!(sql, ",{owner},{generation},{lease_until},{stamp})");
        }
        sql.push_str(
            " ON DUPLICATE KEY UPDATE owner=VALUES(owner), generation=VALUES(generation), \
             lease_until=VALUES(lease_until), stamp=VALUES(stamp); ",
        );
    }

    fn write_credentials(&self, sql: &mut String, before: u64, changed: &str) {
        if self.credentials.is_empty() {
            return;
        }
        let _ = write!(
            sql,
            "UPDATE meta SET credential_revision = {} WHERE id = 1 AND credential_revision = {before}; \
             IF ROW_COUNT() <> 1 THEN {changed}",
            self.state.credential_revision
        );
        let _ = write!(sql, "INSERT INTO credentials ({}) VALUES ", sql::CREDENTIAL_COLUMNS);
        for (index, credential) in self.credentials.values().enumerate() {
            sql.push_str(if index == 0 { "(" } else { ",(" });
            sql::push_text(sql, &credential.user);
            sql.push(',');
            sql::push_text(sql, &credential.realm);
            let hashes = [
                credential.ha1_md5.as_ref().map(|hash| &hash[..]),
                credential.ha1_sha256.as_ref().map(|hash| &hash[..]),
            ];
            for hash in hashes {
                sql.push(',');
                match hash {
                    Some(hash) => sql::push_hex(sql, hash),
                    None => sql.push_str("NULL"),
                }
            }
            let _ = write!(sql, ",{},{})", credential.revision, u8::from(credential.removed));
        }
        sql.push_str(
            " ON DUPLICATE KEY UPDATE ha1_md5=VALUES(ha1_md5), ha1_sha256=VALUES(ha1_sha256), \
             revision=VALUES(revision), removed=VALUES(removed); ",
        );
    }
}
