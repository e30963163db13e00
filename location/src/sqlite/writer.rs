//! The thread that writes: takes what is queued, one transaction, answers after its COMMIT is on the disk.
//!
//! The write-ahead log is brought to the disk here, after COMMIT has released the lock, and not by SQLite, which holds
//! the lock meanwhile: a process that is frozen while it waits for the disk keeps nobody else from writing. What
//! others see before it is on the disk they cannot acknowledge without an fsync of their own.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rusqlite::{
    Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params,
};

use crate::claim::{Claim, ClaimChange, ClaimOutcome};
use crate::decide::{self, CLAIM_MEMORY_MS, Horizon};
use crate::record::{Record, Version, WriterId};
use crate::sqlite::{Config, Counters, OwnCommits, reader, rows, users};
use crate::store::{Answer, Merge, Request, Save, SaveOutcome, Sink, StoreEvent, Ticket};

/// How long to wait before asking again for the lock that another process holds.
const BUSY_PAUSE: Duration = Duration::from_micros(300);
/// Rows forgotten by one request, so that saves never wait long for it.
const EXPIRE_ROWS: usize = 2_000;
/// How often a store that is being closed still asks for the lock: about two seconds.
const CLOSING_TRIES: u32 = 5_000;

pub(crate) struct Writer {
    connection: Connection,
    /// The write-ahead log, for its fsync.
    log: File,
    id: WriterId,
    batch: usize,
    pace: Duration,
    own: OwnCommits,
    counters: Arc<Counters>,
    /// Set when the store is dropped.
    closing: Arc<AtomicBool>,
    sink: Arc<dyn Sink>,
    horizon: Horizon,
    opened: Instant,
}

impl Writer {
    pub(crate) fn new(
        connection: Connection,
        log: File,
        config: &Config,
        own: OwnCommits,
        counters: Arc<Counters>,
        closing: Arc<AtomicBool>,
        sink: Arc<dyn Sink>,
    ) -> Self {
        connection.set_prepared_statement_cache_capacity(32);
        Self {
            connection,
            log,
            id: config.writer,
            batch: config.batch.max(1),
            pace: config.pace,
            own,
            counters,
            closing,
            sink,
            horizon: Horizon::new(None),
            opened: clock(),
        }
    }

    pub(crate) fn run(mut self, queue: &Receiver<(Ticket, Request)>) {
        // Waiting for another process is our own loop: SQLite's own grows to 100 ms and gives up in the end.
        let _ = self.connection.busy_timeout(Duration::ZERO);
        self.horizon = Horizon::new(rows::newest(&self.connection).unwrap_or_default());
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
                Err(Refusal::Database(error))
                    if is_busy(&error) && closing_tries < CLOSING_TRIES =>
                {
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

    fn try_commit(&mut self, group: &[(Ticket, Request)]) -> Result<Vec<StoreEvent>, Refusal> {
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let before = last_sequence(&transaction, self.id)?;
        let open_ms = clock().saturating_duration_since(self.opened).as_millis() as u64;
        let (writer, horizon) = (self.id, &mut self.horizon);
        let mut work = Work { transaction, writer, sequence: before, horizon, open_ms };
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
        // Even if nothing has changed: what a replay confirms may be another process's commit of just now.
        self.log.sync_data()?;
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

/// Why a group was not committed.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Database(#[from] rusqlite::Error),
    #[error("the write-ahead log cannot be brought to the disk: {0}")]
    Disk(#[from] std::io::Error),
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
    horizon: &'a mut Horizon,
    /// For how long this store has been open.
    open_ms: u64,
}

impl Work<'_> {
    fn carry_out(&mut self, request: &Request) -> rusqlite::Result<Answer> {
        match request {
            Request::Save(save) => self.save(save).map(Answer::Save),
            Request::Expire { now_ms } => self.expire(*now_ms).map(Answer::Expired),
            Request::Claim(change) => self.claim(change).map(Answer::Claim),
            Request::Merge(merge) => self.merge(merge).map(Answer::Merged),
            Request::Credentials(change) => {
                users::change(&self.transaction, change).map(Answer::Credentials)
            }
            Request::Lookup { .. }
            | Request::ReadClaim { .. }
            | Request::ListClaims { .. }
            | Request::ListCredentials { .. } => {
                Ok(Answer::Failed("a lookup was given to the writing thread".into()))
            }
        }
    }

    /// All checks first, then all writes: a refused save leaves no trace.
    fn save(&mut self, save: &Save) -> rusqlite::Result<SaveOutcome> {
        let stored = rows::of_aor(&self.transaction, &save.aor)?;
        let mut accepted = match decide::save(save, &stored) {
            Ok(accepted) => accepted,
            Err(refused) => return Ok(refused),
        };
        for record in &mut accepted.changed {
            self.sequence += 1;
            record.version = Version { writer: self.writer, sequence: self.sequence };
            rows::write(&self.transaction, record)?;
        }
        Ok(accepted.outcome(save.now_ms))
    }

    fn expire(&mut self, now_ms: u64) -> rusqlite::Result<usize> {
        if self.horizon.is_blind(self.open_ms) {
            let newest = rows::newest_of_others(&self.transaction, self.writer)?;
            self.horizon.learn(newest, self.open_ms);
        }
        let now_ms = self.horizon.limit(now_ms, self.open_ms);
        let rows = self
            .transaction
            .prepare_cached(
                "DELETE FROM bindings WHERE id IN \
                 (SELECT id FROM bindings WHERE purge_at <= ?1 ORDER BY purge_at LIMIT ?2)",
            )?
            .execute(params![now_ms as i64, EXPIRE_ROWS as i64])?;
        if self.horizon.is_blind(self.open_ms) {
            // Nobody knows whose they are.
            return Ok(rows);
        }
        self.transaction
            .prepare_cached("DELETE FROM claims WHERE lease_until + ?2 <= ?1")?
            .execute(params![now_ms as i64, CLAIM_MEMORY_MS as i64])?;
        Ok(rows)
    }

    fn claim(&mut self, change: &ClaimChange) -> rusqlite::Result<ClaimOutcome> {
        let stored = reader::stored_claim(&self.transaction, change.name())?;
        let outcome = decide::claim(change, stored);
        if let ClaimOutcome::Done(new) = &outcome {
            self.write_claim(new)?;
        }
        Ok(outcome)
    }

    fn merge(&mut self, merge: &Merge) -> rusqlite::Result<usize> {
        let mut taken = 0;
        for record in &merge.bindings {
            let stored = rows::of_aor(&self.transaction, &record.aor)?;
            let stored = stored.iter().find(|stored| stored.key == record.key);
            if decide::is_newer(record, stored) {
                self.sequence += 1;
                let version = Version { writer: self.writer, sequence: self.sequence };
                rows::write(&self.transaction, &Record { version, ..record.clone() })?;
                taken += 1;
            }
        }
        for claim in &merge.claims {
            let stored = reader::stored_claim(&self.transaction, &claim.name)?;
            if decide::is_later(claim, stored.as_ref()) {
                self.write_claim(claim)?;
                taken += 1;
            }
        }
        Ok(taken)
    }

    fn write_claim(&self, claim: &Claim) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached("INSERT OR REPLACE INTO claims (name, owner, generation, lease_until) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![&*claim.name, claim.owner, claim.generation as i64, claim.lease_until as i64])
            .map(drop)
    }
}
