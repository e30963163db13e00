//! A virtual network for registrar cores and scripted elements: delays, cuts, kills, freezes, one clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use dialtone_registrar_ns::core::{Config, Event, Output, Registrar};
use dialtone_transport::{AssocId, DownCause, Identity, NetCommand, NetEvent, Protocol, Remote};
use dialtone_wire::ServerId;

use crate::element::Element;

const DELAY: Duration = Duration::from_millis(1);
/// Retransmissions run out.
const GIVE_UP: Duration = Duration::from_millis(1500);
/// INITs run out.
const DIAL_GIVE_UP: Duration = Duration::from_millis(900);

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The n-th registrar's address.
pub(crate) fn reg(n: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::from([127, 0, 0, n]), 9899)
}

enum Process {
    Element(Box<Element>),
    Registrar(Box<Registrar>),
}

struct Node {
    process: Process,
    frozen: bool,
    /// What arrived while it was frozen.
    held: Vec<NetEvent>,
    accepted: u64,
    events: Vec<(Instant, Event)>,
}

/// One side's view of an association.
struct End {
    peer: (SocketAddr, AssocId),
    protocol: Protocol,
    /// The other side has ended it, and this side has not heard of that.
    severed: bool,
    /// Cannot be delivered at the moment.
    stuck: Vec<Vec<u8>>,
    stuck_since: Option<Instant>,
}

enum Happening {
    Dial {
        from: (SocketAddr, AssocId),
        protocol: Protocol,
        remote: Remote,
    },
    Event {
        to: SocketAddr,
        event: NetEvent,
    },
    GiveUp {
        side: (SocketAddr, AssocId),
    },
    /// To everybody who listens to the multicast group.
    Presence {
        from: SocketAddr,
        payload: Vec<u8>,
    },
}

pub(crate) struct World {
    pub(crate) now: Instant,
    nodes: BTreeMap<SocketAddr, Node>,
    ends: BTreeMap<(SocketAddr, AssocId), End>,
    cuts: BTreeSet<(SocketAddr, SocketAddr)>,
    queue: BTreeMap<(Instant, u64), Happening>,
    counter: u64,
    /// Who processes have proven to be: what they dial is TLS.
    pub(crate) identities: BTreeMap<SocketAddr, Identity>,
    /// ASAP associations that registrars have dialled.
    pub(crate) dialled_elements: usize,
    /// ENRP messages between registrars: sender, receiver, bytes.
    pub(crate) enrp: Vec<(Instant, SocketAddr, SocketAddr, Vec<u8>)>,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
    pub(crate) fn new() -> Self {
        Self {
            now: Instant::now(),
            nodes: BTreeMap::new(),
            ends: BTreeMap::new(),
            cuts: BTreeSet::new(),
            queue: BTreeMap::new(),
            counter: 0,
            identities: BTreeMap::new(),
            dialled_elements: 0,
            enrp: Vec::new(),
        }
    }

    /// `count` registrars with identifiers 1, 2, … that name each other as peers; all in service.
    pub(crate) fn with_registrars(count: u8) -> Self {
        let mut world = Self::new();
        for n in 1..=count {
            world.add_registrar(n, u32::from(n), (1..=count).map(reg).collect());
        }
        world.run(ms(4000));
        for n in 1..=count {
            assert!(world.registrar(n).in_service(), "registrar {n} starts");
            assert_eq!(world.registrar(n).snapshot(world.now).peers.len(), usize::from(count) - 1);
        }
        world
    }

    pub(crate) fn config(n: u8, peers: Vec<SocketAddr>) -> Config {
        Config {
            mentors: peers.iter().filter(|peer| **peer != reg(n)).copied().collect(),
            peers,
            ..Config::new(reg(n).ip())
        }
    }

    pub(crate) fn add_registrar(&mut self, n: u8, id: u32, peers: Vec<SocketAddr>) {
        self.add_configured(n, id, Self::config(n, peers));
    }

    pub(crate) fn add_configured(&mut self, n: u8, id: u32, config: Config) {
        let rng = fastrand::Rng::with_seed(u64::from(id));
        let registrar = Registrar::new(self.now, config, ServerId(id), rng);
        self.add(reg(n), Process::Registrar(Box::new(registrar)));
    }

    pub(crate) fn add_element(&mut self, element: Element) {
        let addr = element.addr;
        self.add(addr, Process::Element(Box::new(element)));
    }

