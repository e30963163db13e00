//! The task that writes: takes what is queued, one transaction at a time, and answers after its COMMIT.
//!
//! A group goes through these steps, as often as it takes:
//! 1. one read of all rows that it concerns, together with this writer's own row;
//! 2. the decisions, in memory ([`super::group`]);
//! 3. one packet with the whole transaction. It moves this writer's row from the sequence and token that were read to
//!    the next ones, so of all packets that were ever sent for the same step one is committed at most: one that a frozen
//!    node carries out when it thaws finds another token there, or fails in certification.
//!
//! - **Rolled back** (deadlock, certification, rows that have changed): again from step 1 after a short pause.
//! - **Outcome unknown** (the connection ended or the node stood still): another connection, whose first read sees what
//!   any node has committed before, tells by the token in this writer's row whether that packet was the last that was
//!   committed. If so the group is answered as decided then; if not, again from step 1.
//! - **No answer for 400 ms**: a second connection asks the node how it is. One that is still at work waits for its
//!   cluster, and so does this task; one that does not answer, or knows nothing of the packet, is given up.
//! - **Too old**: whoever asked has stopped waiting, so a request that cannot be committed for
//!   [`super::Config::patience`] is answered with a failure. It may still be committed: saves are conditional, and the
//!   feeder reads what this process has not told itself. So is every request while no node can be reached
//!   ([`super::reach`]): the feeder goes on trying.
//!
//! While a packet is on its way the next group is read and decided ([`super::ahead`]), if many requests wait.
//!
//! All processes write to the same node as long as they can. After that node has failed a task of its own looks whether
//! it is back, and this one returns to it between two groups.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::ahead::{Ahead, Decided, Next};
use super::connect::{self, CONNECT_WITHIN, Connection, Fault};
use super::group::{self, OTHER_ROWS, OTHER_SEQUENCE, Plan, Scope, State};
use super::queue::Entry;
use super::route::Route;
use super::schema::{self, Failure};
use super::sql::{self, Id, number};
use super::{ClientFile, NO_NODE, Node, Shared, clock};
use crate::decide::{CLAIM_MEMORY_MS, Horizon};
use crate::record::WriterId;
use crate::store::{Answer, Request, StoreEvent, Ticket};

/// A node that has not answered for so long is asked how it is.
const SILENCE: Duration = Duration::from_millis(400);
/// How long it may take to say so; a pool of threads that are all busy takes half a second to grow.
const PROBE_WITHIN: Duration = Duration::from_millis(800);
/// An answer that crosses with that one.
const JUST_NOW: Duration = Duration::from_millis(20);
/// A node that is at work for longer is given up.
const LONGEST_STALL: Duration = Duration::from_secs(15);
/// Between two attempts, at most; the first ones come sooner.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// What is gathered into one packet, bytes; a single request may have more.
const PACKET: usize = 6 << 20;
/// Rows looked at by one request to forget what has ended, and rows forgotten, so that saves never wait long for it.
const PART_ROWS: u64 = 50_000;
const EXPIRE_ROWS: u64 = 2_000;
/// A follower that is behind for longer reads everything again.
const CHANGES_MEMORY_MS: u64 = 120_000;
/// For how long a store that is being closed still tries.
const CLOSING: Duration = Duration::from_secs(2);
/// The preferred node is asked this often whether it is back, and has to say so as many times in a row.
const RETURN_EVERY: Duration = Duration::from_secs(1);
const RETURN_AFTER: u32 = 3;
/// Read causally, it is answered when all that was committed before is there.
const CATCH_UP: &str = "SELECT revision FROM meta WHERE id = 1";
const NEWEST_CHANGE: &str = "SELECT MAX(changed_at) FROM writers";

pub(crate) struct Writer {
    shared: Arc<Shared>,
    id: WriterId,
    batch: usize,
    pace: Duration,
    patience: Duration,
    route: Route,
    connection: Option<Connection>,
    /// Brings a connection to the preferred node, when that is back.
    returning: Option<oneshot::Receiver<Connection>>,
    ahead: Option<Ahead>,
    /// Taken from the queue already.
    next: Option<Next>,
    horizon: Horizon,
    opened: Instant,
    /// Where what has ended is looked for next.
    looked_up_to: Id,
    /// How many requests go together; fewer while transactions get in each other's way.
    together: usize,
    rng: fastrand::Rng,
    /// Tables or rows that were there are not: somebody has made the database anew.
    rebuilt: bool,
    /// When there is nobody left to wait for.
    closing_until: Option<Instant>,
}

