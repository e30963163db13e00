//! The user's side of sessions (RFC 5352 sections 3.8, 3.9 and 6.5), without IO.
//!
//! ```text
//!            view          up                       element fails
//! RESOLVING ──────► CONNECTING ──────► ESTABLISHED ───────────────► RESOLVING (failing over)
//!     ▲                 │ dial fails       ▲                            │ next element up:
//!     └─────────────────┘                  └────────────────────────────┘ COOKIE_ECHO, card, data
//! ```
//!
//! A session has one element at a time; messages for all elements, or for one that the pool's policy chose, open
//! further associations beside it. Messages are kept until the SCTP of the element has them, so that they can go to the
//! next one.

mod link;
mod session;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dialtone_handlespace::Handle;
use dialtone_pool_user::{Choice, Freshness, Selector, View};
use dialtone_transport::model::{AssocId, DownCause};
use dialtone_transport::session::MAX_PAYLOAD;
use dialtone_transport::{SessionCommand, SessionEvent};
use dialtone_wire::PeId;
use dialtone_wire::asap::Message;

use crate::card::{Card, Own};
use crate::control;
use crate::options::SendOptions;
use link::Link;
use session::{Outgoing, Phase, Session};

pub use session::State;

/// Pools of which only a card has told: so many are asked for within [`CARD_MEMORY`] at most.
const MAX_FOREIGN: usize = 64;
const CARD_MEMORY: Duration = Duration::from_secs(30);

/// How sessions behave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserConfig {
    /// What [`SendOptions::DEFAULT`] means.
    pub options: SendOptions,
    /// Payload protocol identifier of the data; not that of ASAP (11).
    pub ppid: u32,
    /// Messages of a session that wait at most: for an element, or for its acknowledgement.
    pub max_messages: usize,
    /// The same in bytes.
    pub max_bytes: usize,
    /// Messages come back when no element was found for so long.
    pub limit: Duration,
    /// After every element was tried: until they are tried again.
    pub retry: Duration,
    /// How long an element that failed is passed over while there are others.
    pub suspicion: Duration,
    /// Sessions at a time.
    pub max_sessions: usize,
}

impl Default for UserConfig {
    fn default() -> Self {
        Self {
            options: SendOptions::TO_LAST | SendOptions::FAILOVER,
            ppid: 0,
            max_messages: 1024,
            max_bytes: 1 << 20,
            limit: Duration::from_secs(10),
            retry: Duration::from_millis(250),
            suspicion: Duration::from_secs(5),
            max_sessions: 256,
        }
    }
}

/// Names a session within a process; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// What the application wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A session with a pool. It looks for an element at once.
    Open { session: SessionId, handle: Handle },
    /// RFC 5352 section 6.5; `number` comes back with the message when it cannot be delivered.
    Send { session: SessionId, number: u64, payload: Vec<u8>, options: SendOptions },
    /// What was handed to SCTP is still delivered, everything else comes back.
    Close { session: SessionId },
    /// The application takes no messages of this session at present, or takes them again.
    Hold { session: SessionId, on: bool },
}

/// What the application learns about a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The session has its first element.
    Connected { element: PeId },
    /// The session has another element than before, or the same after it had failed (RFC 5355 section 2.9).
    FailedOver {
        from: PeId,
        to: PeId,
        /// The new element was given the last cookie.
        cookie: bool,
    },
    /// A message on the data channel.
    Received { element: PeId, ppid: u32, payload: Vec<u8> },
    /// Error.Report of RFC 5352 section 6.7: the message was not delivered, or nobody knows whether it was.
    Unsent { number: u64, payload: Vec<u8>, reason: Reason },
    /// The last event.
    Closed,
}