    fn add(&mut self, addr: SocketAddr, process: Process) {
        let node =
            Node { process, frozen: false, held: Vec::new(), accepted: 0, events: Vec::new() };
        self.nodes.insert(addr, node);
        self.wake(addr);
    }

    pub(crate) fn registrar(&self, n: u8) -> &Registrar {
        match &self.nodes[&reg(n)].process {
            Process::Registrar(registrar) => registrar,
            Process::Element(_) => panic!("{n} is no registrar"),
        }
    }

    pub(crate) fn element(&mut self, addr: SocketAddr) -> &mut Element {
        match &mut self.nodes.get_mut(&addr).unwrap().process {
            Process::Element(element) => element,
            Process::Registrar(_) => panic!("{addr} is no element"),
        }
    }

    pub(crate) fn events(&self, n: u8) -> &[(Instant, Event)] {
        &self.nodes[&reg(n)].events
    }

    /// When the registrar said such a thing, at `since` or later.
    pub(crate) fn when(
        &self,
        n: u8,
        since: Instant,
        what: impl Fn(&Event) -> bool,
    ) -> Option<Duration> {
        let found = self.events(n).iter().find(|(at, event)| *at >= since && what(event));
        found.map(|(at, _)| *at - since)
    }

    pub(crate) fn home_of(&self, n: u8, element: &Name) -> Option<u32> {
        let space = self.registrar(n).handlespace();
        space.get(element.0.as_bytes(), dialtone_wire::PeId(element.1)).map(|found| found.home.0)
    }

    /// What happened to an element of a pool, for failure messages.
    pub(crate) fn story(&self, name: &Name) -> String {
        let mut lines = Vec::new();
        for (addr, node) in &self.nodes {
            for (at, event) in &node.events {
                let text = format!("{event:?}");
                if text.contains(&format!("{:#010x}", name.1)) {
                    lines.push((*at, format!("{addr} {text}")));
                }
            }
            if let Process::Element(element) = &node.process
                && element.name.1 == name.1
            {
                lines.push((self.now, format!("{addr} {element:?}")));
            }
        }
        lines.sort();
        lines.iter().map(|(at, text)| format!("\n{:?} ago: {text}", self.now - *at)).collect()
    }

    pub(crate) fn lives(&self, addr: SocketAddr) -> bool {
        self.nodes.contains_key(&addr)
    }

    /// The process disappears without a word.
    pub(crate) fn kill(&mut self, addr: SocketAddr) {
        self.nodes.remove(&addr);
        self.ends.retain(|(owner, _), _| *owner != addr);
        // A process that takes the address later has nothing to do with the associations of this one.
        for end in self.ends.values_mut().filter(|end| end.peer.0 == addr) {
            end.peer.1 = AssocId::accepted(u64::MAX);
        }
    }

    pub(crate) fn freeze(&mut self, addr: SocketAddr) {
        self.nodes.get_mut(&addr).unwrap().frozen = true;
    }

    pub(crate) fn thaw(&mut self, addr: SocketAddr) {
        let node = self.nodes.get_mut(&addr).unwrap();
        node.frozen = false;
        let held = std::mem::take(&mut node.held);
        // The worst driver: what is due goes before what has arrived.
        self.wake(addr);
        for event in held {
            self.deliver(addr, event);
        }
        let now = self.now;
        for end in self.ends.values_mut().filter(|end| end.peer.0 == addr) {
            end.stuck_since = None;
        }
        self.retry(now);
        self.wake(addr);
    }

    pub(crate) fn cut(&mut self, a: SocketAddr, b: SocketAddr) {
        self.cuts.insert((a, b));
        self.cuts.insert((b, a));
    }

    /// `a` loses its associations with `b`, which does not notice.
    pub(crate) fn sever(&mut self, a: SocketAddr, b: SocketAddr) {
        let lost: Vec<_> = self.ends.keys().filter(|(owner, _)| *owner == a).copied().collect();
        for side in lost {
            let peer = self.ends[&side].peer;
            if let Some(end) = self.ends.get_mut(&peer).filter(|_| peer.0 == b) {
                end.severed = true;
                self.ends.remove(&side);
                self.deliver(a, NetEvent::Down { assoc: side.1, cause: DownCause::Closed });
            }
        }
    }

    pub(crate) fn heal(&mut self, a: SocketAddr, b: SocketAddr) {
        self.cuts.remove(&(a, b));
        self.cuts.remove(&(b, a));
        let now = self.now;
        self.retry(now);
    }

