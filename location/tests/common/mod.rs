//! A blocking client of any store, and requests for it.
#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod contract;
pub(crate) mod gate;
pub(crate) mod mariadb;
pub(crate) mod rules;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use dialtone_location::sqlite::{Config, SqliteStore};
use dialtone_location::{
    Answer, BindingKey, Change, CredentialChange, CredentialOutcome, Credentials, Error,
    LocationStore, NewBinding, Record, Replica, Request, Save, SaveOutcome, Sink, StoreEvent,
    Ticket, WriterId,
};

pub(crate) const AOR: &str = "alice@dialtone.test";

/// A backend under test: several stores can be opened on the same data.
pub(crate) trait Backend: Sync {
    fn open(
        &self,
        writer: WriterId,
        sink: Box<dyn Fn(Vec<StoreEvent>) + Send + Sync>,
    ) -> Box<dyn LocationStore>;
}

/// A folder that goes with the test.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("dialtone-location-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("temporary folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) struct Sqlite(pub(crate) PathBuf);

impl Backend for Sqlite {
    fn open(
        &self,
        writer: WriterId,
        sink: Box<dyn Fn(Vec<StoreEvent>) + Send + Sync>,
    ) -> Box<dyn LocationStore> {
        Box::new(open_sqlite(&self.0, writer, sink).expect("open"))
    }
}

pub(crate) fn open_sqlite(
    path: &Path,
    writer: WriterId,
    sink: impl Sink,
) -> Result<SqliteStore, Error> {
    let config = Config {
        pace: Duration::ZERO,
        poll: Duration::from_millis(2),
        ..Config::new(path, writer)
    };
    SqliteStore::open(config, sink)
}

/// One writer with its replica.
pub(crate) struct Client {
    store: Box<dyn LocationStore>,
    events: Receiver<Vec<StoreEvent>>,
    answers: RefCell<HashMap<Ticket, Answer>>,
    pub(crate) replica: RefCell<Replica>,
    pub(crate) credentials: RefCell<Credentials>,
    /// Of the credential handed out last.
    revision: Cell<u64>,
    loaded: Cell<bool>,
    /// Whether the database may be away for a while.
    pub(crate) forgiving: Cell<bool>,
    next: Cell<u64>,
}

impl Client {
    pub(crate) fn open(backend: &dyn Backend, writer: u32) -> Self {
        let (sender, events) = channel();
        let store = backend.open(WriterId(writer), Box::new(move |batch| drop(sender.send(batch))));
        Self {
            store,
            events,
            answers: RefCell::default(),
            replica: RefCell::default(),
            credentials: RefCell::default(),
            revision: Cell::new(0),
            loaded: Cell::new(false),
            forgiving: Cell::new(false),
            next: Cell::new(0),
        }
    }

    pub(crate) fn submit(&self, request: Request) -> Ticket {
        let ticket = Ticket(self.next.get());
        self.next.set(ticket.0 + 1);
        self.store.submit(ticket, request).expect("submit");
        ticket
    }

    pub(crate) fn answer(&self, ticket: Ticket) -> Answer {
        loop {
            if let Some(answer) = self.answers.borrow_mut().remove(&ticket) {
                return answer;
            }
            self.take_events(Duration::from_secs(20));
        }
    }

    fn take_events(&self, patience: Duration) {
        for event in self.events.recv_timeout(patience).expect("an event in time") {
            match event {
                StoreEvent::Answer { ticket, answer } => {
                    if let Answer::Save(SaveOutcome::Saved { changed, .. }) = &answer {
                        self.apply(changed);
                    }
                    assert!(
                        self.answers.borrow_mut().insert(ticket, answer).is_none(),
                        "answered twice"
                    );
                }
                StoreEvent::Changes(records) => self.apply(&records),
                StoreEvent::Credentials(list) => {
                    let mut revision = self.revision.get();
                    for credential in &list {
                        assert!(credential.revision >= revision, "{list:?} after {revision}");
                        revision = credential.revision;
                        self.credentials.borrow_mut().apply(credential);
                    }
                    self.revision.set(revision);
                }
                StoreEvent::Loaded => {
                    self.loaded.set(true);
                    self.replica.borrow_mut().end_reload();
                }
                StoreEvent::Reloading => self.replica.borrow_mut().begin_reload(0),
                StoreEvent::Recovered => {}
                StoreEvent::Behind(reason) => assert!(self.forgiving.get(), "feeder: {reason}"),
            }
        }
    }

