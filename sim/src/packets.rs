//! The other network: real SCTP stacks that exchange datagrams. Datagrams are lost, doubled, damaged and overtake each
//! other until the heal; a dead process's host answers with ICMP, or is silent as well.
//!
//! Some disorderly seeds run on it, with all users on SCTP. What else a schedule does to associations does nothing
//! here: packets decide which of them live.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dialtone_transport::{AssocId, BareStack, EndpointConfig, NetCommand, NetEvent, Protocol};

use crate::process::Purpose;
use crate::world::{Happening, World, ms};

/// Datagrams that a frozen process's socket holds at most.
const SOCKET_BUFFER: usize = 300;
/// What comes late comes so late at most.
const LATE: Duration = ms(1200);
/// Headers that an ICMP message brings back.
const RETURNED: usize = 40;

#[derive(Debug)]
pub(crate) struct Packets {
    ports: Vec<Port>,
    /// What processes believe of their associations; those that they are ending are marked.
    assocs: BTreeMap<(usize, AssocId), (Protocol, bool)>,
    faults: Faults,
}

/// Probabilities per datagram.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    loss: f64,
    double: f64,
    damage: f64,
    late: f64,
}

/// One process's UDP port.
#[derive(Debug, Default)]
struct Port {
    stack: Option<BareStack>,
    inbox: Vec<(SocketAddr, Vec<u8>)>,
    armed: Option<Instant>,
    alarm: u64,
}

impl Packets {
    pub(crate) fn new(processes: usize, rng: &mut fastrand::Rng) -> Self {
        let mut rate = |most: f64| rng.f64() * most;
        let faults =
            Faults { loss: rate(0.1), double: rate(0.05), damage: rate(0.02), late: rate(0.005) };
        let ports = (0..processes).map(|_| Port::default()).collect();
        Self { ports, assocs: BTreeMap::new(), faults }
    }

    pub(crate) fn heal(&mut self) {
        self.faults = Faults::default();
    }

    pub(crate) fn is_lossy(&self) -> bool {
        self.faults.loss > 0.0
    }

    pub(crate) fn protocol_of(&self, process: usize, assoc: AssocId) -> Option<Protocol> {
        let (protocol, ending) = self.assocs.get(&(process, assoc))?;
        (!ending).then_some(*protocol)
    }

    pub(crate) fn count(&self, process: usize) -> usize {
        self.assocs.keys().filter(|(owner, _)| *owner == process).count()
    }

    /// The process is gone with all that its kernel held.
    pub(crate) fn kill(&mut self, process: usize) {
        let alarm = self.ports[process].alarm + 1;
        self.ports[process] = Port { alarm, ..Port::default() };
        self.assocs.retain(|(owner, _), _| *owner != process);
    }
}

impl World {
    pub(crate) fn open_port(&mut self, process: usize) {
        let now = self.instant(self.now);
        let rng = self.rng.fork();
        let Some(packets) = &mut self.packets else { return };
        let entry = &self.processes[process];
        let config = match entry.purpose {
            Purpose::Registrar => EndpointConfig::registrar(entry.addr, None),
            Purpose::Element(_) | Purpose::User { .. } => EndpointConfig::element(entry.addr),
        };
        packets.ports[process].stack = BareStack::new(config, now, rng);
    }

    pub(crate) fn packet_command(&mut self, process: usize, command: NetCommand) {
        let Some(packets) = &mut self.packets else { return };
        match &command {
            NetCommand::Connect { assoc, protocol, .. } => {
                packets.assocs.insert((process, *assoc), (*protocol, false));
            }
            NetCommand::Abort { assoc } | NetCommand::Shutdown { assoc } => {
                if let Some((_, ending)) = packets.assocs.get_mut(&(process, *assoc)) {
                    *ending = true;
                }
            }
            NetCommand::Send { .. } => {}
        }
        self.drive(process, |stack, now| stack.handle_commands(now, [command]));
    }

