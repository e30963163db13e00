//! The virtual network: associations as processes see them (`dialtone_transport::model`).
//!
//! Between two ends messages are ordered and reliable while the path is open and the peer acknowledges. What is not
//! acknowledged is sent again for about 2.4 s, then the end gives up; SCTP asks an idle peer every second. Sides learn
//! of an end at different times, or one of them not at all until it sends. A dead process on a living host is
//! evidence ([`NetEvent::Suspect`], a refused dial), a dead host is silence. TCP differs: no heartbeats, the kernel
//! accepts and acknowledges for a frozen process, and says at once that a process died.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dialtone_transport::{
    ASAP_PORT, AssocId, DownCause, ENRP_PORT, Link, NetCommand, NetEvent, Protocol, Remote,
};

use crate::process::Purpose;
use crate::set::Set;
use crate::world::{Happening, World, ms};

/// Names one end for good: process and identifier may come again in another life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EndRef {
    pub(crate) process: usize,
    pub(crate) assoc: AssocId,
    pub(crate) serial: u64,
}

/// What tells associations of one process apart: peer address and port, own port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    process: usize,
    link: Link,
    peer: SocketAddr,
    peer_port: u16,
    own_port: u16,
}

/// One process's end of an association.
#[derive(Debug)]
struct End {
    serial: u64,
    key: Key,
    protocol: Protocol,
    peer: Option<EndRef>,
    up: bool,
    /// The association is gone, though this side has not been told.
    severed: bool,
    /// Shut down by this side; ends when all is acknowledged.
    ending: bool,
    /// Not acknowledged; those marked have arrived.
    unacked: VecDeque<(Vec<u8>, bool)>,
    failing: Option<Duration>,
    gives_up_after: Duration,
    retransmits: u32,
    pumping: bool,
    /// Nothing arrives here before this: order.
    last_arrival: Duration,
    suspected: Option<Duration>,
}

#[derive(Debug, Default)]
pub(crate) struct Net {
    ends: BTreeMap<(usize, AssocId), End>,
    keys: BTreeMap<Key, AssocId>,
    serial: u64,
    ports: u16,
    /// Ends of processes that died with messages under way that never arrive: serials of the senders.
    lost: std::collections::BTreeSet<u64>,
    /// One-way blockades.
    pub(crate) walls: Vec<(Set, Set)>,
    /// What the way to and from each process takes on top.
    pub(crate) lags: Vec<Duration>,
    /// Some runs have slow networks.
    pub(crate) jitter: Duration,
}

/// Where what an end sends would go.
enum Path {
    /// To the other end. `acks`: answers come back.
    Open {
        to: EndRef,
        acks: bool,
    },
    /// The host says that nobody listens.
    Evidence,
    /// A process lives there that knows nothing of this association.
    Stranger,
    Silent,
}

/// Messages that wait for one peer at most.
const BUFFER: usize = 400;

impl World {
    pub(crate) fn blocked(&self, from: usize, to: usize) -> bool {
        self.net.walls.iter().any(|(a, b)| a.contains(from) && b.contains(to))
    }

    pub(crate) fn host(&self, ip: IpAddr) -> Option<usize> {
        self.hosts.get(&ip).copied()
    }

    pub(crate) fn delay(&mut self) -> Duration {
        let usual = Duration::from_micros(self.rng.u64(100..1500));
        // Now and then a packet takes its time.
        if self.rng.u8(..) < 8 { usual + self.net.jitter.mul_f64(self.rng.f64()) } else { usual }
    }

    /// Puts an event for an end behind those that are under way to it.
    fn arrive(&mut self, to: EndRef, event: NetEvent, sender: Option<u64>) {
        let delay = self.delay();
        let Some(end) = self.net.ends.get(&(to.process, to.assoc)) else { return };
        let peer = end.peer.map_or(Duration::ZERO, |peer| self.net.lags[peer.process]);
        let soon = self.now + delay + self.net.lags[to.process] + peer;
        let Some(end) = self.end(to) else { return };
        let at = soon.max(end.last_arrival + Duration::from_micros(1));
        end.last_arrival = at;
        self.later(at, Happening::Arrive { to, event, sender });
    }

    fn end(&mut self, at: EndRef) -> Option<&mut End> {
        self.net.ends.get_mut(&(at.process, at.assoc)).filter(|end| end.serial == at.serial)
    }

