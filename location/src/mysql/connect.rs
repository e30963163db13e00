//! One connection to one node, and what went wrong with it.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, Row};
use tokio::time::timeout;

use super::sql::{self, number, text};
use super::{ClientFile, Health, Node};

/// How long a node may take for its part of a connection. During a stall of the cluster they are not answered at all.
pub(crate) const CONNECT_WITHIN: Duration = Duration::from_millis(400);

/// What every statement here depends on: how text is read, what happens to values that do not fit, that only rows that
/// exist are locked, and that long lists are looked up and not joined.
const SESSION: &str = "SET NAMES utf8mb4 COLLATE utf8mb4_nopad_bin;\
    SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', SESSION autocommit = 1, \
    SESSION innodb_lock_wait_timeout = 3, SESSION in_predicate_conversion_threshold = 0, \
    SESSION wait_timeout = 604800;\
    SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED;";

/// Asks what any node answers, with or without a quorum.
const HEALTH: &str = "SHOW STATUS WHERE Variable_name IN \
    ('wsrep_ready', 'wsrep_cluster_size', 'wsrep_local_state_comment');SHOW VARIABLES LIKE 'wsrep_on'";

/// What [`Fault::Odd`] says when the table is there, but not the row that every writer has.
pub(crate) const OWN_ROW_GONE: &str = "a row of its own is gone";

/// Why a statement was not answered as it should have been.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The server said no; the connection goes on.
    Server { code: u16, message: String },
    /// The connection ended, or could not be made.
    Gone(String),
    /// No answer in time.
    Silent,
    /// An answer that makes no sense.
    Odd(String),
}

impl Fault {
    /// Whether something that was there has gone with its table.
    pub(crate) fn is_missing(&self) -> bool {
        match self {
            // ER_NO_SUCH_TABLE
            Self::Server { code, .. } => *code == 1146,
            Self::Odd(problem) => problem == OWN_ROW_GONE,
            Self::Gone(_) | Self::Silent => false,
        }
    }

    pub(crate) fn odd_column(index: usize) -> Self {
        Self::Odd(format!("column {index} is not what it should be"))
    }

    /// Whether nobody is there, or somebody who is not of use: without a quorum, or about to end.
    pub(crate) fn is_absence(&self) -> bool {
        match self {
            Self::Gone(_) | Self::Silent => true,
            // ER_UNKNOWN_COM_ERROR, ER_SERVER_SHUTDOWN
            Self::Server { code, .. } => matches!(code, 1047 | 1053),
            Self::Odd(_) => false,
        }
    }

    /// Whether this user will be refused again.
    pub(crate) fn is_denied(&self) -> bool {
        // ER_DBACCESS_DENIED, ER_ACCESS_DENIED, ER_ACCESS_DENIED_NO_PASSWORD, ER_TABLEACCESS_DENIED, ER_SPECIFIC_ACCESS_DENIED
        matches!(self, Self::Server { code: 1044 | 1045 | 1142 | 1227 | 1698, .. })
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Server { code, message } => write!(f, "error {code}: {message}"),
            Self::Gone(problem) => f.write_str(problem),
            Self::Silent => f.write_str("no answer in time"),
            Self::Odd(problem) => write!(f, "unexpected answer: {problem}"),
        }
    }
}

impl From<mysql_async::Error> for Fault {
    fn from(error: mysql_async::Error) -> Self {
        match error {
            mysql_async::Error::Server(error) => {
                Self::Server { code: error.code, message: error.message }
            }
            error => Self::Gone(error.to_string()),
        }
    }
}

/// A connection. One that is dropped while an answer is waited for is closed at once.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) node: Node,
    /// Whether the node is part of a Galera cluster.
    pub(crate) galera: bool,
    /// What the server takes at once, bytes.
    pub(crate) max_packet: usize,
    conn: Conn,
}

impl Connection {
    /// Connects to a node that takes queries.
    pub(crate) async fn open(node: Node, client: &ClientFile) -> Result<Self, Fault> {
        Self::open_within(node, client, Some(&client.database), CONNECT_WITHIN).await
    }

    pub(crate) async fn open_within(
        node: Node,
        client: &ClientFile,
        database: Option<&str>,
        within: Duration,
    ) -> Result<Self, Fault> {
        timeout(within, Self::try_open(node, client, database)).await.map_err(|_| Fault::Silent)?
    }

    async fn try_open(
        node: Node,
        client: &ClientFile,
        database: Option<&str>,
    ) -> Result<Self, Fault> {
        let conn = Conn::new(options(node, client, database)).await?;
        let mut this = Self { node, galera: false, max_packet: 0, conn };
        let setup = format!("{SESSION}SELECT VERSION(), @@max_allowed_packet;{HEALTH}");
        let mut sets = this.send(&setup).await?;
        let health = health(sets.split_off(sets.len().min(1)))?;
        let Some(mut about) = sql::only(sets)?.pop() else {
            return Err(Fault::Odd("an answer without rows".to_owned()));
        };
        let version = text(&mut about, 0)?;
        if !version.contains("MariaDB") {
            return Err(Fault::Odd(format!("version {version} is not MariaDB")));
        }
        this.max_packet = number(&about, 1)?;
        this.galera = health.is_galera();
        if !health.ready {
            return Err(Fault::Gone(format!("not ready: {}", health.state)));
        }
        Ok(this)
    }