    fn retry(&mut self, _now: Instant) {
        let sides: Vec<_> = self.ends.keys().copied().collect();
        for side in sides {
            if let Some(end) = self.ends.get_mut(&side) {
                let stuck = std::mem::take(&mut end.stuck);
                end.stuck_since = None;
                for payload in stuck {
                    self.transmit(side, payload);
                }
            }
        }
    }

    /// Lets virtual time pass.
    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let event = self.queue.first_key_value().map(|((at, _), _)| *at);
            let timer = self
                .nodes
                .iter()
                .filter(|(_, node)| !node.frozen)
                .filter_map(|(addr, node)| Some((node.next_deadline()?, *addr)))
                .min();
            match (event, timer) {
                (Some(at), timer) if at <= end && timer.is_none_or(|(due, _)| at <= due) => {
                    self.now = self.now.max(at);
                    let (_, happening) = self.queue.pop_first().unwrap();
                    self.happen(happening);
                }
                (_, Some((due, addr))) if due <= end => {
                    self.now = self.now.max(due);
                    self.wake(addr);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// Runs until `condition`, for at most `limit`; how long it took.
    pub(crate) fn until(
        &mut self,
        limit: Duration,
        mut condition: impl FnMut(&Self) -> bool,
    ) -> Duration {
        let start = self.now;
        while !condition(self) {
            assert!(self.now < start + limit, "not within {limit:?}");
            self.run(ms(1));
        }
        self.now - start
    }

    fn wake(&mut self, addr: SocketAddr) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&addr) else { return };
        match &mut node.process {
            Process::Registrar(registrar) => registrar.handle_timeout(now),
            Process::Element(element) => element.handle_timeout(now),
        }
        let Some(node) = self.nodes.get(&addr) else { return };
        assert!(node.next_deadline().is_none_or(|due| due > now), "deadline in the past at {addr}");
        self.drain(addr);
    }