    fn remove_end(&mut self, at: EndRef) {
        if self.end(at).is_some()
            && let Some(end) = self.net.ends.remove(&(at.process, at.assoc))
            && self.net.keys.get(&end.key) == Some(&at.assoc)
        {
            self.net.keys.remove(&end.key);
        }
    }

    fn new_end(&mut self, key: Key, assoc: AssocId, protocol: Protocol) -> EndRef {
        self.net.serial += 1;
        let serial = self.net.serial;
        let gives_up_after = ms(self.rng.u64(2000..3000));
        let end = End {
            serial,
            key,
            protocol,
            peer: None,
            up: false,
            severed: false,
            ending: false,
            unacked: VecDeque::new(),
            failing: None,
            gives_up_after,
            retransmits: 0,
            pumping: false,
            last_arrival: Duration::ZERO,
            suspected: None,
        };
        self.net.ends.insert((key.process, assoc), end);
        self.net.keys.insert(key, assoc);
        EndRef { process: key.process, assoc, serial }
    }

    pub(crate) fn command(&mut self, process: usize, command: NetCommand) {
        if self.packets.is_some() {
            return self.packet_command(process, command);
        }
        match command {
            NetCommand::Connect { assoc, protocol, remote } => {
                self.connect(process, assoc, protocol, remote);
            }
            NetCommand::Send { assoc, payload } => {
                let Some(end) = self.net.ends.get_mut(&(process, assoc)) else { return };
                if !end.up || end.ending || end.severed {
                    return;
                }
                let at = EndRef { process, assoc, serial: end.serial };
                if end.unacked.len() >= BUFFER {
                    return self.break_off(at, DownCause::TimedOut);
                }
                end.unacked.push_back((payload, false));
                self.pump(at, false);
            }
            NetCommand::Abort { assoc } => {
                if let Some(end) = self.net.ends.get(&(process, assoc)) {
                    let at = EndRef { process, assoc, serial: end.serial };
                    self.break_off(at, DownCause::Local);
                }
            }
            NetCommand::Shutdown { assoc } => {
                let Some(end) = self.net.ends.get_mut(&(process, assoc)) else { return };
                let at = EndRef { process, assoc, serial: end.serial };
                if !end.up {
                    return self.break_off(at, DownCause::Local);
                }
                if !end.ending {
                    end.ending = true;
                    self.later(self.now + ms(3000), Happening::ShutdownLimit(at));
                    self.pump(at, true);
                }
            }
        }
    }

    /// Ends at once on this side; the peer is told by a packet that may get lost.
    pub(crate) fn break_off(&mut self, at: EndRef, cause: DownCause) {
        if let Path::Open { to, .. } = self.path(at) {
            self.tell_end(to, DownCause::Aborted);
        }
        self.finish(at, cause);
    }

    /// The peer ended it: nothing goes out any more, and what is under way arrives before the news.
    fn tell_end(&mut self, to: EndRef, cause: DownCause) {
        if let Some(end) = self.end(to) {
            end.severed = true;
        }
        self.arrive(to, NetEvent::Down { assoc: to.assoc, cause }, None);
    }

    /// This side knows that it is over; its core learns by the next event.
    fn finish(&mut self, at: EndRef, cause: DownCause) {
        if self.end(at).is_none() {
            return;
        }
        self.remove_end(at);
        let event = NetEvent::Down { assoc: at.assoc, cause };
        let boot = self.processes[at.process].boot;
        self.later(
            self.now + Duration::from_micros(50),
            Happening::Local { process: at.process, boot, event },
        );
    }

    fn connect(&mut self, process: usize, assoc: AssocId, protocol: Protocol, remote: Remote) {
        let well_known = match (remote.link, protocol) {
            (Link::Tcp, _) => None,
            (Link::Sctp, Protocol::Asap) => Some(ASAP_PORT),
            (Link::Sctp, Protocol::Enrp) => Some(ENRP_PORT),
        };
        let key = |own_port| Key {
            process,
            link: remote.link,
            peer: remote.addr,
            peer_port: remote.sctp_port,
            own_port,
        };
        let free = well_known.map(key).filter(|key| !self.net.keys.contains_key(key));
        let key = free.unwrap_or_else(|| {
            self.net.ports = self.net.ports.wrapping_add(1) % 10_000;
            key(50_000 + self.net.ports)
        });
        let at = self.new_end(key, assoc, protocol);
        let soon = self.now + self.delay() + self.net.lags[process];
        self.later(soon, Happening::Dial { from: at, attempt: 0 });
    }

