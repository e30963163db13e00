//! The virtual network, its hosts and the drivers of their stacks.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ledger::Ledger;
use super::{AssocId, NetCommand, Outcome, Protocol, Stack};
use crate::config::EndpointConfig;
use crate::entropy::Entropy;
use crate::model::{Link, NetEvent, Remote};
use crate::thread::FROZEN;

pub(super) const HOSTS: usize = 4;
/// Longest delay of a packet.
pub(super) const STALE: Duration = Duration::from_millis(1_200);
/// Four heartbeats without an answer, a second apart, the one before them, and the wait for the last answer.
pub(super) const DEAD_AFTER: Duration = Duration::from_millis(5_500);
/// INIT and COOKIE ECHO, three times each, the waits between them doubling up to a second.
const DIAL: Duration = Duration::from_millis(2 * (300 + 600 + 1_000) + 500);
const SHUTDOWN: Duration = Duration::from_millis(3_100);
const SOCKET_BUFFER: usize = 300;

struct Host {
    stack: Option<Stack>,
    life: u64,
    /// A dead host's operating system says so.
    icmp: bool,
    /// As others see it.
    outside: SocketAddr,
    dials: u64,
    frozen: Option<Instant>,
    behind: Duration,
    inbox: Vec<(SocketAddr, Vec<u8>)>,
    turns: (Instant, u32),
}

enum Event {
    Datagram { from: SocketAddr, to: SocketAddr, bytes: Vec<u8> },
    Icmp { host: usize, life: u64, to: SocketAddr, returned: Vec<u8> },
    Restart { host: usize, life: u64 },
    Thaw { host: usize, life: u64 },
}

pub(super) struct Net {
    pub(super) now: Instant,
    pub(super) faults: bool,
    pub(super) ledger: Ledger,
    start: Instant,
    hosts: Vec<Host>,
    events: BTreeMap<(Instant, u64), Event>,
    count: u64,
    random: fastrand::Rng,
    /// Probabilities per packet.
    loss: f64,
    double: f64,
    damage: f64,
    late: f64,
    delay: Duration,
    hash: DefaultHasher,
    trace: bool,
    moves: u64,
    restarts: u64,
}

impl Net {
    #[expect(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
    pub(super) fn new(random: &mut fastrand::Rng) -> Self {
        let now = Instant::now();
        // One run in eight has a network without faults, where nothing may go wrong at all.
        let faults = random.u32(..8) != 0;
        let mut rate = |most: f64| if faults { random.f64() * most } else { 0.0 };
        let (loss, double, damage, late) = (rate(0.1), rate(0.05), rate(0.03), rate(0.005));
        let mut net = Self {
            now,
            faults,
            ledger: Ledger::default(),
            start: now,
            hosts: Vec::new(),
            events: BTreeMap::new(),
            count: 0,
            loss,
            double,
            damage,
            late,
            delay: Duration::from_millis(random.u64(1..60)),
            random: random.fork(),
            hash: DefaultHasher::new(),
            trace: std::env::var_os("LOSSY_TRACE").is_some(),
            moves: 0,
            restarts: 0,
        };
        for host in 0..HOSTS {
            let outside = match host {
                0 | 1 => address(host),
                _ => SocketAddr::from(([127, 202, 0, 9], 20_000 + host as u16)),
            };
            net.hosts.push(Host {
                stack: None,
                life: 0,
                icmp: false,
                outside,
                dials: 0,
                frozen: None,
                behind: Duration::ZERO,
                inbox: Vec::new(),
                turns: (now, 0),
            });
            net.boot(host);
        }
        net
    }