/// A transaction that may have been committed.
struct Doubt {
    token: u64,
    plan: Plan,
}

/// What became of an attempt.
enum Attempt {
    /// Committed, or nothing to commit.
    Done(Plan),
    /// Rows were forgotten.
    Forgotten(Vec<StoreEvent>),
    /// Rolled back.
    Again,
    /// Not of use as it is: too much for one transaction, or something in it that the server does not take.
    Split(String),
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        config: &super::Config,
        route: Route,
        newest: Option<u64>,
    ) -> Self {
        let batch = config.batch.max(1);
        let ahead = Some(Ahead::new(shared.clone(), config.writer, config.client.clone()));
        Self {
            shared,
            id: config.writer,
            batch,
            pace: config.pace,
            patience: config.patience,
            route,
            connection: None,
            returning: None,
            ahead,
            next: None,
            horizon: Horizon::new(newest),
            opened: clock(),
            looked_up_to: Id([0; 16]),
            together: batch,
            rng: fastrand::Rng::new(),
            rebuilt: false,
            closing_until: None,
        }
    }

    pub(crate) async fn run(mut self) {
        loop {
            let (group, decided) = match self.next.take() {
                Some(Next { group, decided }) => (group, Some(decided)),
                None => match self.shared.queue.next_group(self.together).await {
                    Some(group) => (group, None),
                    None => return,
                },
            };
            let begun = clock();
            // What was read at another node is of no use.
            let decided = if self.return_home() { None } else { decided };
            self.carry_out(group, decided).await;
            if self.next.is_none() && !self.shared.queue.is_closed() {
                // What comes meanwhile only lines up.
                sleep(self.pace.saturating_sub(clock().saturating_duration_since(begun))).await;
            }
        }
    }

    /// Answers every request of a group, or gives it back to the queue.
    async fn carry_out(&mut self, mut group: Vec<Entry>, mut decided: Option<Decided>) {
        let mut doubts: Vec<Doubt> = Vec::new();
        for tries in 0u32.. {
            self.fail_old(&mut group);
            if group.is_empty() {
                return;
            }
            if tries > 0 {
                let longest =
                    (Duration::from_millis(2) * 2u32.pow(tries.min(8))).min(LONGEST_PAUSE);
                sleep(longest.mul_f64(0.5 + self.rng.f64() / 2.0)).await;
            }
            if tries > 0 || self.connection.is_none() {
                decided = None;
            }
            let mut connection = match self.connect(&mut group).await {
                Ok(connection) => connection,
                Err(fault) => {
                    tracing::debug!(%fault, "no database node to write to");
                    self.rebuilt |= fault.is_missing();
                    continue;
                }
            };
            match self.attempt(&mut connection, &mut group, decided.take(), &mut doubts).await {
                Ok(Attempt::Done(plan)) => {
                    self.connection = Some(connection);
                    self.done(&group, plan);
                    return;
                }
                Ok(Attempt::Forgotten(events)) => {
                    self.connection = Some(connection);
                    (self.shared.sink)(events);
                    return;
                }
                Ok(Attempt::Again) => {
                    self.connection = Some(connection);
                    self.shared.counters.conflicts.fetch_add(1, Ordering::Relaxed);
                    // Shorter transactions pass more easily; what was sent in doubt has to stay together.
                    self.together = (group.len() / 2).clamp(16, self.batch);
                    if doubts.is_empty() && group.len() > self.together {
                        self.shared.queue.put_back(group.split_off(self.together));
                    }
                }
                Ok(Attempt::Split(reason)) => {
                    self.connection = Some(connection);
                    if group.len() > 1 {
                        self.together = group.len() / 2;
                        self.shared.queue.put_back(group.split_off(self.together));
                    } else {
                        tracing::error!(%reason, "the location database refuses to write");
                        self.fail(group, &reason);
                        return;
                    }
                }
                Err(fault) => {
                    tracing::info!(node = %connection.node.address, %fault, "database node given up");
                    self.rebuilt |= fault.is_missing();
                    self.shared.counters.moves.fetch_add(1, Ordering::Relaxed);
                    self.route.suspect(connection.node);
                    self.shared.set_node(None);
                }
            }
        }
    }

    /// An error means that the connection is of no use any more; a transaction that was on its way is in `doubts`.
    async fn attempt(
        &mut self,
        connection: &mut Connection,
        group: &mut Vec<Entry>,
        decided: Option<Decided>,
        doubts: &mut Vec<Doubt>,
    ) -> Result<Attempt, Fault> {
        if let [Entry { request: Request::Expire { now_ms }, ticket, .. }] = group.as_slice() {
            let (now_ms, ticket) = (*now_ms, *ticket);
            return self.expire(connection, group, ticket, now_ms).await;
        }
        let Decided { token, mut plan } = match decided {
            Some(decided) => decided,
            None => {
                let scope = Scope::of(group);
                let read = scope.read(self.id);
                let sets = self.patiently(connection, &read, group).await?;
                let state = State::read(&scope, sets)?;
                if let Some(index) = doubts.iter().position(|doubt| doubt.token == state.token) {
                    self.shared.counters.doubts.fetch_add(1, Ordering::Relaxed);
                    return Ok(Attempt::Done(doubts.swap_remove(index).plan));
                }
                let token = self.rng.u64(1..);
                Decided { token, plan: group::plan(self.id, token, group, &scope, state) }
            }
        };
        let Some(transaction) = plan.transaction.take() else {
            return Ok(Attempt::Done(plan));
        };
        let limit =
            if group.len() > 1 { PACKET.min(connection.max_packet) } else { connection.max_packet };
        if transaction.len() + 1024 > limit {
            return Ok(Attempt::Split("more than the database takes at once".to_owned()));
        }
        let (committed, next) = self.commit(connection, &transaction, &plan, group).await;
        match (&committed, next) {
            (Ok(_), next) => self.next = next,
            (Err(_), Some(next)) => self.shared.queue.put_back(next.group),
            (Err(_), None) => {}
        }
        match committed {
            Ok(()) => {
                self.shared.counters.commits.fetch_add(1, Ordering::Relaxed);
                Ok(Attempt::Done(plan))
            }
            Err(Fault::Server { code, message }) => match judge(code, &message) {
                Judgement::RolledBack => Ok(Attempt::Again),
                Judgement::Unknown => {
                    doubts.push(Doubt { token, plan });
                    Err(Fault::Server { code, message })
                }
                Judgement::Refused => Ok(Attempt::Split(format!("error {code}: {message}"))),
            },
            Err(fault) => {
                doubts.push(Doubt { token, plan });
                Err(fault)
            }
        }
    }

    /// Sends a transaction, and decides about the next group meanwhile.
    async fn commit(
        &mut self,
        connection: &mut Connection,
        transaction: &str,
        plan: &Plan,
        group: &mut Vec<Entry>,
    ) -> (Result<(), Fault>, Option<Next>) {
        let Some(mut ahead) = self.ahead.take() else {
            return (self.patiently(connection, transaction, group).await.map(drop), None);
        };
        let (node, limit, token) = (connection.node, self.together, self.rng.u64(1..));
        let (committed, next) = tokio::join!(
            self.patiently(connection, transaction, group),
            ahead.prepare(node, limit, token, plan)
        );
        self.ahead = Some(ahead);
        (committed.map(drop), next)
    }

    /// Forgets rows. Done twice it does no harm, so there is nothing to find out afterwards.
    async fn expire(
        &mut self,
        connection: &mut Connection,
        group: &mut Vec<Entry>,
        ticket: Ticket,
        now_ms: u64,
    ) -> Result<Attempt, Fault> {
        let open_ms = clock().saturating_duration_since(self.opened).as_millis() as u64;
        if self.horizon.is_blind(open_ms) {
            let newest = format!("{NEWEST_CHANGE} WHERE id <> {}", self.id.0);
            let sets = self.patiently(connection, &newest, group).await?;
            self.horizon.learn(newest_of(&sets)?, open_ms);
        }
        // What others write meanwhile is not meant.
        let blind = self.horizon.is_blind(open_ms);
        let own = if blind { format!(" AND writer = {}", self.id.0) } else { String::new() };
        let limit = self.horizon.limit(now_ms, open_ms);
        let claims =
            // Nobody knows whose they are.
            format!("FROM claims WHERE lease_until <= {} AND NOT {blind}", limit.saturating_sub(CLAIM_MEMORY_MS));
        let changes = format!("FROM changes WHERE written_at < {} - {CHANGES_MEMORY_MS}", sql::NOW);
        let mut part = String::new();
        self.looked_up_to.push(&mut part);
        let look = format!(
            "SELECT COUNT(*), HEX(MAX(aor_id)), IFNULL(SUM(purge_at <= {limit}), 0) FROM (\
             SELECT aor_id, purge_at FROM bindings FORCE INDEX (PRIMARY) WHERE aor_id >= {part} \
             ORDER BY aor_id LIMIT {PART_ROWS}) AS part;\
             SELECT EXISTS (SELECT 1 {claims}) OR EXISTS (SELECT 1 {changes})"
        );
        let sets = self.patiently(connection, &look, group).await?;
        let first =
            |set: usize| sets.get(set).and_then(|rows: &Vec<mysql_async::Row>| rows.first());
        let (Some(found), Some(others)) = (first(0), first(1)) else {
            return Err(Fault::Odd("an answer without rows".to_owned()));
        };
        let (looked_at, due): (u64, u64) = (number(found, 0)?, number(found, 2)?);
        let last = Id::from_hex(found.as_ref(1));
        let mut rows = 0;
        if due > 0 || number::<u64>(others, 0)? > 0 {
            let mut delete = String::new();
            if let Some(last) = last {
                let _ = write!(delete, "DELETE FROM bindings WHERE aor_id BETWEEN {part} AND ");
                last.push(&mut delete);
                let _ = write!(
                    delete,
                    " AND purge_at <= {limit}{own} LIMIT {EXPIRE_ROWS}; SET @expired = ROW_COUNT(); "
                );
            }
            let transaction = format!(
                "BEGIN NOT ATOMIC \
                 DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END; \
                 START TRANSACTION; \
                 UPDATE meta SET revision = revision + 1 WHERE id = 1; \
                 SET @expired = 0; {delete}\
                 DELETE {claims}; DELETE {changes} LIMIT {EXPIRE_ROWS}; \
                 COMMIT; END; SELECT @expired"
            );
            let sets = match self.patiently(connection, &transaction, group).await {
                Ok(sets) => sets,
                Err(Fault::Server { code, message }) => match judge(code, &message) {
                    Judgement::RolledBack => return Ok(Attempt::Again),
                    Judgement::Unknown => return Err(Fault::Server { code, message }),
                    Judgement::Refused => {
                        return Ok(Attempt::Split(format!("error {code}: {message}")));
                    }
                },
                Err(fault) => return Err(fault),
            };
            self.shared.counters.commits.fetch_add(1, Ordering::Relaxed);
            let count = sets.first().and_then(|rows| rows.first());
            rows = count.map(|row| number::<u64>(row, 0)).transpose()?.unwrap_or(0);
        }
        self.looked_up_to = match last {
            // As many as may go at a time: there may be more.
            Some(_) if rows >= EXPIRE_ROWS => self.looked_up_to,
            Some(last) if looked_at >= PART_ROWS => last,
            _ => Id([0; 16]),
        };
        let events = vec![StoreEvent::Answer { ticket, answer: Answer::Expired(rows as usize) }];
        Ok(Attempt::Forgotten(events))
    }

    /// Sends a packet and waits as long as its node lives. Meanwhile requests that get too old are answered.
    async fn patiently(
        &mut self,
        connection: &mut Connection,
        packet: &str,
        group: &mut Vec<Entry>,
    ) -> Result<Vec<Vec<mysql_async::Row>>, Fault> {
        let (node, id) = (connection.node, connection.id());
        let mut answer = pin!(connection.send(packet));
        let begun = clock();
        loop {
            if let Ok(result) = timeout(SILENCE, &mut answer).await {
                return result;
            }
            self.fail_old(group);
            let now = clock();
            if self.is_over(now) || now.saturating_duration_since(begun) > LONGEST_STALL {
                return Err(Fault::Silent);
            }
            let client = self.route.client.clone();
            let mut probe = pin!(connect::is_at_work(node, &client, id, PROBE_WITHIN));
            let fault = tokio::select! {
                result = &mut answer => return result,
                probed = &mut probe => match probed {
                    Ok(()) => {
                        self.shared.reach.found();
                        continue;
                    }
                    Err(fault) => fault,
                },
            };
            // It may have come just now.
            return match timeout(JUST_NOW, &mut answer).await {
                Ok(result) => result,
                Err(_) => Err(fault),
            };
        }
    }

    /// The connection of before, or another one that sees all that was committed at any node.
    async fn connect(&mut self, group: &mut Vec<Entry>) -> Result<Connection, Fault> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let mut connection = self.route.connect().await?;
        if self.rebuilt {
            let database = self.route.client.database.clone();
            match schema::prepare(&mut connection, &database, self.id).await {
                Ok(()) => self.rebuilt = false,
                Err(Failure::Passing(fault)) => return Err(fault),
                Err(Failure::Final(error)) => return Err(Fault::Odd(error.to_string())),
            }
        }
        self.catch_up(&mut connection, group).await?;
        tracing::info!(node = %connection.node.address, "writing to this database node");
        self.watch_home(connection.node);
        self.shared.set_node(Some(connection.node));
        Ok(connection)
    }

    /// Waits until a node has all that the cluster has committed; that takes as long as the cluster needs to know who
    /// belongs to it.
    async fn catch_up(
        &mut self,
        connection: &mut Connection,
        group: &mut Vec<Entry>,
    ) -> Result<(), Fault> {
        if !connection.galera {
            return Ok(());
        }
        connection.read_causally(true).await?;
        let result = self.patiently(connection, CATCH_UP, group).await;
        if let Err(fault) = result {
            self.route.suspect(connection.node);
            return Err(fault);
        }
        connection.read_causally(false).await
    }

    fn settle(&mut self, connection: Connection) {
        self.watch_home(connection.node);
        self.shared.set_node(Some(connection.node));
        self.connection = Some(connection);
    }

    /// Looks for the preferred node if this is not it.
    fn watch_home(&mut self, current: Node) {
        self.returning = None;
        if self.route.preferred().is_none_or(|preferred| preferred == current) {
            return;
        }
        let mut route = self.route.clone();
        let (mut sender, receiver) = oneshot::channel();
        self.returning = Some(receiver);
        tokio::spawn(async move {
            let mut answered = (None, 0);
            loop {
                tokio::select! {
                    () = sender.closed() => return,
                    () = sleep(RETURN_EVERY) => {}
                }
                let Some(preferred) = route.preferred().filter(|preferred| *preferred != current)
                else {
                    answered = (None, 0);
                    continue;
                };
                match caught_up(preferred, &route.client).await {
                    Ok(connection)
                        if answered.0 == Some(preferred) && answered.1 + 1 >= RETURN_AFTER =>
                    {
                        // The writer has gone elsewhere if this fails.
                        let _ = sender.send(connection);
                        return;
                    }
                    Ok(_) if answered.0 == Some(preferred) => answered.1 += 1,
                    Ok(_) => answered = (Some(preferred), 1),
                    Err(_) => answered = (None, 0),
                }
            }
        });
    }

    /// Goes back to the preferred node once it has been answering for a while; says whether it has done so.
    fn return_home(&mut self) -> bool {
        let current = self.connection.as_ref().map(|connection| connection.node);
        if let (Some(current), None) = (current, &self.returning)
            && self.route.preferred().is_some_and(|preferred| preferred != current)
        {
            self.watch_home(current);
        }
        let Some(Ok(connection)) = self.returning.as_mut().map(oneshot::Receiver::try_recv) else {
            return false;
        };
        tracing::info!(node = %connection.node.address, "writing to the preferred database node again");
        self.settle(connection);
        true
    }

    fn done(&mut self, group: &[Entry], plan: Plan) {
        let asked: BTreeSet<Ticket> = group.iter().map(|entry| entry.ticket).collect();
        let all = plan.events.len();
        let mut events = plan.events;
        events.retain(
            |event| matches!(event, StoreEvent::Answer { ticket, .. } if asked.contains(ticket)),
        );
        let (before, after) = plan.range;
        // What was answered with a failure has to come back through the feeder.
        if after != before && events.len() == all {
            self.shared.note_own(before, after);
        }
        self.shared.counters.committed.fetch_add(events.len() as u64, Ordering::Relaxed);
        self.shared.reach.found();
        self.together = (self.together * 2).min(self.batch);
        (self.shared.sink)(events);
    }

    /// Answers what nobody waits for any more, or what there is nobody to wait for, in the group and in the queue.
    fn fail_old(&mut self, group: &mut Vec<Entry>) {
        let now = clock();
        if self.shared.reach.is_hopeless(now) {
            group.append(&mut self.shared.queue.take_all());
            self.fail(std::mem::take(group), NO_NODE);
            return;
        }
        let mut old = self.shared.queue.take_old(now, self.patience);
        if self.shared.queue.is_closed() {
            let until = *self.closing_until.get_or_insert(now + CLOSING);
            if now >= until {
                old.append(&mut self.shared.queue.take_all());
                old.append(group);
            }
        }
        old.extend(group.extract_if(.., |entry| entry.is_old(now, self.patience)));
        if !old.is_empty() {
            tracing::warn!(requests = old.len(), "the location database is too late");
            self.fail(old, "the database did not commit this in time");
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.closing_until.is_some_and(|until| now >= until)
    }

    fn fail(&self, entries: Vec<Entry>, reason: &str) {
        if entries.is_empty() {
            return;
        }
        let reason: Arc<str> = reason.into();
        let events = entries
            .into_iter()
            .map(|Entry { ticket, .. }| StoreEvent::Answer {
                ticket,
                answer: Answer::Failed(reason.clone()),
            })
            .collect();
        (self.shared.sink)(events);
    }
}