    pub(crate) fn dial(&mut self, from: EndRef, attempt: u32) {
        let Some(end) = self.end(from).filter(|end| !end.up) else { return };
        let (key, protocol) = (end.key, end.protocol);
        if self.processes[from.process].is_frozen() {
            return self.later(self.now + ms(100), Happening::Dial { from, attempt });
        }
        let target = self.host(key.peer.ip()).filter(|host| {
            self.processes[*host].host_is_up()
                && !self.blocked(from.process, *host)
                && !self.blocked(*host, from.process)
        });
        let Some(target) = target else { return self.dial_again(from, attempt) };
        let process = &self.processes[target];
        let listens = process.core.is_some()
            && match key.link {
                Link::Tcp => matches!(process.purpose, Purpose::Registrar),
                Link::Sctp => process.addr == key.peer,
            };
        if !listens {
            return self.finish(from, DownCause::Unreachable);
        }
        if protocol == Protocol::Enrp && !matches!(process.purpose, Purpose::Registrar) {
            return self.finish(from, DownCause::Aborted);
        }
        if process.is_frozen() && key.link == Link::Sctp {
            return self.dial_again(from, attempt);
        }
        // As the other side sees us.
        let caller = match key.link {
            Link::Sctp => self.processes[from.process].addr,
            Link::Tcp => SocketAddr::new(self.processes[from.process].addr.ip(), key.own_port),
        };
        let theirs = Key {
            process: target,
            link: key.link,
            peer: caller,
            peer_port: if key.link == Link::Sctp { key.own_port } else { 0 },
            own_port: key.peer_port,
        };
        let known = self.net.keys.get(&theirs).copied();
        let known = known.and_then(|assoc| {
            let end = self.net.ends.get(&(target, assoc))?;
            Some((EndRef { process: target, assoc, serial: end.serial }, end.up))
        });
        let to = match known {
            // Both dialled: one association.
            Some((to, false)) => to,
            other => {
                if let Some((old, _)) = other {
                    // The caller restarted.
                    self.remove_end(old);
                    let boot = self.processes[target].boot;
                    let cause = DownCause::Aborted;
                    let event = NetEvent::Down { assoc: old.assoc, cause };
                    self.later(self.now, Happening::Local { process: target, boot, event });
                }
                let process = &mut self.processes[target];
                process.accepted += 1;
                let assoc = AssocId::accepted(process.accepted);
                self.new_end(theirs, assoc, protocol)
            }
        };
        for (at, peer) in [(to, from), (from, to)] {
            if let Some(end) = self.end(at) {
                end.peer = Some(peer);
                end.up = true;
                let remote =
                    Remote { link: end.key.link, addr: end.key.peer, sctp_port: end.key.peer_port };
                let assoc = at.assoc;
                self.arrive(at, NetEvent::Up { assoc, protocol, remote, peer: None }, None);
            }
            if key.link == Link::Sctp {
                let beat = self.now + ms(self.rng.u64(1000..1300));
                self.later(beat, Happening::Beat(at));
            }
        }
    }

    fn dial_again(&mut self, from: EndRef, attempt: u32) {
        let wait = ms([300, 600, 1000][attempt.min(2) as usize]);
        let next = if attempt < 2 {
            Happening::Dial { from, attempt: attempt + 1 }
        } else {
            Happening::DialLimit(from)
        };
        self.later(self.now + wait, next);
    }

    pub(crate) fn dial_limit(&mut self, from: EndRef) {
        if self.end(from).is_some_and(|end| !end.up) {
            self.finish(from, DownCause::TimedOut);
        }
    }

