//! What readers outside the core see: everything that the admin interface shows.
//!
//! A [`Snapshot`] costs little and is made often. Pools are read when somebody asks for them, a large handlespace part by
//! part: whoever reads a million elements keeps nobody waiting for long.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dialtone_handlespace::{Cursor, Element, Handle, Pool};
use dialtone_wire::{ParameterType, PeId, Policy, PolicyType, ServerId, TransportUse};

use super::Registrar;
use super::asap::remote_of;
use super::output::Counters;
use super::peers::Status;

/// A registrar's state at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub id: ServerId,
    pub in_service: bool,
    /// Time since start.
    pub uptime: Duration,
    /// Checksum of what this registrar owns.
    pub checksum: u16,
    pub pools: usize,
    pub peers: Vec<PeerSnapshot>,
    /// Addresses where registrars are or are looked for.
    pub contacts: usize,
    pub elements: usize,
    /// Elements whose home this registrar is.
    pub owned: usize,
    /// ASAP associations and connections that are up.
    pub clients: usize,
    pub subscriptions: usize,
    /// Imports that met a pool with other rules (G17).
    pub conflicts: u64,
    pub counters: Counters,
}

/// A part of the handlespace.
#[derive(Clone, Debug)]
pub struct Page {
    pub pools: Vec<PoolSnapshot>,
    /// Where the next one begins, perhaps within the last pool; `None` if this is the last one.
    pub next: Option<Cursor>,
}

/// A pool.
#[derive(Clone, Debug)]
pub struct PoolSnapshot {
    pub handle: Handle,
    pub policy: PolicyType,
    pub transport: ParameterType,
    pub transport_use: TransportUse,
    pub subscribers: usize,
    pub elements: Vec<ElementSnapshot>,
}

/// An element in a [`PoolSnapshot`].
#[derive(Clone, Debug)]
pub struct ElementSnapshot {
    pub pe_id: PeId,
    pub home: ServerId,
    /// Registration life in seconds; -1 is infinite.
    pub life: i32,
    pub transport: AddressSnapshot,
    pub policy: Policy<'static>,
    /// Address and encapsulation port, and the SCTP port.
    pub asap: Option<(SocketAddr, u16)>,
    /// Watched by this registrar: keep-alives unanswered at the moment.
    pub unanswered: Option<u8>,
    /// Unreachability reports that count.
    pub reports: u32,
}

/// Where users reach an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressSnapshot {
    Socket(SocketAddr),
    Opaque(Vec<u8>),
}

/// A peer in a [`Snapshot`].
#[derive(Clone, Debug)]
pub struct PeerSnapshot {
    pub id: ServerId,
    pub addr: Option<SocketAddr>,
    /// `active`, `probed`, `suspended` or `target`.
    pub status: &'static str,
    pub last_heard: Duration,
    /// The checksum that the peer says it has.
    pub theirs: Option<u16>,
    /// The checksum of what we believe it owns.
    pub ours: u16,
    pub owned: usize,
    pub resyncing: bool,
}

impl Registrar {
    /// The state at `now`.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let peers = self.peers.iter().map(|(id, peer)| PeerSnapshot {
            id: *id,
            addr: peer
                .assoc
                .and_then(|assoc| self.assocs.get(&assoc))
                .map(|assoc| assoc.remote.addr),
            status: match peer.status {
                Status::Active => "active",
                Status::Probed => "probed",
                Status::Suspended { .. } => "suspended",
                Status::Target => "target",
            },
            last_heard: now.saturating_duration_since(peer.last_heard),
            theirs: peer.audit.theirs,
            ours: self.checksum_of(*id),
            owned: self.space.owned_len(*id),
            resyncing: peer.audit.is_running(),
        });
        let clients = self.assocs.values().filter(|assoc| {
            assoc.up && !assoc.closing && assoc.protocol == dialtone_transport::Protocol::Asap
        });
        Snapshot {
            id: self.id,
            in_service: self.in_service(),
            uptime: now.saturating_duration_since(self.started),
            checksum: self.checksum_of(self.id),
            pools: self.space.pools().len(),
            peers: peers.collect(),
            contacts: self.contacts.len(),
            elements: self.space.len(),
            owned: self.space.owned_len(self.id),
            clients: clients.count(),
            subscriptions: self.subscriptions,
            conflicts: self.space.conflicts(),
            counters: self.counters,
        }
    }

    /// All pools, from the first on or where the page before has ended; about so many elements at a time.
    pub fn page(&self, after: Option<&Cursor>, most: usize) -> Page {
        let chunk = self.space.chunk(None, after, most, usize::MAX);
        let pools = chunk.pools.iter().filter_map(|entry| {
            let handle = self.space.handle(entry.handle.0).ok()?;
            let pool = self.space.pool(handle.as_bytes())?;
            let elements = entry.elements.iter().filter_map(|element| pool.get(element.pe_id));
            Some(self.pool_snapshot(&handle, pool, elements))
        });
        Page { pools: pools.collect(), next: chunk.next }
    }

    /// One pool.
    pub fn pool(&self, handle: &Handle) -> Option<PoolSnapshot> {
        let pool = self.space.pool(handle.as_bytes())?;
        Some(self.pool_snapshot(handle, pool, pool.elements()))
    }

    fn pool_snapshot<'a>(
        &self,
        handle: &Handle,
        pool: &Pool,
        elements: impl Iterator<Item = &'a Element>,
    ) -> PoolSnapshot {
        let kind = pool.kind();
        PoolSnapshot {
            handle: handle.clone(),
            policy: kind.policy,
            transport: kind.transport,
            transport_use: kind.use_,
            subscribers: self.subscribers.get(handle).map_or(0, |found| found.ids.len()),
            elements: elements.map(|element| self.element_snapshot(handle, element)).collect(),
        }
    }

    fn element_snapshot(&self, handle: &Handle, element: &Element) -> ElementSnapshot {
        let watch = self.watches.get(&(handle.clone(), element.pe_id));
        let transport = match (element.transport.socket_addr(), &element.transport) {
            (Some(addr), _) => AddressSnapshot::Socket(addr),
            (None, dialtone_wire::Transport::Opaque(data)) => {
                AddressSnapshot::Opaque(data.to_vec())
            }
            (None, _) => AddressSnapshot::Opaque(Vec::new()),
        };
        ElementSnapshot {
            pe_id: element.pe_id,
            home: element.home,
            life: element.life,
            transport,
            policy: element.policy.clone(),
            asap: remote_of(element).map(|remote| (remote.addr, remote.sctp_port)),
            unanswered: watch.filter(|_| element.home == self.id).map(|watch| watch.probing),
            reports: watch.map_or(0, |watch| watch.reports()),
        }
    }
}
