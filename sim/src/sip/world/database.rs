//! Between the proxies and the database: requests, answers, what others hear of, and clocks.

use std::time::Duration;

use dialtone_location::{
    Answer, ClaimChange, Record, Request, StoreEvent, Table, Ticket, WriterId,
};
use dialtone_sip_proxy::core::{ClockNotice, Proxy};

use super::process::{Core, EPOCH_MS, Input_};
use super::{Act, Event, GATEWAYS, Move, PROCESSES, World, name};
use crate::sip::store::{Fate, Mood, Store};

/// A request on its way through the database.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    process: usize,
    life: u32,
    ticket: Ticket,
    request: Request,
    /// Until its answer arrives.
    answered_after: Duration,
}

impl World {
    /// Milliseconds since 1970, really.
    pub(crate) fn wall_ms(&self) -> u64 {
        EPOCH_MS + self.now.as_millis() as u64
    }

    /// A proxy asks the database.
    pub(super) fn ask(&mut self, process: usize, ticket: Ticket, mut request: Request) {
        let life = self.procs[process].life;
        if self.bugs.early_answers
            && let Request::Save(_) = &request
        {
            // Answered from a copy, and never committed.
            let answer = Store::default().carry_out(process as u32, &request);
            let event = StoreEvent::Answer { ticket, answer };
            return self.push(self.now, Event::StoreTells { process, life, event });
        }
        if self.bugs.trusted_clocks {
            let by_ms = self.procs[process].clock_ms;
            match &mut request {
                Request::Save(save) => save.now_ms = save.now_ms.saturating_add_signed(by_ms),
                Request::Lookup { now_ms, .. } | Request::Expire { now_ms } => {
                    *now_ms = now_ms.saturating_add_signed(by_ms);
                }
                _ => {}
            }
        }
        if let Request::Claim(ClaimChange::Swap { name, owner, .. }) = &request {
            // No claim grows old enough here to be renewed, which would be a swap, too.
            let to = (*owner - 100) as usize;
            self.moves.push(Move { at: self.now, name: name.clone(), to });
        }
        if self.bugs.split_claims
            && let Request::Claim(_) = &request
        {
            let answer = Table::default().carry_out(WriterId(1), &request);
            let event = StoreEvent::Answer { ticket, answer };
            return self.push(self.now, Event::StoreTells { process, life, event });
        }
        if self.store.mood == Mood::Full {
            let answer = Answer::Failed("the queue is full".into());
            let event = StoreEvent::Answer { ticket, answer };
            return self.push(self.now, Event::StoreTells { process, life, event });
        }
        let (carried_out_after, answered_after) = self.store.delays(&mut self.rng);
        let mut at = self.now + carried_out_after;
        if !matches!(request, Request::Lookup { .. }) {
            let last = &mut self.procs[process].last_write;
            at = at.max(*last + Duration::from_micros(1));
            *last = at;
        }
        let asked = Asked { process, life, ticket, request, answered_after };
        self.push(at, Event::Store(asked));
    }

    /// The database carries a request out.
    pub(super) fn carry_out(&mut self, asked: Asked) {
        if self.store.mood == Mood::Stalled {
            return self.held.push(asked);
        }
        let Asked { process, life, ticket, request, answered_after } = asked;
        if self.procs[process].life != life && self.rng.bool() {
            // Lost with the process that asked.
            return;
        }
        let fate = self.store.fate(&request, &mut self.rng);
        let failed = || Answer::Failed("the disk is full".into());
        let answer = match fate {
            Fate::Failed => failed(),
            _ => self.store.carry_out(process as u32, &request),
        };
        // Who is told the outcome knows; to all others, and to whoever comes after it under its name, it is news.
        let told = fate == Fate::Committed && self.procs[process].life == life;
        let knows = told.then_some(process);
        self.spread(process, knows, Table::changes(&answer).to_vec());
        let answer = match fate {
            Fate::CommittedInSilence => return,
            Fate::CommittedSaidFailed => failed(),
            Fate::Committed | Fate::Failed => answer,
        };
        let event = StoreEvent::Answer { ticket, answer };
        self.push(self.now + answered_after, Event::StoreTells { process, life, event });
    }

