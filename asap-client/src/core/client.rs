//! Server hunt, the one home association, and the way of messages and timers to the role.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dialtone_transport::ENCAPSULATION_PORT;
use dialtone_transport::model::{AssocId, Link, NetCommand, NetEvent, Protocol, Remote};
use dialtone_wire::asap::{Message, error_reply};
use dialtone_wire::{Cause, ServerId, Transport};

use super::book::AddressBook;
use super::role::{Action, Context, Home, HomeChange, Role, Sender};
use crate::config::{ClientConfig, registrar_sctp};

/// RFC 5352 section 3.6 SH1: never more associations or connections of our own than this.
const MAX_DIALLED: usize = 3;

/// What a client wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<E> {
    /// For the endpoint.
    Net(NetCommand),
    /// For the users of the role.
    Event(E),
    /// The home changed; `None` while hunting without one.
    Home(Option<Home>),
}

/// What a client has seen, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub hunts: u64,
    pub hunt_rounds: u64,
    pub homes_found: u64,
    pub adoptions: u64,
    pub homes_lost: u64,
    pub messages: u64,
    /// Could not be decoded.
    pub malformed: u64,
    /// Decoded, but no business of any role here.
    pub unexpected: u64,
    /// ASAP_ERROR from registrars.
    pub errors_received: u64,
    /// Associations refused because registrars held too many.
    pub refused: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Dialled by the hunt, not up yet.
    Dialling,
    /// Up and dialled by us: the home or a lingering former home.
    Dialled,
    /// Up and dialled by a registrar.
    Accepted,
}

#[derive(Clone, Copy, Debug)]
struct Association {
    remote: Remote,
    phase: Phase,
    /// Set when a newer home took over: when to close it.
    closes: Option<Instant>,
}

#[derive(Debug)]
struct Hunt {
    /// T5-Serverhunt.
    t5: Instant,
    queue: VecDeque<Remote>,
    /// Beside a home association that may still live.
    parallel: bool,
}

/// The ASAP side of one process (RFC 5352 sections 3.6, 3.7): owns the associations and carries a role.
#[derive(Debug)]
pub struct Client<R: Role> {
    config: ClientConfig,
    role: R,
    rng: fastrand::Rng,
    book: AddressBook,
    associations: BTreeMap<AssocId, Association>,
    /// Aborted by us; events that were already under way are ignored until `Down`.
    ending: BTreeSet<AssocId>,
    dialled: u64,
    home: Option<Home>,
    hunt: Option<Hunt>,
    /// The present value of T5.
    hunt_wait: Duration,
    actions: Vec<Action>,
    outputs: VecDeque<Output<R::Event>>,
    counters: Counters,
}

impl<R: Role> Client<R> {
    /// Starts hunting at once; drain [`Client::poll`] after this as after every input.
    pub fn new(now: Instant, config: ClientConfig, role: R, rng: fastrand::Rng) -> Self {
        let mut client = Self {
            book: AddressBook::new(&config.registrars),
            hunt_wait: config.hunt_initial,
            config,
            role,
            rng,
            associations: BTreeMap::new(),
            ending: BTreeSet::new(),
            dialled: 0,
            home: None,
            hunt: None,
            actions: Vec::new(),
            outputs: VecDeque::new(),
            counters: Counters::default(),
        };
        client.start_hunt(now);
        client
    }

    pub fn role(&self) -> &R {
        &self.role
    }

