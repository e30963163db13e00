//! Finding and opening the location database: a file, or the servers of the pool `location-db`.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use dialtone_daemon::{DataDir, Error};
use dialtone_handlespace::Handle;
use dialtone_location::mysql::{self, ClientFile, MysqlStore, Node};
use dialtone_location::opaque::{DatabaseName, machine_id};
use dialtone_location::sqlite::{self, SqliteStore};
use dialtone_location::{LocationStore, Sink, WriterId};
use dialtone_pool_user::{PoolUser, View};
use dialtone_wire::Transport;
use tokio::sync::watch;

use crate::config::Config;

const POOL: &str = "location-db";
/// A REGISTER is answered 503 after the configured time; only then does the store give up.
const LONGER: Duration = Duration::from_secs(1);
const METRICS_EVERY: Duration = Duration::from_secs(1);

/// Waits for a database and opens it.
///
/// # Errors
/// It cannot be used, and that will not change by waiting.
pub(crate) async fn open(
    config: &Config,
    data_dir: &DataDir,
    user: Option<&PoolUser>,
    writer: WriterId,
    sink: impl Sink,
) -> Result<Arc<dyn LocationStore>, Error> {
    if let (Some(path), Some(user)) = (&config.location_credentials, user) {
        let client = ClientFile::read(path).map_err(|error| Error::Usage(error.to_string()))?;
        let nodes = follow_nodes(user.watch(&pool()?).map_err(Error::other)?);
        let patience = Duration::from_millis(config.registration.store_timeout_ms) + LONGER;
        let store_config = mysql::Config { patience, ..mysql::Config::new(nodes, client, writer) };
        tracing::info!("waiting for a database server in the pool location-db");
        let store = MysqlStore::open(store_config, sink).await;
        let store = Arc::new(store.map_err(|error| Error::Unavailable(error.to_string()))?);
        tracing::info!(writer = writer.0, "location database open");
        tokio::spawn(export(Arc::downgrade(&store)));
        return Ok(store);
    }
    let path = find_file(config, data_dir, user).await?;
    let store_config = sqlite::Config::new(path, writer);
    let store = tokio::task::spawn_blocking(move || SqliteStore::open(store_config, sink));
    let store = store
        .await
        .map_err(Error::other)?
        .map_err(|error| Error::Unavailable(error.to_string()))?;
    tracing::info!(path = %store.path().display(), writer = writer.0, "location database open");
    Ok(Arc::new(store))
}

fn pool() -> Result<Handle, Error> {
    POOL.parse().map_err(Error::other)
}

/// Metrics of a store on servers, as long as there is one.
async fn export(store: Weak<MysqlStore>) {
    loop {
        tokio::time::sleep(METRICS_EVERY).await;
        // Not held while waiting: whoever drops the store means it.
        let Some(stats) = store.upgrade().map(|store| store.stats()) else { return };
        for (name, value) in [
            ("dialtone_location_commits_total", stats.commits),
            ("dialtone_location_committed_total", stats.committed),
            ("dialtone_location_conflicts_total", stats.conflicts),
            ("dialtone_location_moves_total", stats.moves),
            ("dialtone_location_doubts_total", stats.doubts),
        ] {
            metrics::counter!(name).absolute(value);
        }
        metrics::gauge!("dialtone_location_writable")
            .set(f64::from(u8::from(stats.node.is_some())));
    }
}

/// The servers of the pool, as they come and go. The task ends with the store.
fn follow_nodes(mut view: watch::Receiver<Arc<View>>) -> watch::Receiver<Vec<Node>> {
    let nodes = |view: &View| -> Vec<Node> {
        let member = |member: &dialtone_pool_user::Member| match &member.transport {
            Transport::Tcp { .. } => Some(Node { id: member.pe_id.0, address: member.addr()? }),
            _ => None,
        };
        view.members.iter().filter_map(member).collect()
    };
    let (sender, receiver) = watch::channel(nodes(&view.borrow_and_update()));
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = sender.closed() => return,
                changed = view.changed() => {
                    if changed.is_err() {
                        // The agent ended: the last members stay.
                        return;
                    }
                    let found = nodes(&view.borrow_and_update());
                    sender.send_if_modified(|known| {
                        let differs = *known != found;
                        *known = found;
                        differs
                    });
                }
            }
        }
    });
    receiver
}

/// The configured file, or the first usable one that the pool `location-db` names. That element may vanish later: the
/// file stays open.
async fn find_file(
    config: &Config,
    data_dir: &DataDir,
    user: Option<&PoolUser>,
) -> Result<PathBuf, Error> {
    if let Some(path) = &config.location_db {
        return Ok(path.clone());
    }
    let Some(user) = user else {
        return Err(Error::Usage("there is no way to a database".to_owned()));
    };
    let machine = machine_id(&data_dir.path().join("machine-id")).map_err(Error::other)?;
    let folder = config.location_dir.clone().unwrap_or_default();
    let mut view = user.watch(&pool()?).map_err(Error::other)?;
    let usable = |view: &Arc<View>| {
        view.members.iter().find_map(|member| match &member.transport {
            Transport::Opaque(name) => {
                let name = DatabaseName::decode(name)?;
                let usable = name.is_usable(&machine, &folder);
                if !usable {
                    tracing::warn!(path = %name.path.display(), machine = %name.machine, folder = %folder.display(),
                        "a location database of another machine, or outside of location_dir, is not used");
                }
                usable.then_some(name.path)
            }
            _ => None,
        })
    };
    tracing::info!("waiting for a location database in the pool location-db");
    loop {
        let found = usable(&view.borrow_and_update());
        if let Some(path) = found {
            return Ok(path);
        }
        view.changed().await.map_err(Error::other)?;
    }
}
