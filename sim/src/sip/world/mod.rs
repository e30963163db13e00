//! Virtual clock, queue and what is between phones and gateways: two gateways, two proxies, phones and one database.

mod database;
mod focuses;
mod links;
mod process;
mod relays;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dialtone_location::StoreEvent;
use dialtone_sip::{HeaderName, Message, Method};
use dialtone_sip_gateway::core::Input;
use dialtone_sip_pool::hops::{ConnId, PING};
use dialtone_sip_pool::keys::{Generation, Keys};

use self::database::Asked;
pub(crate) use self::focuses::{FIRST_FOCUS, FOCUSES};
use self::links::{Arrival, Link};
use self::process::{Core, Input_, Process};
use self::relays::Relay;
pub(crate) use self::relays::{RELAYS, relay_name};
use super::bindings::Change;
use super::phone::{Effect, Phone, Token};
use super::store::Store;
use super::{Bugs, Inflight};
use crate::Violation;
use crate::trace::{Text, Trace};

/// Processes are numbered: gateways, then proxies.
pub(crate) const GATEWAYS: usize = 2;
pub(crate) const PROCESSES: usize = 4;

/// Also of relays and conference servers, which are numbered after the processes.
pub(crate) fn name(process: usize) -> String {
    match process {
        0..GATEWAYS => format!("gateway{process}"),
        GATEWAYS..PROCESSES => format!("proxy{}", process - GATEWAYS),
        PROCESSES..FIRST_FOCUS => relay_name(process - PROCESSES),
        _ => format!("focus{}", process - FIRST_FOCUS),
    }
}

pub(crate) fn core_address(process: usize) -> SocketAddr {
    let host = match process {
        0..GATEWAYS => 21 + process,
        GATEWAYS..FIRST_FOCUS => 41 + process - GATEWAYS,
        _ => 61 + process - FIRST_FOCUS,
    };
    SocketAddr::from(([127, 0, 9, host as u8], 5070))
}

pub(crate) fn edge_address(gateway: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1 + gateway as u8], 5060))
}

/// What is done to the system from outside.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Cancel {
        phone: usize,
        call: String,
    },
    Change {
        phone: usize,
        change: Change,
    },
    /// The system's clock of a proxy is set.
    /// A conference server leaves the pool and hangs everybody up.
    Drain {
        process: usize,
    },
    Clock {
        process: usize,
        by_ms: i64,
    },
    /// Nothing reaches a relay.
    Cut {
        process: usize,
        lasts: Duration,
    },
    Freeze {
        process: usize,
        lasts: Duration,
    },
    Invite {
        phone: usize,
        call: String,
        to: String,
    },
    Kill {
        process: usize,
        inflight: Inflight,
        restart: Option<Duration>,
    },
    /// Whether proxies hear late of what others write.
    Lag(bool),
    Mood(super::store::Mood),
    Register {
        phone: usize,
    },
    Within {
        phone: usize,
        call: String,
        method: Method<'static>,
    },
}

