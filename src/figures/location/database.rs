//! The database that is measured, and saves as registrars make them.

use std::{
    path::{Path, PathBuf},
    sync::mpsc::Receiver,
    time::Duration,
};

use dialtone_location::{
    Answer, BindingKey, Change, LocationStore, NewBinding, Request, Save, SaveOutcome, Sink,
    StoreEvent, Ticket, WriterId,
    sqlite::{self, SqliteStore},
};

use super::super::Error;

/// How long the database may be silent.
const SILENCE: Duration = Duration::from_secs(30);

/// Which backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
}

impl Kind {
    /// Bindings that it must commit per second.
    pub(super) fn committed(self) -> f64 {
        match self {
            Self::Sqlite => super::COMMITTED_SQLITE,
        }
    }
}

/// A database; its files are removed with it.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    _folder: Folder,
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
    pub(super) fn new(kind: Kind, folder: &Path) -> Result<Self, Error> {
        let Kind::Sqlite = kind;
        let folder = folder.join(format!("dialtone-figures-{}", std::process::id()));
        std::fs::create_dir(&folder)?;
        Ok(Self { path: folder.join("location.db"), _folder: Folder(folder) })
    }

    /// As `dialtone figures load-replica` has it.
    pub(super) fn name(&self) -> String {
        format!("sqlite:{}", self.path.display())
    }

    /// What decides about durability.
    pub(super) fn settings(&self) -> Vec<(String, String)> {
        vec![("SQLite".to_owned(), "write-ahead log, fsync before every answer".to_owned())]
    }

    pub(super) fn open(
        &self,
        writer: WriterId,
        sink: impl Sink,
    ) -> Result<Box<dyn LocationStore>, Error> {
        open_sqlite(&self.path, writer, sink)
    }
}

/// Opens what [`Database::name`] says.
pub(super) fn open(
    name: &str,
    writer: WriterId,
    sink: impl Sink,
) -> Result<Box<dyn LocationStore>, Error> {
    match name.split_once(':') {
        Some(("sqlite", path)) => open_sqlite(Path::new(path), writer, sink),
        _ => Err(Error::Service(format!("{name:?} is no database; use sqlite:PATH"))),
    }
}

fn open_sqlite(
    path: &Path,
    writer: WriterId,
    sink: impl Sink,
) -> Result<Box<dyn LocationStore>, Error> {
    let store = SqliteStore::open(sqlite::Config::new(path, writer), sink);
    store.map(|store| Box::new(store) as _).map_err(|error| Error::Service(error.to_string()))
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
fn save(user: u64, cseq: u32) -> Save {
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
