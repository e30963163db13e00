//! Resolution of pool handles, subscriptions and failure reports (RFC 5352 sections 3.3, 3.5, 3.7.2), without IO.
//!
//! ASAP has no transaction identifier: answers are matched by pool handle, and one request is outstanding for each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use dialtone_asap_client::core::{Context, HomeChange, Role, Sender};
use dialtone_handlespace::Handle;
use dialtone_transport::model::AssocId;
use dialtone_wire::asap::{Message, Resolution};
use dialtone_wire::{CauseCode, OperationError, PeId, PoolElement};

use crate::config::UsersConfig;
use crate::error::ResolveError;
use crate::view::{Freshness, Member, View};

/// Option 0x803f: all elements.
const ALL: u32 = u32::MAX;
/// An answer of so many bytes may be one that was cut.
const NEARLY_FULL: usize = 0xf000;
/// Reports that are remembered for coalescing at most; beyond it the oldest knowledge is not worth the memory.
const MAX_REPORTS: usize = 4096;

/// What users of pools want.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Keep a view of the pool, reported by [`Event::View`].
    Watch(Handle),
    /// No more.
    Unwatch(Handle),
    /// Answer once, by [`Event::Resolved`] with the same number.
    Resolve { id: u64, handle: Handle },
    /// The element did not answer its user, who had sent to it (RFC 5352 section 3.5).
    ReportUnreachable { handle: Handle, pe_id: PeId },
    /// The element answers again: its next failure is another event.
    Trust { handle: Handle, pe_id: PeId },
}

/// What users learn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A watched pool changed, or how far its view can be trusted.
    View(Arc<View>),
    /// The answer to [`Command::Resolve`].
    Resolved { id: u64, outcome: Result<Arc<View>, ResolveError> },
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    /// T1-ENRPrequest.
    deadline: Instant,
    retransmits: u32,
}

#[derive(Debug)]
struct Pool {
    view: Arc<View>,
    watched: bool,
    /// Single questions: number and latest time.
    questions: Vec<(u64, Instant)>,
    pending: Option<Pending>,
    /// When to ask next.
    due: Option<Instant>,
    /// Over which association the members were named.
    told_by: Option<AssocId>,
    /// The view answers single questions until then.
    cached_until: Option<Instant>,
    /// Members that a former home named and the present one does not, or not yet.
    doubtful: Vec<Member>,
    /// Until when members stay that a new home does not know.
    hold: Option<Instant>,
    armed: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Report {
    expires: Instant,
    sent: bool,
}

/// The pools that one process uses.
#[derive(Debug)]
pub struct Users {
    config: UsersConfig,
    pools: BTreeMap<Handle, Pool>,
    timers: BTreeSet<(Instant, Handle)>,
    reports: BTreeMap<(Handle, PeId), Report>,
    coalesced: u64,
    events: VecDeque<Event>,
}

impl Users {
    pub fn new(config: UsersConfig) -> Self {
        Self {
            config,
            pools: BTreeMap::new(),
            timers: BTreeSet::new(),
            reports: BTreeMap::new(),
            coalesced: 0,
            events: VecDeque::new(),
        }
    }

    /// The present view of a watched or lately resolved pool.
    pub fn view(&self, handle: &Handle) -> Option<&Arc<View>> {
        self.pools.get(handle).map(|pool| &pool.view)
    }

    /// Reports that were not sent because one about the same element had just been.
    pub fn coalesced_reports(&self) -> u64 {
        self.coalesced
    }

    pub(crate) fn config(&self) -> &UsersConfig {
        &self.config
    }

    fn pool(&mut self, handle: &Handle) -> &mut Pool {
        self.pools.entry(handle.clone()).or_insert_with(|| Pool {
            view: Arc::new(View::unknown(handle.clone())),
            watched: false,
            questions: Vec::new(),
            pending: None,
            due: None,
            told_by: None,
            doubtful: Vec::new(),
            cached_until: None,
            hold: None,
            armed: None,
        })
    }

    fn resolve(&mut self, cx: &mut Context<'_>, id: u64, handle: &Handle) {
        let now = cx.now();
        let limit = now + self.config.resolve_limit;
        let pool = self.pool(handle);
        // RFC 5352 section 3.3 C1, C4: a fresh entry is used without asking.
        let fresh = pool.view.freshness == Freshness::Fresh
            && (pool.watched || pool.cached_until.is_some_and(|until| now < until));
        if fresh {
            let outcome = Ok(Arc::clone(&pool.view));
            self.events.push_back(Event::Resolved { id, outcome });
            return;
        }
        pool.questions.push((id, limit));
        if pool.pending.is_none() && cx.home().is_some() {
            pool.due = Some(now);
        }
        self.run(cx, handle);
    }

    fn report(&mut self, cx: &mut Context<'_>, handle: Handle, pe_id: PeId) {
        let now = cx.now();
        let key = (handle, pe_id);
        // RFC 5352 section 3.5: no more than one report for each such event.
        if self.reports.get(&key).is_some_and(|report| now < report.expires) {
            self.coalesced += 1;
            return;
        }
        if self.reports.len() >= MAX_REPORTS {
            self.reports.retain(|_, report| now < report.expires);
        }
        if self.reports.len() < MAX_REPORTS {
            let sent = send_report(cx, &key);
            self.reports.insert(key, Report { expires: now + self.config.suspicion, sent });
        }
    }

