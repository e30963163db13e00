//! The checks `mysql:FILE` and `galera:FILE`: what a MariaDB server answers over a connection that stays open.
//!
//! `SELECT 1` succeeds on a Galera node that has lost its quorum, so a node of a cluster is asked for its state.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::PoisonError,
};

use dialtone_location::mysql::ClientFile;
use mysql_async::{Conn, Opts, OptsBuilder, prelude::Queryable};

use crate::{
    check::Check,
    galera::{
        disk::Position,
        node::{Reach, Reached},
    },
    gate::Finding,
};

/// What a node of a cluster is asked for.
const STATE: &str = "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_cluster_status', 'wsrep_last_committed', \
    'wsrep_local_state', 'wsrep_local_state_comment', 'wsrep_local_state_uuid', 'wsrep_ready')";

/// `wsrep_local_state`: gives its data to another node.
const DONOR: &str = "2";
/// `wsrep_local_state`: has everything.
const SYNCED: &str = "4";

/// What a check of a node of a cluster needs besides.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Its data folder, if that is known: what the node does as a donor shows there.
    pub data: Option<PathBuf>,
    /// How far the node came, for whoever shares this.
    pub reached: Reached,
}

/// A server that answers queries; with `galera`, a node of a primary component that has everything.
#[derive(Debug)]
pub struct Mysql {
    opts: Opts,
    /// For a node of a cluster.
    galera: Option<Cluster>,
    connection: Option<Conn>,
}

impl Mysql {
    pub fn new(address: SocketAddr, client: &ClientFile, galera: Option<Cluster>) -> Self {
        let opts = OptsBuilder::default()
            .ip_or_hostname(address.ip().to_string())
            .tcp_port(address.port())
            .user(Some(client.user.to_string()))
            .pass(Some(client.password.to_string()))
            // Otherwise each connection begins with questions for these.
            .max_allowed_packet(Some(1 << 20))
            .wait_timeout(Some(28_800))
            .prefer_socket(Some(false));
        Self { opts: opts.into(), galera, connection: None }
    }

    async fn ask(&mut self) -> Result<Finding, mysql_async::Error> {
        // Taken: a connection on which an answer was not awaited is of no use any more.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Conn::new(self.opts.clone()).await?,
        };
        let finding = if let Some(Cluster { data, reached }) = &self.galera {
            let status: Vec<(String, String)> = connection.query(STATE).await?;
            let value = |name: &str| {
                status.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str())
            };
            let position =
                format!("{}:{}", value("wsrep_local_state_uuid"), value("wsrep_last_committed"));
            let position: Option<Position> = position.parse().ok();
            let primary = value("wsrep_cluster_status") == "Primary";
            *reached.lock().unwrap_or_else(PoisonError::into_inner) = Reach { position, primary };
            match judge(
                value("wsrep_ready"),
                value("wsrep_cluster_status"),
                (value("wsrep_local_state"), value("wsrep_local_state_comment")),
            ) {
                Finding::Silent if data.as_deref().is_some_and(|data| !copies(data)) => {
                    Finding::Healthy
                }
                finding => finding,
            }
        } else {
            connection.query_drop("SELECT 1").await?;
            Finding::Healthy
        };
        self.connection = Some(connection);
        Ok(finding)
    }
}

impl Check for Mysql {
    fn check(&mut self) -> Pin<Box<dyn Future<Output = Finding> + Send + '_>> {
        Box::pin(async move {
            match self.ask().await {
                Ok(finding) => finding,
                Err(error) => Finding::Failed(error.to_string()),
            }
        })
    }
}

/// Whether the server with this data folder is about to copy everything to another one, by the script that does it.
/// With `--bypass` the script does nothing, since a few transactions are enough.
fn copies(data: &Path) -> bool {
    let data = data.to_string_lossy();
    let commands = fs::read_dir("/proc").into_iter().flatten().flatten();
    commands.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok()).any(|command| {
        let command = String::from_utf8_lossy(&command);
        ["wsrep_sst_", "donor", &data].iter().all(|word| command.contains(word))
            && !command.contains("--bypass")
    })
}

/// A donor is in doubt (`Silent`): while it copies everything it blocks writing; while it gives a few transactions that
/// another node lacks it serves. Who cannot see which lets the last success decide: a few take no time.
fn judge(ready: &str, cluster: &str, (state, comment): (&str, &str)) -> Finding {
    match (ready, cluster, state) {
        ("ON", "Primary", SYNCED) => Finding::Healthy,
        ("ON", "Primary", DONOR) => Finding::Silent,
        (_, "Disconnected" | "", "0" | "") => Finding::Failed(
            "no node of a cluster: wsrep is off (for a server alone, use --check mysql:FILE)"
                .to_owned(),
        ),
        _ => Finding::Failed(format!(
            "wsrep_ready is {ready}, the component {cluster}, the node {comment}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_synced_members_of_a_primary_component_serve() {
        assert_eq!(judge("ON", "Primary", ("4", "Synced")), Finding::Healthy);
        assert_eq!(judge("ON", "Primary", ("2", "Donor/Desynced")), Finding::Silent);
        for (ready, cluster, state, word) in [
            ("OFF", "non-Primary", ("0", "Initialized"), "non-Primary"),
            ("OFF", "Primary", ("4", "Synced"), "wsrep_ready is OFF"),
            ("ON", "Primary", ("3", "Joined"), "Joined"),
            ("OFF", "Disconnected", ("0", ""), "--check mysql:FILE"),
            ("", "", ("", ""), "--check mysql:FILE"),
        ] {
            match judge(ready, cluster, state) {
                Finding::Failed(reason) => assert!(reason.contains(word), "{reason}"),
                other => panic!("{other:?}"),
            }
        }
    }
}