#[derive(Debug)]
enum Event {
    Act(Act),
    Clocks,
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
    /// Without bytes: nobody listens there.
    FromRelay {
        relay: usize,
        process: usize,
        life: u32,
        bytes: Option<Bytes>,
    },
    Phone {
        phone: usize,
        bytes: Bytes,
    },
    PhoneTimer {
        phone: usize,
        token: Token,
    },
    RelayBack {
        relay: usize,
        life: u32,
    },
    /// The registrar looks whether it is there.
    RelayVisible {
        relay: usize,
        life: u32,
    },
    Restart {
        process: usize,
    },
    Store(Asked),
    StoreTells {
        process: usize,
        life: u32,
        event: StoreEvent,
    },
    Thaw {
        process: usize,
    },
    ToRelay {
        relay: usize,
        process: usize,
        bytes: Bytes,
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

/// What happens when a process has sent a certain output.
#[derive(Clone, Debug)]
pub(crate) struct Blow {
    pub(crate) sender: usize,
    pub(crate) output: usize,
    pub(crate) act: Act,
}

/// A proxy has given the server of a room up, and asks the database to give the room to another one.
#[derive(Clone, Debug)]
pub(crate) struct Move {
    pub(crate) at: Duration,
    /// Of the claim.
    pub(crate) name: Box<str>,
    pub(crate) to: usize,
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
    /// There are conferences.
    rooms: bool,
    /// None: phones send media to each other.
    pub(crate) relays: Vec<Relay>,
    /// When relays were in trouble.
    relay_faults: Vec<(Duration, Duration)>,
    links: BTreeMap<u64, Link>,
    next_link: u64,
    /// Connections that conference servers have dialled.
    focus_conns: BTreeMap<(usize, SocketAddr), ConnId>,
    pub(crate) phones: Vec<Phone>,
    /// Numbers of the phones' connections.
    edges: Vec<u64>,
    pub(crate) store: Store,
    /// What the database has not done because it stands still.
    held: Vec<Asked>,
    /// Rooms that proxies wanted to have moved, whatever came of it.
    pub(crate) moves: Vec<Move>,
    version: u64,
    pub(crate) counting: bool,
    pub(crate) blow: Option<Blow>,
    /// When it first happened, and the status code.
    pub(crate) marks: BTreeMap<String, (Duration, u16)>,
    pub(crate) loss: f64,
    /// How long a REGISTER waits for the database.
    store_timeout: Duration,
    pub(crate) gateway_killed: bool,
    /// Dialog records may be left where calls may be lost.
    pub(crate) spare_dialogs: bool,
}

impl World {
    pub(crate) fn new(seed: u64, text: Text, bugs: Bugs, relays: bool) -> Self {
        Self::build(seed, text, bugs, if relays { RELAYS } else { 0 }, 0)
    }

    /// With conference servers in place of relays.
    pub(crate) fn with_rooms(seed: u64, text: Text, bugs: Bugs) -> Self {
        Self::build(seed, text, bugs, 0, FOCUSES)
    }

    #[expect(clippy::disallowed_methods, reason = "a virtual clock starts somewhere")]
    fn build(seed: u64, text: Text, bugs: Bugs, relays: usize, focuses: usize) -> Self {
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
            relays: (0..relays).map(|_| Relay::new()).collect(),
            relay_faults: Vec::new(),
            links: BTreeMap::new(),
            next_link: 0,
            focus_conns: BTreeMap::new(),
            rooms: focuses > 0,
            phones: Vec::new(),
            edges: Vec::new(),
            store: Store::new(bugs.unordered_saves),
            held: Vec::new(),
            moves: Vec::new(),
            version: 0,
            counting: false,
            blow: None,
            marks: BTreeMap::new(),
            loss: 0.0,
            store_timeout: Duration::from_secs(4),
            gateway_killed: false,
            spare_dialogs: false,
        };
        let last = if focuses == 0 { PROCESSES } else { FIRST_FOCUS + focuses };
        for process in 0..last {
            // There are no relays where there are conference servers: their numbers are nobody's.
            let alive = !(PROCESSES..FIRST_FOCUS).contains(&process);
            let core = world.core(if alive { process } else { 0 });
            world.procs.push(Process {
                core,
                alive,
                open: alive,
                life: 0,
                frozen: None,
                backlog: Vec::new(),
                framers: BTreeMap::new(),
                links: BTreeMap::new(),
                wake: None,
                visible: alive,
                outputs: 0,
                spins: 0,
                clock_ms: 0,
                last_write: Duration::ZERO,
            });
        }
        for process in GATEWAYS..PROCESSES {
            world.give(process, Input_::Store(StoreEvent::Loaded));
        }
        world.pools();
        world.push(Duration::from_millis(100), Event::Clocks);
        world
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
            Event::Clocks => self.look_at_clocks(),
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
            Event::FromRelay { relay, process, life, bytes } => {
                self.hear_relay(relay, process, life, bytes);
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
            Event::RelayBack { relay, life } => self.relay_back(relay, life),
            Event::RelayVisible { relay, life } => self.relay_seen(relay, life),
            Event::Restart { process } => self.restart(process),
            Event::Store(asked) => self.carry_out(asked),
            Event::StoreTells { process, life, event } => {
                if self.procs[process].life == life {
                    self.give(process, Input_::Store(event));
                }
            }
            Event::Thaw { process } => self.thaw(process),
            Event::ToRelay { relay, process, bytes } => self.at_relay(relay, process, bytes),
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
            Act::Change { phone, change } => {
                self.phones[phone].change_bindings(now, change);
                self.effects(phone);
            }
            Act::Cut { process, lasts } => self.stop_relay(process - PROCESSES, lasts, true),
            Act::Freeze { process, lasts } if (PROCESSES..FIRST_FOCUS).contains(&process) => {
                self.stop_relay(process - PROCESSES, lasts, false);
            }
            Act::Kill { process, restart, .. } if (PROCESSES..FIRST_FOCUS).contains(&process) => {
                self.kill_relay(process - PROCESSES, restart);
            }
            Act::Drain { process } => self.drain_focus(process),
            Act::Freeze { process, lasts } => self.freeze(process, lasts),
            Act::Invite { phone, call, to } => {
                self.phones[phone].invite(now, &call, &to);
                self.effects(phone);
            }
            Act::Kill { process, inflight, restart } => self.kill(process, inflight, restart),
            Act::Clock { .. } | Act::Lag(_) | Act::Mood(_) => self.act_on_store(act),
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

    /// Nothing is left behind.
    pub(crate) fn check_empty(&mut self) {
        // A proxy may just have asked the database to forget what has expired.
        let asks = |process: &Process| match &process.core {
            Core::Gateway(_) | Core::Focus(_) => false,
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
                Core::Focus(_) => {}
                Core::Proxy(proxy) => {
                    let sizes = proxy.sizes();
                    let all = [sizes.contexts, sizes.clients, sizes.servers, sizes.tickets];
                    if all != [0; 4] || sizes.questions > 0 || sizes.timers > 2 {
                        left.push(format!("{}: {sizes:?}", name(number)));
                    }
                }
            }
        }
        left.into_iter().for_each(|what| self.wrong("leak", what));
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