/// Why a message came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    #[error("element {element} cannot be reached")]
    Unreachable { element: PeId },
    #[error("no element of the pool was found in time")]
    NoElement,
    #[error("too much is waiting")]
    Full,
    #[error("the message is empty or too large")]
    Size,
    #[error("the options contradict each other")]
    Options,
    #[error("the session was closed")]
    Closed,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Net(SessionCommand),
    /// Keep views of this pool coming: [`Users::handle_view`].
    Watch(Handle),
    /// Ask for this pool once (RFC 5352 section 3.9, BC1).
    Resolve(Handle),
    /// RFC 5352 section 3.5.
    Unreachable {
        handle: Handle,
        element: PeId,
    },
    /// The element answers again.
    Reachable {
        handle: Handle,
        element: PeId,
    },
    Event {
        session: SessionId,
        event: Event,
    },
}

/// What has been counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    pub failovers: u64,
    pub cookies: u64,
    pub cards: u64,
    /// Messages that went to another element than the one that they had been sent to.
    pub resent: u64,
    /// Messages that came back.
    pub unsent: u64,
    /// Control messages that are no cookie and no card.
    pub unexpected: u64,
}

/// All sessions of one process with elements.
#[derive(Debug)]
pub struct Users {
    config: UserConfig,
    /// The element that this process is, too (RFC 5352 section 3.9).
    own: Option<Own>,
    /// The pool of that element.
    own_view: Option<Arc<View>>,
    pools: BTreeMap<Handle, Selector>,
    sessions: BTreeMap<SessionId, Session>,
    assocs: BTreeMap<AssocId, (SessionId, PeId)>,
    timers: BTreeSet<(Instant, SessionId)>,
    /// When pools that only a card named were asked for.
    foreign: BTreeMap<Handle, Instant>,
    dialled: u64,
    numbers: u64,
    rng: fastrand::Rng,
    counters: Counters,
    outputs: VecDeque<Output>,
}

impl Users {
    /// `own`: the element that this process is; its card goes to every element that it talks to.
    pub fn new(config: UserConfig, own: Option<Own>, rng: fastrand::Rng) -> Self {
        Self {
            config,
            own,
            own_view: None,
            pools: BTreeMap::new(),
            sessions: BTreeMap::new(),
            assocs: BTreeMap::new(),
            timers: BTreeSet::new(),
            foreign: BTreeMap::new(),
            dialled: 0,
            numbers: 0,
            rng,
            counters: Counters::default(),
            outputs: VecDeque::new(),
        }
    }

    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Where a session stands; `None` when it is closed.
    pub fn state(&self, session: SessionId) -> Option<State> {
        self.sessions.get(&session).map(Session::state)
    }

