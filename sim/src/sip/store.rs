//! The location database as proxies see it: the rules of the real ones, and their moods.

use std::time::Duration;

use dialtone_location::{Answer, Change, Record, Request, Table, WriterId};

/// How the database is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Refuses everything.
    Failing,
    #[default]
    Fine,
    /// Its queue takes nothing more.
    Full,
    /// Takes up to 2.5 s, of each writer in order, over the writers in any.
    Slow,
    /// Does nothing now, and everything when it is over.
    Stalled,
    /// Commits some, says of others that they failed although they are committed, and of some nothing at all.
    Unsure,
}

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Committed,
    CommittedInSilence,
    CommittedSaidFailed,
    Failed,
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) mood: Mood,
    /// Other proxies hear of changes up to 1 s late.
    pub(crate) lags: bool,
    /// Planted: saves are not held against what is stored.
    unordered: bool,
    table: Table,
    saves: u64,
}

impl Store {
    pub(crate) fn new(unordered: bool) -> Self {
        Self { unordered, ..Self::default() }
    }

    /// How long a process that starts takes to read everything.
    pub(crate) fn loading(&self) -> Duration {
        Duration::from_millis(if self.mood == Mood::Slow { 500 } else { 2 })
    }

    /// How long a request waits until it is carried out, and its answer after that.
    pub(crate) fn delays(&self, rng: &mut fastrand::Rng) -> (Duration, Duration) {
        let ms = |ms| Duration::from_millis(ms);
        match self.mood {
            Mood::Slow => (ms(rng.u64(2..2_000)), ms(rng.u64(1..500))),
            Mood::Failing | Mood::Fine | Mood::Full | Mood::Stalled | Mood::Unsure => {
                (ms(2), ms(1))
            }
        }
    }

    pub(crate) fn fate(&self, request: &Request, rng: &mut fastrand::Rng) -> Fate {
        match self.mood {
            Mood::Failing | Mood::Full => Fate::Failed,
            Mood::Fine | Mood::Slow | Mood::Stalled => Fate::Committed,
            Mood::Unsure => match rng.u8(..4) {
                0 => Fate::CommittedSaidFailed,
                // Somebody waits for these only, and not for ever.
                1 if matches!(request, Request::Save(_)) => Fate::CommittedInSilence,
                2 => Fate::Failed,
                _ => Fate::Committed,
            },
        }
    }

    pub(crate) fn all(&self) -> Vec<Record> {
        self.table.records().cloned().collect()
    }

    /// The contacts that are bound.
    pub(crate) fn contacts(&self, user: &str, now_ms: u64) -> Vec<&str> {
        let of_user = |record: &&Record| {
            record.aor.strip_prefix(user).is_some_and(|rest| rest.starts_with('@'))
        };
        let live = self.table.records().filter(of_user).filter(|record| record.is_live(now_ms));
        live.map(|record| &*record.contact).collect()
    }

    pub(crate) fn carry_out(&mut self, writer: u32, request: &Request) -> Answer {
        if let (true, Request::Save(save)) = (self.unordered, request) {
            self.saves += 1;
            let mut save = save.clone();
            save.call_id = format!("{}-{}", save.call_id, self.saves).into();
            if save.change != Change::RemoveAll {
                return self.table.carry_out(WriterId(writer), &Request::Save(save));
            }
        }
        self.table.carry_out(WriterId(writer), request)
    }
}