    fn deliver(&mut self, addr: SocketAddr, event: NetEvent) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&addr) else { return };
        if node.frozen {
            node.held.push(event);
            return;
        }
        match &mut node.process {
            Process::Registrar(registrar) => registrar.handle_net(now, event),
            Process::Element(element) => element.handle_net(now, event),
        }
        self.drain(addr);
    }

    /// Has a node say something that it did not come up with.
    pub(crate) fn drain(&mut self, addr: SocketAddr) {
        loop {
            let Some(node) = self.nodes.get_mut(&addr) else { return };
            let command = match &mut node.process {
                Process::Registrar(registrar) => match registrar.poll() {
                    Some(Output::Net(command)) => command,
                    Some(Output::Event(event)) => {
                        node.events.push((self.now, event));
                        continue;
                    }
                    Some(Output::Presence(payload)) => {
                        self.later(DELAY, Happening::Presence { from: addr, payload });
                        continue;
                    }
                    None => return,
                },
                Process::Element(element) => match element.out.pop_front() {
                    Some(command) => command,
                    None => return,
                },
            };
            self.command(addr, command);
        }
    }

    /// A datagram to the multicast group of registrars, from whoever claims to be `from`.
    pub(crate) fn present(&mut self, from: SocketAddr, payload: &[u8]) {
        let now = self.now;
        let listening: Vec<_> = self.nodes.keys().filter(|addr| **addr != from).copied().collect();
        for addr in listening {
            let cut = self.cuts.contains(&(from, addr));
            if let Some(node) = self.nodes.get_mut(&addr).filter(|node| !node.frozen && !cut)
                && let Process::Registrar(registrar) = &mut node.process
            {
                registrar.handle_presence(now, from, payload);
                self.drain(addr);
            }
        }
    }

    fn later(&mut self, delay: Duration, happening: Happening) {
        self.counter += 1;
        self.queue.insert((self.now + delay, self.counter), happening);
    }

    fn event_later(&mut self, delay: Duration, to: SocketAddr, event: NetEvent) {
        self.later(delay, Happening::Event { to, event });
    }

    fn command(&mut self, addr: SocketAddr, command: NetCommand) {
        match command {
            NetCommand::Connect { assoc, protocol, remote } => {
                self.later(DELAY, Happening::Dial { from: (addr, assoc), protocol, remote });
            }
            NetCommand::Send { assoc, payload } => self.transmit((addr, assoc), payload),
            NetCommand::Abort { assoc } | NetCommand::Shutdown { assoc } => {
                let cause = match command {
                    NetCommand::Abort { .. } => DownCause::Aborted,
                    _ => DownCause::Closed,
                };
                self.event_later(DELAY, addr, NetEvent::Down { assoc, cause: DownCause::Local });
                if let Some(end) = self.ends.remove(&(addr, assoc)) {
                    let (peer, peer_assoc) = end.peer;
                    if !self.cuts.contains(&(addr, peer)) && self.ends.remove(&end.peer).is_some() {
                        self.event_later(
                            2 * DELAY,
                            peer,
                            NetEvent::Down { assoc: peer_assoc, cause },
                        );
                    }
                }
            }
        }
    }

    fn transmit(&mut self, side: (SocketAddr, AssocId), payload: Vec<u8>) {
        let now = self.now;
        let Some(end) = self.ends.get_mut(&side) else { return };
        let (peer, peer_assoc) = end.peer;
        let blocked = end.severed || self.cuts.contains(&(side.0, peer));
        let frozen = self.nodes.get(&peer).is_some_and(|node| node.frozen);
        let dead = !self.nodes.contains_key(&peer);
        if end.protocol == Protocol::Enrp && !blocked && !frozen && !dead {
            self.enrp.push((now, side.0, peer, payload.clone()));
        }
        if blocked || frozen || dead {
            end.stuck.push(payload);
            if end.stuck_since.is_none() {
                end.stuck_since = Some(now);
                self.later(GIVE_UP, Happening::GiveUp { side });
            }
            if dead && !blocked {
                // ICMP port unreachable.
                self.event_later(DELAY, side.0, NetEvent::Suspect { assoc: side.1 });
            }
        } else if self.ends.contains_key(&(peer, peer_assoc)) {
            self.event_later(DELAY, peer, NetEvent::Message { assoc: peer_assoc, payload });
        } else {
            // A packet out of the blue is answered with ABORT.
            self.ends.remove(&side);
            self.event_later(
                2 * DELAY,
                side.0,
                NetEvent::Down { assoc: side.1, cause: DownCause::Aborted },
            );
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Event { to, event } => self.deliver(to, event),
            Happening::Presence { from, payload } => self.present(from, &payload),
            Happening::GiveUp { side } => {
                let Some(end) = self.ends.get(&side) else { return };
                if end.stuck_since.is_some_and(|since| self.now >= since + GIVE_UP) {
                    self.ends.remove(&side);
                    self.deliver(
                        side.0,
                        NetEvent::Down { assoc: side.1, cause: DownCause::TimedOut },
                    );
                }
            }
            Happening::Dial { from, protocol, remote } => {
                let (addr, assoc) = from;
                let dialler = self.nodes.get(&addr).map(|node| &node.process);
                if protocol == Protocol::Asap && matches!(dialler, Some(Process::Registrar(_))) {
                    self.dialled_elements += 1;
                }
                if !self.nodes.contains_key(&addr) {
                    return;
                }
                let refused = |cause| NetEvent::Down { assoc, cause };
                let blocked = self.cuts.contains(&(addr, remote.addr));
                match self.nodes.get_mut(&remote.addr) {
                    None if !blocked => {
                        self.event_later(DELAY, addr, refused(DownCause::Unreachable));
                    }
                    Some(node) if !node.frozen && !blocked => {
                        node.accepted += 1;
                        let theirs = (remote.addr, AssocId::accepted(node.accepted));
                        let end = |peer| End {
                            peer,
                            protocol,
                            severed: false,
                            stuck: Vec::new(),
                            stuck_since: None,
                        };
                        self.ends.insert(from, end(theirs));
                        self.ends.insert(theirs, end(from));
                        let caller = Remote { addr, ..remote };
                        let peer = self.identities.get(&addr).cloned();
                        let up = NetEvent::Up { assoc: theirs.1, protocol, remote: caller, peer };
                        self.event_later(DELAY, theirs.0, up);
                        let peer = self.identities.get(&remote.addr).cloned();
                        let up = NetEvent::Up { assoc, protocol, remote, peer };
                        self.event_later(DELAY, addr, up);
                    }
                    _ => self.event_later(DIAL_GIVE_UP, addr, refused(DownCause::TimedOut)),
                }
            }
        }
    }
}

impl Node {
    fn next_deadline(&self) -> Option<Instant> {
        match &self.process {
            Process::Registrar(registrar) => registrar.next_deadline(),
            Process::Element(element) => element.next_deadline(),
        }
    }
}

/// Pool and identifier.
#[derive(Clone, Debug)]
pub(crate) struct Name(pub(crate) String, pub(crate) u32);
