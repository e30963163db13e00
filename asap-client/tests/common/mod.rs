//! Scripted registrars around one client core, in virtual time. Shared by the tests of the ASAP client, pool elements
//! and pool users: the script answers as a registrar would, and tests make it die, freeze, forget or refuse.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "several test programs include this file and use a part each"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use dialtone_asap_client::core::{Client, Output, Role};
use dialtone_asap_client::{ClientConfig, registrar_sctp};
use dialtone_transport::model::{AssocId, DownCause, NetCommand, NetEvent, Protocol, Remote};
use dialtone_wire::asap::{Message, Resolution};
use dialtone_wire::{
    Cause, CauseCode, OperationError, PeId, Policy, PoolElement, PoolHandle, ServerId,
};

/// One way of every message and notification.
const DELAY: Duration = Duration::from_millis(1);
const PROBE_PERIOD: Duration = Duration::from_secs(1);

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub fn ip(n: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, n).into()
}

pub fn remotes(numbers: impl IntoIterator<Item = u8>) -> Vec<Remote> {
    numbers.into_iter().map(|n| registrar_sctp(ip(n))).collect()
}

/// What a registrar got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Registration { handle: String, pe_id: u32, policy: Policy<'static> },
    Deregistration { handle: String, pe_id: u32 },
    Resolution { handle: String, subscribe: bool },
    Ack { handle: String, pe_id: u32 },
    Unreachable { handle: String, pe_id: u32 },
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Alive,
    /// Nobody answers and nobody says so: power cut.
    Dead,
    /// Nobody listens: dialling fails at once.
    Refusing,
    /// Takes everything, does nothing, until it is alive again.
    Frozen,
}

#[derive(Debug)]
pub struct Registrar {
    pub life: Life,
    pub rejects: Option<CauseCode>,
    pub grants_subscriptions: bool,
    pub probes: bool,
    /// Messages by kind that it does not answer, though it lives.
    pub ignores_resolutions: bool,
    backlog: Vec<(AssocId, Vec<u8>)>,
    subscribers: BTreeSet<(AssocId, Vec<u8>)>,
}

