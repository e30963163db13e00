//! Registration life cycle of the elements of one process (RFC 5352 sections 3.1, 3.2 and 3.4), without IO.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dialtone_asap_client::core::{Context, HomeChange, Role, Sender};
use dialtone_handlespace::Handle;
use dialtone_wire::asap::Message;
use dialtone_wire::{CauseCode, OperationError, PeId, Policy, PoolElement, PoolHandle, ServerId};

use crate::config::{ElementConfig, ElementsConfig};

/// Names one element: identifiers are unique within a pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ElementKey {
    pub handle: Handle,
    pub pe_id: PeId,
}

/// What the owner of elements wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Register, or change everything about a registration.
    Register(ElementConfig),
    /// Change policy values; other elements' registrations are not affected.
    UpdatePolicy { key: ElementKey, policy: Policy<'static> },
    /// Leave the pool; ends with [`State::Deregistered`].
    Deregister(ElementKey),
}

/// Where an element stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// There is no home registrar.
    Searching,
    /// Waiting for the home's answer.
    Registering,
    /// In the pool.
    Registered { home: SocketAddr },
    /// Refused. Tried again after a change of the registration, with another home, for lack of resources later, and
    /// after a refusal for the policy when another registrar asks the element as a member of the pool.
    Rejected { causes: Vec<CauseCode> },
    /// MAX-REG-ATTEMPT was reached; tried again after a change of the registration only.
    GaveUp,
    /// Out of the pool by request; `confirmed` by the registrar. The element is forgotten.
    Deregistered { confirmed: bool },
}

/// An element reached another state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    pub key: ElementKey,
    pub state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    In,
    /// Out of the pool, by this time without confirmation.
    Out(Instant),
}

#[derive(Debug)]
struct Element {
    config: ElementConfig,
    goal: Goal,
    state: State,
    /// T2 or T3 of the request under way with the home.
    pending: Option<Instant>,
    /// Unanswered requests in a row.
    attempts: u32,
    /// When to send the next request to the home: T4, or sooner.
    due: Option<Instant>,
    /// When the last registration left; `None`: never, so no registrar can know the element.
    sent: Option<Instant>,
    /// When the home last probed or confirmed the element.
    heard: Instant,
    /// Next registration for the sake of a registrar that believes to own the element.
    nudge_from: Option<Instant>,
    /// Next wait after a rejection for lack of resources.
    retry: Duration,
    /// Changed since the registration under way was sent.
    dirty: bool,
    /// The entry of this element in the timer map.
    armed: Option<Instant>,
}

/// What a keep-alive says beside the handle.
#[derive(Clone, Copy, Debug)]
struct Probe {
    /// H flag: the sender wants to be the home.
    claims: bool,
    server_id: ServerId,
    /// rsplib names the element (G10).
    pe_id: Option<PeId>,
}

/// The pool elements of one process.
#[derive(Debug)]
pub struct Elements {
    config: ElementsConfig,
    elements: BTreeMap<ElementKey, Element>,
    timers: BTreeSet<(Instant, ElementKey)>,
    events: VecDeque<StateChange>,
}

impl Elements {
    pub fn new(config: ElementsConfig) -> Self {
        Self { config, elements: BTreeMap::new(), timers: BTreeSet::new(), events: VecDeque::new() }
    }

    /// Where an element stands; `None` when it is not (or no more) known.
    pub fn state(&self, key: &ElementKey) -> Option<&State> {
        self.elements.get(key).map(|element| &element.state)
    }

