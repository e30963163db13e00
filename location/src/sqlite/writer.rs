//! The thread that writes: takes what is queued, one transaction, answers after its COMMIT.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rusqlite::{
    Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params,
};

use crate::claim::{Claim, ClaimChange, ClaimOutcome};
use crate::record::{BindingKey, Record, Version, WriterId};
use crate::sqlite::{Config, Counters, OwnCommits, reader, rows};
use crate::store::{
    Answer, Change, NewBinding, Request, Save, SaveOutcome, Sink, StoreEvent, Ticket,
};

/// How long to wait before asking again for the lock that another process holds.
const BUSY_PAUSE: Duration = Duration::from_micros(300);
/// Rows forgotten by one request, so that saves never wait long for it.
const EXPIRE_ROWS: usize = 2_000;
/// Claims that nobody holds are forgotten after this, milliseconds.
const CLAIM_MEMORY_MS: u64 = 3_600_000;
/// Rows of one address-of-record, removed bindings included, for each binding that it may have. Every save reads them
/// all, and each contact that is removed leaves one for a while.
const ROWS_PER_BINDING: usize = 8;
/// How often a store that is being closed still asks for the lock: about two seconds.
const CLOSING_TRIES: u32 = 5_000;

pub(crate) struct Writer {
    connection: Connection,
    id: WriterId,
    batch: usize,
    pace: Duration,
    own: OwnCommits,
    counters: Arc<Counters>,
    /// Set when the store is dropped.
    closing: Arc<AtomicBool>,
    sink: Arc<dyn Sink>,
}

impl Writer {
    pub(crate) fn new(
        connection: Connection,
        config: &Config,
        own: OwnCommits,
        counters: Arc<Counters>,
        closing: Arc<AtomicBool>,
        sink: Arc<dyn Sink>,
    ) -> Self {
        connection.set_prepared_statement_cache_capacity(32);
        Self {
            connection,
            id: config.writer,
            batch: config.batch.max(1),
            pace: config.pace,
            own,
            counters,
            closing,
            sink,
        }
    }

    pub(crate) fn run(mut self, queue: &Receiver<(Ticket, Request)>) {
        // Waiting for another process is our own loop: SQLite's own grows to 100 ms and gives up in the end.
        let _ = self.connection.busy_timeout(Duration::ZERO);
        let mut group = Vec::with_capacity(self.batch);
        while let Ok(first) = queue.recv() {
            let begun = clock();
            group.push(first);
            group.extend(queue.try_iter().take(self.batch - 1));
            let busy_before = self.counters.busy.load(Ordering::Relaxed);
            let events = self.commit(&group);
            group.clear();
            (self.sink)(events);
            let mut pause = self.pace.saturating_sub(clock().saturating_duration_since(begun));
            if self.counters.busy.load(Ordering::Relaxed) != busy_before {
                // Somebody else writes too: let them have the lock before we ask for it again.
                pause = pause.max(BUSY_PAUSE * 2);
            }
            if !self.closing.load(Ordering::Relaxed) {
                // Nobody needs to wake a thread that sleeps: what comes meanwhile only lines up.
                std::thread::sleep(pause);
            }
        }
    }

    /// Carries a group out and says what became of each request; nothing is answered before it is on the disk.
    fn commit(&mut self, group: &[(Ticket, Request)]) -> Vec<StoreEvent> {
        let mut closing_tries = 0;
        loop {
            match self.try_commit(group) {
                Ok(events) => return events,
                Err(error) if is_busy(&error) && closing_tries < CLOSING_TRIES => {
                    closing_tries += u32::from(self.closing.load(Ordering::Relaxed));
                    self.counters.busy.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(BUSY_PAUSE);
                }
                Err(error) => {
                    tracing::error!(%error, requests = group.len(), "the location database refuses to write");
                    let reason: Arc<str> = error.to_string().into();
                    let failed = |&(ticket, _): &(Ticket, Request)| StoreEvent::Answer {
                        ticket,
                        answer: Answer::Failed(reason.clone()),
                    };
                    return group.iter().map(failed).collect();
                }
            }
        }
    }

    fn try_commit(&mut self, group: &[(Ticket, Request)]) -> rusqlite::Result<Vec<StoreEvent>> {
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let before = last_sequence(&transaction, self.id)?;
        let mut work = Work { transaction, writer: self.id, sequence: before };
        let mut events = Vec::with_capacity(group.len());
        for (ticket, request) in group {
            events.push(StoreEvent::Answer { ticket: *ticket, answer: work.carry_out(request)? });
        }
        let after = work.sequence;
        if after != before {
            work.transaction
                .prepare_cached("INSERT OR REPLACE INTO writers (id, sequence) VALUES (?1, ?2)")?
                .execute(params![self.id.0, after as i64])?;
        }
        work.transaction.commit()?;
        self.counters.commits.fetch_add(1, Ordering::Relaxed);
        self.counters.committed.fetch_add(group.len() as u64, Ordering::Relaxed);
        if after != before {
            let mut own = self.own.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            match own.last_mut() {
                Some(last) if last.1 == before => last.1 = after,
                _ => own.push((before, after)),
            }
        }
        Ok(events)
    }
}

