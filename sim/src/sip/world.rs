//! Virtual clock, network and processes: two gateways, two proxies, their core connections, phones and one database.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dialtone_location::{Request, StoreEvent, Ticket};
use dialtone_sip::{Frame, HeaderName, Message, Method, StreamFramer};
use dialtone_sip_gateway::core::{Gateway, Input, Listener, Output, Pool, Settings, pool_view};
use dialtone_sip_pool::hops::{ACCEPTED, ConnId, Member, PING};
use dialtone_sip_pool::keys::{Generation, Keys};
use dialtone_sip_pool::leg::LegId;
use dialtone_sip_pool::token::EdgeTransport;
use dialtone_sip_proxy::core as proxy;

use super::phone::{Effect, Phone, Token};
use super::store::Store;
use super::{Bugs, Inflight};
use crate::Violation;
use crate::trace::{Text, Trace};

/// Processes are numbered: gateways, then proxies.
pub(crate) const GATEWAYS: usize = 2;
pub(crate) const PROCESSES: usize = 4;
/// A process that stood still for longer closes its core connections, as the drivers do.
const FROZEN: Duration = Duration::from_secs(2);
/// Longest message on a stream.
const LIMIT: usize = 1 << 17;
/// The start of the virtual clock in milliseconds since 1970.
const EPOCH_MS: u64 = 1_700_000_000_000;

pub(crate) fn name(process: usize) -> String {
    match process {
        0..GATEWAYS => format!("gateway{process}"),
        _ => format!("proxy{}", process - GATEWAYS),
    }
}

pub(crate) fn core_address(process: usize) -> SocketAddr {
    let host = if process < GATEWAYS { 21 + process } else { 41 + process - GATEWAYS };
    SocketAddr::from(([127, 0, 9, host as u8], 5070))
}

pub(crate) fn edge_address(gateway: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1 + gateway as u8], 5060))
}

/// What is done to the system from outside.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Cancel { phone: usize, call: String },
    Freeze { process: usize, lasts: Duration },
    Invite { phone: usize, call: String, to: String },
    Kill { process: usize, inflight: Inflight, restart: Option<Duration> },
    Mood(super::store::Mood),
    Register { phone: usize },
    Within { phone: usize, call: String, method: Method<'static> },
}

#[derive(Debug)]
enum Event {
    Act(Act),
    /// Arrives at one side of a core connection.
    Core {
        link: u64,
        side: usize,
        what: Arrival,
    },
    /// A phone's message at its gateway.
    Edge {
        phone: usize,
        bytes: Bytes,
    },
    Phone {
        phone: usize,
        bytes: Bytes,
    },
    PhoneTimer {
        phone: usize,
        token: Token,
    },
    Restart {
        process: usize,
    },
    StoreCommit {
        process: usize,
        life: u32,
        ticket: Ticket,
        request: Request,
    },
    StoreTells {
        process: usize,
        life: u32,
        event: StoreEvent,
    },
    Thaw {
        process: usize,
    },
    /// The registrar's view of a process changes.
    Visible {
        process: usize,
        life: u32,
        visible: bool,
    },
    Wake {
        process: usize,
        life: u32,
    },
}

#[derive(Clone, Debug)]
enum Arrival {
    Bytes(Vec<u8>),
    Closed,
    Opened,
    Refused,
}

/// What a process is told; waits while it is frozen.
#[derive(Debug)]
enum Input_ {
    Core { conn: ConnId, what: Arrival },
    Datagram { remote: SocketAddr, bytes: Bytes },
    EdgeMessage { conn: u64, bytes: Bytes },
    Store(StoreEvent),
    View,
}

#[derive(Debug)]
enum Core {
    Gateway(Box<Gateway>),
    Proxy(Box<proxy::Proxy>),
}

#[derive(Debug)]
pub(crate) struct Process {
    core: Core,
    pub(crate) alive: bool,
    /// Its listener is open: a proxy knows the database first.
    open: bool,
    life: u32,
    frozen: Option<Duration>,
    backlog: Vec<Input_>,
    framers: BTreeMap<ConnId, StreamFramer>,
    /// Connection to link and side.
    links: BTreeMap<ConnId, (u64, usize)>,
    wake: Option<Duration>,
    visible: bool,
    /// Messages sent and requests to the database, while they are counted.
    pub(crate) outputs: usize,
    spins: u32,
}

#[derive(Debug)]
struct Link {
    ends: [(usize, ConnId); 2],
    /// When the last thing arrives at each side: streams keep their order.
    last: [Duration; 2],
}