    fn register(&mut self, cx: &mut Context<'_>, config: ElementConfig) {
        let now = cx.now();
        let key = ElementKey { handle: config.handle.clone(), pe_id: config.pe_id };
        let retry = self.config.retry_initial;
        let element = self.elements.entry(key.clone()).or_insert_with(|| Element {
            config: config.clone(),
            goal: Goal::In,
            state: State::Searching,
            pending: None,
            attempts: 0,
            due: None,
            sent: None,
            heard: now,
            nudge_from: None,
            retry,
            dirty: false,
            armed: None,
        });
        element.config = config;
        element.goal = Goal::In;
        element.attempts = 0;
        element.pending = None;
        element.retry = retry;
        element.due = cx.home().map(|_| now);
        // Whoever changes a registration waits for the answer to the change.
        let state = if cx.home().is_some() { State::Registering } else { State::Searching };
        set_state(&mut self.events, &key, element, state);
        self.run(cx, &key);
    }

    fn update_policy(&mut self, cx: &mut Context<'_>, key: &ElementKey, policy: Policy<'static>) {
        let Some(element) = self.elements.get_mut(key).filter(|element| element.goal == Goal::In)
        else {
            return;
        };
        if element.config.policy == policy {
            return;
        }
        element.config.policy = policy;
        element.dirty = true;
        if cx.home().is_some() && element.pending.is_none() {
            let at = element
                .sent
                .map_or(cx.now(), |sent| cx.now().max(sent + self.config.update_interval));
            element.due = Some(element.due.map_or(at, |due| due.min(at)));
        }
        self.run(cx, key);
    }

    fn deregister(&mut self, cx: &mut Context<'_>, key: &ElementKey) {
        let Some(element) = self.elements.get_mut(key) else {
            // The owner waits for an answer whatever became of the element.
            let state = State::Deregistered { confirmed: true };
            self.events.push_back(StateChange { key: key.clone(), state });
            return;
        };
        if matches!(element.goal, Goal::Out(_)) {
            return;
        }
        if element.sent.is_none() {
            self.finish(key, true);
            return;
        }
        element.goal = Goal::Out(cx.now() + self.config.deregister_limit);
        element.attempts = 0;
        element.pending = None;
        element.due = cx.home().map(|_| cx.now());
        self.run(cx, key);
    }

    /// Does what is due for one element and sets its timer.
    fn run(&mut self, cx: &mut Context<'_>, key: &ElementKey) {
        let now = cx.now();
        if self
            .elements
            .get(key)
            .is_some_and(|e| matches!(e.goal, Goal::Out(limit) if limit <= now))
        {
            self.finish(key, false);
            return;
        }
        let Some(element) = self.elements.get_mut(key) else { return };
        if element.pending.is_some_and(|at| at <= now) {
            // RFC 5352 sections 3.1, 3.2: T2 or T3 expired, hunt for a registrar that answers.
            element.pending = None;
            element.attempts += 1;
            if element.attempts <= self.config.max_attempts {
                cx.hunt();
                element.due = Some(now);
            } else {
                element.attempts = 0;
                element.due = None;
                cx.abandon_home();
                if self.config.give_up && element.goal == Goal::In {
                    // RFC 5352 section 3.1: report to the upper layer and stop.
                    set_state(&mut self.events, key, element, State::GaveUp);
                }
            }
        }
        if let Some(silence) = self.config.silence
            && matches!(element.state, State::Registered { .. })
            && element.goal == Goal::In
            && element.pending.is_none()
            && element.heard + silence <= now
        {
            // Removed without knowing, perhaps: whoever owns the element would have probed it.
            element.heard = now;
            let at = now + jitter(cx.rng(), self.config.jitter);
            element.due = Some(element.due.map_or(at, |due| due.min(at)));
        }
        if element.due.is_some_and(|at| at <= now)
            && element.pending.is_none()
            && cx.home().is_some()
        {
            element.due = None;
            match element.goal {
                Goal::In => {
                    let message = registration(&element.config);
                    cx.send(&message);
                    element.sent = Some(now);
                    element.dirty = false;
                    element.pending = Some(now + self.config.t2);
                    if !matches!(element.state, State::Registered { .. }) {
                        set_state(&mut self.events, key, element, State::Registering);
                    }
                }
                Goal::Out(_) => {
                    cx.send(&Message::Deregistration {
                        handle: key.handle.to_wire(),
                        pe_id: key.pe_id,
                    });
                    element.pending = Some(now + self.config.t3);
                }
            }
        }
        self.arm(key);
    }

