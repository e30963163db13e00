//! All SCTP associations of one UDP port, without sockets or clock.
//!
//! Packets, ICMP errors, commands and time go in; packets ([`Stack::transmits`]) and events ([`Stack::events`]) come
//! out. dcsctp runs each association; this module decides to which one a packet belongs.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use dcsctp::api::handover::HandoverReadiness;
use dcsctp::api::{
    DcSctpSocket as _, ErrorKind, Message, PpId, SendError, SendOptions, Socket, SocketEvent,
    SocketState, SocketTime, StreamId,
};

use crate::bucket::{Bucket, Sources, site};
use crate::config::EndpointConfig;
use crate::cookie::{Baker, Key};
use crate::counters::{Live, add};
use crate::entropy::Entropy;
use crate::model::{AssocId, DownCause, Link, NetCommand, NetEvent, Protocol, Remote};
use crate::packet::{self, InitAck, Packet, PacketError, Returned};
use crate::session::SessionEvent;

use hoard::{Hoard, Hoards};

/// DEVIATION(G33): which stream carries what is not said; everything goes in order on one.
const STREAM: StreamId = StreamId(0);
/// ASAP's and ENRP's longest message with its padding, and some room.
pub(crate) const MAX_MESSAGE: usize = 1 << 17;
/// Something that was sent is not acknowledged yet.
const UNDER_WAY: HandoverReadiness = HandoverReadiness(
    HandoverReadiness::SEND_QUEUE_NOT_EMPTY.0
        | HandoverReadiness::RETRANSMISSION_QUEUE_OUTSTANDING_DATA.0,
);
/// What is offered to peers; this side uses the first only.
const STREAMS: u16 = 16;
/// Chunks other than DATA in one packet: each may have to be answered by a packet of its own.
const MOST_CONTROL_CHUNKS: usize = 16;
/// Answers to strangers are dropped while this many packets wait for the socket.
const BACKLOG: usize = 4096;
const SUSPECT_INTERVAL: Duration = Duration::from_millis(100);
const EPHEMERAL: std::ops::Range<u16> = 49_152..65_535;
/// Session events that wait here; beyond it messages stay with dcsctp, whose receive windows close.
const SESSION_EVENTS: usize = 64;

pub(crate) struct Stack {
    config: EndpointConfig,
    baker: Baker,
    entropy: Entropy,
    counters: Arc<Live>,
    assocs: HashMap<AssocId, Assoc>,
    by_key: HashMap<Key, AssocId>,
    by_tag: HashMap<Tag, AssocId>,
    timers: BTreeSet<(Instant, AssocId)>,
    /// One closed socket for each SCTP port, which only ever answers INITs.
    responders: HashMap<u16, Socket>,
    /// Associations with messages in their outbox.
    dirty: BTreeSet<AssocId>,
    /// Tags of associations that ended while their cookies may be good: two generations of a cookie's life.
    spent: [HashSet<Tag>; 2],
    spent_since: Instant,
    accepted: Arc<AtomicU64>,
    handshakes: Bucket,
    sources: Sources,
    strangers: Bucket,
    /// How many associations are with one address, or one IPv6 network.
    sites: HashMap<IpAddr, usize>,
    hoards: Hoards,
    pub(crate) transmits: VecDeque<(SocketAddr, Vec<u8>)>,
    pub(crate) events: VecDeque<NetEvent>,
    pub(crate) session_events: VecDeque<SessionEvent>,
    /// How many of the associations are sessions.
    sessions: usize,
    /// Sessions with messages that wait for room in `session_events`.
    held: BTreeSet<AssocId>,
}

/// Our own verification tag with everything but the peer's UDP port: finds an association whose peer moved.
///
/// The peer's address is part of it although NATs may change that, too: a tag alone would be one of 2^32 values for
/// all associations together, within reach of someone who tries them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Tag {
    tag: u32,
    peer: IpAddr,
    peer_port: u16,
    local_port: u16,
}

impl Tag {
    fn new(tag: u32, key: &Key) -> Self {
        Self { tag, peer: key.peer.ip(), peer_port: key.peer_port, local_port: key.local_port }
    }
}

struct Assoc {
    socket: Socket,
    created: Instant,
    key: Key,
    protocol: Protocol,
    my_tag: u32,
    /// 0 while unknown.
    peer_tag: u32,
    up: bool,
    outbox: Vec<Message>,
    /// The cause to report, when this side has decided to end it.
    verdict: Option<DownCause>,
    ending: Option<Ending>,
    scheduled: Option<Instant>,
    suspected: Option<Instant>,
    /// The consumer wants no messages at present.
    on_hold: bool,
    hoard: Hoard,
}