#[expect(clippy::disallowed_methods, reason = "driver: the pace of real transactions")]
fn clock() -> Instant {
    Instant::now()
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn last_sequence(connection: &Connection, writer: WriterId) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT sequence FROM writers WHERE id = ?1")?
        .query_row([writer.0], |row| row.get::<_, i64>(0))
        .optional()
        .map(|sequence| sequence.unwrap_or(0) as u64)
}

/// One transaction under way.
struct Work<'a> {
    transaction: Transaction<'a>,
    writer: WriterId,
    sequence: u64,
}

impl Work<'_> {
    fn carry_out(&mut self, request: &Request) -> rusqlite::Result<Answer> {
        match request {
            Request::Save(save) => self.save(save).map(Answer::Save),
            Request::Expire { now_ms } => self.expire(*now_ms).map(Answer::Expired),
            Request::Claim(change) => self.claim(change).map(Answer::Claim),
            Request::Lookup { .. } | Request::ReadClaim { .. } => {
                Ok(Answer::Failed("a lookup was given to the writing thread".into()))
            }
        }
    }

    /// All checks first, then all writes: a refused save leaves no trace.
    fn save(&mut self, save: &Save) -> rusqlite::Result<SaveOutcome> {
        let stored = rows::of_aor(&self.transaction, &save.aor)?;
        let Some(mut changed) = decide(save, &stored) else {
            return Ok(SaveOutcome::OutOfOrder);
        };
        let untouched = |record: &&Record| !changed.iter().any(|new| new.key == record.key);
        let kept: Vec<Record> = stored
            .iter()
            .filter(untouched)
            .filter(|record| record.is_live(save.now_ms))
            .cloned()
            .collect();
        let added = changed.iter().filter(|record| record.is_live(save.now_ms)).count();
        if added > 0 && kept.len() + added > save.max_bindings {
            return Ok(SaveOutcome::TooMany);
        }
        let is_new = |record: &&Record| !stored.iter().any(|old| old.key == record.key);
        let new_rows = changed.iter().filter(is_new).count();
        if new_rows > 0
            && save.change != Change::RemoveAll
            && stored.len() + new_rows > save.max_bindings.saturating_mul(ROWS_PER_BINDING)
        {
            return Ok(SaveOutcome::TooMany);
        }
        for record in &mut changed {
            self.sequence += 1;
            record.version = Version { writer: self.writer, sequence: self.sequence };
            rows::write(&self.transaction, record)?;
        }
        let mut bindings = kept;
        bindings.extend(changed.iter().filter(|record| record.is_live(save.now_ms)).cloned());
        bindings.sort_by(|left, right| left.key.cmp(&right.key));
        changed.retain(|record| record.key != BindingKey::everything());
        Ok(SaveOutcome::Saved { bindings, changed })
    }

    fn expire(&mut self, now_ms: u64) -> rusqlite::Result<usize> {
        let rows = self
            .transaction
            .prepare_cached(
                "DELETE FROM bindings WHERE id IN \
                 (SELECT id FROM bindings WHERE purge_at <= ?1 ORDER BY purge_at LIMIT ?2)",
            )?
            .execute(params![now_ms as i64, EXPIRE_ROWS as i64])?;
        self.transaction
            .prepare_cached("DELETE FROM claims WHERE lease_until + ?2 <= ?1")?
            .execute(params![now_ms as i64, CLAIM_MEMORY_MS as i64])?;
        Ok(rows)
    }

    fn claim(&mut self, change: &ClaimChange) -> rusqlite::Result<ClaimOutcome> {
        let name = match change {
            ClaimChange::Insert { name, .. }
            | ClaimChange::Swap { name, .. }
            | ClaimChange::Release { name, .. } => name,
        };
        let stored = reader::stored_claim(&self.transaction, name)?;
        let held = stored.clone().filter(|claim| claim.owner != 0);
        let new = match (change, &stored) {
            (ClaimChange::Insert { owner, lease_until, now_ms, .. }, stored) => {
                if held.as_ref().is_some_and(|claim| claim.lease_until > *now_ms) {
                    return Ok(ClaimOutcome::Refused(held));
                }
                // Forgotten claims had generations below the time of then.
                let generation =
                    stored.as_ref().map_or(0, |claim| claim.generation + 1).max(*now_ms);
                Claim { name: name.clone(), owner: *owner, generation, lease_until: *lease_until }
            }
            (ClaimChange::Swap { generation, owner, lease_until, .. }, Some(claim))
                if claim.generation == *generation && claim.owner != 0 =>
            {
                Claim {
                    name: name.clone(),
                    owner: *owner,
                    generation: generation + 1,
                    lease_until: *lease_until,
                }
            }
            (ClaimChange::Release { generation, .. }, Some(claim))
                if claim.generation == *generation && claim.owner != 0 =>
            {
                Claim { owner: 0, generation: generation + 1, ..claim.clone() }
            }
            (ClaimChange::Swap { .. } | ClaimChange::Release { .. }, _) => {
                return Ok(ClaimOutcome::Refused(held));
            }
        };
        self.transaction
            .prepare_cached("INSERT OR REPLACE INTO claims (name, owner, generation, lease_until) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![&*new.name, new.owner, new.generation as i64, new.lease_until as i64])?;
        Ok(ClaimOutcome::Done(new))
    }
}