    /// Does what is due for one pool and sets its timer.
    fn run(&mut self, cx: &mut Context<'_>, handle: &Handle) {
        let now = cx.now();
        let Some(pool) = self.pools.get_mut(handle) else { return };
        if let Some(pending) = pool.pending.filter(|pending| pending.deadline <= now) {
            if pending.retransmits < self.config.max_retransmit {
                // RFC 5352 section 3.7.2: send again, and hunt beside.
                cx.hunt();
                pool.pending = None;
                ask(&self.config, cx, handle, pool, pending.retransmits + 1);
            } else {
                pool.pending = None;
                pool.due = None;
                cx.abandon_home();
                for (id, _) in pool.questions.drain(..) {
                    self.events
                        .push_back(Event::Resolved { id, outcome: Err(ResolveError::NoRegistrar) });
                }
            }
        }
        let events = &mut self.events;
        pool.questions.retain(|(id, limit)| {
            let waits = now < *limit;
            if !waits {
                events.push_back(Event::Resolved {
                    id: *id,
                    outcome: Err(ResolveError::NoRegistrar),
                });
            }
            waits
        });
        if pool.hold.is_some_and(|at| at <= now) {
            pool.hold = None;
            let view = if std::mem::take(&mut pool.doubtful).is_empty() {
                pool.told_by = None;
                pool.view.absent()
            } else {
                pool.view.without_doubtful()
            };
            publish(&mut self.events, pool, view);
        }
        if pool.due.is_some_and(|at| at <= now) && pool.pending.is_none() && cx.home().is_some() {
            pool.due = None;
            if pool.watched || !pool.questions.is_empty() {
                ask(&self.config, cx, handle, pool, 0);
            }
        }
        let forgotten = !pool.watched
            && pool.questions.is_empty()
            && pool.pending.is_none()
            && pool.cached_until.is_none_or(|until| until <= now);
        let wakes = [
            pool.pending.map(|pending| pending.deadline),
            pool.due.filter(|_| pool.pending.is_none()),
            pool.questions.iter().map(|(_, limit)| *limit).min(),
            pool.hold,
            pool.cached_until.filter(|_| !pool.watched),
        ];
        // What is past waits for something else: a cached answer outlives its time while a question is open.
        let ahead = wakes.into_iter().flatten().filter(|at| *at > now);
        let next = ahead.min().filter(|_| !forgotten);
        if next != pool.armed {
            if let Some(armed) = pool.armed {
                self.timers.remove(&(armed, handle.clone()));
            }
            if let Some(next) = next {
                self.timers.insert((next, handle.clone()));
            }
            pool.armed = next;
        }
        if forgotten {
            self.pools.remove(handle);
        }
    }

    fn handle_answer(
        &mut self,
        cx: &mut Context<'_>,
        from: Sender,
        handle: &Handle,
        accepted: bool,
        outcome: &Result<Resolution<'_>, OperationError<'_>>,
    ) {
        let now = cx.now();
        let Some(pool) = self.pools.get_mut(handle) else { return };
        // RFC 5352 section 3.3: the response stops T1. Updates by subscription look the same.
        pool.pending = None;
        let answer = match outcome {
            Ok(resolution) => {
                // Only a registrar that knows subscriptions is known to heed the option for all members (0x803f),
                // and even then it leaves out what one message cannot hold.
                let length: usize = resolution.elements.iter().map(PoolElement::max_len).sum();
                let complete = pool.watched && accepted && length < NEARLY_FULL;
                let moved = pool.told_by.replace(from.assoc).is_some_and(|by| by != from.assoc);
                if moved && pool.watched {
                    // A registrar that started just now learns its elements one by one. Those that the former home
                    // named stay known meanwhile, for whoever has to reach just that one.
                    pool.doubtful = pool.view.members.to_vec();
                    pool.hold = Some(now + self.config.negative_hold);
                }
                let named =
                    |member: &Member| resolution.elements.iter().any(|e| e.pe_id == member.pe_id);
                pool.doubtful.retain(|member| !named(member));
                if pool.doubtful.is_empty() {
                    pool.hold = None;
                }
                let Resolution { policy, elements } = resolution;
                let view =
                    pool.view.with_answer(policy.as_ref(), elements, complete, &pool.doubtful);
                pool.cached_until = Some(now + self.config.stale_after);
                let wait = if accepted { self.config.refresh } else { self.config.poll_interval };
                pool.due = pool.watched.then(|| now + wait);
                self.reports
                    .retain(|(pool, pe_id), _| pool != handle || view.member(*pe_id).is_some());
                publish(&mut self.events, pool, view);
                Ok(())
            }
            Err(error) => {
                let causes: Vec<CauseCode> = error.causes.iter().map(|cause| cause.code).collect();
                pool.cached_until = None;
                // A negative answer leaves no subscription, even if the pool appears later.
                pool.due = pool.watched.then(|| now + self.config.negative_retry);
                let unknown = causes.contains(&CauseCode::UNKNOWN_POOL_HANDLE);
                let by_the_same = pool.told_by == Some(from.assoc);
                let view = if pool.view.members.is_empty() || (unknown && by_the_same) {
                    pool.told_by = None;
                    pool.hold = None;
                    pool.doubtful.clear();
                    pool.view.absent()
                } else {
                    if unknown && pool.hold.is_none() {
                        pool.hold = Some(now + self.config.negative_hold);
                    }
                    stale(&pool.view, now)
                };
                publish(&mut self.events, pool, view);
                Err(if unknown {
                    ResolveError::UnknownPool
                } else {
                    ResolveError::Refused { causes }
                })
            }
        };
        for (id, _) in pool.questions.drain(..) {
            let outcome = answer.clone().map(|()| Arc::clone(&pool.view));
            self.events.push_back(Event::Resolved { id, outcome });
        }
        self.run(cx, handle);
    }
}

impl Role for Users {
    type Command = Command;
    type Event = Event;