/// What happens when a process has sent a certain output.
#[derive(Clone, Debug)]
pub(crate) struct Blow {
    pub(crate) sender: usize,
    pub(crate) output: usize,
    pub(crate) act: Act,
}

pub(crate) struct World {
    base: Instant,
    pub(crate) now: Duration,
    queue: BTreeMap<(Duration, u64), Event>,
    serial: u64,
    rng: fastrand::Rng,
    pub(crate) trace: Trace,
    pub(crate) violations: Vec<Violation>,
    bugs: Bugs,
    keys: Keys,
    pub(crate) procs: Vec<Process>,
    links: BTreeMap<u64, Link>,
    next_link: u64,
    pub(crate) phones: Vec<Phone>,
    /// Numbers of the phones' connections.
    edges: Vec<u64>,
    pub(crate) store: Store,
    version: u64,
    pub(crate) counting: bool,
    pub(crate) blow: Option<Blow>,
    /// When it first happened, and the status code.
    pub(crate) marks: BTreeMap<String, (Duration, u16)>,
    pub(crate) loss: f64,
    pub(crate) gateway_killed: bool,
    /// Dialog records may be left where calls may be lost.
    pub(crate) spare_dialogs: bool,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "a virtual clock starts somewhere")]
    pub(crate) fn new(seed: u64, text: Text, bugs: Bugs) -> Self {
        let mut world = Self {
            base: Instant::now(),
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            serial: 0,
            rng: fastrand::Rng::with_seed(seed ^ 0x5195_1ab5),
            trace: Trace::new(text),
            violations: Vec::new(),
            bugs,
            keys: Keys::new(&Generation { id: 1, secret: [9; 32] }, None),
            procs: Vec::new(),
            links: BTreeMap::new(),
            next_link: 0,
            phones: Vec::new(),
            edges: Vec::new(),
            store: Store::default(),
            version: 0,
            counting: false,
            blow: None,
            marks: BTreeMap::new(),
            loss: 0.0,
            gateway_killed: false,
            spare_dialogs: false,
        };
        for process in 0..PROCESSES {
            let core = world.core(process);
            world.procs.push(Process {
                core,
                alive: true,
                open: true,
                life: 0,
                frozen: None,
                backlog: Vec::new(),
                framers: BTreeMap::new(),
                links: BTreeMap::new(),
                wake: None,
                visible: true,
                outputs: 0,
                spins: 0,
            });
        }
        for process in GATEWAYS..PROCESSES {
            world.give(process, Input_::Store(StoreEvent::Loaded));
        }
        world.pools();
        world
    }

    fn core(&mut self, process: usize) -> Core {
        let rng = self.rng.fork();
        if process < GATEWAYS {
            let advertised = edge_address(process);
            let listeners = vec![
                Listener { transport: EdgeTransport::Udp, advertised },
                Listener { transport: EdgeTransport::Tcp, advertised },
            ];
            let settings = Settings::new(100 + process as u32, listeners, core_address(process));
            return Core::Gateway(Box::new(Gateway::new(settings, self.keys.clone(), rng)));
        }
        let address = core_address(process);
        let settings = proxy::Settings::new(address, (self.base, EPOCH_MS));
        let names = proxy::Names::new(&["dialtone.test".to_owned()], &[address]);
        let now = self.base + self.now;
        Core::Proxy(Box::new(proxy::Proxy::new(now, settings, names, self.keys.clone(), rng)))
    }

    pub(crate) fn add_phone(&mut self, name: &str, user: &str, gateway: usize, tcp: bool) -> usize {
        let number = self.phones.len();
        let local = SocketAddr::from(([198, 51, 100, 1 + number as u8], 6000 + number as u16));
        let mut phone = Phone::new(name, user, gateway, local, edge_address(gateway), tcp);
        phone.lossy = self.loss > 0.0;
        self.phones.push(phone);
        let conn = 1 + number as u64;
        self.edges.push(conn);
        if tcp {
            self.gateway(gateway, Input::EdgeOpened { conn, listener: 1, remote: local });
        }
        number
    }

    pub(crate) fn at(&mut self, at: Duration, act: Act) {
        self.push(at, Event::Act(act));
    }

    fn push(&mut self, at: Duration, event: Event) {
        self.serial += 1;
        self.queue.insert((at.max(self.now), self.serial), event);
    }

    pub(crate) fn wrong(&mut self, invariant: &'static str, what: String) {
        self.trace.note(self.now, "WRONG", 99, what.as_bytes(), || what.clone());
        if self.violations.len() < 20 {
            self.violations.push(Violation { at: self.now, invariant, what });
        }
    }

    fn note(&mut self, who: &str, kind: u8, bytes: &[u8], say: impl FnOnce() -> String) {
        if bytes == PING {
            return;
        }
        self.trace.note(self.now, who, kind, bytes, say);
    }

    /// Goes on until then.
    pub(crate) fn run_until(&mut self, end: Duration) {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            self.event(event);
        }
        self.now = end;
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Act(act) => self.act(act),
            Event::Core { link, side, what } => {
                let Some((process, conn)) = self.links.get(&link).map(|link| link.ends[side])
                else {
                    return;
                };
                // The end may have been closed meanwhile; a refusal has no end yet.
                if self.procs[process].links.get(&conn) == Some(&(link, side)) {
                    self.give(process, Input_::Core { conn, what });
                }
            }
            Event::Edge { phone, bytes } => {
                let (gateway, tcp) = (self.phones[phone].gateway, self.phones[phone].tcp);
                if !self.procs[gateway].alive || (tcp && !self.phones[phone].connected) {
                    return;
                }
                let input = if tcp {
                    Input_::EdgeMessage { conn: self.edges[phone], bytes }
                } else {
                    Input_::Datagram { remote: self.phones[phone].local, bytes }
                };
                self.give(gateway, input);
            }
            Event::Phone { phone, bytes } => {
                let who = self.phones[phone].name.clone();
                self.note(&who, 1, &bytes, || format!("< {}", brief(&bytes)));
                self.phones[phone].handle(self.now, bytes);
                self.effects(phone);
            }
            Event::PhoneTimer { phone, token } => {
                self.phones[phone].timer(self.now, token);
                self.effects(phone);
            }
            Event::Restart { process } => self.restart(process),
            Event::StoreCommit { process, life, ticket, request } => {
                let (answer, changed) = self.store.commit(process as u32, &request);
                let soon = self.now + Duration::from_millis(1);
                let event = StoreEvent::Answer { ticket, answer };
                self.push(soon, Event::StoreTells { process, life, event });
                if changed.is_empty() {
                    return;
                }
                for other in (GATEWAYS..PROCESSES).filter(|other| *other != process) {
                    let life = self.procs[other].life;
                    let event = StoreEvent::Changes(changed.clone());
                    let at = self.now + self.store.delay() + Duration::from_millis(20);
                    self.push(at, Event::StoreTells { process: other, life, event });
                }
            }
            Event::StoreTells { process, life, event } => {
                if self.procs[process].life == life {
                    self.give(process, Input_::Store(event));
                }
            }
            Event::Thaw { process } => self.thaw(process),
            Event::Visible { process, life, visible } => {
                let known = &mut self.procs[process];
                let true_now = visible == (known.alive && known.frozen.is_none());
                if known.life == life && true_now && known.visible != visible {
                    known.visible = visible;
                    self.pools();
                }
            }
            Event::Wake { process, life } => {
                let woken = &mut self.procs[process];
                if woken.life == life && woken.alive && woken.wake.is_some_and(|at| at <= self.now)
                {
                    woken.wake = None;
                    if woken.frozen.is_none() {
                        self.timeout(process);
                    }
                }
            }
        }
    }

    fn act(&mut self, act: Act) {
        self.note("act", 2, format!("{act:?}").as_bytes(), || format!("{act:?}"));
        let now = self.now;
        match act {
            Act::Cancel { phone, call } => {
                self.phones[phone].cancel(now, &call);
                self.effects(phone);
            }
            Act::Freeze { process, lasts } => self.freeze(process, lasts),
            Act::Invite { phone, call, to } => {
                self.phones[phone].invite(now, &call, &to);
                self.effects(phone);
            }
            Act::Kill { process, inflight, restart } => self.kill(process, inflight, restart),
            Act::Mood(mood) => self.store.mood = mood,
            Act::Register { phone } => {
                self.phones[phone].register(now);
                self.effects(phone);
            }
            Act::Within { phone, call, method } => {
                self.phones[phone].within(now, &call, method);
                self.effects(phone);
            }
        }
    }

    fn effects(&mut self, phone: usize) {
        for effect in std::mem::take(&mut self.phones[phone].effects) {
            match effect {
                Effect::Mark { what, code } => {
                    let registered = code == 200 && what.contains(" REGISTER ");
                    self.marks.entry(what).or_insert((self.now, code));
                    if registered {
                        self.check_registration(phone);
                    }
                }
                Effect::Send(bytes) => {
                    let who = self.phones[phone].name.clone();
                    self.note(&who, 3, &bytes, || format!("> {}", brief(&bytes)));
                    for at in self.edge_arrivals(phone) {
                        self.push(at, Event::Edge { phone, bytes: bytes.clone() });
                    }
                }
                Effect::Timer { at, token } => self.push(at, Event::PhoneTimer { phone, token }),
                Effect::Wrong(what) => self.wrong("phone", what),
            }
        }
    }

    /// An answered REGISTER is in the database.
    fn check_registration(&mut self, phone: usize) {
        let phone = &self.phones[phone];
        if !self.store.has(&phone.user, &phone.contact()) {
            let what = format!("{} is not in the database", phone.name);
            self.wrong("registration", what);
        }
    }

    /// When what goes between a phone and its gateway arrives: once, but for loss and doubling.
    fn edge_arrivals(&mut self, phone: usize) -> Vec<Duration> {
        let at = self.now + Duration::from_millis(1);
        if self.phones[phone].tcp || self.loss == 0.0 {
            return vec![at];
        }
        match self.rng.f64() {
            luck if luck < self.loss => Vec::new(),
            luck if luck < self.loss * 1.4 => vec![at, at + Duration::from_millis(3)],
            _ => vec![at],
        }
    }

    fn give(&mut self, process: usize, input: Input_) {
        let taker = &mut self.procs[process];
        if !taker.alive {
            return;
        }
        if taker.frozen.is_some() {
            taker.backlog.push(input);
            return;
        }
        self.take(process, input);
        self.after(process);
    }

    fn take(&mut self, process: usize, input: Input_) {
        match input {
            Input_::Core { conn, what } => self.take_core(process, conn, what),
            Input_::Datagram { remote, bytes } => {
                self.gateway(process, Input::Datagram { listener: 0, remote, bytes });
            }
            Input_::EdgeMessage { conn, bytes } => {
                self.gateway(process, Input::EdgeMessage { conn, bytes });
            }
            Input_::Store(event) => {
                let now = self.base + self.now;
                self.procs[process].open |= event == StoreEvent::Loaded;
                if let Core::Proxy(proxy) = &mut self.procs[process].core {
                    proxy.handle_store(now, event);
                }
            }
            Input_::View => self.view(process),
        }
        self.drain(process);
    }

    fn take_core(&mut self, process: usize, conn: ConnId, what: Arrival) {
        match what {
            Arrival::Opened if conn.is_accepted() => {
                self.procs[process].framers.insert(conn, StreamFramer::accepting(LIMIT));
                if process < GATEWAYS {
                    self.gateway(process, Input::CoreAccepted { conn });
                }
            }
            Arrival::Opened => {
                self.procs[process].framers.insert(conn, StreamFramer::dialled(LIMIT));
                self.core_event(process, conn, CoreEvent::Connected);
            }
            Arrival::Closed | Arrival::Refused => {
                self.procs[process].framers.remove(&conn);
                self.procs[process].links.remove(&conn);
                self.core_event(process, conn, CoreEvent::Closed);
            }
            Arrival::Bytes(bytes) => {
                let Some(framer) = self.procs[process].framers.get_mut(&conn) else { return };
                framer.push(&bytes);
                // A process that is killed or stopped in the middle goes on with the rest later, or never.
                while self.procs[process].alive {
                    if self.procs[process].frozen.is_some() {
                        let rest = Input_::Core { conn, what: Arrival::Bytes(Vec::new()) };
                        self.procs[process].backlog.insert(0, rest);
                        return;
                    }
                    let Some(framer) = self.procs[process].framers.get_mut(&conn) else { return };
                    match framer.next_frame() {
                        Ok(Some(Frame::Message(bytes))) => {
                            self.core_event(process, conn, CoreEvent::Message(bytes));
                        }
                        Ok(Some(Frame::Ping)) => {
                            self.write(process, conn, Bytes::from_static(b"\r\n"));
                            self.core_event(process, conn, CoreEvent::Activity);
                        }
                        Ok(Some(Frame::Pong)) => {
                            self.core_event(process, conn, CoreEvent::Activity)
                        }
                        Ok(None) => break,
                        Err(error) => {
                            self.wrong("framing", format!("{}: {error}", name(process)));
                            break;
                        }
                    }
                    self.drain(process);
                }
            }
        }
    }

    fn core_event(&mut self, process: usize, conn: ConnId, event: CoreEvent) {
        let now = self.base + self.now;
        match &mut self.procs[process].core {
            Core::Gateway(gateway) => gateway.handle(
                now,
                match event {
                    CoreEvent::Activity => Input::CoreActivity { conn },
                    CoreEvent::Closed => Input::CoreClosed { conn },
                    CoreEvent::Connected => Input::CoreConnected { conn },
                    CoreEvent::Message(bytes) => Input::CoreMessage { conn, bytes },
                },
            ),
            Core::Proxy(proxy) => match event {
                CoreEvent::Activity => proxy.handle_received(now, conn),
                CoreEvent::Closed => proxy.handle_closed(now, conn),
                CoreEvent::Connected => proxy.handle_connected(now, conn),
                CoreEvent::Message(bytes) => proxy.handle_core_message(now, conn, bytes),
            },
        }
    }

    fn gateway(&mut self, process: usize, input: Input) {
        let now = self.base + self.now;
        if let Core::Gateway(gateway) = &mut self.procs[process].core {
            gateway.handle(now, input);
        }
    }

    fn timeout(&mut self, process: usize) {
        let now = self.base + self.now;
        match &mut self.procs[process].core {
            Core::Gateway(gateway) => gateway.handle(now, Input::Timeout),
            Core::Proxy(proxy) => proxy.handle_timeout(now),
        }
        self.drain(process);
        let due = self.deadline(process);
        let process_ = &mut self.procs[process];
        process_.spins =
            if due.is_some_and(|due| due <= self.now) { process_.spins + 1 } else { 0 };
        if process_.spins > 100 {
            process_.spins = 0;
            self.wrong("deadline", format!("{} has a deadline in the past", name(process)));
            return;
        }
        self.after(process);
    }

    fn deadline(&self, process: usize) -> Option<Duration> {
        let deadline = match &self.procs[process].core {
            Core::Gateway(gateway) => gateway.next_deadline(),
            Core::Proxy(proxy) => proxy.next_deadline(),
        };
        deadline.map(|at| at.saturating_duration_since(self.base))
    }

    /// Sees to it that a process wakes up at its deadline.
    fn after(&mut self, process: usize) {
        if !self.procs[process].alive || self.procs[process].frozen.is_some() {
            return;
        }
        let Some(at) = self.deadline(process) else { return };
        let at = at.max(self.now);
        if self.procs[process].wake.is_none_or(|wake| wake > at || wake < self.now) {
            self.procs[process].wake = Some(at);
            let life = self.procs[process].life;
            self.push(at, Event::Wake { process, life });
        }
    }

    /// Does what a process wants, one output after the other, until it is killed or stopped.
    fn drain(&mut self, process: usize) {
        while self.procs[process].alive && self.procs[process].frozen.is_none() {
            let output = match &mut self.procs[process].core {
                Core::Gateway(gateway) => gateway.poll().map(Out::from),
                Core::Proxy(proxy) => proxy.poll().map(Out::from),
            };
            let Some(output) = output else { return };
            let is_message = output.is_message();
            self.output(process, output);
            if is_message && self.counting {
                self.procs[process].outputs += 1;
                self.strike(process);
            }
        }
    }

    fn strike(&mut self, process: usize) {
        let outputs = self.procs[process].outputs;
        let due = |blow: &mut Blow| blow.sender == process && blow.output == outputs;
        if let Some(blow) = self.blow.take_if(due) {
            self.act(blow.act);
        }
    }

    fn output(&mut self, process: usize, output: Out) {
        let who = name(process);
        match output {
            Out::Close(conn) => {
                self.procs[process].framers.remove(&conn);
                if let Some((link, side)) = self.procs[process].links.remove(&conn) {
                    self.deliver(link, 1 - side, Arrival::Closed);
                }
            }
            Out::Dial(conn, address) => self.dial(process, conn, address),
            Out::Datagram(remote, bytes) => {
                let phone =
                    self.phones.iter().position(|phone| phone.local == remote && !phone.tcp);
                let Some(phone) = phone else {
                    return self.wrong("stray", format!("{who} sends to {remote}"));
                };
                for at in self.edge_arrivals(phone) {
                    self.push(at, Event::Phone { phone, bytes: bytes.clone() });
                }
            }
            Out::EdgeWrite(conn, bytes) => {
                let phone = self.edges.iter().position(|edge| *edge == conn);
                let Some(phone) = phone.filter(|phone| self.phones[*phone].gateway == process)
                else {
                    return self.wrong("stray", format!("{who} writes to connection {conn}"));
                };
                let at = self.now + Duration::from_millis(1);
                self.push(at, Event::Phone { phone, bytes });
            }
            Out::Store(ticket, request) => {
                let life = self.procs[process].life;
                if self.bugs.early_answers
                    && let Request::Save(_) = &request
                {
                    // Answered from a copy, and never committed.
                    let mut copy = Store::default();
                    let (answer, _) = copy.commit(process as u32, &request);
                    let event = StoreEvent::Answer { ticket, answer };
                    return self.push(self.now, Event::StoreTells { process, life, event });
                }
                let at = self.now + self.store.delay();
                self.push(at, Event::StoreCommit { process, life, ticket, request });
            }
            Out::Write(conn, bytes) => {
                self.note(&who, 4, &bytes, || format!("{:x} > {}", conn.0, brief(&bytes)));
                let bytes = self.tampered(process, bytes);
                self.write(process, conn, bytes);
            }
            Out::Other(what) => self.note(&who, 5, what.as_bytes(), || what.clone()),
        }
    }

    /// Bugs that were planted on purpose sit on the wires.
    fn tampered(&self, process: usize, bytes: Bytes) -> Bytes {
        if process < GATEWAYS && self.bugs.lost_cancels && bytes.starts_with(b"CANCEL ") {
            let message = Message::parse(bytes.clone()).ok();
            let attempt = message.as_ref().and_then(|message| {
                LegId::from_branch(&self.keys, message.top_via().ok()?.branch()?.as_bytes())
            });
            if attempt.is_some_and(|(_, attempt)| attempt > 1) {
                return Bytes::new();
            }
        }
        if !self.bugs.no_leg_ids {
            return bytes;
        }
        // A branch that is not as it was made has no valid MAC: the delivering gateway takes each copy of a request for
        // a new one. Answers get their branches back.
        let (plain, spoilt) = ("branch=z9hG4bK", "branch=z9hG4bKq");
        let text = || String::from_utf8_lossy(&bytes).into_owned();
        if process >= GATEWAYS && bytes.starts_with(b"INVITE ") {
            return text().replace(plain, spoilt).into_bytes().into();
        }
        if process < GATEWAYS && bytes.starts_with(b"SIP/2.0 ") {
            return text().replace(spoilt, plain).into_bytes().into();
        }
        bytes
    }

    fn dial(&mut self, process: usize, conn: ConnId, address: SocketAddr) {
        let id = self.next_link;
        self.next_link += 1;
        let other = (0..PROCESSES).find(|other| core_address(*other) == address);
        let other = other.expect("an address of a process");
        let accepted = ConnId(ACCEPTED | id);
        let link = Link { ends: [(process, conn), (other, accepted)], last: [self.now; 2] };
        self.links.insert(id, link);
        self.procs[process].links.insert(conn, (id, 0));
        if self.procs[other].alive && self.procs[other].open {
            // The kernel accepts even for a process that is stopped.
            self.procs[other].links.insert(accepted, (id, 1));
            self.deliver(id, 1, Arrival::Opened);
            self.deliver(id, 0, Arrival::Opened);
        } else {
            self.deliver(id, 0, Arrival::Refused);
        }
    }

    fn write(&mut self, process: usize, conn: ConnId, bytes: Bytes) {
        let Some(&(link, side)) = self.procs[process].links.get(&conn) else { return };
        let mut bytes = bytes.to_vec();
        if bytes.len() > 1 && self.rng.u8(..8) == 0 {
            let rest = bytes.split_off(self.rng.usize(1..bytes.len()));
            self.deliver(link, 1 - side, Arrival::Bytes(bytes));
            bytes = rest;
        }
        self.deliver(link, 1 - side, Arrival::Bytes(bytes));
    }

    /// In order, after everything that is on its way to this side.
    fn deliver(&mut self, link: u64, side: usize, what: Arrival) {
        let delay = Duration::from_micros(self.rng.u64(200..500));
        let Some(known) = self.links.get_mut(&link) else { return };
        let at = (self.now + delay).max(known.last[side] + Duration::from_micros(1));
        known.last[side] = at;
        self.push(at, Event::Core { link, side, what });
    }

    fn kill(&mut self, process: usize, inflight: Inflight, restart: Option<Duration>) {
        if !self.procs[process].alive {
            return;
        }
        let who = name(process);
        self.note(&who, 6, &[], || format!("killed, {inflight:?}, restart {restart:?}"));
        let victim = &mut self.procs[process];
        victim.alive = false;
        victim.frozen = None;
        victim.life += 1;
        victim.backlog.clear();
        victim.framers.clear();
        victim.wake = None;
        let life = victim.life;
        for (_, (link, side)) in std::mem::take(&mut self.procs[process].links) {
            self.cut(link, 1 - side, inflight);
            self.deliver(link, 1 - side, Arrival::Closed);
        }
        if process < GATEWAYS {
            self.gateway_killed = true;
            self.phones.iter_mut().for_each(|phone| phone.lenient = true);
            for phone in self.phones.iter_mut().filter(|phone| phone.gateway == process) {
                phone.lost = true;
                phone.connected &= !phone.tcp;
            }
        }
        let gone = self.now + Duration::from_secs(1);
        self.push(gone, Event::Visible { process, life, visible: false });
        if let Some(after) = restart {
            self.push(self.now + after, Event::Restart { process });
        }
    }

    /// What of the bytes on their way to this side survives.
    fn cut(&mut self, link: u64, side: usize, inflight: Inflight) {
        if inflight == Inflight::Arrives {
            return;
        }
        let keys: Vec<(Duration, u64)> = self
            .queue
            .iter()
            .filter(|(_, event)| {
                matches!(event, Event::Core { link: l, side: s, what: Arrival::Bytes(_) }
                    if *l == link && *s == side)
            })
            .map(|(key, _)| *key)
            .collect();
        let kept = if inflight == Inflight::Cut { self.rng.usize(..=keys.len()) } else { 0 };
        for (number, key) in keys.iter().enumerate().skip(kept) {
            let torn = number == kept && inflight == Inflight::Cut;
            match self.queue.get_mut(key) {
                Some(Event::Core { what: Arrival::Bytes(bytes), .. })
                    if torn && bytes.len() > 1 =>
                {
                    bytes.truncate(self.rng.usize(1..bytes.len()));
                }
                _ => drop(self.queue.remove(key)),
            }
        }
    }

    fn restart(&mut self, process: usize) {
        if self.procs[process].alive {
            return;
        }
        let who = name(process);
        self.note(&who, 7, &[], || "starts again".to_owned());
        let core = self.core(process);
        let starter = &mut self.procs[process];
        starter.core = core;
        starter.alive = true;
        starter.open = process < GATEWAYS;
        starter.life += 1;
        let life = starter.life;
        if process >= GATEWAYS {
            let at = self.now + self.store.delay();
            let records = self.store.all();
            for event in [StoreEvent::Changes(records), StoreEvent::Loaded] {
                self.push(at, Event::StoreTells { process, life, event });
            }
        }
        self.give(process, Input_::View);
        let seen = self.now + self.store.delay() + Duration::from_millis(300);
        self.push(seen, Event::Visible { process, life, visible: true });
    }

    fn freeze(&mut self, process: usize, lasts: Duration) {
        let now = self.now;
        let victim = &mut self.procs[process];
        if !victim.alive || victim.frozen.is_some() {
            return;
        }
        victim.frozen = Some(now);
        let life = victim.life;
        let who = name(process);
        self.note(&who, 8, &[], || format!("stopped for {lasts:?}"));
        self.push(now + lasts, Event::Thaw { process });
        let gone = now + Duration::from_millis(2500);
        self.push(gone, Event::Visible { process, life, visible: false });
    }

    fn thaw(&mut self, process: usize) {
        let Some(since) = self.procs[process].frozen.take() else { return };
        let who = name(process);
        self.note(&who, 9, &[], || "goes on".to_owned());
        if self.now - since > FROZEN && !self.bugs.stale_input {
            // As the drivers do: what waits in the connections is stale, and so is what was about to be written.
            if process < GATEWAYS {
                self.gateway(process, Input::Frozen);
            } else {
                let now = self.base + self.now;
                if let Core::Proxy(proxy) = &mut self.procs[process].core {
                    proxy.handle_standstill(now);
                }
                let conns: Vec<ConnId> = self.procs[process].framers.keys().copied().collect();
                for conn in conns.into_iter().filter(|conn| conn.is_accepted()) {
                    self.output(process, Out::Close(conn));
                    self.core_event(process, conn, CoreEvent::Closed);
                }
            }
        }
        self.drain(process);
        let (first, rest): (Vec<Input_>, Vec<Input_>) =
            std::mem::take(&mut self.procs[process].backlog)
                .into_iter()
                .partition(|input| matches!(input, Input_::Store(_)));
        for input in first.into_iter().chain(rest) {
            self.give(process, input);
        }
        if self.deadline(process).is_some_and(|at| at <= self.now)
            && self.procs[process].frozen.is_none()
        {
            self.timeout(process);
        }
        self.after(process);
        let life = self.procs[process].life;
        let seen = self.now + Duration::from_millis(300);
        self.push(seen, Event::Visible { process, life, visible: true });
    }

    /// Tells everybody who is in the pools.
    fn pools(&mut self) {
        self.version += 1;
        for process in 0..PROCESSES {
            self.give(process, Input_::View);
        }
    }

    fn view(&mut self, process: usize) {
        let members = |from: usize, to: usize, procs: &[Process]| -> Vec<Member> {
            (from..to)
                .filter(|other| procs[*other].visible)
                .map(|other| Member { element: 100 + other as u32, address: core_address(other) })
                .collect()
        };
        let gateways = members(0, GATEWAYS, &self.procs);
        let proxies = members(GATEWAYS, PROCESSES, &self.procs);
        let now = self.base + self.now;
        let version = self.version;
        match &mut self.procs[process].core {
            Core::Gateway(gateway) => {
                for (pool, members) in [(Pool::Gateway, gateways), (Pool::Proxy, proxies)] {
                    let view = pool_view(pool, version, &members);
                    gateway.handle(now, Input::View { pool, view });
                }
            }
            Core::Proxy(proxy) => proxy.set_gateways(now, &gateways),
        }
    }

    /// Nothing is left behind.
    pub(crate) fn check_empty(&mut self) {
        // A proxy may just have asked the database to forget what has expired.
        let asks = |process: &Process| match &process.core {
            Core::Gateway(_) => false,
            Core::Proxy(proxy) => process.alive && proxy.sizes().tickets > 0,
        };
        if self.procs.iter().any(asks) {
            self.run_until(self.now + Duration::from_millis(700));
        }
        let mut left = Vec::new();
        for (number, process) in self.procs.iter().enumerate().filter(|(_, process)| process.alive)
        {
            match &process.core {
                Core::Gateway(gateway) => {
                    let sizes = gateway.gauges();
                    let spare = self.gateway_killed || self.spare_dialogs;
                    let dialogs = if spare { 0 } else { sizes.dialogs };
                    if [sizes.clients, sizes.servers, sizes.legs, sizes.deliveries, dialogs]
                        != [0; 5]
                    {
                        left.push(format!("{}: {sizes:?}", name(number)));
                    }
                }
                Core::Proxy(proxy) => {
                    let sizes = proxy.sizes();
                    if [sizes.contexts, sizes.clients, sizes.servers, sizes.tickets] != [0; 4]
                        || sizes.timers > 2
                    {
                        left.push(format!("{}: {sizes:?}", name(number)));
                    }
                }
            }
        }
        left.into_iter().for_each(|what| self.wrong("leak", what));
    }
}

