//! A client that only writes rows: what the same cluster can do at most.

use dialtone_location::{Change, cli::StoreAddress, mysql::ClientFile};
use mysql_async::{Conn, OptsBuilder, prelude::Queryable};
use tokio::runtime::Runtime;

use super::{
    super::Error,
    STRIDE,
    database::{Database, save},
};
use crate::launcher::clock;

/// Rows of each transaction.
pub(super) const ROWS: usize = 500;

/// Columns as the store's own table has them.
const TABLE: &str = "CREATE TABLE plain (aor VARCHAR(255) NOT NULL, contact MEDIUMTEXT NOT NULL, params MEDIUMTEXT NOT NULL, \
    expires_at BIGINT UNSIGNED NOT NULL, call_id MEDIUMTEXT NOT NULL, cseq INT UNSIGNED NOT NULL, path MEDIUMTEXT NOT NULL, \
    flow_token MEDIUMTEXT NOT NULL, instance MEDIUMTEXT NOT NULL, writer INT UNSIGNED NOT NULL, \
    sequence BIGINT UNSIGNED NOT NULL, PRIMARY KEY (aor), KEY (writer, sequence), KEY (expires_at))";

/// One connection to the first node.
pub(super) struct Plain {
    runtime: Runtime,
    connection: Conn,
    sequence: u64,
}

impl Plain {
    /// `None` for a database that has no clients.
    pub(super) fn connect(database: &Database) -> Result<Option<Self>, Error> {
        let (StoreAddress::Mysql(nodes), Some(file)) =
            (&database.store.store, &database.store.credentials)
        else {
            return Ok(None);
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = ClientFile::read(file).map_err(|error| Error::Service(error.to_string()))?;
        let (host, port) = nodes.first().and_then(|node| node.rsplit_once(':')).unwrap_or_default();
        let options = OptsBuilder::default()
            .ip_or_hostname(host)
            .tcp_port(port.parse().unwrap_or_default())
            .user(Some(&*client.user))
            .pass(Some(&*client.password))
            .db_name(Some(&*client.database));
        let connection = runtime.block_on(async {
            let mut connection = Conn::new(options).await?;
            connection.query_drop(TABLE).await?;
            mysql_async::Result::Ok(connection)
        });
        Ok(Some(Self { runtime, connection: connection.map_err(failed)?, sequence: 0 }))
    }

    /// What decides about durability and speed, as the node says it.
    pub(super) fn settings(&mut self) -> Result<Vec<(String, String)>, Error> {
        const SQL: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('version', \
            'innodb_flush_log_at_trx_commit', 'innodb_buffer_pool_size', 'wsrep_slave_threads')";
        self.runtime.block_on(self.connection.query(SQL)).map_err(failed)
    }

    /// Writes a row for each of the first users, as often as not for the first time; how many a second.
    pub(super) fn write(&mut self, count: u64, round: u32) -> Result<f64, Error> {
        let begun = clock();
        let users: Vec<u64> = (0..count).map(|n| (n * STRIDE) % count).collect();
        for users in users.chunks(ROWS) {
            let mut sql = String::with_capacity(ROWS * 600);
            sql.push_str("INSERT INTO plain VALUES ");
            for (n, user) in users.iter().enumerate() {
                let save = save(*user, round + 1);
                let Change::Bindings(bindings) = &save.change else { continue };
                self.sequence += 1;
                for new in bindings {
                    // None of these has anything to escape.
                    sql.push_str(&format!(
                        "{}('{}','{}','{}',{},'{}',{},'{}','{}','{}',1,{})",
                        if n == 0 { "" } else { "," },
                        save.aor,
                        new.contact,
                        new.params,
                        save.now_ms + u64::from(new.lifetime) * 1000,
                        save.call_id,
                        save.cseq,
                        new.path,
                        new.flow_token,
                        new.instance,
                        self.sequence,
                    ));
                }
            }
            sql.push_str(
                " ON DUPLICATE KEY UPDATE contact = VALUES(contact), params = VALUES(params), \
                 expires_at = VALUES(expires_at), call_id = VALUES(call_id), cseq = VALUES(cseq), path = VALUES(path), \
                 flow_token = VALUES(flow_token), instance = VALUES(instance), sequence = VALUES(sequence)",
            );
            self.runtime.block_on(self.connection.query_drop(sql)).map_err(failed)?;
        }
        let seconds = clock().saturating_duration_since(begun).as_secs_f64();
        Ok(count as f64 / seconds)
    }
}

fn failed(error: mysql_async::Error) -> Error {
    Error::Service(format!("the plain client: {error}"))
}
