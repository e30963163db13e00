//! The location database as proxies see it: commits in order, answers after the commit, tells all others.

use std::collections::BTreeMap;
use std::time::Duration;

use dialtone_location::{
    Answer, BindingKey, Change, Record, Request, Save, SaveOutcome, Version, WriterId,
};

/// How the database is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Refuses everything.
    Failing,
    #[default]
    Fine,
    /// Takes half a second.
    Slow,
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) mood: Mood,
    rows: BTreeMap<(Box<str>, BindingKey), Record>,
    sequence: u64,
}

impl Store {
    pub(crate) fn delay(&self) -> Duration {
        Duration::from_millis(if self.mood == Mood::Slow { 500 } else { 2 })
    }

    pub(crate) fn all(&self) -> Vec<Record> {
        self.rows.values().cloned().collect()
    }

    /// Whether this contact is bound.
    pub(crate) fn has(&self, user: &str, contact: &str) -> bool {
        self.rows.values().any(|record| {
            record.aor.starts_with(&format!("{user}@"))
                && &*record.contact == contact
                && record.deleted_at.is_none()
        })
    }

    /// Carries a request out: the answer, and what has changed.
    pub(crate) fn commit(&mut self, writer: u32, request: &Request) -> (Answer, Vec<Record>) {
        if self.mood == Mood::Failing {
            return (Answer::Failed("the disk is full".into()), Vec::new());
        }
        match request {
            Request::Save(save) => self.save(writer, save),
            Request::Lookup { aor, now_ms } => (Answer::Found(self.live(aor, *now_ms)), Vec::new()),
            Request::Expire { .. } => (Answer::Expired(0), Vec::new()),
            Request::Claim(_)
            | Request::ReadClaim { .. }
            | Request::Credentials(_)
            | Request::ListCredentials { .. } => {
                (Answer::Failed("neither claims nor users here".into()), Vec::new())
            }
        }
    }

    fn live(&self, aor: &str, now_ms: u64) -> Vec<Record> {
        let live = |record: &&Record| &*record.aor == aor && record.is_live(now_ms);
        self.rows.values().filter(live).cloned().collect()
    }

    fn save(&mut self, writer: u32, save: &Save) -> (Answer, Vec<Record>) {
        let refused = || (Answer::Save(SaveOutcome::OutOfOrder), Vec::new());
        let mut changed = Vec::new();
        let Change::Bindings(list) = &save.change else { return refused() };
        for new in list {
            let old = self.rows.get(&(save.aor.clone(), new.key.clone()));
            if let Some(old) = old.filter(|old| old.call_id == save.call_id) {
                if old.cseq > save.cseq || (old.cseq == save.cseq && old.path != new.path) {
                    return refused();
                }
                if old.cseq == save.cseq {
                    continue;
                }
            }
            self.sequence += 1;
            let version = Version { writer: WriterId(writer), sequence: self.sequence };
            changed.push(Record { version, ..save.record(new, old) });
        }
        for record in &changed {
            self.rows.insert((record.aor.clone(), record.key.clone()), record.clone());
        }
        let bindings = self.live(&save.aor, save.now_ms);
        (Answer::Save(SaveOutcome::Saved { bindings, changed: changed.clone() }), changed)
    }
}