    pub fn handle_command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Open { session, handle } => self.open(now, session, handle),
            Command::Send { session, number, payload, options } => {
                self.send(now, session, Outgoing::new(number, payload, options));
            }
            Command::Close { session } => self.close(session),
            Command::Hold { session, on } => {
                if let Some(known) = self.sessions.get_mut(&session) {
                    known.on_hold = on;
                    let commands = known.links.values().map(|link| link.hold(on));
                    self.outputs.extend(commands.map(Output::Net));
                }
            }
        }
    }

    /// A pool as its registrar describes it now.
    pub fn handle_view(&mut self, now: Instant, view: Arc<View>) {
        if self.own.as_ref().is_some_and(|own| own.handle == view.handle) {
            self.own_view = Some(Arc::clone(&view));
        }
        let Some(selector) = self.pools.get_mut(&view.handle) else { return };
        selector.update(Arc::clone(&view));
        let concerned: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.handle == view.handle)
            .map(|(id, _)| *id)
            .collect();
        for id in concerned {
            self.leave_removed(now, id, &view);
            if self.sessions.get(&id).is_some_and(|session| session.phase == Phase::Resolving) {
                self.seek(now, id);
            }
            self.flush(now, id);
        }
    }

    /// An element that its registrar has removed, and that owes an acknowledgement, is frozen or cut off: there is no
    /// need to wait until SCTP finds that out as well. One that only left the pool acknowledges.
    fn leave_removed(&mut self, now: Instant, id: SessionId, view: &View) {
        let Some(session) = self.sessions.get(&id) else { return };
        if view.freshness != Freshness::Fresh {
            return;
        }
        let removed = session.links.iter().filter(|(element, link)| {
            link.is_up && link.owes() && view.member(**element).is_none()
        });
        let removed: Vec<AssocId> = removed.map(|(_, link)| link.assoc).collect();
        for assoc in removed {
            self.outputs.push_back(Output::Net(SessionCommand::Abort { assoc }));
            self.down(now, assoc, DownCause::Local);
        }
    }

    pub fn handle_net(&mut self, now: Instant, event: SessionEvent) {
        match event {
            SessionEvent::Up { assoc, .. } => self.up(now, assoc),
            SessionEvent::Control { assoc, payload } => self.control(now, assoc, &payload),
            SessionEvent::Data { assoc, ppid, payload } => {
                if let Some((session, element)) = self.assocs.get(&assoc).copied() {
                    self.event(session, Event::Received { element, ppid, payload });
                }
            }
            SessionEvent::Delivered { assoc, number } => {
                let Some((id, element)) = self.assocs.get(&assoc).copied() else { return };
                let Some(session) = self.sessions.get_mut(&id) else { return };
                session.delivered(element, number);
                self.pump(id, element);
            }
            // RFC 9260 section 10, ICMP8: nobody listens at the peer's port any more.
            SessionEvent::Suspect { assoc } => {
                if self.assocs.contains_key(&assoc) {
                    self.outputs.push_back(Output::Net(SessionCommand::Abort { assoc }));
                    self.down(now, assoc, DownCause::Unreachable);
                }
            }
            SessionEvent::Down { assoc, cause } => self.down(now, assoc, cause),
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, id)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            session.armed = None;
            if session.limit.is_some_and(|limit| limit <= now) {
                self.give_up(id);
            } else if session.retry.is_some_and(|retry| retry <= now) {
                session.tried.clear();
                self.seek(now, id);
            }
            self.arm(id);
        }
    }

    fn open(&mut self, now: Instant, id: SessionId, handle: Handle) {
        if self.sessions.len() >= self.config.max_sessions || self.sessions.contains_key(&id) {
            return self.event(id, Event::Closed);
        }
        if !self.pools.contains_key(&handle) {
            // A view that came before is not sent again.
            let known = self.own_view.clone().filter(|view| view.handle == handle);
            let view = known.unwrap_or_else(|| Arc::new(View::unknown(handle.clone())));
            let selector = Selector::new(view, self.config.suspicion, self.rng.fork());
            self.pools.insert(handle.clone(), selector);
            self.outputs.push_back(Output::Watch(handle.clone()));
        }
        self.sessions.insert(id, Session::new(handle));
        self.resolve(now, id);
    }

    /// Begins to look for an element.
    fn resolve(&mut self, now: Instant, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.phase = Phase::Resolving;
            session.limit = Some(now + self.config.limit);
            session.tried.clear();
            // An element that has just left the pool may still be on the list.
            session.tried.extend(session.lost);
            self.seek(now, id);
        }
    }

    fn send(&mut self, now: Instant, id: SessionId, mut message: Outgoing) {
        message.options = message.options.or(self.config.options);
        let Some(session) = self.sessions.get_mut(&id) else {
            return self.give_back(id, message, Reason::Closed);
        };
        let refusal = if message.options.is_contradictory() {
            Some(Reason::Options)
        } else if message.payload.is_empty() || message.payload.len() > MAX_PAYLOAD {
            Some(Reason::Size)
        } else {
            let bytes = session.bytes() + message.payload.len();
            let full = session.messages() >= self.config.max_messages
                || bytes > self.config.max_bytes.max(message.payload.len());
            full.then_some(Reason::Full)
        };
        if let Some(reason) = refusal {
            return self.give_back(id, message, reason);
        }
        // RFC 5352 section 6.5.1: held while the resolution is pending, and everything after it as well.
        session.queue.push_back(message);
        if session.phase == Phase::Idle {
            self.resolve(now, id);
        }
        self.flush(now, id);
    }

    /// Hands over what waits, in order, until something has to go on waiting.
    fn flush(&mut self, now: Instant, id: SessionId) {
        while let Some(session) = self.sessions.get_mut(&id) {
            let Some(message) = session.queue.front() else { break };
            let options = message.options;
            let Phase::Established(current) = session.phase else { break };
            if options.contains(SendOptions::TO_ALL) {
                let Some(message) = session.queue.pop_front() else { break };
                self.send_to_all(id, message);
                continue;
            }
            let chosen = if options.contains(SendOptions::TO_LAST) {
                current
            } else if let Some(chosen) = message.chosen {
                chosen
            } else {
                let Some(selector) = self.pools.get_mut(&session.handle) else { break };
                // RFC 5352 section 6.5.2: selected anew for each message. A pool that has lost all its elements since
                // leaves the one that the session has.
                selector.select(now, Choice::Policy, &[]).map_or(current, |member| member.pe_id)
            };
            if session.links.get(&chosen).is_some_and(|link| link.is_up) {
                if let Some(message) = session.queue.pop_front() {
                    session.phase = Phase::Established(chosen);
                    session.push(chosen, message);
                }
                self.pump(id, chosen);
            } else {
                if let Some(message) = session.queue.front_mut() {
                    message.chosen = Some(chosen);
                }
                session.phase = Phase::Connecting(chosen);
                session.limit = Some(now + self.config.limit);
                session.tried.clear();
                if !self.dial(id, chosen) {
                    self.lost(now, id, chosen);
                }
                break;
            }
        }
        self.arm(id);
    }

    /// RFC 5352 section 6.5.5: a copy to all elements. The selection that knows them all is the view.
    fn send_to_all(&mut self, id: SessionId, message: Outgoing) {
        let Some(session) = self.sessions.get(&id) else { return };
        let view = self.pools.get(&session.handle).map(|selector| Arc::clone(selector.view()));
        let own = self.own.as_ref().filter(|own| own.handle == session.handle);
        let to_self = message.options.contains(SendOptions::TO_SELF);
        let passed_over =
            |element: PeId| !to_self && own.is_some_and(|own| own.element.pe_id == element);
        let order = view.iter().flat_map(|view| view.order.iter().copied());
        let targets: Vec<PeId> = order.filter(|element| !passed_over(*element)).collect();
        if targets.is_empty() {
            return self.give_back(id, message, Reason::NoElement);
        }
        for element in targets {
            if !self.dial(id, element) {
                self.give_back(id, message.clone(), Reason::Unreachable { element });
            } else if let Some(session) = self.sessions.get_mut(&id) {
                session.push(element, message.clone());
                self.pump(id, element);
            }
        }
    }

    /// Looks for the next element: first in the order of the last card, then by the pool's policy.
    fn seek(&mut self, now: Instant, id: SessionId) {
        loop {
            let Some(session) = self.sessions.get_mut(&id) else { return };
            let Some(selector) = self.pools.get_mut(&session.handle) else { return };
            session.retry = None;
            let view = Arc::clone(selector.view());
            // RFC 5352 section 3.9, BC2.
            let preferred = session.preferred.iter().copied().find(|element| {
                session.lost.is_some()
                    && view.names(*element)
                    && !session.tried.contains(element)
                    && !selector.is_suspect(now, *element)
            });
            let selected = match preferred.and_then(|element| view.member(element)) {
                Some(member) => Ok(member.clone()),
                None => selector.select(now, Choice::Policy, &session.tried),
            };
            let Ok(member) = selected else {
                // A pool that is not known yet, or no more, comes with a view. One of which all elements have failed
                // is tried again.
                let known = !matches!(view.freshness, Freshness::Unknown | Freshness::Absent);
                session.retry = known.then(|| now + self.config.retry);
                session.phase = Phase::Resolving;
                break;
            };
            session.phase = Phase::Connecting(member.pe_id);
            if self.dial(id, member.pe_id) {
                if self.is_up(id, member.pe_id) {
                    self.establish(now, id, member.pe_id);
                }
                break;
            }
            if let Some(session) = self.sessions.get_mut(&id) {
                session.tried.push(member.pe_id);
            }
        }
        self.arm(id);
    }

    fn is_up(&self, id: SessionId, element: PeId) -> bool {
        let link = self.sessions.get(&id).and_then(|session| session.links.get(&element));
        link.is_some_and(|link| link.is_up)
    }

    /// Sees to it that there is an association with the element; `false` when there cannot be one.
    fn dial(&mut self, id: SessionId, element: PeId) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        if session.links.contains_key(&element) {
            return true;
        }
        let member = self.pools.get(&session.handle).and_then(|pool| pool.view().member(element));
        let Some((remote, control)) = member.and_then(link::remote) else {
            return false;
        };
        let assoc = AssocId::session(self.dialled);
        self.dialled += 1;
        session.links.insert(element, Link::new(assoc, control));
        self.assocs.insert(assoc, (id, element));
        self.outputs.push_back(Output::Net(SessionCommand::Connect { assoc, remote }));
        true
    }

    fn up(&mut self, now: Instant, assoc: AssocId) {
        let Some((id, element)) = self.assocs.get(&assoc).copied() else {
            return self.outputs.push_back(Output::Net(SessionCommand::Abort { assoc }));
        };
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let handle = session.handle.clone();
        if let Some(link) = session.links.get_mut(&element) {
            link.is_up = true;
            if session.on_hold {
                self.outputs.push_back(Output::Net(link.hold(true)));
            }
        }
        let connecting = session.phase == Phase::Connecting(element);
        if let Some(selector) = self.pools.get_mut(&handle)
            && selector.is_suspect(now, element)
        {
            selector.trust(element);
            self.outputs.push_back(Output::Reachable { handle, element });
        }
        if connecting {
            self.establish(now, id, element);
        } else {
            self.greet(id, element);
            self.pump(id, element);
        }
    }

    /// The session has an element, which may have to be told what the one before knew.
    fn establish(&mut self, now: Instant, id: SessionId, element: PeId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.phase = Phase::Established(element);
        (session.limit, session.retry) = (None, None);
        session.tried.clear();
        let first = !std::mem::replace(&mut session.connected, true);
        let mut event = first.then_some(Event::Connected { element });
        if let Some(from) = session.lost.take() {
            let link = session.links.get(&element).filter(|link| link.control);
            let cookie = session.cookie.as_deref().zip(link).map(|(cookie, link)| {
                // RFC 5352 section 3.8: unmodified, and first on the new control channel.
                control::send(link.assoc, &Message::CookieEcho(cookie))
            });
            event = Some(Event::FailedOver { from, to: element, cookie: cookie.is_some() });
            self.outputs.extend(cookie.flatten().map(Output::Net));
            self.counters.failovers += 1;
        }
        self.greet(id, element);
        if let Some(event) = event {
            self.event(id, event);
        }
        self.pump(id, element);
        self.flush(now, id);
    }

    /// RFC 5352 section 3.9: a user that is an element as well sends its card, once there is a control channel.
    fn greet(&mut self, id: SessionId, element: PeId) {
        let Some(own) = &self.own else { return };
        let link = self.sessions.get_mut(&id).and_then(|session| session.links.get_mut(&element));
        let Some(link) = link.filter(|link| link.control && !link.greeted) else { return };
        link.greeted = true;
        if let Some(payload) = own.card(self.own_view.as_deref(), &element.0.to_be_bytes()) {
            let assoc = link.assoc;
            self.outputs.push_back(Output::Net(SessionCommand::Control { assoc, payload }));
        }
    }

    fn pump(&mut self, id: SessionId, element: PeId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(link) = session.links.get_mut(&element) else { return };
        while let Some(command) = link.next(self.config.ppid, self.numbers + 1) {
            self.numbers += 1;
            self.outputs.push_back(Output::Net(command));
        }
    }

    fn control(&mut self, now: Instant, assoc: AssocId, payload: &[u8]) {
        let Some((id, element)) = self.assocs.get(&assoc).copied() else { return };
        let Some(message) = control::receive(assoc, payload, |net| {
            self.outputs.push_back(Output::Net(net));
        }) else {
            self.counters.unexpected += 1;
            return;
        };
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let current = matches!(session.phase, Phase::Established(now) if now == element);
        match &message {
            // RFC 5352 section 3.8: the latest replaces an older one.
            Message::Cookie(cookie) if current => {
                self.counters.cookies += 1;
                session.cookie = Some(cookie.to_vec());
            }
            message => {
                let Some(card) = Card::read(message) else {
                    self.counters.unexpected += 1;
                    return;
                };
                self.counters.cards += 1;
                if card.handle == session.handle {
                    if current {
                        session.preferred = card.order;
                    }
                } else {
                    self.meet(now, card.handle);
                }
            }
        }
    }

    /// A card names a pool: RFC 5352 section 3.9, BC1.
    pub fn meet(&mut self, now: Instant, handle: Handle) {
        self.foreign.retain(|_, asked| now < *asked + CARD_MEMORY);
        let known = self.pools.contains_key(&handle) || self.foreign.contains_key(&handle);
        if !known && self.foreign.len() < MAX_FOREIGN {
            self.foreign.insert(handle.clone(), now);
            self.outputs.push_back(Output::Resolve(handle));
        }
    }

    fn down(&mut self, now: Instant, assoc: AssocId, cause: DownCause) {
        let Some((id, element)) = self.assocs.remove(&assoc) else { return };
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(link) = session.links.remove(&element) else { return };
        // RFC 5352 section 3.5: an element that ended the association in order, or that this machine had no room to
        // dial, is not unreachable.
        if !matches!(cause, DownCause::Closed | DownCause::Local) {
            let handle = session.handle.clone();
            if let Some(selector) = self.pools.get_mut(&handle) {
                selector.suspect(now, element);
            }
            self.outputs.push_back(Output::Unreachable { handle, element });
        }
        let (again, back) = link.into_messages();
        self.counters.resent += again.len() as u64;
        for message in again.into_iter().rev() {
            session.queue.push_front(message);
        }
        for message in back {
            self.give_back(id, message, Reason::Unreachable { element });
        }
        self.lost(now, id, element);
        self.flush(now, id);
    }

    /// The association with an element is gone, or never came.
    fn lost(&mut self, now: Instant, id: SessionId, element: PeId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        match session.phase {
            Phase::Established(current) if current == element => {
                session.lost = Some(element);
                self.resolve(now, id);
            }
            Phase::Connecting(next) if next == element => {
                session.tried.push(element);
                // RFC 5352 section 6.5.5: not to any other element than the one selected first.
                for message in session.refuse_failover(element) {
                    self.give_back(id, message, Reason::Unreachable { element });
                }
                self.seek(now, id);
            }
            Phase::Idle | Phase::Resolving | Phase::Connecting(_) | Phase::Established(_) => (),
        }
    }

    fn give_up(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        (session.limit, session.retry) = (None, None);
        // A dial that is under way goes on; whoever sends next waits for it.
        session.phase = Phase::Idle;
        let queue = std::mem::take(&mut session.queue);
        for message in queue {
            self.give_back(id, message, Reason::NoElement);
        }
    }

    fn close(&mut self, id: SessionId) {
        let Some(session) = self.sessions.remove(&id) else { return };
        if let Some(armed) = session.armed {
            self.timers.remove(&(armed, id));
        }
        let mut back: Vec<Outgoing> = session.queue.into();
        for link in session.links.into_values() {
            self.assocs.remove(&link.assoc);
            self.outputs.push_back(Output::Net(link.end()));
            back.extend(link.unsent);
        }
        for message in back {
            self.give_back(id, message, Reason::Closed);
        }
        self.event(id, Event::Closed);
    }

    fn arm(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let next = [session.limit, session.retry].into_iter().flatten().min();
        if next != session.armed {
            if let Some(armed) = session.armed {
                self.timers.remove(&(armed, id));
            }
            self.timers.extend(next.map(|next| (next, id)));
            session.armed = next;
        }
    }

    fn give_back(&mut self, id: SessionId, message: Outgoing, reason: Reason) {
        self.counters.unsent += 1;
        let Outgoing { number, payload, .. } = message;
        self.event(id, Event::Unsent { number, payload, reason });
    }

    fn event(&mut self, session: SessionId, event: Event) {
        self.outputs.push_back(Output::Event { session, event });
    }
}

#[cfg(test)]
mod tests;