    fn arm(&mut self, key: &ElementKey) {
        let Some(element) = self.elements.get_mut(key) else { return };
        let limit = match element.goal {
            Goal::In => None,
            Goal::Out(limit) => Some(limit),
        };
        let watching = matches!(element.state, State::Registered { .. })
            && element.goal == Goal::In
            && element.pending.is_none();
        let silence =
            self.config.silence.filter(|_| watching).map(|silence| element.heard + silence);
        // A request waits for the answer to the one before.
        let due = element.due.filter(|_| element.pending.is_none());
        let next = [limit, element.pending, due, silence].into_iter().flatten().min();
        if next != element.armed {
            if let Some(armed) = element.armed {
                self.timers.remove(&(armed, key.clone()));
            }
            if let Some(next) = next {
                self.timers.insert((next, key.clone()));
            }
            element.armed = next;
        }
    }

    fn finish(&mut self, key: &ElementKey, confirmed: bool) {
        if let Some(element) = self.elements.remove(key) {
            if let Some(armed) = element.armed {
                self.timers.remove(&(armed, key.clone()));
            }
            self.events.push_back(StateChange {
                key: key.clone(),
                state: State::Deregistered { confirmed },
            });
        }
    }

    fn handle_registration_response(
        &mut self,
        cx: &mut Context<'_>,
        key: ElementKey,
        reject: bool,
        error: Option<&OperationError<'_>>,
    ) {
        let now = cx.now();
        let Some(home) = cx.home() else { return };
        let Some(element) = self.elements.get_mut(&key) else { return };
        // A home that stood still answers every copy of the request when it runs again, and each answer tells what it
        // thought then: what grants counts after what refused.
        let later_grant = !reject && matches!(element.state, State::Rejected { .. });
        if element.goal != Goal::In || (element.pending.is_none() && !later_grant) {
            return;
        }
        // RFC 5352 section 3.1: the response stops T2.
        element.pending = None;
        element.attempts = 0;
        if reject {
            let causes: Vec<CauseCode> =
                error.iter().flat_map(|error| &error.causes).map(|cause| cause.code).collect();
            // RFC 5352 section 3.1: MUST NOT try again without correcting the error. Resources may come back.
            element.due = None;
            if element.dirty {
                element.due = Some(now);
            } else if causes.contains(&CauseCode::LACK_OF_RESOURCES) {
                element.due = Some(now + element.retry);
                element.retry = (element.retry * 2).min(self.config.retry_max);
            }
            set_state(&mut self.events, &key, element, State::Rejected { causes });
        } else {
            element.heard = now;
            element.retry = self.config.retry_initial;
            let t4 = now + self.config.t4(element.config.lifetime);
            element.due = Some(match element.sent {
                Some(sent) if element.dirty => now.max(sent + self.config.update_interval),
                // Somebody may have asked meanwhile.
                _ => element.due.map_or(t4, |due| due.min(t4)),
            });
            set_state(&mut self.events, &key, element, State::Registered { home: home.addr() });
        }
        self.run(cx, &key);
    }

    fn handle_deregistration_response(
        &mut self,
        cx: &mut Context<'_>,
        key: ElementKey,
        confirmed: bool,
    ) {
        let Some(element) = self.elements.get_mut(&key) else { return };
        match element.goal {
            Goal::Out(_) if element.pending.is_some() => self.finish(&key, confirmed),
            Goal::Out(_) => {}
            Goal::In => {
                // RFC 5352 section 3.2: unsolicited when the registration life expired. Service goes on, so register.
                if element.pending.is_none() && matches!(element.state, State::Registered { .. }) {
                    let at = cx.now() + jitter(cx.rng(), self.config.jitter);
                    element.due = Some(at);
                    set_state(&mut self.events, &key, element, State::Registering);
                }
                self.run(cx, &key);
            }
        }
    }

