//! The task that hands out all tables at start, then what other writers changed.
//!
//! What a writer has written up to a sequence number is visible together with that number in its row of `writers`, at
//! every node. So the numbers are read first and the rows afterwards: those are at least as new. Another node may be
//! behind the one that was asked before; then its numbers are smaller, and nothing is taken back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;

use super::connect::{Connection, Fault};
use super::route::Route;
use super::sql::{self, Id, number};
use super::{Shared, clock};
use crate::record::{MISSED_AFTER, Record, Vector, WriterId};
use crate::store::StoreEvent;

/// Records per event, so that the receiver is never busy for long.
const CHUNK: usize = 500;
/// When nothing changes, the pause between two looks doubles up to so many times the configured one.
const QUIET: u32 = 4;
/// A node that does not answer within this is given up.
const ANSWER_WITHIN: Duration = Duration::from_millis(400);
/// While much is read a node may have to fetch it from its disk.
const ROW_WITHIN: Duration = Duration::from_secs(3);
/// The replica counts as behind when no node could be read for so long.
const BEHIND_AFTER: Duration = Duration::from_millis(1_000);
/// A node may have fewer transactions than another one for so long.
const GONE_BACK_AFTER: Duration = Duration::from_secs(5);
/// Parts in which the table is loaded; one that fails is asked for again.
const PARTS: u8 = 64;

pub(crate) struct Feeder {
    shared: Arc<Shared>,
    writer: WriterId,
    route: Route,
    connection: Option<Connection>,
    poll: Duration,
    seen: Vector,
    /// The last change of credentials that was handed out.
    revision: u64,
    /// Of `meta`: nothing has changed as long as it is the same.
    transactions: Option<u64>,
    /// The numbers that count once everything is loaded, and the part that is to be loaded next.
    loading: Option<(Option<(Vector, u64)>, u8)>,
    /// When it was known last that nothing is missing.
    looked: Instant,
    /// The most transactions that any node had, and since when those that answer have fewer.
    highest: (u64, Option<Instant>),
    /// Since when no node could be read, and whether that was said.
    failing: Option<Instant>,
    behind: bool,
    /// Whether it was said that no node can be reached.
    hopeless: bool,
}

impl Feeder {
    pub(crate) fn new(shared: Arc<Shared>, writer: WriterId, poll: Duration, route: Route) -> Self {
        Self {
            shared,
            writer,
            route,
            connection: None,
            poll,
            seen: Vector::default(),
            revision: 0,
            transactions: None,
            loading: Some((None, 0)),
            looked: clock(),
            highest: (0, None),
            failing: None,
            behind: false,
            hopeless: false,
        }
    }