    fn boot(&mut self, host: usize) {
        let config = match host {
            0 | 1 => EndpointConfig::registrar(address(host), None),
            _ => EndpointConfig::element(address(host)),
        };
        let entropy = Entropy::Seeded(self.random.fork());
        let stack = Stack::with_entropy(config, self.now, Arc::default(), Arc::default(), entropy);
        let host = &mut self.hosts[host];
        host.stack = Some(stack.unwrap());
        host.life += 1;
        host.dials = 0;
        host.behind = Duration::ZERO;
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>10.3?} {}", self.now - self.start, what());
        }
    }

    fn at(&mut self, when: Instant, event: Event) {
        self.count += 1;
        self.events.insert((when, self.count), event);
    }

    /// Lets the stack of a running host do something at its own time, and takes what comes out.
    fn drive(&mut self, index: usize, act: impl FnOnce(&mut Stack, Instant)) {
        let host = &mut self.hosts[index];
        let Some(stack) = host.stack.as_mut().filter(|_| host.frozen.is_none()) else { return };
        act(stack, self.now - host.behind);
        let life = host.life;
        let events: Vec<_> = stack.events.drain(..).collect();
        let packets: Vec<_> = stack.transmits.drain(..).collect();
        let from = host.outside;
        for (to, bytes) in packets {
            self.transmit(index, from, to, bytes);
        }
        for event in events {
            self.report(index, life, &event);
        }
    }

    fn report(&mut self, host: usize, life: u64, event: &NetEvent) {
        self.note(|| match event {
            NetEvent::Message { assoc, payload } => {
                format!("{host}: message of {} bytes {assoc:?}", payload.len())
            }
            event => format!("{host}: {event:?}"),
        });
        (self.now - self.start, host).hash(&mut self.hash);
        match event {
            NetEvent::Message { assoc, payload } => {
                (assoc, crc32c::crc32c(payload)).hash(&mut self.hash);
            }
            event => format!("{event:?}").hash(&mut self.hash),
        }
        self.moves += u64::from(matches!(event, NetEvent::Moved { .. }));
        if let Some(line) = self.ledger.event(host, life, event) {
            self.send(line, 0);
            self.flush(host);
        }
    }

    fn transmit(&mut self, host: usize, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        (self.now - self.start, from, to, crc32c::crc32c(&bytes)).hash(&mut self.hash);
        if let Some(dead) = self.hosts.iter().find(|host| host.outside == to)
            && dead.stack.is_none()
        {
            if dead.icmp && self.random.f64() >= self.loss {
                let returned = bytes[..bytes.len().min(40)].to_vec();
                let life = self.hosts[host].life;
                let when = self.now + self.delay;
                self.at(when, Event::Icmp { host, life, to, returned });
            }
            return;
        }
        let copies = 1 + u32::from(self.random.f64() < self.double);
        for _ in 0..copies {
            if self.random.f64() < self.loss {
                continue;
            }
            let mut bytes = bytes.clone();
            if self.random.f64() < self.damage {
                for _ in 0..self.random.u32(1..4) {
                    let at = self.random.usize(..bytes.len());
                    bytes[at] ^= 1 << self.random.u32(..8);
                }
            }
            let mut delay = self.delay;
            if self.random.f64() < self.late {
                delay = STALE.mul_f64(self.random.f64());
            } else if self.loss > 0.0 {
                delay = delay.mul_f64(0.5 + self.random.f64());
            }
            self.at(self.now + delay, Event::Datagram { from, to, bytes });
        }
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let timer = self
                .hosts
                .iter()
                .enumerate()
                .filter(|(_, host)| host.frozen.is_none())
                .filter_map(|(n, host)| {
                    Some((host.stack.as_ref()?.next_deadline()? + host.behind, n))
                })
                .min();
            let event = self.events.first_key_value().map(|(key, _)| *key);
            let next =
                [timer.map(|(at, _)| at), event.map(|(at, _)| at)].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = next.max(self.now);
            match (event, timer) {
                (Some(key), _) if key.0 == next => self.happen(key),
                (_, Some((_, host))) => self.timeout(host),
                _ => (),
            }
        }
        self.now = end;
        let hosts = &self.hosts;
        self.ledger.check_due(end, |host| hosts[host].frozen.is_some());
    }

    fn timeout(&mut self, index: usize) {
        self.drive(index, |stack, now| {
            stack.handle_timeout(now);
            let next = stack.next_deadline();
            assert!(next.is_none_or(|next| next > now), "a deadline that has passed remains");
        });
        // Timers of four associations and their retransmissions; a loop would be endless.
        let (now, turns) = (self.now, &mut self.hosts[index].turns);
        if now >= turns.0 + Duration::from_secs(1) {
            *turns = (now, 0);
        }
        turns.1 += 1;
        assert!(turns.1 < 2_000, "host {index} is busy with timers");
    }

    fn happen(&mut self, key: (Instant, u64)) {
        match self.events.remove(&key) {
            Some(Event::Datagram { from, to, bytes }) => {
                // A packet to a port that the NAT has given up is lost.
                let Some(index) = self.hosts.iter().position(|host| host.outside == to) else {
                    return;
                };
                let host = &mut self.hosts[index];
                if host.frozen.is_some() {
                    if host.inbox.len() < SOCKET_BUFFER {
                        host.inbox.push((from, bytes));
                    }
                    return;
                }
                self.drive(index, |stack, now| stack.handle_datagram(now, from, &bytes));
            }
            Some(Event::Icmp { host, life, to, returned }) if self.hosts[host].life == life => {
                self.drive(host, |stack, now| stack.handle_unreachable(now, to, true, &returned));
            }
            Some(Event::Restart { host, life }) if self.hosts[host].life == life => {
                self.restart(host);
            }
            Some(Event::Thaw { host, life }) if self.hosts[host].life == life => self.thaw(host),
            _ => (),
        }
    }

    fn restart(&mut self, host: usize) {
        if self.hosts[host].stack.is_none() {
            self.note(|| format!("{host}: starts"));
            self.boot(host);
            // To whom its predecessor may still be associated, from the same port.
            self.dial(host, usize::from(host == 0), Protocol::Asap);
        }
    }

    /// As the thread does it: own time stood still, what has arrived comes before timers.
    fn thaw(&mut self, index: usize) {
        let now = self.now;
        let host = &mut self.hosts[index];
        let Some(since) = host.frozen.take() else { return };
        let deadline = host.stack.as_ref().and_then(Stack::next_deadline);
        let late =
            deadline.map_or(Duration::ZERO, |at| (now - host.behind).saturating_duration_since(at));
        if late > FROZEN {
            host.behind += late;
        }
        let inbox = std::mem::take(&mut host.inbox);
        self.note(|| format!("{index}: thaws"));
        self.ledger.postpone(index, now - since);
        for (from, bytes) in inbox {
            self.drive(index, |stack, now| stack.handle_datagram(now, from, &bytes));
        }
        self.timeout(index);
    }

    pub(super) fn freeze(&mut self, index: usize, time: Duration) {
        let host = &mut self.hosts[index];
        if host.stack.is_none() || host.frozen.is_some() {
            return;
        }
        host.frozen = Some(self.now);
        let life = host.life;
        self.note(|| format!("{index}: freezes for {time:?}"));
        self.at(self.now + time, Event::Thaw { host: index, life });
    }

    pub(super) fn kill(&mut self, index: usize, random: &mut fastrand::Rng) {
        let host = &mut self.hosts[index];
        let Some(stack) = host.stack.take() else { return };
        host.frozen = None;
        host.inbox.clear();
        host.icmp = random.bool();
        let (life, icmp) = (host.life, host.icmp);
        self.restarts += stack.counters.snapshot().restarts;
        check_counters(&stack);
        self.note(|| format!("{index}: killed, icmp {icmp}"));
        // What it had sent may still keep up appearances.
        self.ledger.killed(index, self.now + DEAD_AFTER + STALE);
        // Often before anybody has noticed.
        let away = if random.bool() { 500 } else { 12_000 };
        let back = self.now + Duration::from_millis(random.u64(1..away));
        self.at(back, Event::Restart { host: index, life });
    }

    /// The NAT forgets an element's port, and may give it one that the other element has had.
    pub(super) fn rebind(&mut self, index: usize, random: &mut fastrand::Rng) {
        let mut outside = self.hosts[index].outside;
        outside.set_port(20_000 + random.u16(..5));
        if index > 1 && self.hosts.iter().all(|host| host.outside != outside) {
            self.note(|| format!("{index}: rebinds to {outside}"));
            self.hosts[index].outside = outside;
        }
    }

    pub(super) fn dial(&mut self, host: usize, to: usize, protocol: Protocol) {
        if self.hosts[host].stack.is_none() || self.hosts[host].frozen.is_some() {
            return;
        }
        self.hosts[host].dials += 1;
        let assoc = AssocId::dialled(self.hosts[host].dials);
        let sctp_port = match protocol {
            Protocol::Asap => crate::ASAP_PORT,
            Protocol::Enrp => crate::ENRP_PORT,
        };
        let remote = Remote { link: Link::Sctp, addr: self.hosts[to].outside, sctp_port };
        let line = self.ledger.open(host, self.hosts[host].life, assoc);
        self.ledger.lines[line].due = Some((self.now + DIAL, "is dialled"));
        self.note(|| format!("{host}: line {line} dials {to} {assoc:?} {protocol:?}"));
        self.drive(host, |stack, now| {
            stack.handle_command(now, NetCommand::Connect { assoc, protocol, remote });
        });
    }

    /// An association of this host that is up.
    pub(super) fn pick(&self, host: usize, random: &mut fastrand::Rng) -> Option<usize> {
        if self.hosts[host].frozen.is_some() {
            return None;
        }
        let mut up = self.ledger.all_up();
        up.retain(|line| self.ledger.lines[*line].host == host);
        (!up.is_empty()).then(|| up[random.usize(..up.len())])
    }

    pub(super) fn send(&mut self, line: usize, size: usize) {
        let Some(payload) = self.ledger.send(line, size) else { return };
        let (host, assoc) = (self.ledger.lines[line].host, self.ledger.lines[line].id);
        self.drive(host, |stack, now| {
            stack.handle_command(now, NetCommand::Send { assoc, payload });
        });
    }

    pub(super) fn flush(&mut self, host: usize) {
        self.drive(host, |stack, now| stack.flush(now));
    }

    /// Shutdown when `in_order`, else abort.
    pub(super) fn finish(&mut self, line: usize, in_order: bool) {
        let due = self.now + SHUTDOWN;
        let Some(entry) = self.ledger.lines.get_mut(line).filter(|entry| entry.open()) else {
            return;
        };
        let (host, assoc) = (entry.host, entry.id);
        entry.asked = Some(in_order || entry.asked == Some(true));
        if entry.due.is_none_or(|(other, _)| due < other) {
            entry.due = Some((due, "is told to end"));
        }
        self.note(|| format!("{host}: line {line} ends, in order {in_order}"));
        let command =
            if in_order { NetCommand::Shutdown { assoc } } else { NetCommand::Abort { assoc } };
        self.drive(host, |stack, now| stack.handle_command(now, command));
    }

    pub(super) fn heal(&mut self, random: &mut fastrand::Rng) {
        self.note(|| "all heals".to_owned());
        (self.loss, self.double, self.damage, self.late) = (0.0, 0.0, 0.0, 0.0);
        self.delay = Duration::from_millis(random.u64(1..20));
        for host in 0..HOSTS {
            self.thaw(host);
            self.restart(host);
        }
    }

    /// Whatever is up is up at both ends.
    pub(super) fn check_pairs(&self) {
        for line in self.ledger.all_up() {
            let partner = self.ledger.lines[line].partner;
            let partner = partner.unwrap_or_else(|| panic!("line {line} is up with nobody"));
            let other = &self.ledger.lines[partner];
            assert!(other.up && other.open(), "line {line} is up, line {partner} is not");
            assert_eq!(other.partner, Some(line));
        }
    }

    pub(super) fn check_all_arrived(&self) {
        for line in self.ledger.all_up() {
            let line = &self.ledger.lines[line];
            let sent = line.partner.map_or(0, |partner| self.ledger.lines[partner].sent.len());
            assert_eq!(line.arrived, sent, "not all has arrived at host {}", line.host);
        }
    }

    pub(super) fn check_nothing_left(&self) {
        for (index, line) in self.ledger.lines.iter().enumerate() {
            assert!(!line.open(), "line {index} has not ended");
        }
        for (index, host) in self.hosts.iter().enumerate() {
            let Some(stack) = &host.stack else { panic!("host {index} does not run") };
            check_counters(stack);
            let state = (stack.assocs.len(), stack.by_key.len(), stack.by_tag.len());
            assert_eq!(state, (0, 0, 0), "host {index}: associations, keys, tags");
            assert!(stack.timers.is_empty() && stack.dirty.is_empty(), "host {index}: timers");
            assert!(stack.transmits.is_empty() && stack.events.is_empty());
        }
        if !self.faults {
            assert_eq!(self.ledger.timed_out, 0, "nothing was lost, and still");
        }
    }

    pub(super) fn outcome(&self) -> Outcome {
        let running = self.hosts.iter().filter_map(|host| host.stack.as_ref());
        let restarts: u64 = running.map(|stack| stack.counters.snapshot().restarts).sum();
        Outcome {
            hash: self.hash.finish(),
            messages: self.ledger.messages,
            ups: self.ledger.ups,
            moves: self.moves,
            restarts: self.restarts + restarts,
            suspects: self.ledger.suspects,
            timed_out: self.ledger.timed_out,
        }
    }
}

fn check_counters(stack: &Stack) {
    let counters = stack.counters.snapshot();
    assert_eq!((counters.faults, counters.wrong_ppid), (0, 0), "faults, wrong identifiers");
}

/// As the process itself sees it.
fn address(host: usize) -> SocketAddr {
    SocketAddr::from(([127, 202, 0, 1 + host as u8], crate::ENCAPSULATION_PORT))
}