    fn path(&self, at: EndRef) -> Path {
        let end = self.net.ends.get(&(at.process, at.assoc)).filter(|end| end.serial == at.serial);
        let Some(end) = end.filter(|end| !end.severed) else { return Path::Silent };
        let Some(host) = self.host(end.key.peer.ip()) else { return Path::Silent };
        let process = &self.processes[host];
        if !process.host_is_up() || self.blocked(at.process, host) {
            return Path::Silent;
        }
        let returns = !self.blocked(host, at.process);
        let port_open = end.key.link == Link::Tcp || process.addr == end.key.peer;
        if process.core.is_none() || !port_open {
            return if returns { Path::Evidence } else { Path::Silent };
        }
        let known = end.peer.filter(|peer| {
            self.net.ends.get(&(peer.process, peer.assoc)).is_some_and(|other| {
                other.serial == peer.serial && other.peer == Some(at) && !other.severed
            })
        });
        let responsive = returns && (!process.is_frozen() || end.key.link == Link::Tcp);
        match known {
            Some(to) => Path::Open { to, acks: responsive },
            None if responsive => Path::Stranger,
            None => Path::Silent,
        }
    }

    /// Sends what can be sent. `force`: asks for a sign of life also when there is nothing to send.
    pub(crate) fn pump(&mut self, at: EndRef, force: bool) {
        if self.processes[at.process].is_frozen() {
            return;
        }
        let now = self.now;
        let Some(end) = self.end(at).filter(|end| end.up && !end.severed) else { return };
        if end.unacked.is_empty() && !force {
            return;
        }
        match self.path(at) {
            Path::Open { to, acks } => {
                let Some(end) = self.end(at) else { return };
                let mut fresh = Vec::new();
                for (payload, arrived) in &mut end.unacked {
                    if !std::mem::replace(arrived, true) {
                        fresh.push(std::mem::take(payload));
                    }
                }
                if acks {
                    end.unacked.clear();
                    (end.failing, end.retransmits) = (None, 0);
                }
                let ending = end.ending;
                for payload in fresh {
                    let event = NetEvent::Message { assoc: to.assoc, payload };
                    self.arrive(to, event, Some(at.serial));
                }
                if acks && ending {
                    self.tell_end(to, DownCause::Closed);
                    return self.finish(at, DownCause::Local);
                }
                if acks {
                    return;
                }
            }
            Path::Evidence => {
                let Some(end) = self.end(at) else { return };
                if end.key.link == Link::Tcp {
                    return self.finish(at, DownCause::Aborted);
                }
                if end.suspected.is_none_or(|then| now >= then + ms(100)) {
                    end.suspected = Some(now);
                    self.arrive(at, NetEvent::Suspect { assoc: at.assoc }, None);
                }
            }
            Path::Stranger => return self.tell_end(at, DownCause::Aborted),
            Path::Silent => {}
        }
        let Some(end) = self.end(at) else { return };
        let since = *end.failing.get_or_insert(now);
        if now >= since + end.gives_up_after {
            return self.break_off(at, DownCause::TimedOut);
        }
        if !end.pumping {
            end.pumping = true;
            let rto = ms([200, 400, 800, 1000][end.retransmits.min(3) as usize]);
            end.retransmits += 1;
            self.later(now + rto, Happening::Pump(at));
        }
    }

    /// A retransmission timer fired.
    pub(crate) fn pump_due(&mut self, at: EndRef) {
        if let Some(end) = self.end(at) {
            end.pumping = false;
            self.pump(at, true);
        }
    }

    pub(crate) fn beat(&mut self, at: EndRef) {
        let Some(end) = self.end(at).filter(|end| !end.severed) else { return };
        if end.unacked.is_empty() {
            self.pump(at, true);
        }
        let next = self.now + ms(self.rng.u64(1000..1300));
        self.later(next, Happening::Beat(at));
    }

    pub(crate) fn shutdown_limit(&mut self, at: EndRef) {
        if self.end(at).is_some() {
            self.break_off(at, DownCause::Local);
        }
    }

    /// An event reaches its process.
    pub(crate) fn arrived(&mut self, to: EndRef, event: NetEvent, sender: Option<u64>) {
        if self.end(to).is_none() || sender.is_some_and(|serial| self.net.lost.contains(&serial)) {
            return;
        }
        if matches!(event, NetEvent::Down { .. }) {
            self.remove_end(to);
        }
        self.deliver(to.process, event);
    }