    /// What `process` wrote reaches the proxies that do not know it yet.
    fn spread(&mut self, process: usize, knows: Option<usize>, changed: Vec<Record>) {
        if changed.is_empty() {
            return;
        }
        let who = name(process);
        let text = || {
            let rows: Vec<String> = changed
                .iter()
                .map(|record| {
                    let removed = if record.deleted_at.is_some() { " removed" } else { "" };
                    format!("{} {}{removed}", record.contact, record.cseq)
                })
                .collect();
            format!("committed: {}", rows.join(", "))
        };
        self.note(&who, 10, &[], text);
        for other in (GATEWAYS..PROCESSES).filter(|other| Some(*other) != knows) {
            let life = self.procs[other].life;
            let event = StoreEvent::Changes(changed.clone());
            let late = if self.store.lags { self.rng.u64(20..1_000) } else { 22 };
            if self.bugs.lost_changes && self.rng.u8(..4) == 0 {
                continue;
            }
            let at = self.now + Duration::from_millis(late);
            self.push(at, Event::StoreTells { process: other, life, event });
        }
    }

    /// How the database is from now on; what it held back goes on.
    pub(super) fn set_mood(&mut self, mood: Mood) {
        self.store.mood = mood;
        if mood != Mood::Stalled {
            for (number, asked) in std::mem::take(&mut self.held).into_iter().enumerate() {
                let at = self.now + Duration::from_nanos(number as u64);
                self.push(at, Event::Store(asked));
            }
        }
    }

    /// All proxies look at the clocks of their systems.
    pub(super) fn look_at_clocks(&mut self) {
        let now = self.base + self.now;
        let right_ms = self.wall_ms();
        for process in GATEWAYS..PROCESSES {
            let known = &mut self.procs[process];
            if !known.alive || known.frozen.is_some() {
                continue;
            }
            let system_ms = right_ms.saturating_add_signed(known.clock_ms);
            let Core::Proxy(proxy) = &mut known.core else { continue };
            let notice = proxy.set_wall(now, Duration::ZERO, system_ms);
            if let Some(ClockNotice::Followed { .. } | ClockNotice::Adopted { .. }) = notice {
                self.wrong("clock", format!("{}: {notice:?}", name(process)));
            }
        }
        self.push(self.now + Duration::from_secs(1), Event::Clocks);
    }

    pub(super) fn set_clock(&mut self, process: usize, by_ms: i64) {
        self.procs[process].clock_ms = by_ms;
    }

    /// How long REGISTERs wait for the database; before anything has happened.
    pub(crate) fn set_store_timeout(&mut self, timeout: Duration) {
        self.store_timeout = timeout;
        for process in GATEWAYS..PROCESSES {
            self.procs[process].core = self.core(process);
            self.give(process, Input_::Store(StoreEvent::Loaded));
            self.give(process, Input_::View);
        }
    }

    /// The proxies that run.
    pub(crate) fn proxies(&self) -> impl Iterator<Item = (String, &Proxy)> {
        self.procs.iter().enumerate().filter(|(_, known)| known.alive).filter_map(
            |(number, known)| match &known.core {
                Core::Proxy(proxy) => Some((name(number), &**proxy)),
                Core::Gateway(_) | Core::Focus(_) => None,
            },
        )
    }

    /// What a proxy would find in memory for this user.
    pub(crate) fn replica_contacts(&self, proxy: &Proxy, user: &str) -> Vec<String> {
        proxy.contacts(self.base + self.now, &format!("{user}@dialtone.test"))
    }

    /// What was answered is so in the database.
    pub(super) fn check_registration(&mut self, phone: usize) {
        let phone = &self.phones[phone];
        let bound = self.store.contacts(&phone.user, self.wall_ms());
        let fault = match phone.asked.last() {
            Some(asked) => phone.differs(asked.change, &bound),
            None if bound.contains(&&*phone.contact()) => None,
            None => Some(format!("{} is not in the database", phone.name)),
        };
        if let Some(what) = fault {
            self.wrong("registration", what);
        }
    }

    /// Applies an act of the database or the clocks.
    pub(super) fn act_on_store(&mut self, act: Act) {
        match act {
            Act::Clock { process, by_ms } => self.set_clock(process, by_ms),
            Act::Lag(lags) => self.store.lags = lags,
            Act::Mood(mood) => self.set_mood(mood),
            _ => {}
        }
    }
}