    pub fn home(&self) -> Option<Home> {
        self.home
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How many associations it keeps books of, for invariants in simulations.
    pub fn associations(&self) -> usize {
        self.associations.len() + self.ending.len()
    }

    pub fn handle_command(&mut self, now: Instant, command: R::Command) {
        self.with_role(now, |role, cx| role.handle_command(cx, command));
    }

    pub fn handle_net(&mut self, now: Instant, event: NetEvent) {
        match event {
            NetEvent::Up { assoc, protocol, remote, .. } => {
                self.handle_up(now, assoc, protocol, remote)
            }
            NetEvent::Message { assoc, payload } => self.handle_message(now, assoc, &payload),
            NetEvent::Suspect { assoc } => {
                // Validated evidence against the home: another registrar takes over unless this one speaks first.
                if self.home.is_some_and(|home| home.assoc == assoc) {
                    self.start_hunt(now);
                }
            }
            NetEvent::Moved { assoc, remote } => {
                if let Some(association) = self.associations.get_mut(&assoc) {
                    association.remote = remote;
                }
                if let Some(home) = self.home.as_mut().filter(|home| home.assoc == assoc) {
                    home.remote = remote;
                }
            }
            NetEvent::Down { assoc, cause } => {
                self.ending.remove(&assoc);
                if self.associations.remove(&assoc).is_none() {
                    return;
                }
                tracing::debug!(?assoc, ?cause, "association ended");
                if self.home.is_some_and(|home| home.assoc == assoc) {
                    self.lose_home(now);
                } else {
                    // RFC 5352 section 3.6 SH4: an attempt failed, try another address.
                    self.advance_hunt(now);
                }
            }
        }
    }

    /// A server announcement that arrived by multicast (RFC 5352 section 3.6); `source` is where it came from.
    pub fn handle_announce(&mut self, now: Instant, source: SocketAddr, payload: &[u8]) {
        let Ok(decoded) = Message::decode_with(payload, self.config.compat) else {
            self.counters.malformed += 1;
            return;
        };
        let Message::ServerAnnounce { transports, .. } = &decoded.message else {
            self.counters.unexpected += 1;
            return;
        };
        let mut remotes: Vec<Remote> = transports.iter().filter_map(announced).collect();
        if transports.is_empty() {
            // RFC 5352 section 3.6: without transports it is SCTP, the source address and the ASAP port (G30).
            let mut addr = source;
            addr.set_port(ENCAPSULATION_PORT);
            remotes.push(Remote { addr, ..registrar_sctp(source.ip()) });
        }
        remotes.retain(|remote| remote.link == self.config.announced_link);
        let mut new = false;
        for remote in remotes {
            new |= self.book.announce(remote, now + self.config.announce_lifetime);
        }
        if new && self.hunt.is_some() {
            self.refill_hunt(now);
            self.advance_hunt(now);
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.book.expire(now);
        let due: Vec<AssocId> = self
            .associations
            .iter()
            .filter(|(_, association)| association.closes.is_some_and(|at| at <= now))
            .map(|(assoc, _)| *assoc)
            .collect();
        for assoc in due {
            self.associations.remove(&assoc);
            self.ending.insert(assoc);
            self.outputs.push_back(Output::Net(NetCommand::Shutdown { assoc }));
        }
        if self.hunt.as_ref().is_some_and(|hunt| hunt.t5 <= now) {
            self.expire_t5(now);
        }
        if self.role.next_deadline().is_some_and(|at| at <= now) {
            self.with_role(now, |role, cx| role.handle_timeout(cx));
        }
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        let closes = self.associations.values().filter_map(|association| association.closes).min();
        let t5 = self.hunt.as_ref().map(|hunt| hunt.t5);
        [closes, t5, self.role.next_deadline(), self.book.next_expiry()].into_iter().flatten().min()
    }

    pub fn poll(&mut self) -> Option<Output<R::Event>> {
        self.outputs.pop_front().or_else(|| self.role.poll().map(Output::Event))
    }

    /// Ends every association in order, after what was sent has arrived. The client hunts no more; drop it after.
    pub fn shut_down(&mut self) {
        self.hunt = None;
        for (assoc, association) in std::mem::take(&mut self.associations) {
            self.ending.insert(assoc);
            self.outputs.push_back(Output::Net(match association.phase {
                Phase::Dialling => NetCommand::Abort { assoc },
                Phase::Dialled | Phase::Accepted => NetCommand::Shutdown { assoc },
            }));
        }
        self.home = None;
        self.outputs.push_back(Output::Home(None));
    }

    fn handle_up(&mut self, now: Instant, assoc: AssocId, protocol: Protocol, remote: Remote) {
        if self.ending.contains(&assoc) {
            return;
        }
        match self.associations.get_mut(&assoc) {
            Some(association) if association.phase == Phase::Dialling => {
                association.phase = Phase::Dialled;
                association.remote = remote;
                self.set_home(now, assoc, HomeChange::Found);
            }
            Some(_) => {}
            None => {
                let accepted =
                    self.associations.values().filter(|a| a.phase == Phase::Accepted).count();
                if protocol != Protocol::Asap || accepted >= self.config.max_accepted {
                    self.counters.refused += 1;
                    self.ending.insert(assoc);
                    self.outputs.push_back(Output::Net(NetCommand::Abort { assoc }));
                    return;
                }
                self.associations
                    .insert(assoc, Association { remote, phase: Phase::Accepted, closes: None });
            }
        }
    }

    fn handle_message(&mut self, now: Instant, assoc: AssocId, payload: &[u8]) {
        let Some(source) = self.associations.get(&assoc).map(|known| known.remote.addr) else {
            return;
        };
        self.counters.messages += 1;
        let decoded = match Message::decode_with(payload, self.config.compat) {
            Ok(decoded) => decoded,
            Err(error) => {
                self.counters.malformed += 1;
                tracing::debug!(?assoc, %error, "message dropped");
                if let Some(cause) = error.cause() {
                    self.report(assoc, std::slice::from_ref(cause));
                }
                return;
            }
        };
        self.report(assoc, &decoded.unrecognized);
        if let Message::Error(error) = &decoded.message {
            // G36: log it and stay. It names no request, so timers do the rest.
            self.counters.errors_received += 1;
            tracing::debug!(?assoc, ?error, "the registrar reports an error");
            return;
        }
        let is_home = self.home.is_some_and(|home| home.assoc == assoc);
        if is_home {
            self.confirm_home(&decoded.message);
        }
        let is_home_registrar = self.home.is_some_and(|home| home.addr() == source);
        let from = Sender { assoc, is_home, is_home_registrar };
        let mut taken = false;
        self.with_role(now, |role, cx| taken = role.handle_message(cx, from, &decoded.message));
        if !taken {
            self.counters.unexpected += 1;
        }
    }

    /// RFC 5352 section 2.2.14: what was not understood is reported if its type asks for that.
    fn report(&mut self, assoc: AssocId, causes: &[Cause<'_>]) {
        if let Some(payload) = error_reply(causes) {
            self.outputs.push_back(Output::Net(NetCommand::Send { assoc, payload }));
        }
    }

    /// The home speaks: a hunt beside it is pointless.
    fn confirm_home(&mut self, message: &Message<'_>) {
        if self.hunt.as_ref().is_some_and(|hunt| hunt.parallel) {
            self.end_hunt();
        }
        if let (Some(home), Message::EndpointKeepAlive { server_id, .. }) =
            (self.home.as_mut(), message)
        {
            home.server_id = Some(*server_id);
        }
    }

    fn with_role(&mut self, now: Instant, call: impl FnOnce(&mut R, &mut Context<'_>)) {
        let guarded = self.home.is_some_and(|home| now < home.since + self.config.adoption_guard);
        let compat = self.config.compat;
        let mut actions = std::mem::take(&mut self.actions);
        let mut cx = Context {
            now,
            compat,
            rng: &mut self.rng,
            home: self.home,
            guarded,
            actions: &mut actions,
        };
        call(&mut self.role, &mut cx);
        for action in actions.drain(..) {
            match action {
                Action::Send { assoc, payload } => {
                    self.outputs.push_back(Output::Net(NetCommand::Send { assoc, payload }));
                }
                Action::Hunt => self.start_hunt(now),
                Action::AbandonHome => {
                    if let Some(home) = self.home {
                        self.abort(home.assoc);
                        self.lose_home(now);
                    }
                }
                Action::Adopt { assoc, server_id } => self.adopt(now, assoc, server_id),
            }
        }
        if self.actions.capacity() == 0 {
            self.actions = actions;
        }
    }

    fn adopt(&mut self, now: Instant, assoc: AssocId, server_id: ServerId) {
        if self.associations.contains_key(&assoc)
            && self.home.is_none_or(|home| home.assoc != assoc)
        {
            self.counters.adoptions += 1;
            self.set_home(now, assoc, HomeChange::Adopted);
            if let Some(home) = &mut self.home {
                home.server_id = Some(server_id);
            }
        }
    }

    fn set_home(&mut self, now: Instant, assoc: AssocId, change: HomeChange) {
        if let Some(former) = self.home.take()
            && let Some(association) = self.associations.get_mut(&former.assoc)
        {
            association.closes = Some(now + self.config.linger);
            self.book.mark_tried(former.remote, now);
        }
        let Some(association) = self.associations.get_mut(&assoc) else { return };
        association.closes = None;
        let home = Home { assoc, remote: association.remote, server_id: None, since: now };
        self.home = Some(home);
        // RFC 5352 section 3.6 SH3: T5 is stopped and reset.
        self.hunt_wait = self.config.hunt_initial;
        self.end_hunt();
        self.counters.homes_found += 1;
        self.outputs.push_back(Output::Home(Some(home)));
        self.with_role(now, |role, cx| role.handle_home(cx, change));
    }

    fn lose_home(&mut self, now: Instant) {
        if let Some(home) = self.home.take() {
            self.book.mark_tried(home.remote, now);
            if now < home.since + self.config.hunt_initial {
                self.book.rest(home.remote, now + self.config.hunt_initial);
            }
            self.counters.homes_lost += 1;
            self.outputs.push_back(Output::Home(None));
            self.with_role(now, |role, cx| role.handle_home(cx, HomeChange::Lost));
            // The role hears of the loss before the hunt can find the next home.
            match &mut self.hunt {
                Some(hunt) => {
                    hunt.parallel = false;
                    self.advance_hunt(now);
                }
                None => self.start_hunt(now),
            }
        }
    }

    fn start_hunt(&mut self, now: Instant) {
        if self.hunt.is_some() {
            return;
        }
        self.counters.hunts += 1;
        self.begin_round(now);
    }

    fn begin_round(&mut self, now: Instant) {
        self.counters.hunt_rounds += 1;
        // RFC 5352 section 3.6 SH2.
        let parallel = self.home.is_some();
        self.hunt = Some(Hunt { t5: now + self.hunt_wait, queue: VecDeque::new(), parallel });
        self.refill_hunt(now);
        self.advance_hunt(now);
    }

    fn refill_hunt(&mut self, now: Instant) {
        let order = self.book.order(now, &mut self.rng);
        let busy: BTreeSet<Remote> = self
            .associations
            .values()
            .filter(|association| association.phase == Phase::Dialling)
            .map(|association| association.remote)
            .chain(self.home.map(|home| home.remote))
            .collect();
        if let Some(hunt) = &mut self.hunt {
            hunt.queue = order.into_iter().filter(|remote| !busy.contains(remote)).collect();
        }
    }

    /// Dials until three attempts are under way or the round has no address left.
    fn advance_hunt(&mut self, now: Instant) {
        loop {
            // RFC 5352 section 3.6 SH1: the home and former homes count.
            let dialled = self.associations.values().filter(|a| a.phase != Phase::Accepted).count();
            let Some(hunt) = &mut self.hunt else { return };
            if dialled >= MAX_DIALLED {
                return;
            }
            let Some(remote) = hunt.queue.pop_front() else {
                // Nobody else to ask: the home stays what it is.
                let idle = !self.associations.values().any(|a| a.phase == Phase::Dialling);
                if hunt.parallel && idle {
                    self.hunt = None;
                }
                return;
            };
            self.book.mark_tried(remote, now);
            let up = self.associations.iter().find(|(_, association)| {
                association.remote == remote && association.phase != Phase::Dialling
            });
            if let Some((assoc, _)) = up {
                // A second association between the same two endpoints would restart the first.
                let assoc = *assoc;
                self.set_home(now, assoc, HomeChange::Found);
                return;
            }
            let assoc = AssocId::dialled(self.dialled);
            self.dialled += 1;
            self.associations
                .insert(assoc, Association { remote, phase: Phase::Dialling, closes: None });
            self.outputs.push_back(Output::Net(NetCommand::Connect {
                assoc,
                protocol: Protocol::Asap,
                remote,
            }));
        }
    }

    /// RFC 5352 section 3.6 SH5: double T5 up to RETRAN.max, stop the attempts, start over with other addresses.
    fn expire_t5(&mut self, now: Instant) {
        self.hunt_wait = (self.hunt_wait * 2).min(self.config.hunt_max);
        let parallel = self.hunt.as_ref().is_some_and(|hunt| hunt.parallel);
        self.end_hunt();
        if !parallel {
            self.begin_round(now);
        }
    }

    /// Ends the hunt and every attempt of it.
    fn end_hunt(&mut self) {
        self.hunt = None;
        let attempts: Vec<AssocId> = self
            .associations
            .iter()
            .filter(|(_, association)| association.phase == Phase::Dialling)
            .map(|(assoc, _)| *assoc)
            .collect();
        for assoc in attempts {
            self.abort(assoc);
        }
    }

    fn abort(&mut self, assoc: AssocId) {
        if self.associations.remove(&assoc).is_some() {
            self.ending.insert(assoc);
            self.outputs.push_back(Output::Net(NetCommand::Abort { assoc }));
        }
    }
}

/// Where a transport of a SERVER_ANNOUNCE is reached. The UDP encapsulation port is not in it: it is the standard one.
fn announced(transport: &Transport<'_>) -> Option<Remote> {
    match transport {
        Transport::Sctp(sctp) => {
            sctp.addrs.first().map(|ip| Remote { sctp_port: sctp.port, ..registrar_sctp(*ip) })
        }
        Transport::Tcp { port, addr } => {
            Some(Remote { link: Link::Tcp, addr: SocketAddr::new(*addr, *port), sctp_port: 0 })
        }
        _ => None,
    }
}