/// A connection to a node that has all that the cluster had committed a moment before.
async fn caught_up(node: Node, client: &ClientFile) -> Result<Connection, Fault> {
    let mut connection = Connection::open(node, client).await?;
    if connection.galera {
        connection.read_causally(true).await?;
        connection.query(CATCH_UP, SILENCE).await?;
        connection.read_causally(false).await?;
    }
    Ok(connection)
}

/// What an error of the server says about a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judgement {
    RolledBack,
    /// Nothing can be said, or nothing good can be had from this node.
    Unknown,
    /// It would be refused again.
    Refused,
}

fn judge(code: u16, message: &str) -> Judgement {
    match code {
        // ER_DUP_ENTRY, ER_CHECKREAD, ER_LOCK_WAIT_TIMEOUT, ER_LOCK_DEADLOCK
        1062 | 1020 | 1205 | 1213 => Judgement::RolledBack,
        // ER_SIGNAL_EXCEPTION
        1644 if message == OTHER_SEQUENCE || message == OTHER_ROWS => Judgement::RolledBack,
        // ER_DATA_TOO_LONG, ER_TRUNCATED_WRONG_VALUE_FOR_FIELD, ER_WARN_DATA_OUT_OF_RANGE, ER_TOO_BIG_ROWSIZE,
        // ER_PARSE_ERROR, ER_NET_PACKET_TOO_LARGE, ER_NO_SUCH_TABLE, ER_BAD_FIELD_ERROR
        1406 | 1366 | 1264 | 1118 | 1064 | 1153 | 1146 | 1054 => Judgement::Refused,
        // ER_ACCESS_DENIED and its like
        1044 | 1045 | 1142 => Judgement::Refused,
        // ER_DISK_FULL and ER_RECORD_FILE_FULL are this node's trouble: another one may have room.
        // ER_UNKNOWN_COM_ERROR (a node without a quorum), ER_ERROR_DURING_COMMIT, ER_SERVER_SHUTDOWN,
        // ER_QUERY_INTERRUPTED, ER_OPTION_PREVENTS_STATEMENT (read-only) and all others
        _ => Judgement::Unknown,
    }
}

/// What opening has to find out for [`Horizon`].
pub(crate) async fn newest_change(connection: &mut Connection) -> Result<Option<u64>, Fault> {
    newest_of(&connection.query(NEWEST_CHANGE, CONNECT_WITHIN * 5).await?)
}

fn newest_of(sets: &[Vec<mysql_async::Row>]) -> Result<Option<u64>, Fault> {
    let row = sets.first().and_then(|rows| rows.first());
    let newest = row.map(|row| sql::nullable(row, 0)).transpose()?.flatten();
    Ok(newest.filter(|newest| *newest > 0))
}