    /// All ends of a process are gone without a word, perhaps with what was under way.
    pub(crate) fn forget_ends(&mut self, process: usize) {
        if let Some(packets) = &mut self.packets {
            packets.kill(process);
        }
        let host_up = self.processes[process].host_is_up();
        let ends: Vec<_> = self
            .net
            .ends
            .range((process, AssocId::accepted(0))..)
            .take_while(|((owner, _), _)| *owner == process)
            .map(|((_, assoc), end)| (*assoc, end.serial, end.peer, end.key.link))
            .collect();
        for (assoc, serial, peer, link) in ends {
            if self.rng.bool() {
                self.net.lost.insert(serial);
            }
            let at = EndRef { process, assoc, serial };
            // The kernel closes TCP.
            let told = peer.filter(|peer| {
                link == Link::Tcp && host_up && !self.blocked(process, peer.process)
            });
            self.remove_end(at);
            if let Some(peer) = told {
                self.tell_end(peer, DownCause::Closed);
            }
        }
    }

    /// What an association of this process carries, unless this side is done with it.
    pub(crate) fn protocol_of(&self, process: usize, assoc: AssocId) -> Option<Protocol> {
        if let Some(packets) = &self.packets {
            return packets.protocol_of(process, assoc);
        }
        let end = self.net.ends.get(&(process, assoc)).filter(|end| !end.ending)?;
        Some(end.protocol)
    }

    /// What an association of this process runs on.
    pub(crate) fn link_of(&self, process: usize, assoc: AssocId) -> Option<Link> {
        if self.packets.is_some() {
            return Some(Link::Sctp);
        }
        self.net.ends.get(&(process, assoc)).map(|end| end.key.link)
    }

    /// How many associations this process has.
    pub(crate) fn count_ends(&self, process: usize) -> usize {
        if let Some(packets) = &self.packets {
            return packets.count(process);
        }
        let ends = self.net.ends.range((process, AssocId::accepted(0))..);
        ends.take_while(|((owner, _), _)| *owner == process).count()
    }

    fn ends_of(&self, wanted: impl Fn(usize, &End) -> bool) -> Vec<EndRef> {
        self.net
            .ends
            .iter()
            .filter(|((process, _), end)| wanted(*process, end))
            .map(|((process, assoc), end)| EndRef {
                process: *process,
                assoc: *assoc,
                serial: end.serial,
            })
            .collect()
    }

    /// A process runs again: it acknowledges at once, and its own timers begin anew.
    pub(crate) fn revive_ends(&mut self, process: usize) {
        self.thaw_port(process);
        for at in self.ends_of(|owner, _| owner == process) {
            if let Some(end) = self.end(at) {
                (end.failing, end.retransmits) = (None, 0);
            }
            self.pump(at, false);
        }
        for at in self.ends_of(|_, end| end.peer.is_some_and(|peer| peer.process == process)) {
            self.pump(at, false);
        }
    }

    /// Picks an association that is up on both sides; `None` when there is none.
    pub(crate) fn any_pair(&mut self) -> Option<(EndRef, EndRef)> {
        let mut pairs: Vec<_> = self
            .ends_of(|_, end| end.up && !end.severed)
            .into_iter()
            .filter_map(|at| match self.path(at) {
                Path::Open { to, .. } => Some((at, to)),
                _ => None,
            })
            .collect();
        if pairs.is_empty() {
            return None;
        }
        let index = self.rng.usize(..pairs.len());
        Some(pairs.swap_remove(index))
    }

    pub(crate) fn sever_between(&mut self, one: usize, other: usize, limit: Duration) {
        let ends = self.ends_of(|owner, end| {
            owner == one
                && end.up
                && !end.severed
                && end.peer.is_some_and(|peer| peer.process == other)
        });
        for at in ends {
            if let Path::Open { to, .. } = self.path(at) {
                self.sever(at, to, limit);
            }
        }
    }

    /// The association breaks: what is under way is lost, the sides learn of it at different times.
    pub(crate) fn sever(&mut self, one: EndRef, other: EndRef, limit: Duration) {
        for at in [one, other] {
            let Some(end) = self.end(at) else { continue };
            end.severed = true;
            let serial = end.serial;
            self.net.lost.insert(serial);
            let cause = match self.rng.u8(..3) {
                0 => DownCause::TimedOut,
                1 => DownCause::Closed,
                _ => DownCause::Aborted,
            };
            let when = self.now + limit.mul_f64(self.rng.f64());
            let event = NetEvent::Down { assoc: at.assoc, cause };
            self.later(when, Happening::Arrive { to: at, event, sender: None });
        }
    }
}