    /// Until `stop` is dropped.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<()>) {
        let work = async {
            let mut pause = self.poll;
            loop {
                let before = self.transactions;
                match self.step().await {
                    Ok(()) => {
                        self.reached();
                        self.failing = None;
                        if self.loading.is_none() && std::mem::take(&mut self.behind) {
                            (self.shared.sink)(vec![StoreEvent::Recovered]);
                        }
                    }
                    Err(fault) => self.failed(&fault),
                }
                let quiet =
                    self.transactions == before && self.failing.is_none() && self.loading.is_none();
                pause = if quiet { (pause * 2).min(self.poll * QUIET) } else { self.poll };
                sleep(pause).await;
            }
        };
        tokio::select! {
            () = work => {}
            _ = stop.changed() => {}
        }
    }

    fn failed(&mut self, fault: &Fault) {
        if let Some(connection) = self.connection.take() {
            tracing::debug!(node = %connection.node.address, %fault, "database node cannot be read for changes");
            self.route.suspect(connection.node);
        }
        // Another node's number says nothing about what was seen here.
        self.transactions = None;
        let now = clock();
        if fault.is_absence() {
            self.missed(now, fault);
        } else {
            self.reached();
        }
        let since = *self.failing.get_or_insert(now);
        if !self.behind && now.saturating_duration_since(since) >= BEHIND_AFTER {
            self.behind = true;
            (self.shared.sink)(vec![StoreEvent::Behind(fault.to_string().into())]);
        }
    }

    /// Says it once to the operator.
    fn missed(&mut self, now: Instant, fault: &Fault) {
        self.shared.reach.missed(now);
        if self.shared.reach.is_hopeless(now) && !std::mem::replace(&mut self.hopeless, true) {
            tracing::warn!(%fault, "no database node can be reached: nobody waits for one any more");
        }
    }

    fn reached(&mut self) {
        self.shared.reach.found();
        if std::mem::take(&mut self.hopeless) {
            tracing::info!("a database node can be reached again");
        }
    }

    async fn step(&mut self) -> Result<(), Fault> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let mut connection = self.route.connect().await?;
                // Loading takes its time.
                self.reached();
                if self.loading.is_some() {
                    // Parts that come from another node must not be older than the numbers.
                    connection.read_causally(true).await?;
                }
                connection
            }
        };
        let result = match self.loading.take() {
            Some((numbers, part)) => self.load(&mut connection, numbers, part).await,
            None => self.follow(&mut connection).await,
        };
        // Kept also when it has failed: whoever drops it wants to know which node it was.
        if self.loading.is_none() || result.is_err() {
            self.connection = Some(connection);
        }
        result
    }

    async fn load(
        &mut self,
        connection: &mut Connection,
        numbers: Option<(Vector, u64)>,
        mut part: u8,
    ) -> Result<(), Fault> {
        self.loading = Some((numbers.clone(), part));
        let (vector, revision) = match numbers {
            Some(numbers) => numbers,
            None => {
                let (vector, _, revision) = numbers_of(connection, ROW_WITHIN).await?;
                (vector, revision)
            }
        };
        while part < PARTS {
            self.loading = Some((Some((vector.clone(), revision)), part));
            // Hashes are spread evenly.
            let from = u32::from(part) * 256 / u32::from(PARTS);
            let to = (u32::from(part) + 1) * 256 / u32::from(PARTS) - 1;
            let sql = format!(
                "SELECT {} FROM bindings FORCE INDEX (PRIMARY) WHERE aor_id BETWEEN X'{from:02x}{:030x}' AND X'{to:02x}{}'",
                sql::COLUMNS,
                0,
                "f".repeat(30)
            );
            self.hand_out(connection, &sql).await?;
            part += 1;
        }
        self.loading = Some((Some((vector.clone(), revision)), part));
        // What has changed meanwhile comes afterwards; removed users are left out, and have revisions as well.
        self.revision = 0;
        let only = format!("AND revision <= {revision} AND NOT removed");
        self.hand_out_credentials(connection, &only).await?;
        self.revision = revision;
        self.seen = vector;
        self.loading = None;
        self.looked = clock();
        (self.shared.sink)(vec![StoreEvent::Loaded]);
        connection.read_causally(false).await
    }

    async fn follow(&mut self, connection: &mut Connection) -> Result<(), Fault> {
        let looked = clock();
        let (vector, transactions, revision) = numbers_of(connection, ANSWER_WITHIN).await?;
        if self.has_gone_back(looked, transactions) {
            // Nothing is dropped: what the database has lost is remembered here until it ends.
            self.start_again("the database holds less than before; everything is read again");
            return Ok(());
        }
        if self.transactions == Some(transactions) {
            self.looked = looked;
            return Ok(());
        }
        if looked.saturating_duration_since(self.looked) > MISSED_AFTER {
            self.forget_and_start_again();
            return Ok(());
        }
        self.shared.skip_own(&mut self.seen, self.writer);
        for (&writer, &sequence) in &vector.0 {
            let seen = self.seen.get(writer);
            if sequence > seen {
                let Some(ids) = changed(connection, writer, seen, sequence).await? else {
                    self.forget_and_start_again();
                    return Ok(());
                };
                for ids in ids.chunks(CHUNK) {
                    let mut sql = format!(
                        "SELECT {} FROM bindings FORCE INDEX (PRIMARY) WHERE aor_id IN ",
                        sql::COLUMNS
                    );
                    sql::push_ids(&mut sql, ids);
                    self.hand_out(connection, &sql).await?;
                }
                self.seen.advance(writer, sequence);
            }
        }
        if revision > self.revision {
            self.hand_out_credentials(connection, "").await?;
        }
        self.transactions = Some(transactions);
        self.looked = looked;
        Ok(())
    }

    /// Whether the database has lost transactions: another node may be behind for a moment, but not for long.
    fn has_gone_back(&mut self, now: Instant, transactions: u64) -> bool {
        let (highest, since) = &mut self.highest;
        if transactions >= *highest {
            self.highest = (transactions, None);
            return false;
        }
        now.saturating_duration_since(*since.get_or_insert(now)) > GONE_BACK_AFTER
    }

    /// Changes cannot be followed from where we are: this process stood still, no node could be reached, or the
    /// database is not what it was. Numbers and rows then come from a node that has all that the cluster has.
    fn start_again(&mut self, reason: &str) {
        self.loading = Some((None, 0));
        self.transactions = None;
        self.highest = (0, None);
        self.connection = None;
        if !std::mem::replace(&mut self.behind, true) {
            (self.shared.sink)(vec![StoreEvent::Behind(reason.into())]);
        }
    }

    /// What does not come again has been removed meanwhile.
    fn forget_and_start_again(&mut self) {
        (self.shared.sink)(vec![StoreEvent::Reloading]);
        self.start_again("changes were missed; everything is read again");
    }

    /// Hands out what a statement gives, in chunks.
    async fn hand_out(&self, connection: &mut Connection, sql: &str) -> Result<(), Fault> {
        let mut chunk: Vec<Record> = Vec::with_capacity(CHUNK);
        connection
            .stream(sql, ROW_WITHIN, |mut row| {
                chunk.push(sql::record(&mut row)?);
                if chunk.len() == CHUNK {
                    let full = std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK));
                    (self.shared.sink)(vec![StoreEvent::Changes(full)]);
                }
                Ok(())
            })
            .await?;
        if !chunk.is_empty() {
            (self.shared.sink)(vec![StoreEvent::Changes(chunk)]);
        }
        Ok(())
    }

    /// Hands out the changes of credentials since the last one that was. What comes in meanwhile has a higher revision:
    /// nothing is skipped.
    async fn hand_out_credentials(
        &mut self,
        connection: &mut Connection,
        only: &str,
    ) -> Result<(), Fault> {
        loop {
            let sql = format!(
                "SELECT {} FROM credentials WHERE revision > {} {only} ORDER BY revision LIMIT {CHUNK}",
                sql::CREDENTIAL_COLUMNS,
                self.revision
            );
            let rows = sql::only(connection.query(&sql, ROW_WITHIN).await?)?;
            let chunk = rows
                .into_iter()
                .map(|mut row| sql::credential(&mut row))
                .collect::<Result<Vec<_>, _>>()?;
            let Some(last) = chunk.last() else { return Ok(()) };
            self.revision = last.revision;
            (self.shared.sink)(vec![StoreEvent::Credentials(chunk)]);
        }
    }
}