    fn handle_command(&mut self, cx: &mut Context<'_>, command: Command) {
        match command {
            Command::Watch(handle) => {
                let now = cx.now();
                let pool = self.pool(&handle);
                if !pool.watched {
                    pool.watched = true;
                    pool.pending = None;
                    // Also when a single question is under way, since that one does not subscribe.
                    pool.due = cx.home().map(|_| now);
                    let view = Arc::clone(&pool.view);
                    self.events.push_back(Event::View(view));
                }
                self.run(cx, &handle);
            }
            Command::Unwatch(handle) => {
                if let Some(pool) = self.pools.get_mut(&handle) {
                    pool.watched = false;
                    pool.hold = None;
                    pool.doubtful.clear();
                    self.run(cx, &handle);
                }
            }
            Command::Resolve { id, handle } => self.resolve(cx, id, &handle),
            Command::ReportUnreachable { handle, pe_id } => self.report(cx, handle, pe_id),
            Command::Trust { handle, pe_id } => {
                self.reports.remove(&(handle, pe_id));
            }
        }
    }

    fn handle_message(
        &mut self,
        cx: &mut Context<'_>,
        from: Sender,
        message: &Message<'_>,
    ) -> bool {
        let Message::HandleResolutionResponse { accepted, handle, outcome } = message else {
            return false;
        };
        // A former home may be cut off from the others: what it says is old news.
        if let Ok(handle) = Handle::try_from(*handle)
            && from.is_home
        {
            self.handle_answer(cx, from, &handle, *accepted, outcome);
        }
        true
    }

    fn handle_home(&mut self, cx: &mut Context<'_>, change: HomeChange) {
        let now = cx.now();
        let found = change != HomeChange::Lost;
        let handles: Vec<Handle> = self.pools.keys().cloned().collect();
        for handle in handles {
            let Some(pool) = self.pools.get_mut(&handle) else { continue };
            // RFC 5352 section 2.2.5: registrars do not share subscriptions, the new home has to be asked.
            pool.pending = None;
            pool.due = found.then_some(now);
            if !found
                && pool.watched
                && !matches!(pool.view.freshness, Freshness::Unknown | Freshness::Absent)
            {
                let view = stale(&pool.view, now);
                publish(&mut self.events, pool, view);
            }
            self.run(cx, &handle);
        }
        if found {
            for (key, report) in &mut self.reports {
                if !report.sent && now < report.expires {
                    report.sent = send_report(cx, key);
                }
            }
        }
    }

    fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        let now = cx.now();
        while let Some((at, handle)) = self.timers.first().cloned() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            if let Some(pool) = self.pools.get_mut(&handle) {
                pool.armed = None;
            }
            self.run(cx, &handle);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    fn poll(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}

/// Asks the home for everything it has, with a subscription when the pool is watched.
fn ask(
    config: &UsersConfig,
    cx: &mut Context<'_>,
    handle: &Handle,
    pool: &mut Pool,
    retransmits: u32,
) {
    let request = Message::HandleResolution {
        subscribe: pool.watched,
        handle: handle.to_wire(),
        items: Some(ALL),
    };
    cx.send(&request);
    pool.pending = Some(Pending { deadline: cx.now() + config.t1, retransmits });
}

fn send_report(cx: &mut Context<'_>, (handle, pe_id): &(Handle, PeId)) -> bool {
    cx.send(&Message::EndpointUnreachable { handle: handle.to_wire(), pe_id: *pe_id })
}

fn publish(events: &mut VecDeque<Event>, pool: &mut Pool, view: View) {
    if *pool.view != view {
        pool.view = Arc::new(view);
        if pool.watched {
            events.push_back(Event::View(Arc::clone(&pool.view)));
        }
    }
}

/// The same members, marked stale; since the first time.
fn stale(view: &View, now: Instant) -> View {
    match view.freshness {
        Freshness::Stale { .. } => view.clone(),
        _ => view.with_freshness(Freshness::Stale { since: now }),
    }
}
