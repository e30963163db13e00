//! The registrar's protocol core: ASAP server (RFC 5352) and ENRP peer (RFC 5353), without IO.
//!
//! The owner calls [`Registrar::handle_net`] and [`Registrar::handle_timeout`] and then drains [`Registrar::poll`];
//! [`Registrar::next_deadline`] says when to call back at the latest. Whoever calls much later than that was starved,
//! and the core knows that others' silence in the meantime means nothing.
//!
//! | file | what |
//! |---|---|
//! | `asap` | registration, de-registration, reports of unreachable elements |
//! | `resolve` | resolution, subscriptions, pushes |
//! | `monitor` | keep-alives of elements, evidence, removal |
//! | `startup` | mentors: list and table download |
//! | `discover` | peers found by multicast |
//! | `budget` | what others may cost |
//! | `peers` | associations with peers, presence, dead peers |
//! | `security` | secure mode: who may do what |
//! | `updates` | handlespace updates from and to peers, import, pool conflicts |
//! | `takeover` | arbitration, moving of elements |
//! | `audit` | checksums, resync, table answers |

mod asap;
mod audit;
mod budget;
mod config;
mod discover;
mod monitor;
mod output;
mod peers;
mod resolve;
mod security;
mod snapshot;
mod startup;
mod takeover;
mod timers;
mod updates;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dialtone_handlespace::{Handle, Handlespace};
use dialtone_transport::{
    AssocId, DownCause, Identity, Link, NetCommand, NetEvent, Protocol, Remote,
};
use dialtone_wire::{PeId, ServerId};

pub use config::{Bugs, Config, Limits, TimerConfig};
pub use output::{Counters, Event, Output, Reject, Removal};
pub use security::{Access, Security};
pub use snapshot::{AddressSnapshot, ElementSnapshot, Page, PeerSnapshot, PoolSnapshot, Snapshot};

use budget::{Account, Source};
use monitor::Watch;
use peers::{Contact, Peer};
use startup::Stage;
use takeover::{Successions, Takeover};
use timers::Timers;

/// Names an element in the operational scope.
type Key = (Handle, PeId);

/// A registrar. See the module documentation for how to drive it.
#[derive(Debug)]
pub struct Registrar {
    config: Config,
    id: ServerId,
    rng: fastrand::Rng,
    started: Instant,
    /// When we last went on after we had stood still for so long that the peers may have taken us over.
    resumed: Option<Instant>,
    stage: Stage,
    space: Handlespace,
    assocs: BTreeMap<AssocId, Assoc>,
    /// Up or dialled SCTP associations with elements, by where they lead.
    by_remote: BTreeMap<Remote, AssocId>,
    contacts: BTreeMap<SocketAddr, Contact>,
    peers: BTreeMap<ServerId, Peer>,
    takeovers: BTreeMap<ServerId, Takeover>,
    successions: Successions,
    /// Elements that their recorded home does not name any more, by that home.
    orphans: BTreeMap<ServerId, audit::Orphans>,
    /// Download sessions in which we are the mentor.
    sessions: BTreeMap<AssocId, audit::Session>,
    /// Owned elements, and others' elements that were reported here.
    watches: BTreeMap<Key, Watch>,
    /// Secure mode: the names under which elements of the handlespace have registered here.
    owners: BTreeMap<Key, String>,
    /// By where associations come from.
    accounts: BTreeMap<Source, Account>,
    subscribers: BTreeMap<Handle, resolve::Subscribers>,
    /// Pairs of a subscriber and a pool.
    subscriptions: usize,
    answers: resolve::Answers,
    /// Pools to be pushed at the end of this call.
    changed: BTreeSet<Handle>,
    timers: Timers<Timer>,
    dialled: u64,
    counters: Counters,
    out: VecDeque<Output>,
}