    /// Lets a process's stack do something, and takes what comes out.
    fn drive(&mut self, process: usize, act: impl FnOnce(&mut BareStack, Instant)) {
        let (now, boot) = (self.instant(self.now), self.processes[process].boot);
        let frozen = self.processes[process].is_frozen();
        let Some(packets) = self.packets.as_mut().filter(|_| !frozen) else { return };
        let Some(stack) = &mut packets.ports[process].stack else { return };
        act(stack, now);
        let mut datagrams = Vec::new();
        let mut events = Vec::new();
        while let Some(datagram) = stack.poll_packet() {
            datagrams.push(datagram);
        }
        while let Some(event) = stack.poll_event() {
            match &event {
                NetEvent::Up { assoc, protocol, .. } => {
                    packets.assocs.entry((process, *assoc)).or_insert((*protocol, false));
                }
                NetEvent::Down { assoc, .. } => {
                    packets.assocs.remove(&(process, *assoc));
                }
                _ => {}
            }
            events.push(event);
        }
        let port = &mut packets.ports[process];
        let next = port.stack.as_ref().and_then(BareStack::next_deadline);
        let alarm = (next != port.armed).then(|| {
            (port.armed, port.alarm) = (next, port.alarm + 1);
            port.alarm
        });
        if let (Some(alarm), Some(next)) = (alarm, next) {
            self.later(self.since_start(next), Happening::Stack { process, alarm });
        }
        for (to, bytes) in datagrams {
            self.transmit(process, to, bytes);
        }
        for event in events {
            self.later(self.now, Happening::Local { process, boot, event });
        }
    }

    pub(crate) fn stack_due(&mut self, process: usize, alarm: u64) {
        let Some(packets) = &mut self.packets else { return };
        let port = &mut packets.ports[process];
        if port.alarm == alarm && self.processes[process].is_running() {
            port.armed = None;
            self.drive(process, BareStack::handle_timeout);
        }
    }

    fn transmit(&mut self, process: usize, to: SocketAddr, bytes: Vec<u8>) {
        let from = self.processes[process].addr;
        let Some(faults) = self.packets.as_ref().map(|packets| packets.faults) else { return };
        let copies = 1 + u32::from(self.rng.f64() < faults.double);
        for _ in 0..copies {
            if self.rng.f64() < faults.loss {
                continue;
            }
            let mut bytes = bytes.clone();
            if self.rng.f64() < faults.damage {
                let at = self.rng.usize(..bytes.len());
                bytes[at] ^= 1 << self.rng.u32(..8);
            }
            let late = self.rng.f64() < faults.late;
            let late = if late { LATE.mul_f64(self.rng.f64()) } else { Duration::ZERO };
            let at = self.now + self.delay() + self.net.lags[process] + late;
            self.later(at, Happening::Datagram { from, to, bytes });
        }
    }

    /// A datagram reaches a host, unless something is in its way.
    pub(crate) fn datagram(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let (Some(sender), Some(host)) = (self.host(from.ip()), self.host(to.ip())) else { return };
        let process = &self.processes[host];
        if self.blocked(sender, host) || !process.host_is_up() {
            return;
        }
        if process.core.is_none() || process.addr != to {
            let boot = self.processes[sender].boot;
            let returned = bytes[..bytes.len().min(RETURNED)].to_vec();
            if !self.blocked(host, sender) && self.processes[sender].addr == from {
                let at = self.now + self.delay();
                self.later(at, Happening::Icmp { process: sender, boot, to, returned });
            }
            return;
        }
        if process.is_frozen() {
            if let Some(packets) = &mut self.packets {
                let inbox = &mut packets.ports[host].inbox;
                if inbox.len() < SOCKET_BUFFER {
                    inbox.push((from, bytes));
                }
            }
            return;
        }
        self.drive(host, |stack, now| stack.handle_datagram(now, from, &bytes));
    }

    pub(crate) fn icmp(&mut self, process: usize, boot: u32, to: SocketAddr, returned: &[u8]) {
        if self.processes[process].boot == boot {
            self.drive(process, |stack, now| stack.handle_unreachable(now, to, returned));
        }
    }

    /// A process runs again: what its socket holds is read before timers give anybody up.
    pub(crate) fn thaw_port(&mut self, process: usize) {
        let now = self.instant(self.now);
        let Some(packets) = &mut self.packets else { return };
        let port = &mut packets.ports[process];
        let inbox = std::mem::take(&mut port.inbox);
        if let Some(stack) = &mut port.stack {
            stack.thaw(now);
        }
        port.armed = None;
        for (from, bytes) in inbox {
            self.drive(process, |stack, now| stack.handle_datagram(now, from, &bytes));
        }
        self.drive(process, BareStack::handle_timeout);
    }
}