/// By identifier: the element, and the association over which it registered.
type Members = BTreeMap<u32, (PoolElement<'static>, Option<AssocId>)>;

pub struct World<R: Role> {
    pub start: Instant,
    pub now: Instant,
    pub client: Client<R>,
    pub registrars: BTreeMap<u8, Registrar>,
    /// The handlespace that all registrars share; the association over which each element is watched.
    pub pools: BTreeMap<Vec<u8>, Members>,
    pub seen: Vec<(Duration, u8, Seen)>,
    pub events: Vec<(Duration, R::Event)>,
    pub connects: Vec<(Duration, u8)>,
    /// What the client said, whoever was there to hear it: when, to which registrar, the bytes.
    pub said: Vec<(Duration, u8, Vec<u8>)>,
    /// Up, with the registrar at the other end.
    up: BTreeMap<AssocId, u8>,
    /// Dialled by the client, up or not.
    dialled: BTreeSet<AssocId>,
    queue: BTreeMap<(Instant, u64), NetEvent>,
    serial: u64,
    next_probe: Instant,
}

impl<R: Role> World<R> {
    /// A client that knows registrars 1 to `count`, all alive.
    #[expect(clippy::disallowed_methods, reason = "virtual time starts at any instant")]
    pub fn new(count: u8, role: R) -> Self {
        Self::with(Instant::now(), ClientConfig::telephony(remotes(1..=count)), count, role)
    }

    pub fn with(now: Instant, config: ClientConfig, count: u8, role: R) -> Self {
        let registrar = |n| {
            let registrar = Registrar {
                life: Life::Alive,
                rejects: None,
                grants_subscriptions: true,
                probes: true,
                ignores_resolutions: false,
                backlog: Vec::new(),
                subscribers: BTreeSet::new(),
            };
            (n, registrar)
        };
        Self {
            start: now,
            now,
            client: Client::new(now, config, role, fastrand::Rng::with_seed(7)),
            registrars: (1..=count).map(registrar).collect(),
            pools: BTreeMap::new(),
            seen: Vec::new(),
            events: Vec::new(),
            connects: Vec::new(),
            said: Vec::new(),
            up: BTreeMap::new(),
            dialled: BTreeSet::new(),
            queue: BTreeMap::new(),
            serial: 0,
            next_probe: now + PROBE_PERIOD,
        }
    }

    pub fn at(&self) -> Duration {
        self.now - self.start
    }

    pub fn set_all(&mut self, life: Life) {
        self.registrars.values_mut().for_each(|registrar| registrar.life = life);
    }

    pub fn registrar(&mut self, n: u8) -> &mut Registrar {
        self.registrars.get_mut(&n).unwrap()
    }

    /// The number of the home registrar.
    pub fn home(&self) -> Option<u8> {
        self.client
            .home()
            .and_then(|home| self.up.get(&home.assoc).copied().or(last_octet(home.remote)))
    }

    pub fn command(&mut self, command: R::Command) {
        self.client.handle_command(self.now, command);
        self.drain();
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.drain();
        while let Some(next) = self.next().filter(|next| *next <= end) {
            self.step(next);
        }
        self.now = end;
    }

    /// Lets time pass until `done`, at most `limit`; says how long it took.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> Duration {
        let begin = self.now;
        self.drain();
        while !done(self) {
            let next = self.next().expect("something is going to happen");
            assert!(next <= begin + limit, "not within {limit:?}; seen: {:#?}", self.seen);
            self.step(next);
        }
        self.now - begin
    }

    fn next(&self) -> Option<Instant> {
        let queued = self.queue.keys().next().map(|(at, _)| *at);
        [queued, self.client.next_deadline(), Some(self.next_probe)].into_iter().flatten().min()
    }

    fn step(&mut self, next: Instant) {
        self.now = self.now.max(next);
        if let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let event = entry.remove();
            if let NetEvent::Down { assoc, .. } = &event {
                self.forget(*assoc);
            }
            self.client.handle_net(self.now, event);
        } else if self.client.next_deadline().is_some_and(|at| at <= self.now) {
            self.client.handle_timeout(self.now);
            let next = self.client.next_deadline();
            assert!(
                next.is_none_or(|at| at > self.now),
                "deadline not in the future after a timeout"
            );
        } else {
            self.next_probe = self.now + PROBE_PERIOD;
            self.probe_all();
        }
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.client.poll() {
            match output {
                Output::Net(command) => self.execute(command),
                Output::Event(event) => self.events.push((self.at(), event)),
                Output::Home(_) => {}
            }
        }
    }

    fn later(&mut self, delay: Duration, event: NetEvent) {
        self.serial += 1;
        self.queue.insert((self.now + delay, self.serial), event);
    }

    fn execute(&mut self, command: NetCommand) {
        match command {
            NetCommand::Connect { assoc, protocol, remote } => {
                assert_eq!(protocol, Protocol::Asap);
                self.dialled.insert(assoc);
                // RFC 5352 section 3.6 SH1.
                assert!(self.dialled.len() <= 3, "more than three associations at once");
                let n = last_octet(remote).unwrap();
                self.connects.push((self.at(), n));
                match self.registrars.get(&n).map(|registrar| registrar.life) {
                    Some(Life::Alive) => {
                        self.up.insert(assoc, n);
                        self.later(2 * DELAY, NetEvent::Up { assoc, protocol, remote, peer: None });
                    }
                    Some(Life::Refusing) => {
                        self.later(
                            2 * DELAY,
                            NetEvent::Down { assoc, cause: DownCause::Unreachable },
                        );
                    }
                    _ => self.later(ms(2100), NetEvent::Down { assoc, cause: DownCause::TimedOut }),
                }
            }
            NetCommand::Send { assoc, payload } => {
                let Some(n) = self.up.get(&assoc).copied() else { return };
                self.said.push((self.at(), n, payload.clone()));
                match self.registrars.get(&n).map(|registrar| registrar.life) {
                    Some(Life::Alive) => self.receive(n, assoc, &payload),
                    Some(Life::Frozen) => self.registrar(n).backlog.push((assoc, payload)),
                    _ => {}
                }
            }
            NetCommand::Abort { assoc } | NetCommand::Shutdown { assoc } => {
                self.dialled.remove(&assoc);
                if let Some(n) = self.up.remove(&assoc) {
                    self.registrar(n).subscribers.retain(|(subscriber, _)| *subscriber != assoc);
                }
                self.later(DELAY, NetEvent::Down { assoc, cause: DownCause::Local });
            }
        }
    }

    fn forget(&mut self, assoc: AssocId) {
        self.up.remove(&assoc);
        self.dialled.remove(&assoc);
    }

    pub fn reply(&mut self, assoc: AssocId, message: &Message<'_>) {
        self.deliver(assoc, message.encode().unwrap());
    }

    /// A registrar says these bytes to the client.
    pub fn deliver(&mut self, assoc: AssocId, payload: Vec<u8>) {
        self.later(2 * DELAY, NetEvent::Message { assoc, payload });
    }

    fn receive(&mut self, n: u8, assoc: AssocId, payload: &[u8]) {
        let message =
            Message::decode(payload).expect("the client sends what it can decode").message;
        let seen = match message {
            Message::Registration { handle, element } => {
                let pe_id = element.pe_id;
                let policy = element.policy.clone().into_owned();
                let cause = self.registrars[&n].rejects;
                if cause.is_none() {
                    let element = PoolElement { home: ServerId(n.into()), ..element.into_owned() };
                    let pool = self.pools.entry(handle.0.to_vec()).or_default();
                    pool.insert(pe_id.0, (element, Some(assoc)));
                    self.push(handle.0);
                }
                let error = cause.map(|code| OperationError { causes: vec![Cause::plain(code)] });
                self.reply(
                    assoc,
                    &Message::RegistrationResponse {
                        reject: cause.is_some(),
                        handle,
                        pe_id,
                        error,
                    },
                );
                Seen::Registration { handle: text(handle), pe_id: pe_id.0, policy }
            }
            Message::Deregistration { handle, pe_id } => {
                self.remove(handle.0, pe_id.0);
                self.reply(assoc, &Message::DeregistrationResponse { handle, pe_id, error: None });
                Seen::Deregistration { handle: text(handle), pe_id: pe_id.0 }
            }
            Message::HandleResolution { subscribe, handle, items } => {
                assert_eq!(items, Some(u32::MAX));
                let registrar = self.registrar(n);
                if !registrar.ignores_resolutions {
                    let accepted = subscribe && registrar.grants_subscriptions;
                    if accepted && self.pools.get(handle.0).is_some_and(|pool| !pool.is_empty()) {
                        self.registrar(n).subscribers.insert((assoc, handle.0.to_vec()));
                    }
                    self.answer(assoc, handle.0, accepted);
                }
                Seen::Resolution { handle: text(handle), subscribe }
            }
            Message::EndpointKeepAliveAck { handle, pe_id } => {
                Seen::Ack { handle: text(handle), pe_id: pe_id.0 }
            }
            Message::EndpointUnreachable { handle, pe_id } => {
                Seen::Unreachable { handle: text(handle), pe_id: pe_id.0 }
            }
            _ => Seen::Other,
        };
        self.seen.push((self.at(), n, seen));
    }

    fn answer(&mut self, assoc: AssocId, handle: &[u8], accepted: bool) {
        let elements: Vec<_> = self
            .pools
            .get(handle)
            .into_iter()
            .flatten()
            .map(|(_, (element, _))| element.clone())
            .collect();
        let outcome = match elements.first() {
            Some(first) => Ok(Resolution {
                policy: (first.policy != Policy::RoundRobin)
                    .then(|| Policy::of_pool(first.policy.number())),
                elements,
            }),
            None => {
                Err(OperationError { causes: vec![Cause::plain(CauseCode::UNKNOWN_POOL_HANDLE)] })
            }
        };
        let accepted = accepted && outcome.is_ok();
        self.reply(
            assoc,
            &Message::HandleResolutionResponse { accepted, handle: PoolHandle(handle), outcome },
        );
    }

    /// Tells the subscribers of all registrars that live.
    fn push(&mut self, handle: &[u8]) {
        let subscribers: Vec<AssocId> = self
            .registrars
            .values()
            .filter(|registrar| registrar.life == Life::Alive)
            .flat_map(|registrar| &registrar.subscribers)
            .filter(|(_, subscribed)| subscribed == handle)
            .map(|(assoc, _)| *assoc)
            .collect();
        for assoc in subscribers {
            self.answer(assoc, handle, true);
        }
    }

    /// Somebody else's element comes or changes.
    pub fn add(&mut self, handle: &str, element: PoolElement<'static>) {
        self.pools
            .entry(handle.as_bytes().to_vec())
            .or_default()
            .insert(element.pe_id.0, (element, None));
        self.push(handle.as_bytes());
    }

    /// An element goes; nobody tells it.
    pub fn remove(&mut self, handle: &[u8], pe_id: u32) {
        if let Some(pool) = self.pools.get_mut(handle) {
            pool.remove(&pe_id);
            if pool.is_empty() {
                self.pools.remove(handle);
            }
        }
        self.push(handle);
    }

    fn probe_all(&mut self) {
        let mut probes = BTreeSet::new();
        for (handle, pool) in &self.pools {
            for (_, assoc) in pool.values() {
                if let Some((assoc, n)) =
                    assoc.and_then(|assoc| Some((assoc, *self.up.get(&assoc)?)))
                    && self.registrars[&n].life == Life::Alive
                    && self.registrars[&n].probes
                {
                    probes.insert((assoc, n, handle.clone()));
                }
            }
        }
        for (assoc, n, handle) in probes {
            self.probe(assoc, n, &handle, false);
        }
    }

    pub fn probe(&mut self, assoc: AssocId, n: u8, handle: &[u8], home: bool) {
        let handle = PoolHandle(handle);
        self.reply(
            assoc,
            &Message::EndpointKeepAlive {
                home,
                server_id: ServerId(n.into()),
                handle,
                pe_id: None,
            },
        );
    }

    /// Registrar `n` dials the client and sends a keep-alive.
    pub fn dial_and_probe(&mut self, n: u8, handle: &str, home: bool) -> AssocId {
        let assoc = self.dial(n);
        self.probe(assoc, n, handle.as_bytes(), home);
        assoc
    }

    /// Registrar `n` dials the client.
    pub fn dial(&mut self, n: u8) -> AssocId {
        self.serial += 1;
        let assoc = AssocId::accepted(self.serial);
        self.up.insert(assoc, n);
        self.later(
            DELAY,
            NetEvent::Up {
                assoc,
                protocol: Protocol::Asap,
                remote: registrar_sctp(ip(n)),
                peer: None,
            },
        );
        assoc
    }

    /// Registrar `n` dies; `reset`: the client hears of it at once. Otherwise nothing comes any more.
    pub fn kill(&mut self, n: u8, reset: bool) {
        self.registrar(n).life = if reset { Life::Refusing } else { Life::Dead };
        self.registrar(n).subscribers.clear();
        if reset {
            let lost: Vec<AssocId> =
                self.up.iter().filter(|(_, at)| **at == n).map(|(assoc, _)| *assoc).collect();
            for assoc in lost {
                self.later(DELAY, NetEvent::Down { assoc, cause: DownCause::Aborted });
            }
        }
    }

    /// Evidence that nobody listens at registrar `n` any more.
    pub fn suspect(&mut self, n: u8) {
        let suspects: Vec<AssocId> =
            self.up.iter().filter(|(_, at)| **at == n).map(|(assoc, _)| *assoc).collect();
        for assoc in suspects {
            self.later(DELAY, NetEvent::Suspect { assoc });
        }
    }

    pub fn thaw(&mut self, n: u8) {
        self.registrar(n).life = Life::Alive;
        for (assoc, payload) in std::mem::take(&mut self.registrar(n).backlog) {
            if self.up.contains_key(&assoc) {
                self.receive(n, assoc, &payload);
            }
        }
    }

    pub fn count(&self, what: impl Fn(&Seen) -> bool) -> usize {
        self.seen.iter().filter(|(_, _, seen)| what(seen)).count()
    }
}

fn last_octet(remote: Remote) -> Option<u8> {
    match remote.addr.ip() {
        IpAddr::V4(ip) => Some(ip.octets()[3]),
        IpAddr::V6(_) => None,
    }
}

fn text(handle: PoolHandle<'_>) -> String {
    String::from_utf8(handle.0.to_vec()).unwrap()
}

/// Element of a pool at a TCP address of its own.
pub fn element(pe_id: u32) -> PoolElement<'static> {
    PoolElement {
        pe_id: PeId(pe_id),
        home: ServerId(1),
        life: 30,
        transport: dialtone_wire::Transport::tcp(
            format!("127.0.0.99:{}", 5000 + pe_id).parse().unwrap(),
        ),
        policy: Policy::RoundRobin,
        asap_transport: None,
        encaps_port: None,
    }
}