/// What a deadline is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// Nobody has come from there for a while.
    Account(Source),
    /// Next attempt to dial a peer.
    Contact(SocketAddr),
    Heartbeat,
    /// Registration life.
    Life(Key),
    /// Peers are told where the elements of an association are now.
    Moved(AssocId),
    /// A peer's silence, its answer to a reply-required presence, or another's takeover of it.
    Peer(ServerId),
    /// Next keep-alive, or the answer to one.
    Probe(Key),
    /// Load-only changes.
    Push(Handle),
    /// A chunk that is outstanding, or the pause before the next resync.
    Resync(ServerId),
    /// Elements that this peer does not name any more are not kept longer.
    Orphans(ServerId),
    /// A peer's download from here.
    Session(AssocId),
    /// Next step of the start-up.
    Startup,
    /// Acknowledgements of our own takeover.
    Takeover(ServerId),
}

/// An association or connection.
#[derive(Debug)]
struct Assoc {
    protocol: Protocol,
    remote: Remote,
    /// Who the other side has proven to be.
    identity: Option<Identity>,
    /// Dialled by this side.
    dialled: bool,
    up: bool,
    /// Aborted by this side; what still arrives is ignored.
    closing: bool,
    /// Shut down by this side: ENRP, since there is a better one with the same peer; ASAP, since it is idle.
    draining: bool,
    /// ASAP: heartbeats without use.
    idle: u8,
    /// ASAP: who is there registers over it, refused or not, so that we are its home.
    is_home: bool,
    /// ENRP: who is there, once it spoke.
    peer: Option<ServerId>,
    /// ENRP: until then the other side may go on with a table that it has begun to send, whoever asks for one.
    table_until: Option<Instant>,
    /// ASAP: elements that are watched over it.
    elements: BTreeSet<Key>,
    /// ASAP: when the peers were last told that it had moved.
    moved: Option<Instant>,
    /// ASAP: pools with the number of items that were asked for.
    subscriptions: BTreeMap<Handle, usize>,
}

impl Registrar {
    /// A registrar that starts up at `now`. The identifier must not be 0 and should be random (RFC 5353 section
    /// 3.2.1).
    pub fn new(now: Instant, config: Config, id: ServerId, rng: fastrand::Rng) -> Self {
        let mut registrar = Self {
            id,
            rng,
            started: now,
            resumed: None,
            stage: Stage::Starting(startup::Starting::new(now, &config)),
            space: startup::empty_space(&config),
            assocs: BTreeMap::new(),
            by_remote: BTreeMap::new(),
            contacts: BTreeMap::new(),
            peers: BTreeMap::new(),
            takeovers: BTreeMap::new(),
            successions: Successions::default(),
            orphans: BTreeMap::new(),
            sessions: BTreeMap::new(),
            watches: BTreeMap::new(),
            owners: BTreeMap::new(),
            accounts: BTreeMap::new(),
            subscribers: BTreeMap::new(),
            subscriptions: 0,
            answers: resolve::Answers::default(),
            changed: BTreeSet::new(),
            timers: Timers::new(),
            dialled: 0,
            counters: Counters::default(),
            out: VecDeque::new(),
            config,
        };
        registrar.start(now);
        registrar
    }

    /// Own server identifier.
    pub fn id(&self) -> ServerId {
        self.id
    }

    /// Whether the start-up is over.
    pub fn in_service(&self) -> bool {
        matches!(self.stage, Stage::Running)
    }

    /// Totals since start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The handlespace, for invariants in simulations.
    pub fn handlespace(&self) -> &Handlespace {
        &self.space
    }

    /// How many associations it keeps books of, for invariants in simulations.
    pub fn associations(&self) -> usize {
        self.assocs.len()
    }

    /// How many records of all kinds it holds, for invariants in simulations.
    pub fn records(&self) -> usize {
        self.space.len()
            + self.accounts.len()
            + self.assocs.len()
            + self.by_remote.len()
            + self.contacts.len()
            + self.peers.len()
            + self.takeovers.len()
            + self.orphans.len()
            + self.sessions.len()
            + self.watches.len()
            + self.subscriptions
            + self.timers.len()
    }