    /// What the server calls it.
    pub(crate) fn id(&self) -> u32 {
        self.conn.id()
    }

    /// Sends statements in one packet; the rows of each that has any.
    pub(crate) async fn query(
        &mut self,
        sql: &str,
        within: Duration,
    ) -> Result<Vec<Vec<Row>>, Fault> {
        timeout(within, self.send(sql)).await.map_err(|_| Fault::Silent)?
    }

    /// Without a limit of time.
    pub(crate) async fn send(&mut self, sql: &str) -> Result<Vec<Vec<Row>>, Fault> {
        let mut result = self.conn.query_iter(sql).await?;
        let mut sets = Vec::new();
        while !result.is_empty() {
            let has_rows = !result.columns_ref().is_empty();
            let rows = result.collect::<Row>().await?;
            if has_rows {
                sets.push(rows);
            }
        }
        Ok(sets)
    }

    /// Reads a single result row by row; each may take `within`.
    pub(crate) async fn stream(
        &mut self,
        sql: &str,
        within: Duration,
        mut each: impl FnMut(Row) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let silent = |_| Fault::Silent;
        let mut result = timeout(within, self.conn.query_iter(sql)).await.map_err(silent)??;
        while let Some(row) = timeout(within, result.next()).await.map_err(silent)?? {
            each(row)?;
        }
        Ok(())
    }

    /// From now on reads see what any node has committed before.
    pub(crate) async fn read_causally(&mut self, causal: bool) -> Result<(), Fault> {
        if self.galera {
            let sql = format!("SET SESSION wsrep_sync_wait = {}", u8::from(causal));
            self.query(&sql, CONNECT_WITHIN).await?;
        }
        Ok(())
    }
}

fn options(node: Node, client: &ClientFile, database: Option<&str>) -> Opts {
    OptsBuilder::default()
        .ip_or_hostname(node.address.ip().to_string())
        .tcp_port(node.address.port())
        .user(Some(&*client.user))
        .pass(Some(&*client.password))
        .db_name(database)
        .prefer_socket(false)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(5)))
        .stmt_cache_size(0)
        // Said here so that they are not asked for; the server's own limit is asked for later.
        .max_allowed_packet(Some(1 << 30))
        .wait_timeout(Some(28_800))
        .into()
}

/// What [`HEALTH`] answers. A server that is not in a cluster has `wsrep_ready` off.
fn health(sets: Vec<Vec<Row>>) -> Result<Health, Fault> {
    let (mut on, mut ready) = (false, false);
    let mut health = Health { ready: true, state: "".into(), cluster_size: 0 };
    for mut row in sets.into_iter().flatten() {
        let (name, value) = (text(&mut row, 0)?, text(&mut row, 1)?);
        match &*name {
            "wsrep_on" => on = &*value == "ON",
            "wsrep_ready" => ready = &*value == "ON",
            "wsrep_local_state_comment" => health.state = value,
            "wsrep_cluster_size" => health.cluster_size = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    if on {
        health.ready = ready;
        Ok(health)
    } else {
        Ok(Health { state: "".into(), cluster_size: 0, ..health })
    }
}

/// Whether and how a node answers.
pub(crate) async fn ask(
    node: Node,
    client: &ClientFile,
    within: Duration,
) -> Result<Health, Fault> {
    timeout(within, try_ask(node, client))
        .await
        .map_err(|_| Fault::Silent)?
        .map(|(health, _)| health)
}

async fn try_ask(node: Node, client: &ClientFile) -> Result<(Health, Conn), Fault> {
    let mut conn = Conn::new(options(node, client, None)).await?;
    let mut result = conn.query_iter(HEALTH).await?;
    let mut sets = Vec::new();
    while !result.is_empty() {
        sets.push(result.collect::<Row>().await?);
    }
    drop(result);
    Ok((health(sets)?, conn))
}

/// Whether a node that has been silent on connection `id` still is at work there.
///
/// # Errors
/// It is not of use any more: it does not answer here either, has no quorum, or waits for us on that connection.
pub(crate) async fn is_at_work(
    node: Node,
    client: &ClientFile,
    id: u32,
    within: Duration,
) -> Result<(), Fault> {
    let ask = async {
        let (health, mut conn) = try_ask(node, client).await?;
        if !health.ready {
            return Err(Fault::Gone(format!("not ready: {}", health.state)));
        }
        let sql = format!("SELECT COMMAND FROM information_schema.PROCESSLIST WHERE ID = {id}");
        let command: Option<String> = conn.query_first(sql).await?;
        match command.as_deref() {
            None | Some("Sleep") => Err(Fault::Gone("a packet was lost".to_owned())),
            Some(_) => Ok(()),
        }
    };
    timeout(within, ask).await.map_err(|_| Fault::Silent)?
}
