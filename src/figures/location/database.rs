//! The database that is measured, and saves as registrars make them.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc::Receiver,
    time::Duration,
};

use dialtone_location::{
    Answer, BindingKey, Change, LocationStore, NewBinding, Request, Save, SaveOutcome, Sink,
    StoreEvent, Ticket, WriterId,
    cli::{StoreAddress, StoreArgs},
};

use super::super::Error;
use crate::launcher::{Launcher, Layout, Location};

/// How long the database may be silent.
pub(super) const SILENCE: Duration = Duration::from_secs(30);

/// Nodes of the cluster.
pub(super) const NODES: u8 = 3;

/// Which backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Three nodes of MariaDB, from Debian's packages
    Galera,
    Sqlite,
}

impl Kind {
    /// Bindings that it must commit per second.
    pub(super) fn committed(self) -> f64 {
        match self {
            Self::Galera => super::COMMITTED_GALERA,
            Self::Sqlite => super::COMMITTED_SQLITE,
        }
    }

    pub(super) fn layout(self, registrars: u8) -> Layout {
        let location = match self {
            Self::Galera => Location::Galera { nodes: NODES },
            Self::Sqlite => Location::Sqlite,
        };
        Layout { registrars, location, ..Layout::default() }
    }
}

/// A database; its files and processes end with it.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) store: StoreArgs,
    /// Of the files.
    pub(super) folder: PathBuf,
    _sqlite: Option<Folder>,
    _nodes: Option<Launcher>,
}

#[derive(Debug)]
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Database {
    /// An empty one.
    pub(super) fn new(binary: &Path, kind: Kind, folder: &Path) -> Result<Self, Error> {
        if kind == Kind::Galera {
            let mut launcher = Launcher::for_test(binary, kind.layout(1))?;
            launcher.start_registrar(1)?;
            launcher.start_databases()?;
            let nodes = (1..=NODES).map(|n| launcher.database_address(n).to_string());
            let store = StoreArgs {
                store: StoreAddress::Mysql(nodes.collect()),
                credentials: Some(launcher.database_credentials()),
            };
            let folder = launcher.folder().to_owned();
            return Ok(Self { store, folder, _sqlite: None, _nodes: Some(launcher) });
        }
        let folder = folder.join(format!("dialtone-figures-{}", std::process::id()));
        std::fs::create_dir(&folder)?;
        let store = StoreAddress::Sqlite(folder.join("location.db"));
        let _sqlite = Some(Folder(folder.clone()));
        Ok(Self { store: StoreArgs { store, credentials: None }, folder, _sqlite, _nodes: None })
    }

    /// Names it to `dialtone figures load-replica`.
    pub(super) fn name_to(&self, command: &mut Command) {
        match &self.store.store {
            StoreAddress::Sqlite(path) => command.arg(format!("--store=sqlite:{}", path.display())),
            StoreAddress::Mysql(nodes) => command.arg(format!("--store=mysql:{}", nodes.join(","))),
        };
        if let Some(file) = &self.store.credentials {
            command.arg("--credentials").arg(file);
        }
    }

    pub(super) fn open(
        &self,
        writer: WriterId,
        sink: impl Sink,
    ) -> Result<Box<dyn LocationStore>, Error> {
        open(&self.store, writer, sink)
    }
}

pub(super) fn open(
    store: &StoreArgs,
    writer: WriterId,
    sink: impl Sink,
) -> Result<Box<dyn LocationStore>, Error> {
    store.open(writer, SILENCE, sink).map_err(|error| Error::Service(error.to_string()))
}

/// Saves one binding of each user, `outstanding` at a time; all are committed when this returns.
pub(super) fn save_all(
    store: &dyn LocationStore,
    events: &Receiver<Vec<StoreEvent>>,
    users: impl Iterator<Item = u64>,
    cseq: u32,
    outstanding: usize,
) -> Result<(), Error> {
    let mut users = users.enumerate().peekable();
    let mut waiting = 0;
    while waiting > 0 || users.peek().is_some() {
        while waiting < outstanding
            && let Some((n, user)) = users.next()
        {
            let request = Request::Save(Box::new(save(user, cseq)));
            store
                .submit(Ticket(n as u64), request)
                .map_err(|error| Error::Service(error.to_string()))?;
            waiting += 1;
        }
        let batch = events
            .recv_timeout(SILENCE)
            .map_err(|_| Error::Service("the database does not answer".to_owned()))?;
        for event in batch {
            match event {
                StoreEvent::Answer { answer: Answer::Save(SaveOutcome::Saved { .. }), .. } => {
                    waiting -= 1;
                }
                StoreEvent::Answer { answer, .. } => {
                    return Err(Error::Service(format!("a save was answered {answer:?}")));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// What a phone with GRUU and outbound registers through a gateway: the longest usual record.
pub(super) fn save(user: u64, cseq: u32) -> Save {
    let host = format!("10.{}.{}.{}", user >> 16 & 255, user >> 8 & 255, user & 255);
    let instance = format!("<urn:uuid:00000000-0000-1000-8000-{user:012x}>");
    // As long as a token for UDP over IPv4.
    let token = format!("{user:032x}");
    Save {
        aor: format!("user{user}@dialtone.test").into(),
        call_id: format!("call-{user}@{host}").into(),
        cseq,
        now_ms: wall_clock(),
        max_bindings: 8,
        evict_oldest: false,
        change: Change::Bindings(vec![NewBinding {
            key: BindingKey::flow(&instance, 1),
            contact: format!("sip:user{user}@{host}:5060").into(),
            params: format!(";+sip.instance=\"{instance}\";reg-id=1").into(),
            q: 1000,
            lifetime: 3600,
            user_agent: "dialtone-figures".into(),
            received: "".into(),
            path: format!("<sip:{token}@127.0.0.1:5060;lr;ob>").into(),
            gateway: 1,
            flow_token: token.into(),
            instance: instance.into(),
            reg_id: 1,
        }]),
    }
}

/// Milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "bindings end in real time")]
fn wall_clock() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_millis() as u64
}
