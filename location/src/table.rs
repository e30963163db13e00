//! Bindings and claims in memory, under the rules that all backends share: what simulations have in place of a database.

use std::collections::BTreeMap;

use crate::claim::{Claim, ClaimOutcome};
use crate::decide;
use crate::record::{BindingKey, Record, Version, WriterId};
use crate::store::{Answer, Request, SaveOutcome};

/// See the module documentation. It keeps no credentials.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: BTreeMap<(Box<str>, BindingKey), Record>,
    sequences: BTreeMap<WriterId, u64>,
    claims: BTreeMap<Box<str>, Claim>,
}

impl Table {
    pub fn new() -> Self {
        Self::default()
    }

    /// Carries a request out at once.
    pub fn carry_out(&mut self, writer: WriterId, request: &Request) -> Answer {
        match request {
            Request::Save(save) => {
                let stored: Vec<Record> = self.of(&save.aor).cloned().collect();
                let mut accepted = match decide::save(save, &stored) {
                    Ok(accepted) => accepted,
                    Err(refused) => return Answer::Save(refused),
                };
                let sequence = self.sequences.entry(writer).or_default();
                for record in &mut accepted.changed {
                    *sequence += 1;
                    record.version = Version { writer, sequence: *sequence };
                    self.rows.insert((record.aor.clone(), record.key.clone()), record.clone());
                }
                Answer::Save(accepted.outcome(save.now_ms))
            }
            Request::Lookup { aor, now_ms } => Answer::Found(
                self.of(aor).filter(|record| record.is_live(*now_ms)).cloned().collect(),
            ),
            Request::Expire { now_ms } => {
                let before = self.rows.len();
                self.rows.retain(|_, record| record.purge_at() > *now_ms);
                Answer::Expired(before - self.rows.len())
            }
            Request::Claim(change) => {
                let outcome = decide::claim(change, self.claims.get(change.name()).cloned());
                if let ClaimOutcome::Done(claim) = &outcome {
                    self.claims.insert(claim.name.clone(), claim.clone());
                }
                Answer::Claim(outcome)
            }
            Request::ReadClaim { name } => {
                Answer::ReadClaim(self.claims.get(name).filter(|claim| claim.owner != 0).cloned())
            }
            Request::Credentials(_)
            | Request::ListCredentials { .. }
            | Request::ListClaims { .. }
            | Request::Merge(_) => Answer::Failed("this is not for simulations".into()),
        }
    }

    /// What an answer says was changed: for other processes.
    pub fn changes(answer: &Answer) -> &[Record] {
        match answer {
            Answer::Save(SaveOutcome::Saved { changed, .. }) => changed,
            _ => &[],
        }
    }

    /// All rows, those of removed bindings included.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.rows.values()
    }

    fn of(&self, aor: &str) -> impl Iterator<Item = &Record> {
        let first = (Box::from(aor), BindingKey::stored(""));
        self.rows
            .range(first..)
            .map(|(_, record)| record)
            .take_while(move |record| *record.aor == *aor)
    }
}