/// The addresses-of-record whose bindings a writer has changed between two of its sequence numbers; `None` if that is
/// not known any more.
async fn changed(
    connection: &mut Connection,
    writer: WriterId,
    from: u64,
    to: u64,
) -> Result<Option<Vec<Id>>, Fault> {
    let sql = format!(
        "SELECT former, sequence, aor_ids FROM changes \
         WHERE writer = {} AND sequence > {from} AND sequence <= {to} ORDER BY sequence",
        writer.0
    );
    let (mut ids, mut at) = (BTreeSet::new(), from);
    for mut row in sql::only(connection.query(&sql, ROW_WITHIN).await?)? {
        if number::<u64>(&row, 0)? != at {
            return Ok(None);
        }
        at = number(&row, 1)?;
        ids.extend(Id::list(row.take(2)));
    }
    Ok((at == to).then(|| ids.into_iter().collect()))
}

/// What has been written: by each writer, transactions in all, and the last revision of credentials. The transactions
/// are counted first, so that one that comes in between is looked for again.
async fn numbers_of(
    connection: &mut Connection,
    within: Duration,
) -> Result<(Vector, u64, u64), Fault> {
    let sql = "SELECT revision, credential_revision FROM meta WHERE id = 1;SELECT id, sequence FROM writers";
    let mut sets = connection.query(sql, within).await?.into_iter();
    let missing = || Fault::Odd("an answer without rows".to_owned());
    let meta = sets.next().and_then(|mut rows| rows.pop()).ok_or_else(missing)?;
    let mut vector = Vector::default();
    for row in sets.next().ok_or_else(missing)? {
        vector.advance(WriterId(number(&row, 0)?), number(&row, 1)?);
    }
    Ok((vector, number(&meta, 0)?, number(&meta, 1)?))
}