enum CoreEvent {
    Activity,
    Closed,
    Connected,
    Message(Bytes),
}

/// What a process wants, whichever it is.
enum Out {
    Close(ConnId),
    Datagram(SocketAddr, Bytes),
    Dial(ConnId, SocketAddr),
    EdgeWrite(u64, Bytes),
    Other(String),
    Store(Ticket, Request),
    Write(ConnId, Bytes),
}

impl Out {
    /// Pings aside.
    fn is_message(&self) -> bool {
        match self {
            Self::Close(_) | Self::Dial(..) | Self::Other(_) => false,
            Self::Datagram(_, bytes) | Self::EdgeWrite(_, bytes) | Self::Write(_, bytes) => {
                bytes != PING
            }
            Self::Store(_, request) => !matches!(request, Request::Expire { .. }),
        }
    }
}

impl From<Output> for Out {
    fn from(output: Output) -> Self {
        match output {
            Output::CoreClose { conn } => Self::Close(conn),
            Output::CoreDial { conn, address } => Self::Dial(conn, address),
            Output::CoreWrite { conn, bytes } => Self::Write(conn, bytes),
            Output::Datagram { remote, bytes, .. } => Self::Datagram(remote, bytes),
            Output::EdgeWrite { conn, bytes } => Self::EdgeWrite(conn, bytes),
            other => Self::Other(format!("{other:?}")),
        }
    }
}

impl From<proxy::Output> for Out {
    fn from(output: proxy::Output) -> Self {
        match output {
            proxy::Output::Close { conn } => Self::Close(conn),
            proxy::Output::Dial { conn, address } => Self::Dial(conn, address),
            proxy::Output::Store { ticket, request } => Self::Store(ticket, request),
            proxy::Output::Write { conn, bytes } => Self::Write(conn, bytes),
            other => Self::Other(format!("{other:?}")),
        }
    }
}

/// A message in one line.
fn brief(bytes: &Bytes) -> String {
    let Ok(message) = Message::parse(bytes.clone()) else {
        return format!("{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(40)]));
    };
    let first = String::from_utf8_lossy(
        message.head().split(|byte| *byte == b'\r').next().unwrap_or_default(),
    )
    .into_owned();
    let branch =
        message.top_via().ok().and_then(|via| via.branch().map(str::to_owned)).unwrap_or_default();
    let cseq = message.header_str(HeaderName::CSeq).unwrap_or("");
    let call = message.call_id().unwrap_or("");
    let first = if first.len() > 60 { format!("{}...", &first[..60]) } else { first };
    format!("{first} | {call} {cseq} | {}", &branch[..branch.len().min(40)])
}