/// RFC 3261 section 10.3 steps 6 and 7 on the rows of one address-of-record, removed ones included: the records to
/// write (their version still open), none for a replay; `None` if the request came out of order.
fn decide(save: &Save, stored: &[Record]) -> Option<Vec<Record>> {
    let everything = BindingKey::everything();
    // A removal of everything also refuses older requests for contacts that were not there yet.
    let last_star = stored.iter().find(|record| record.key == everything);
    match &save.change {
        Change::Bindings(list) => {
            let mut changed: Vec<Record> = Vec::with_capacity(list.len());
            for new in list {
                let old = stored.iter().find(|record| record.key == new.key);
                match old.map_or(Order::Newer, |old| order(save, old)) {
                    Order::Older => return None,
                    Order::Same if old.is_some_and(|old| same_content(new, old)) => continue,
                    Order::Same => return None,
                    Order::Newer => {}
                }
                if last_star.is_some_and(|star| order(save, star) != Order::Newer) {
                    return None;
                }
                // The same contact twice in one request: the last one counts.
                changed.retain(|record| record.key != new.key);
                changed.push(save.record(new, old));
            }
            Some(changed)
        }
        Change::RemoveAll => {
            let mut changed = Vec::new();
            for old in stored.iter().filter(|record| record.key != everything) {
                match order(save, old) {
                    Order::Newer => changed.push(removed(save, old)),
                    Order::Same if old.deleted_at.is_some() => {}
                    // A refused removal must not take back what is newer; a tombstone has nothing to take back.
                    Order::Older if old.deleted_at.is_some() => {}
                    Order::Same | Order::Older => return None,
                }
            }
            match last_star.map_or(Order::Newer, |star| order(save, star)) {
                Order::Older => return None,
                Order::Same => {}
                Order::Newer => changed.push(star_record(save, last_star)),
            }
            Some(changed)
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Older,
    Same,
    Newer,
}

/// RFC 3261 section 10.3 step 7: CSeq orders the requests of one Call-ID; another Call-ID is always newer.
fn order(save: &Save, old: &Record) -> Order {
    if save.call_id != old.call_id || save.cseq > old.cseq {
        Order::Newer
    } else if save.cseq == old.cseq {
        Order::Same
    } else {
        Order::Older
    }
}

fn same_content(new: &NewBinding, old: &Record) -> bool {
    new.contact == old.contact
        && new.lifetime == old.lifetime
        && (new.lifetime == 0
            || (new.params == old.params
                && new.q == old.q
                && new.received == old.received
                && new.path == old.path
                && new.instance == old.instance
                && new.reg_id == old.reg_id))
}

fn removed(save: &Save, old: &Record) -> Record {
    Record {
        lifetime: 0,
        call_id: save.call_id.clone(),
        cseq: save.cseq,
        changed_at: (old.changed_at + 1).max(save.now_ms),
        deleted_at: Some(save.now_ms),
        ..old.clone()
    }
}

fn star_record(save: &Save, old: Option<&Record>) -> Record {
    let empty = || -> Box<str> { "".into() };
    Record {
        aor: save.aor.clone(),
        key: BindingKey::everything(),
        contact: empty(),
        params: empty(),
        q: 0,
        expires_at: save.now_ms,
        lifetime: 0,
        call_id: save.call_id.clone(),
        cseq: save.cseq,
        user_agent: empty(),
        received: empty(),
        path: empty(),
        gateway: 0,
        flow_token: empty(),
        instance: empty(),
        reg_id: 0,
        version: Version { writer: WriterId(0), sequence: 0 },
        changed_at: old.map_or(0, |old| old.changed_at + 1).max(save.now_ms),
        deleted_at: Some(save.now_ms),
    }
}