    fn apply(&self, records: &[Record]) {
        records.iter().for_each(|record| _ = self.replica.borrow_mut().apply(record));
    }

    pub(crate) fn call(&self, request: Request) -> Answer {
        self.answer(self.submit(request))
    }

    pub(crate) fn save(&self, save: Save) -> SaveOutcome {
        match self.call(Request::Save(Box::new(save))) {
            Answer::Save(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    /// The contacts that a save left, or the refusal.
    pub(crate) fn saved(&self, save: Save) -> Result<Vec<String>, SaveOutcome> {
        match self.save(save) {
            SaveOutcome::Saved { bindings, .. } => {
                Ok(bindings.iter().map(|record| record.contact.to_string()).collect())
            }
            refused => Err(refused),
        }
    }

    pub(crate) fn found(&self, aor: &str, now_ms: u64) -> Vec<String> {
        match self.call(Request::Lookup { aor: aor.into(), now_ms }) {
            Answer::Found(records) => {
                records.iter().map(|record| record.contact.to_string()).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn replica_contacts(&self, aor: &str, now_ms: u64) -> Vec<String> {
        self.replica.borrow().lookup(aor, now_ms).map(|target| target.contact.to_owned()).collect()
    }

    /// Takes events until the replica holds `expected` for `aor`.
    pub(crate) fn await_replica(&self, aor: &str, now_ms: u64, expected: &[&str]) {
        while !self.loaded.get() || self.replica_contacts(aor, now_ms) != expected {
            self.take_events(Duration::from_secs(10));
        }
    }

    pub(crate) fn change_users(&self, change: CredentialChange) -> Vec<CredentialOutcome> {
        match self.call(Request::Credentials(change)) {
            Answer::Credentials(outcomes) => outcomes,
            other => panic!("{other:?}"),
        }
    }

    /// Users with their realms behind `after`.
    pub(crate) fn listed(
        &self,
        after: Option<(&str, &str)>,
        limit: usize,
    ) -> Vec<(String, String)> {
        let after = after.map(|(user, realm)| (user.into(), realm.into()));
        match self.call(Request::ListCredentials { after, limit }) {
            Answer::CredentialList(list) => {
                list.iter().map(|one| (one.user.to_string(), one.realm.to_string())).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    /// Takes events until `user` must know the MD5 hash of these bytes, or is not there.
    pub(crate) fn await_user(&self, user: &str, realm: &str, md5: Option<u8>) {
        let now = || {
            let all = self.credentials.borrow();
            all.find(user, realm).map(|found| found.ha1_md5.map_or(0, |hash| hash[0]))
        };
        while !self.loaded.get() || now() != md5 {
            self.take_events(Duration::from_secs(10));
        }
    }
}

pub(crate) fn binding(contact: &str, lifetime: u32) -> NewBinding {
    NewBinding {
        key: BindingKey::contact(contact),
        contact: contact.into(),
        params: ";methods=\"INVITE\"".into(),
        q: 1000,
        lifetime,
        user_agent: "test".into(),
        received: "".into(),
        path: "<sip:token@127.0.0.1:5060;lr>".into(),
        gateway: 7,
        flow_token: "token".into(),
        instance: "".into(),
        reg_id: 0,
    }
}

pub(crate) fn register(call_id: &str, cseq: u32, now_ms: u64, bindings: Vec<NewBinding>) -> Save {
    Save {
        aor: AOR.into(),
        call_id: call_id.into(),
        cseq,
        now_ms,
        max_bindings: 4,
        evict_oldest: false,
        change: Change::Bindings(bindings),
    }
}

pub(crate) fn remove_all(call_id: &str, cseq: u32, now_ms: u64) -> Save {
    Save { change: Change::RemoveAll, ..register(call_id, cseq, now_ms, Vec::new()) }
}