    fn handle_keep_alive(
        &mut self,
        cx: &mut Context<'_>,
        from: Sender,
        handle: &Handle,
        probe: Probe,
    ) {
        let now = cx.now();
        // RFC 5352 section 3.4 KA1: a handle that is not ours is silently dropped. G10: the message names no element,
        // so each of the pool's elements here answers.
        let own: Vec<ElementKey> = self
            .elements
            .range(ElementKey { handle: handle.clone(), pe_id: PeId(0) }..)
            .take_while(|(key, _)| key.handle == *handle)
            .filter(|(_, element)| {
                element.sent.is_some() && probe.pe_id.is_none_or(|id| id == element.config.pe_id)
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in &own {
            // KA2: on the association of the registrar that asked.
            cx.send_on(
                from.assoc,
                &Message::EndpointKeepAliveAck { handle: key.handle.to_wire(), pe_id: key.pe_id },
            );
        }
        if own.is_empty() {
            return;
        }
        let by_home =
            from.is_home || cx.home().is_some_and(|home| home.server_id == Some(probe.server_id));
        if by_home {
            for key in &own {
                let Some(element) = self.elements.get_mut(key) else { continue };
                element.heard = now;
                // It took us over from somebody, whose word for us may be older than what we told it before. A
                // registration under way tells it.
                if probe.claims && element.pending.is_none() {
                    self.nudge(cx, key);
                } else {
                    self.run(cx, key);
                }
            }
            return;
        }
        let registered = own
            .iter()
            .filter_map(|key| self.elements.get(key))
            .any(|element| matches!(element.state, State::Registered { .. }));
        // RFC 5352 section 3.4 KA2.4: a registrar that is not the home and sets H becomes the home.
        // DEVIATION(A-096): not when this element moved a moment ago. Then the sender took over the former home and
        // missed the news; the home's own registration, sent again, tells it.
        let newer_elsewhere = registered && cx.home_is_recent();
        if probe.claims && !newer_elsewhere {
            cx.adopt(from.assoc, probe.server_id);
        } else if registered
            || own.iter().any(|key| self.is_registering(key) || self.is_outvoted(key))
        {
            for key in &own {
                self.nudge(cx, key);
            }
        }
    }

    /// The home has been told and has not answered yet.
    fn is_registering(&self, key: &ElementKey) -> bool {
        self.elements.get(key).is_some_and(|element| element.pending.is_some())
    }

    /// Refused for its policy: whoever asks it nevertheless has it in a pool, which may have that policy by now.
    fn is_outvoted(&self, key: &ElementKey) -> bool {
        self.elements.get(key).is_some_and(|element| {
            matches!(&element.state, State::Rejected { causes } if causes.contains(&CauseCode::INCONSISTENT_POLICY))
        })
    }

    /// Registers with the present home again, so that a registrar which believes to own the element hears of it. Asked
    /// too often, it does so later: what was told before says nothing about who has claimed the element since.
    fn nudge(&mut self, cx: &mut Context<'_>, key: &ElementKey) {
        let now = cx.now();
        let Some(element) = self.elements.get_mut(key) else { return };
        // The next home is told as soon as there is one; whoever gave up waits for a change.
        if element.goal == Goal::In && element.state != State::GaveUp && cx.home().is_some() {
            let from = element.nudge_from.map_or(now, |from| from.max(now));
            let at = from + jitter(cx.rng(), self.config.jitter);
            if element.due.is_none_or(|due| at < due) {
                element.due = Some(at);
                element.nudge_from = Some(from + self.config.nudge_interval);
            }
        }
        self.run(cx, key);
    }
}

impl Role for Elements {
    type Command = Command;
    type Event = StateChange;

    fn handle_command(&mut self, cx: &mut Context<'_>, command: Command) {
        match command {
            Command::Register(config) => self.register(cx, config),
            Command::UpdatePolicy { key, policy } => self.update_policy(cx, &key, policy),
            Command::Deregister(key) => self.deregister(cx, &key),
        }
    }

    fn handle_message(
        &mut self,
        cx: &mut Context<'_>,
        from: Sender,
        message: &Message<'_>,
    ) -> bool {
        match message {
            // A former home's late answers say nothing about the present one. The same registrar's do, over an earlier
            // association: it took what was told there last, in the place of something newer perhaps.
            Message::RegistrationResponse { reject, handle, pe_id, error } => {
                if let Some(key) = key(*handle, *pe_id) {
                    if from.is_home {
                        self.handle_registration_response(cx, key, *reject, error.as_ref());
                    } else if from.is_home_registrar && !reject {
                        self.nudge(cx, &key);
                    }
                }
            }
            Message::DeregistrationResponse { handle, pe_id, error } => {
                if let Some(key) = key(*handle, *pe_id).filter(|_| from.is_home) {
                    self.handle_deregistration_response(cx, key, error.is_none());
                }
            }
            Message::EndpointKeepAlive { home, server_id, handle, pe_id } => {
                if let Ok(handle) = Handle::try_from(*handle) {
                    let probe = Probe { claims: *home, server_id: *server_id, pe_id: *pe_id };
                    self.handle_keep_alive(cx, from, &handle, probe);
                }
            }
            _ => return false,
        }
        true
    }

    fn handle_home(&mut self, cx: &mut Context<'_>, change: HomeChange) {
        let now = cx.now();
        let keys: Vec<ElementKey> = self.elements.keys().cloned().collect();
        // One draw for all: they share the association, and other processes draw their own.
        let spread = jitter(cx.rng(), self.config.jitter);
        for key in keys {
            let Some(element) = self.elements.get_mut(&key) else { continue };
            element.pending = None;
            element.attempts = 0;
            element.heard = now;
            if element.state == State::GaveUp {
                element.due = cx.home().filter(|_| element.dirty).map(|_| now);
                self.run(cx, &key);
                continue;
            }
            element.due = match (change, element.goal) {
                (HomeChange::Lost, _) => None,
                (_, Goal::Out(_)) => Some(now),
                // Nobody else starts at the same moment just because we do.
                (_, Goal::In) if element.sent.is_none() => Some(now),
                (_, Goal::In) => Some(now + spread),
            };
            if element.goal == Goal::In {
                let state =
                    if change == HomeChange::Lost { State::Searching } else { State::Registering };
                set_state(&mut self.events, &key, element, state);
            }
            self.run(cx, &key);
        }
    }

    fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        let now = cx.now();
        while let Some((at, key)) = self.timers.first().cloned() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            if let Some(element) = self.elements.get_mut(&key) {
                element.armed = None;
            }
            self.run(cx, &key);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    fn poll(&mut self) -> Option<StateChange> {
        self.events.pop_front()
    }
}

fn set_state(
    events: &mut VecDeque<StateChange>,
    key: &ElementKey,
    element: &mut Element,
    state: State,
) {
    if element.state != state {
        element.state = state.clone();
        events.push_back(StateChange { key: key.clone(), state });
    }
}

fn key(handle: PoolHandle<'_>, pe_id: PeId) -> Option<ElementKey> {
    Handle::try_from(handle).ok().map(|handle| ElementKey { handle, pe_id })
}

/// RFC 5352 section 3.1 R2. The home is left open, and it fills in the ASAP transport itself.
fn registration(config: &ElementConfig) -> Message<'_> {
    Message::Registration {
        handle: config.handle.to_wire(),
        element: PoolElement {
            pe_id: config.pe_id,
            home: ServerId::NONE,
            life: i32::try_from(config.lifetime.as_secs().max(1)).unwrap_or(i32::MAX),
            transport: config.transport.borrow(),
            policy: config.policy.borrow(),
            asap_transport: None,
            encaps_port: None,
        },
    }
}

fn jitter(rng: &mut fastrand::Rng, limit: Duration) -> Duration {
    limit.mul_f64(rng.f64())
}