    /// Takes what happened on the network.
    pub fn handle_net(&mut self, now: Instant, event: NetEvent) {
        self.awake(now);
        match event {
            NetEvent::Up { assoc, protocol, remote, peer } => {
                self.up(now, assoc, protocol, remote, peer)
            }
            NetEvent::Message { assoc, payload } => self.message(now, assoc, &payload),
            NetEvent::Suspect { assoc } => self.suspect(now, assoc),
            NetEvent::Moved { assoc, remote } => self.moved(now, assoc, remote),
            NetEvent::Down { assoc, cause } => self.down(now, assoc, cause),
        }
        self.flush(now);
    }

    /// Does what is due. To be called at [`Registrar::next_deadline`], and harmless at any other time.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.awake(now);
        self.fire(now);
        self.flush(now);
    }

    /// The next output; to be called until there is none after each input.
    pub fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When [`Registrar::handle_timeout`] wants to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// A core that is called late cannot know whether others were silent or it was deaf: answers that were
    /// outstanding get their time again.
    fn awake(&mut self, now: Instant) {
        let t = &self.config.timers;
        let Some(late) = self.timers.next().and_then(|due| now.checked_duration_since(due)) else {
            return;
        };
        if late < t.starvation {
            return;
        }
        self.event(Event::Starved { millis: u64::try_from(late.as_millis()).unwrap_or(u64::MAX) });
        let t = &self.config.timers;
        let (contacts, watches) = (&self.contacts, &self.watches);
        self.timers.postpone(now + t.no_response.max(t.keep_alive_timeout), |timer| match timer {
            Timer::Life(_)
            | Timer::Orphans(_)
            | Timer::Peer(_)
            | Timer::Resync(_)
            | Timer::Startup => Some(now + t.no_response),
            Timer::Probe(key) => watches
                .get(key)
                .filter(|watch| watch.probing > 0)
                .map(|_| now + t.keep_alive_timeout),
            Timer::Session(_) => Some(now + t.session),
            Timer::Takeover(_) => Some(now + t.takeover_ack),
            Timer::Contact(addr) => contacts
                .get(addr)
                .filter(|contact| !contact.assocs.is_empty())
                .map(|_| now + t.no_response),
            Timer::Account(_) | Timer::Heartbeat | Timer::Moved(_) | Timer::Push(_) => None,
        });
        if late > t.last_heard {
            self.resume(now);
        }
        self.fire(now);
    }

    /// We stood still long enough for the peers to have taken us over: ask everyone what they own now. What waits in
    /// associations with elements is as old, and who sent it has gone elsewhere: it is not served.
    fn resume(&mut self, now: Instant) {
        self.resumed = Some(now);
        let stale: Vec<_> = self
            .assocs
            .iter()
            .filter(|(_, assoc)| {
                let of_elements = assoc.remote.link == Link::Sctp || assoc.identity.is_some();
                assoc.protocol == Protocol::Asap && of_elements && assoc.up
            })
            .map(|(id, _)| *id)
            .collect();
        stale.into_iter().for_each(|id| self.abort(id));
        self.resync_all(now);
    }

    fn fire(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Account(source) => self.account_due(now, source),
                Timer::Contact(addr) => self.dial_contact(now, addr),
                Timer::Heartbeat => self.heartbeat(now),
                Timer::Life(key) => self.life_ended(&key),
                Timer::Moved(assoc) => self.moved_due(now, assoc),
                Timer::Orphans(peer) => self.drop_orphans(peer),
                Timer::Peer(peer) => self.peer_due(now, peer),
                Timer::Probe(key) => self.probe_due(now, &key),
                Timer::Push(handle) => self.push(now, &handle),
                Timer::Resync(peer) => self.resync_due(now, peer),
                Timer::Session(assoc) => drop(self.sessions.remove(&assoc)),
                Timer::Startup => self.startup_due(now),
                Timer::Takeover(target) => self.takeover_due(now, target),
            }
        }
    }

    fn up(
        &mut self,
        now: Instant,
        id: AssocId,
        protocol: Protocol,
        remote: Remote,
        identity: Option<Identity>,
    ) {
        let assoc = self.assocs.entry(id).or_insert_with(|| Assoc::new(protocol, remote, false));
        assoc.up = true;
        assoc.remote = remote;
        assoc.identity = identity;
        if assoc.closing {
            return;
        }
        if !self.open_account(now, id) {
            return self.abort(id);
        }
        match protocol {
            Protocol::Asap => self.element_up(now, id),
            Protocol::Enrp => self.enrp_up(now, id),
        }
    }

    fn message(&mut self, now: Instant, id: AssocId, payload: &[u8]) {
        let Some(assoc) = self.assocs.get(&id) else {
            self.counters.dropped += 1;
            return;
        };
        let protocol = assoc.protocol;
        if assoc.closing || !self.admit(now, id, payload) {
            return;
        }
        match protocol {
            Protocol::Asap => self.asap(now, id, payload),
            Protocol::Enrp => self.enrp(now, id, payload),
        }
    }

    fn suspect(&mut self, now: Instant, id: AssocId) {
        let Some(assoc) = self.assocs.get(&id).filter(|assoc| !assoc.closing) else { return };
        match assoc.protocol {
            Protocol::Asap => {
                for key in assoc.elements.clone() {
                    self.suspect_element(now, &key);
                }
            }
            Protocol::Enrp => self.suspect_peer(now, id),
        }
    }

    fn moved(&mut self, now: Instant, id: AssocId, remote: Remote) {
        let Some(assoc) = self.assocs.get_mut(&id) else { return };
        let old = std::mem::replace(&mut assoc.remote, remote);
        if assoc.protocol == Protocol::Asap {
            if self.by_remote.get(&old) == Some(&id) {
                self.by_remote.remove(&old);
                self.by_remote.insert(remote, id);
            }
            self.tell_moved(now, id);
        }
    }

    fn down(&mut self, now: Instant, id: AssocId, cause: DownCause) {
        let Some(assoc) = self.assocs.remove(&id) else { return };
        self.close_account(now, id, assoc.remote.addr.ip());
        self.timers.cancel(&Timer::Moved(id));
        match assoc.protocol {
            Protocol::Asap => self.element_down(now, id, assoc, cause),
            Protocol::Enrp => self.enrp_down(now, id, assoc, cause),
        }
    }

    /// Dials; the answer is `Up` or `Down` with this id.
    fn dial(&mut self, protocol: Protocol, remote: Remote) -> AssocId {
        let id = AssocId::dialled(self.dialled);
        self.dialled += 1;
        self.assocs.insert(id, Assoc::new(protocol, remote, true));
        self.net(NetCommand::Connect { assoc: id, protocol, remote });
        id
    }

    /// Ends an association at once. `Down` follows and finishes the books.
    fn abort(&mut self, id: AssocId) {
        if let Some(assoc) = self.assocs.get_mut(&id).filter(|assoc| !assoc.closing) {
            assoc.closing = true;
            self.net(NetCommand::Abort { assoc: id });
        }
    }

    fn send(&mut self, assoc: AssocId, payload: Vec<u8>) {
        self.net(NetCommand::Send { assoc, payload });
    }

    fn net(&mut self, command: NetCommand) {
        self.out.push_back(Output::Net(command));
    }

    fn event(&mut self, event: Event) {
        match &event {
            Event::PoolConflict { .. } => self.counters.pool_conflicts += 1,
            Event::Rejected { .. } => self.counters.rejects += 1,
            Event::Removed { .. } => self.counters.removals += 1,
            Event::ResyncStarted { .. } => self.counters.resyncs += 1,
            Event::TakeoverWon { .. } => self.counters.takeovers += 1,
            _ => {}
        }
        self.out.push_back(Output::Event(event));
    }

    /// A duration spread by ±50 % (RFC 5352 section 3.4).
    fn spread(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(0.5 + self.rng.f64())
    }
}

impl Assoc {
    fn new(protocol: Protocol, remote: Remote, dialled: bool) -> Self {
        Self {
            protocol,
            remote,
            identity: None,
            dialled,
            up: false,
            closing: false,
            draining: false,
            idle: 0,
            is_home: false,
            peer: None,
            table_until: None,
            elements: BTreeSet::new(),
            moved: None,
            subscriptions: BTreeMap::new(),
        }
    }
}
