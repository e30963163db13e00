//! The ways to phones: open connections, and UDP pinholes that are kept open.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dialtone_sip_pool::keys::Keys;
use dialtone_sip_pool::token::{EdgeTransport, Flow, FlowToken, Use};

use super::{Listener, Peer};

#[derive(Debug)]
struct Connection {
    listener: u8,
    remote: SocketAddr,
}

#[derive(Debug)]
struct Pinhole {
    until: Instant,
    next: Instant,
}

#[derive(Debug)]
pub(crate) struct Flows {
    listeners: Vec<Listener>,
    gateway: u32,
    keep_alive: Duration,
    /// Added to connection numbers, so that tokens of a former life of this gateway name no connection of this one.
    first_serial: u32,
    connections: BTreeMap<u64, Connection>,
    pinholes: BTreeMap<(u8, SocketAddr), Pinhole>,
    deadlines: BTreeSet<(Instant, (u8, SocketAddr))>,
}

impl Flows {
    pub(crate) fn new(
        listeners: Vec<Listener>,
        gateway: u32,
        keep_alive: Duration,
        rng: &mut fastrand::Rng,
    ) -> Self {
        Self {
            listeners,
            gateway,
            keep_alive,
            first_serial: rng.u32(..),
            connections: BTreeMap::new(),
            pinholes: BTreeMap::new(),
            deadlines: BTreeSet::new(),
        }
    }

    pub(crate) fn opened(&mut self, conn: u64, listener: u8, remote: SocketAddr) {
        self.connections.insert(conn, Connection { listener, remote });
    }

    /// Whether the connection was there.
    pub(crate) fn closed(&mut self, conn: u64) -> bool {
        self.connections.remove(&conn).is_some()
    }

    pub(crate) fn remote(&self, conn: u64) -> Option<SocketAddr> {
        self.connections.get(&conn).map(|connection| connection.remote)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.len()
    }

    pub(crate) fn pinholes(&self) -> usize {
        self.pinholes.len()
    }

    /// The flow that a message came by.
    pub(crate) fn flow_of(&self, peer: Peer) -> Option<Flow> {
        let (listener, remote, serial) = match peer {
            Peer::Core(_) | Peer::Loop => return None,
            Peer::Tcp(conn) => {
                let connection = self.connections.get(&conn)?;
                // Numbers are used up to 2^32 connections; later ones could only be mistaken with the same remote port.
                (
                    connection.listener,
                    connection.remote,
                    self.first_serial.wrapping_add(conn as u32),
                )
            }
            Peer::Udp { listener, remote } => (listener, remote, 0),
        };
        let transport = self.listeners.get(usize::from(listener))?.transport;
        Some(Flow { gateway: self.gateway, transport, listener, remote, serial })
    }

    /// Where a flow leads, if it still does.
    pub(crate) fn peer_of(&self, flow: &Flow) -> Option<Peer> {
        let listener = self.listeners.get(usize::from(flow.listener))?;
        if flow.gateway != self.gateway || listener.transport != flow.transport {
            return None;
        }
        if flow.transport == EdgeTransport::Udp {
            return Some(Peer::Udp { listener: flow.listener, remote: flow.remote });
        }
        let conn = u64::from(flow.serial.wrapping_sub(self.first_serial));
        let connection = self.connections.get(&conn)?;
        (connection.remote == flow.remote && connection.listener == flow.listener)
            .then_some(Peer::Tcp(conn))
    }

    /// The listener that a peer uses.
    pub(crate) fn listener(&self, peer: Peer) -> Option<&Listener> {
        let number = match peer {
            Peer::Core(_) | Peer::Loop => return None,
            Peer::Tcp(conn) => self.connections.get(&conn)?.listener,
            Peer::Udp { listener, .. } => listener,
        };
        self.listeners.get(usize::from(number))
    }

    /// The value of a Record-Route or Path header that leads back to the phone by the same flow.
    pub(crate) fn route_value(&self, keys: &Keys, peer: Peer, use_: Use) -> Option<String> {
        let token = FlowToken { use_, flow: self.flow_of(peer)? }.sign(keys);
        let listener = self.listener(peer)?;
        let transport =
            if listener.transport == EdgeTransport::Udp { "" } else { ";transport=tcp" };
        // RFC 5626 section 5.1: "ob" tells that the edge proxy knows outbound.
        let outbound = if use_ == Use::Path { ";ob" } else { "" };
        let advertised = dialtone_sip::host_port(listener.advertised);
        Some(format!("<sip:{token}@{advertised}{transport};lr{outbound}>"))
    }

    /// Keeps the pinhole of a registered phone open until then; at most `bound` of them.
    pub(crate) fn keep_open(&mut self, now: Instant, peer: Peer, until: Instant, bound: usize) {
        let Peer::Udp { listener, remote } = peer else { return };
        let key = (listener, remote);
        if let Some(pinhole) = self.pinholes.get_mut(&key) {
            pinhole.until = until;
        } else if self.pinholes.len() < bound {
            let next = now + self.keep_alive;
            self.pinholes.insert(key, Pinhole { until, next });
            self.deadlines.insert((next, key));
        }
    }

    /// The phone has no binding any more.
    pub(crate) fn let_close(&mut self, peer: Peer) {
        let Peer::Udp { listener, remote } = peer else { return };
        if let Some(pinhole) = self.pinholes.remove(&(listener, remote)) {
            self.deadlines.remove(&(pinhole.next, (listener, remote)));
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The phones to which something must be sent now.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<(u8, SocketAddr)> {
        let mut due = Vec::new();
        while let Some((deadline, key)) =
            self.deadlines.first().filter(|(deadline, _)| *deadline <= now).copied()
        {
            self.deadlines.remove(&(deadline, key));
            let Some(pinhole) = self.pinholes.get_mut(&key) else { continue };
            if pinhole.until <= now {
                self.pinholes.remove(&key);
                continue;
            }
            pinhole.next = now + self.keep_alive;
            self.deadlines.insert((pinhole.next, key));
            due.push(key);
        }
        due
    }
}