/// The consumer wants an orderly end.
struct Ending {
    deadline: Instant,
    /// SHUTDOWN was handed to dcsctp, which would not wait for what is queued or has to be sent again.
    begun: bool,
}

impl Stack {
    pub(crate) fn new(
        config: EndpointConfig,
        now: Instant,
        counters: Arc<Live>,
        accepted: Arc<AtomicU64>,
    ) -> Result<Self, ring::error::Unspecified> {
        Self::with_entropy(config, now, counters, accepted, Entropy::system())
    }

    pub(crate) fn with_entropy(
        config: EndpointConfig,
        now: Instant,
        counters: Arc<Live>,
        accepted: Arc<AtomicU64>,
        mut entropy: Entropy,
    ) -> Result<Self, ring::error::Unspecified> {
        Ok(Self {
            baker: Baker::new(&mut entropy, now, config.timers.cookie_life)?,
            sources: Sources::new(config.max_handshakes_per_address, entropy.bytes()?, now),
            entropy,
            counters,
            assocs: HashMap::new(),
            by_key: HashMap::new(),
            by_tag: HashMap::new(),
            timers: BTreeSet::new(),
            responders: HashMap::new(),
            dirty: BTreeSet::new(),
            spent: Default::default(),
            spent_since: now,
            accepted,
            handshakes: Bucket::new(config.max_handshakes_per_second, now),
            strangers: Bucket::new(config.max_out_of_the_blue_per_second, now),
            sites: HashMap::new(),
            hoards: Hoards::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            session_events: VecDeque::new(),
            sessions: 0,
            held: BTreeSet::new(),
            config,
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.assocs.is_empty()
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.age_spent(now);
        let due: Vec<_> = self.timers.iter().take_while(|(at, _)| *at <= now).copied().collect();
        for (at, id) in due {
            self.timers.remove(&(at, id));
            let Some(assoc) = self.assocs.get_mut(&id) else { continue };
            assoc.scheduled = None;
            let overdue = assoc.ending.as_ref().is_some_and(|ending| ending.deadline <= now);
            self.operate(now, id, |socket| {
                if overdue {
                    socket.close();
                }
            });
        }
    }

    /// A UDP datagram has arrived.
    pub(crate) fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        let packet = match Packet::parse(bytes) {
            Ok(packet) => packet,
            Err(PacketError::Malformed) => return add(&self.counters.malformed),
            Err(PacketError::Checksum) => return add(&self.counters.bad_checksum),
        };
        let key =
            Key { peer: from, peer_port: packet.source_port, local_port: packet.destination_port };
        if !is_sound(&packet) || !is_unicast(from) {
            return add(&self.counters.malformed);
        }
        match packet.chunks().next().map(|chunk| chunk.kind) {
            // dcsctp sends the cookie back whole: one that fills a packet would not leave room for the rest.
            Some(packet::INIT | packet::INIT_ACK) if bytes.len() > self.config.mtu => {
                add(&self.counters.malformed)
            }
            Some(packet::INIT) => self.handle_init(now, key, &packet),
            Some(packet::COOKIE_ECHO) => self.handle_cookie_echo(now, key, &packet),
            _ => self.handle_packet(now, key, &packet),
        }
    }

    /// Verification tags are checked here (RFC 9260 8.5): a packet with a wrong one costs no more than that. dcsctp
    /// would take a handshake from anybody whose packet has a SHUTDOWN ACK in it.
    fn handle_packet(&mut self, now: Instant, key: Key, packet: &Packet<'_>) {
        let tagged = self.by_tag.get(&Tag::new(packet.tag, &key)).copied();
        let Some(id) = tagged.or_else(|| self.by_key.get(&key).copied()) else {
            return self.handle_stranger(now, key, packet);
        };
        let Some(assoc) = self.assocs.get(&id) else { return };
        let connecting = assoc.socket.state() == SocketState::Connecting;
        let reflected = packet.chunks().any(|chunk| {
            [packet::ABORT, packet::SHUTDOWN_COMPLETE].contains(&chunk.kind)
                && chunk.flags & packet::TAG_REFLECTED != 0
        });
        match tagged {
            // 8.5.1 B and C.
            _ if reflected => {
                if packet.tag != assoc.peer_tag || packet.tag == 0 {
                    return add(&self.counters.wrong_tag);
                }
            }
            Some(id) => self.follow(id, key),
            // 8.5.1 E.
            None if connecting && packet.has(packet::SHUTDOWN_ACK) => {
                return self.handle_stranger(now, key, packet);
            }
            None => return add(&self.counters.wrong_tag),
        }
        if packet.has(packet::ABORT) {
            add(&self.counters.aborts_in);
            // dcsctp ignores an ABORT that answers its INIT.
            if connecting {
                return self.finish(id, DownCause::Aborted);
            }
        }
        if !self.stow(id, packet) {
            add(&self.counters.violations);
            return self.abort(now, id);
        }
        let window = u32::try_from(self.config.receive_window).unwrap_or(u32::MAX);
        let acknowledged = packet::acknowledged_by_shutdown(packet, window);
        self.operate(now, id, |socket| {
            if let Some(sack) = &acknowledged {
                socket.handle_input(sack);
            }
            socket.handle_input(packet.bytes);
        });
    }

    /// RFC 6951 5.4: the encapsulation port follows packets that carry our tag.
    fn follow(&mut self, id: AssocId, key: Key) {
        let Some(assoc) = self.assocs.get_mut(&id) else { return };
        if assoc.key == key {
            return;
        }
        if self.by_key.get(&assoc.key) == Some(&id) {
            self.by_key.remove(&assoc.key);
        }
        assoc.key = key;
        // Whoever had this port before is found by its tag when it speaks again.
        self.by_key.insert(key, id);
        if assoc.up {
            add(&self.counters.moves);
            self.emit(id, NetEvent::Moved { assoc: id, remote: remote(&key) });
        }
    }

    /// RFC 9260 8.4.
    fn handle_stranger(&mut self, now: Instant, key: Key, packet: &Packet<'_>) {
        add(&self.counters.out_of_the_blue);
        let silent = [packet::ABORT, packet::SHUTDOWN_COMPLETE, packet::COOKIE_ACK, packet::ERROR];
        if silent.into_iter().any(|kind| packet.has(kind)) {
            return;
        }
        let kind = if packet.has(packet::SHUTDOWN_ACK) {
            packet::SHUTDOWN_COMPLETE
        } else {
            packet::ABORT
        };
        self.answer_stranger(now, key, packet.tag, kind, packet::TAG_REFLECTED, &[]);
    }

    fn answer_stranger(
        &mut self,
        now: Instant,
        key: Key,
        tag: u32,
        kind: u8,
        flags: u8,
        value: &[u8],
    ) {
        if self.transmits.len() < BACKLOG && self.strangers.take(now) {
            let bytes = packet::answer(key.local_port, key.peer_port, tag, kind, flags, value);
            self.transmits.push_back((key.peer, bytes));
        }
    }

    /// ICMP says that a packet of ours did not arrive. `returned` is its beginning. `port` tells the port
    /// unreachable error from others (host, network), which say nothing about the peer's process.
    pub(crate) fn handle_unreachable(
        &mut self,
        now: Instant,
        to: SocketAddr,
        port: bool,
        returned: &[u8],
    ) {
        let matched = Returned::parse(returned).and_then(|returned| {
            let key = Key {
                peer: to,
                peer_port: returned.destination_port,
                local_port: returned.source_port,
            };
            let id = *self.by_key.get(&key)?;
            let assoc = self.assocs.get(&id)?;
            // Only we and the peer know the tags (RFC 9260 section 10, ICMP6 and ICMP8).
            let genuine = match returned.initiate_tag {
                Some(initiate_tag) => initiate_tag == assoc.my_tag,
                None => returned.tag != 0 && returned.tag == assoc.peer_tag,
            };
            genuine.then_some(id)
        });
        let Some((id, assoc)) = matched.and_then(|id| Some((id, self.assocs.get_mut(&id)?))) else {
            return add(&self.counters.icmp_unmatched);
        };
        add(&self.counters.icmp_matched);
        if !assoc.up {
            self.finish(id, DownCause::Unreachable);
        } else if port && assoc.suspected.is_none_or(|at| now >= at + SUSPECT_INTERVAL) {
            assoc.suspected = Some(now);
            self.emit(id, NetEvent::Suspect { assoc: id });
        }
    }

    /// Messages are held back until [`Stack::flush`], so that several share a packet.
    pub(crate) fn handle_command(&mut self, now: Instant, command: NetCommand) {
        match command {
            NetCommand::Connect { assoc, protocol, remote } => {
                self.connect(now, assoc, protocol, remote)
            }
            NetCommand::Send { assoc: id, payload } => match self.assocs.get_mut(&id) {
                Some(assoc)
                    if assoc.up && assoc.ending.is_none() && payload.len() <= MAX_MESSAGE =>
                {
                    assoc.outbox.push(Message::new(STREAM, PpId(ppid(assoc.protocol)), payload));
                    self.dirty.insert(id);
                }
                _ => add(&self.counters.sends_dropped),
            },
            NetCommand::Abort { assoc } => self.abort(now, assoc),
            NetCommand::Shutdown { assoc: id } => {
                self.flush_one(now, id);
                let deadline = now + self.config.timers.shutdown;
                match self.assocs.get_mut(&id) {
                    Some(assoc) if !assoc.up => self.finish(id, DownCause::Local),
                    Some(assoc) if assoc.ending.is_none() => {
                        assoc.verdict = Some(DownCause::Local);
                        assoc.ending = Some(Ending { deadline, begun: false });
                        self.operate(now, id, |_| ());
                    }
                    _ => (),
                }
            }
        }
    }

    /// Tells the peer (ABORT) and reports [`DownCause::Local`].
    pub(crate) fn abort(&mut self, now: Instant, id: AssocId) {
        if let Some(assoc) = self.assocs.get_mut(&id) {
            assoc.verdict = Some(DownCause::Local);
            self.operate(now, id, |socket| socket.close());
        }
    }

    /// Answers a dial that could not be made.
    pub(crate) fn refuse(&mut self, id: AssocId) {
        self.emit(id, NetEvent::Down { assoc: id, cause: DownCause::Local });
    }

    pub(crate) fn end_all(&mut self, now: Instant, graceful: bool) {
        let mut all: Vec<_> = self.assocs.keys().copied().collect();
        all.sort_unstable();
        for assoc in all {
            if graceful {
                self.handle_command(now, NetCommand::Shutdown { assoc });
            } else {
                self.abort(now, assoc);
            }
        }
    }

    /// Hands the collected messages to SCTP.
    pub(crate) fn flush(&mut self, now: Instant) {
        while let Some(id) = self.dirty.pop_first() {
            self.flush_one(now, id);
        }
    }

    fn flush_one(&mut self, now: Instant, id: AssocId) {
        self.dirty.remove(&id);
        let Some(assoc) = self.assocs.get_mut(&id) else { return };
        let outbox = std::mem::take(&mut assoc.outbox);
        if outbox.is_empty() {
            return;
        }
        let count = outbox.len() as u64;
        let (mut failed, mut full) = (0, false);
        self.operate(now, id, |socket| {
            if let Err(errors) = socket.send_many(outbox, &SendOptions::default()) {
                failed = errors.0.len() as u64;
                full = errors.0.iter().any(|(_, error)| *error == SendError::ResourceExhaustion);
            }
        });
        self.account(now, id, count, failed, full);
    }

    fn connect(&mut self, now: Instant, id: AssocId, protocol: Protocol, remote: Remote) {
        if self.assocs.contains_key(&id) {
            return;
        }
        if self.is_full(id.is_session(), remote.addr.ip()) {
            add(&self.counters.associations_refused);
            return self.refuse(id);
        }
        self.reseed();
        let own = match protocol {
            Protocol::Asap => self.config.asap_port,
            Protocol::Enrp => self.config.enrp_port,
        };
        // Two elements that are users of each other have an association for either direction.
        let own = own.filter(|_| !id.is_session());
        // The well-known port may already be in use towards this peer, which had dialled us.
        let ports =
            own.into_iter().chain(std::iter::repeat_with(|| fastrand::u16(EPHEMERAL))).take(16);
        let mut keys = ports.map(|local_port| Key {
            peer: remote.addr,
            peer_port: remote.sctp_port,
            local_port,
        });
        let Some(key) = keys.find(|key| !self.by_key.contains_key(key)) else {
            return self.refuse(id);
        };
        self.reseed();
        self.insert(now, id, key, protocol, 0);
        self.operate(now, id, |socket| socket.connect());
    }

    fn insert(&mut self, now: Instant, id: AssocId, key: Key, protocol: Protocol, peer_tag: u32) {
        let options = self.options(protocol, key.local_port, key.peer_port);
        let socket = Socket::new("association", &options);
        let assoc = Assoc {
            socket,
            created: now,
            key,
            protocol,
            my_tag: 0,
            peer_tag,
            up: false,
            outbox: Vec::new(),
            verdict: None,
            ending: None,
            scheduled: None,
            suspected: None,
            on_hold: false,
            hoard: Hoard::new(now),
        };
        *self.sites.entry(site(key.peer.ip())).or_default() += 1;
        self.sessions += usize::from(id.is_session());
        self.assocs.insert(id, assoc);
        self.by_key.insert(key, id);
    }

    /// Does something with an association's socket, then everything that follows from it.
    fn operate(&mut self, now: Instant, id: AssocId, act: impl FnOnce(&mut Socket)) {
        let Some(assoc) = self.assocs.get_mut(&id) else { return };
        let time = SocketTime::zero() + now.saturating_duration_since(assoc.created);
        // A fault in the SCTP code must cost one association, not all of them.
        let done = catch_unwind(AssertUnwindSafe(|| {
            assoc.socket.advance_time(time);
            act(&mut assoc.socket);
        }));
        if done.is_err() {
            add(&self.counters.faults);
            return self.finish(id, DownCause::Aborted);
        }
        let mut down = self.take_events(now, id);
        self.take_messages(id);
        let Some(assoc) = self.assocs.get_mut(&id) else { return };
        if down.is_none()
            && let Some(ending) = &mut assoc.ending
            && !ending.begun
            && !assoc.socket.get_handover_readiness().contains(UNDER_WAY)
        {
            ending.begun = true;
            assoc.socket.shutdown();
            down = self.take_events(now, id);
        }
        match down {
            Some(cause) => self.finish(id, cause),
            None => {
                self.schedule(now, id);
                self.weigh(now, id);
            }
        }
    }

    fn take_events(&mut self, now: Instant, id: AssocId) -> Option<DownCause> {
        let mut down = None;
        loop {
            let assoc = self.assocs.get_mut(&id)?;
            let Some(event) = assoc.socket.poll_event() else { break };
            match event {
                SocketEvent::SendPacket(bytes) => {
                    if let Some((kind, tag)) = packet::outgoing(&bytes)
                        && ![
                            packet::INIT,
                            packet::INIT_ACK,
                            packet::ABORT,
                            packet::SHUTDOWN_COMPLETE,
                        ]
                        .contains(&kind)
                    {
                        assoc.peer_tag = tag;
                    }
                    let key = assoc.key;
                    self.transmit(now, key, bytes);
                }
                SocketEvent::OnConnected() if assoc.up => {
                    // The peer replaced the association under our feet; what was under way is lost.
                    assoc.socket.close();
                    down = down.or(Some(DownCause::Aborted));
                }
                SocketEvent::OnConnected() => {
                    assoc.up = true;
                    add(&self.counters.ups);
                    let (protocol, remote) = (assoc.protocol, remote(&assoc.key));
                    self.emit(id, NetEvent::Up { assoc: id, protocol, remote, peer: None });
                }
                SocketEvent::OnClosed() => {
                    down = down.or(Some(DownCause::Closed));
                }
                SocketEvent::OnAborted(kind, reason) => {
                    tracing::debug!(?kind, reason, "association aborted");
                    let cause = match kind {
                        ErrorKind::TooManyRetries => DownCause::TimedOut,
                        _ => DownCause::Aborted,
                    };
                    down = down.or(Some(cause));
                }
                SocketEvent::OnLifecycleMessageDelivered(number) => {
                    let number = number.value();
                    self.session_events.push_back(SessionEvent::Delivered { assoc: id, number });
                }
                SocketEvent::OnError(kind, reason) => {
                    tracing::trace!(?kind, reason, "association error")
                }
                _ => (),
            }
        }
        let assoc = self.assocs.get_mut(&id)?;
        let tag = assoc.socket.verification_tag();
        if tag != assoc.my_tag && tag != 0 {
            self.by_tag.remove(&Tag::new(assoc.my_tag, &assoc.key));
            self.by_tag.insert(Tag::new(tag, &assoc.key), id);
            assoc.my_tag = tag;
        }
        down
    }

    /// INIT ACKs get their seal on the way out.
    fn transmit(&mut self, now: Instant, key: Key, bytes: Vec<u8>) {
        let sealed = InitAck::find(&bytes).map(|ack| {
            let suffix = self.baker.suffix(now, &key, ack.cookie, ack.peer_tag, ack.my_tag);
            ack.with_suffix(key.peer_port, &suffix)
        });
        self.transmits.push_back((key.peer, sealed.unwrap_or(bytes)));
    }

    fn schedule(&mut self, now: Instant, id: AssocId) {
        let Some(assoc) = self.assocs.get_mut(&id) else { return };
        let timeout = assoc.socket.poll_timeout();
        let timer = (timeout != SocketTime::infinite_future())
            .then(|| assoc.created.checked_add(timeout - SocketTime::zero()))
            .flatten();
        let ending = assoc.ending.as_ref().map(|ending| ending.deadline);
        let Some(next) = [timer, ending].into_iter().flatten().min() else { return };
        let next = next.max(now);
        // A timer that comes too early only looks again; most are pushed back before they fire.
        if assoc.scheduled.is_none_or(|at| next < at) {
            if let Some(at) = assoc.scheduled.replace(next) {
                self.timers.remove(&(at, id));
            }
            self.timers.insert((next, id));
        }
    }

    fn finish(&mut self, id: AssocId, cause: DownCause) {
        if let Some(assoc) = self.forget(id) {
            if assoc.up {
                add(&self.counters.downs);
            }
            let cause = assoc.verdict.unwrap_or(cause);
            self.emit(id, NetEvent::Down { assoc: id, cause });
        }
    }

    fn forget(&mut self, id: AssocId) -> Option<Assoc> {
        let assoc = self.assocs.remove(&id)?;
        self.sessions -= usize::from(id.is_session());
        self.held.remove(&id);
        self.unburden(&assoc.hoard);
        if let Entry::Occupied(mut site) = self.sites.entry(site(assoc.key.peer.ip())) {
            *site.get_mut() -= 1;
            if *site.get() == 0 {
                site.remove();
            }
        }
        if self.by_key.get(&assoc.key) == Some(&id) {
            self.by_key.remove(&assoc.key);
        }
        let tag = Tag::new(assoc.my_tag, &assoc.key);
        self.by_tag.remove(&tag);
        self.spent[0].insert(tag);
        self.dirty.remove(&id);
        if let Some(at) = assoc.scheduled {
            self.timers.remove(&(at, id));
        }
        Some(assoc)
    }

    /// Whether there are too many associations, all in all or with this peer's address.
    fn is_full(&self, session: bool, peer: IpAddr) -> bool {
        let here = self.sites.get(&site(peer)).copied().unwrap_or(0);
        if here >= self.config.max_associations_per_address {
            true
        } else if session {
            self.sessions >= self.config.sessions.map_or(0, |limits| limits.max_associations)
        } else {
            self.assocs.len() - self.sessions >= self.config.max_associations
        }
    }

    /// What is spoken on an SCTP port of ours.
    fn protocol(&self, port: u16) -> Option<Protocol> {
        if self.config.asap_port == Some(port) || self.is_session_port(port) {
            Some(Protocol::Asap)
        } else if self.config.enrp_port == Some(port) {
            Some(Protocol::Enrp)
        } else {
            None
        }
    }

    /// dcsctp draws tags and sequence numbers from this thread's generator, which is no secret after a few outputs.
    fn reseed(&mut self) {
        if let Ok(seed) = self.entropy.bytes() {
            fastrand::seed(u64::from_ne_bytes(seed));
        }
    }
}

/// RFC 9260 6.10 and 3.3.11: what must stand alone, and what must stand first.
fn is_sound(packet: &Packet<'_>) -> bool {
    let alone = [packet::INIT, packet::INIT_ACK, packet::SHUTDOWN_COMPLETE];
    let mut chunks = packet.chunks().map(|chunk| chunk.kind);
    let first = chunks.next();
    let mut control = 0;
    for kind in chunks {
        control += usize::from(kind != packet::DATA);
        if alone.contains(&kind) || kind == packet::COOKIE_ECHO {
            return false;
        }
        if first.is_some_and(|first| alone.contains(&first)) {
            return false;
        }
    }
    control < MOST_CONTROL_CHUNKS && packet.source_port != 0 && packet.destination_port != 0
}

/// RFC 9260 8.4 rule 1. Nothing can be sent to port 0.
fn is_unicast(from: SocketAddr) -> bool {
    let ip = from.ip().to_canonical();
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !(ip.is_multicast() || ip.is_unspecified() || broadcast || from.port() == 0)
}

fn remote(key: &Key) -> Remote {
    Remote { link: Link::Sctp, addr: key.peer, sctp_port: key.peer_port }
}

fn ppid(protocol: Protocol) -> u32 {
    match protocol {
        Protocol::Asap => 11,
        Protocol::Enrp => 12,
    }
}

pub mod fuzz;
mod handshake;
mod hoard;
mod options;
mod session;

#[cfg(test)]
mod cost;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod lossy;
#[cfg(test)]
mod tests;
