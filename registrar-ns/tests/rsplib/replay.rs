//! A registrar core takes a part in a capture, in virtual time. The others say what they said, at their times, and what
//! rsplib would say to questions that nobody asked in the capture.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use dialtone_registrar_ns::core::{Config, Event, Limits, Output, Registrar, TimerConfig};
use dialtone_transport::{
    AssocId, DownCause, ENCAPSULATION_PORT, Link, NetCommand, NetEvent, Protocol, Remote,
};
use dialtone_wire::{AsapType, Compat, EnrpType, asap, enrp};

use crate::script::{Line, Part, Place, Step};

/// One way of a packet.
const DELAY: Duration = Duration::from_millis(1);
/// INITs without an answer.
const GIVE_UP: Duration = Duration::from_millis(900);
/// A question that the captured registrar asked as well is answered by the script, this much later at most.
const SCRIPTED: Duration = Duration::from_millis(100);

/// A registrar with rsplib's timers and limits. It has waited for a moment before it joined the multicast group.
pub(crate) fn config(part: &Part) -> Config {
    let (s, ms) = (Duration::from_secs, Duration::from_millis);
    Config {
        multicast: true,
        alone_after: Some(ms(4970)),
        compat: Compat::Rsplib,
        timers: TimerConfig {
            heartbeat: ms(2444),
            last_heard: s(5),
            // Keep-alives fall at random moments, up to 2.5 s sooner than rsplib's. With that more, elements that freeze
            // stand in the tables in which rsplib has them.
            keep_alive_last_timeout: ms(7500),
            ..TimerConfig::rfc()
        },
        limits: Limits { default_items: 3, ..Limits::default() },
        ..Config::new(IpAddr::V4(part.own))
    }
}

pub(crate) struct Replay {
    pub(crate) part: Part,
    start: Instant,
    now: Instant,
    pub(crate) core: Registrar,
    steps: VecDeque<(Duration, Place, Step)>,
    queue: BTreeMap<(Instant, u64), NetEvent>,
    serial: u64,
    accepted: u64,
    /// Associations that are up, and where the script has them.
    up: BTreeMap<AssocId, Place>,
    /// Said in the script where no association is yet.
    held: Vec<(Place, Vec<u8>)>,
    pub(crate) said: Vec<Line>,
    pub(crate) events: Vec<(Duration, Event)>,
}

impl Replay {
    #[expect(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
    pub(crate) fn new(part: Part, config: Config, seed: u64) -> Self {
        let start = Instant::now();
        let born = part.start();
        let core = Registrar::new(
            start + born,
            config,
            part.id_of(part.own),
            fastrand::Rng::with_seed(seed),
        );
        Self {
            start,
            now: start + born,
            core,
            // Keep-alives are answered when they come, not when rsplib's came.
            steps: part
                .steps
                .iter()
                .filter(|(at, place, step)| *at >= born && !is_keep_alive_ack(*place, step))
                .cloned()
                .collect(),
            part,
            queue: BTreeMap::new(),
            serial: 0,
            accepted: 0,
            up: BTreeMap::new(),
            held: Vec::new(),
            said: Vec::new(),
            events: Vec::new(),
        }
    }

    pub(crate) fn at(&self) -> Duration {
        self.now - self.start
    }

    /// Plays the script up to this time.
    pub(crate) fn run(&mut self, until: Duration) {
        let end = self.start + until;
        self.drain();
        loop {
            let step = self.steps.front().map(|(at, ..)| self.start + *at);
            let event = self.queue.first_key_value().map(|((at, _), _)| *at);
            let timer = self.core.next_deadline();
            let Some(next) = [step, event, timer].into_iter().flatten().min() else { break };
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            if step == Some(next) {
                let (_, place, step) = self.steps.pop_front().expect("there is one");
                self.step(place, step);
            } else if event == Some(next) {
                let (_, event) = self.queue.pop_first().expect("there is one");
                self.core.handle_net(self.now, event);
            } else {
                self.core.handle_timeout(self.now);
            }
            self.drain();
        }
        self.now = end;
        let held = &self.held;
        assert!(held.is_empty(), "nobody took what was said at {held:02x?}");
    }

    fn step(&mut self, place: Place, step: Step) {
        let Place::Association { own, peer } = place else {
            let Step::Message(payload) = step else { unreachable!("datagrams only") };
            let from = peer_of(&payload);
            return self.core.handle_presence(self.now, from, &payload);
        };
        match step {
            Step::Dialled => {
                self.accepted += 1;
                let assoc = AssocId::accepted(self.accepted);
                self.up.insert(assoc, place);
                let protocol = if own == 3863 { Protocol::Asap } else { Protocol::Enrp };
                let remote = remote(peer);
                self.core
                    .handle_net(self.now, NetEvent::Up { assoc, protocol, remote, peer: None });
            }
            Step::Message(payload) => match self.assoc_at(place) {
                Some(assoc) => {
                    self.core.handle_net(self.now, NetEvent::Message { assoc, payload });
                }
                None => self.held.push((place, payload)),
            },
            Step::Shutdown => self.ended(place, DownCause::Closed),
            Step::Abort => self.ended(place, DownCause::Aborted),
        }
    }

    fn assoc_at(&self, place: Place) -> Option<AssocId> {
        self.up.iter().find(|(_, at)| **at == place).map(|(assoc, _)| *assoc)
    }

    fn ended(&mut self, place: Place, cause: DownCause) {
        if let Some(assoc) = self.assoc_at(place) {
            self.up.remove(&assoc);
            self.core.handle_net(self.now, NetEvent::Down { assoc, cause });
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.core.poll() {
            match output {
                Output::Event(event) => self.events.push((self.at(), event)),
                Output::Presence(payload) => {
                    self.said.push(Line { at: self.at(), place: Place::Group, payload });
                }
                Output::Net(NetCommand::Connect { assoc, protocol, remote }) => {
                    self.connect(assoc, protocol, remote);
                }
                Output::Net(NetCommand::Send { assoc, payload }) => {
                    if let Some(place) = self.up.get(&assoc).copied() {
                        self.said.push(Line { at: self.at(), place, payload: payload.clone() });
                        for answer in self.improvise(place, &payload) {
                            self.later(DELAY, NetEvent::Message { assoc, payload: answer });
                        }
                    }
                }
                Output::Net(NetCommand::Abort { assoc } | NetCommand::Shutdown { assoc }) => {
                    self.up.remove(&assoc);
                    self.later(DELAY, NetEvent::Down { assoc, cause: DownCause::Local });
                }
            }
        }
    }

    fn later(&mut self, delay: Duration, event: NetEvent) {
        self.serial += 1;
        self.queue.insert((self.now + delay, self.serial), event);
    }

    fn connect(&mut self, assoc: AssocId, protocol: Protocol, remote: Remote) {
        let SocketAddr::V4(addr) = remote.addr else { panic!("{remote:?} is not in the capture") };
        let peer = SocketAddrV4::new(*addr.ip(), remote.sctp_port);
        if self.part.last_sign(peer) < self.at() {
            return self.later(GIVE_UP, NetEvent::Down { assoc, cause: DownCause::TimedOut });
        }
        let own = if protocol == Protocol::Asap { 3863 } else { 9901 };
        let place = Place::Association { own, peer };
        let first = self.assoc_at(place).is_none();
        self.up.insert(assoc, place);
        self.later(DELAY, NetEvent::Up { assoc, protocol, remote, peer: None });
        let held = std::mem::take(&mut self.held);
        for (at, payload) in held {
            if at == place && first {
                self.later(DELAY, NetEvent::Message { assoc, payload });
            } else {
                self.held.push((at, payload));
            }
        }
    }

    /// What rsplib answers, unless the script does.
    fn improvise(&self, place: Place, question: &[u8]) -> Vec<Vec<u8>> {
        let Place::Association { own, peer } = place else { return Vec::new() };
        if self.part.last_sign(peer) < self.at() {
            return Vec::new();
        }
        if own == 3863 {
            return keep_alive_ack(question).into_iter().collect();
        }
        let kind = match EnrpType(question[0]) {
            EnrpType::PRESENCE if question[1] & 1 != 0 => EnrpType::PRESENCE,
            EnrpType::LIST_REQUEST => EnrpType::LIST_RESPONSE,
            EnrpType::HANDLE_TABLE_REQUEST => EnrpType::HANDLE_TABLE_RESPONSE,
            _ => return Vec::new(),
        };
        let scripted = self.steps.iter().take_while(|(at, ..)| *at <= self.at() + SCRIPTED).any(
            |(_, at, step)| matches!(step, Step::Message(m) if *at == place && m[0] == kind.0 && m[1] & 1 == 0),
        );
        if scripted {
            return Vec::new();
        }
        let mut answer = match self.part.last_said(*peer.ip(), self.at(), kind.0) {
            Some(said) => said.to_vec(),
            None => vec![kind.0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0],
        };
        answer[4..8].copy_from_slice(&self.part.id_of(*peer.ip()).0.to_be_bytes());
        answer[1] &= !1;
        answer[8..12].copy_from_slice(&question[4..8]);
        vec![answer]
    }
}

fn is_keep_alive_ack(place: Place, step: &Step) -> bool {
    let asap = matches!(place, Place::Association { own: 3863, .. });
    let kind = AsapType::ENDPOINT_KEEP_ALIVE_ACK.0;
    asap && matches!(step, Step::Message(payload) if payload[0] == kind)
}

/// Where a presence in the group came from.
fn peer_of(presence: &[u8]) -> SocketAddr {
    let decoded = enrp::Message::decode_with(presence, Compat::Rsplib).expect("a presence");
    let enrp::Body::Presence { server: Some(server), .. } = decoded.message.body else {
        panic!("no presence: {presence:02x?}")
    };
    SocketAddr::new(server.transport.addrs[0], server.transport.port)
}

pub(crate) fn remote(peer: SocketAddrV4) -> Remote {
    let addr = SocketAddr::new(IpAddr::V4(*peer.ip()), ENCAPSULATION_PORT);
    Remote { link: Link::Sctp, addr, sctp_port: peer.port() }
}

/// An element answers for the element that a keep-alive names.
pub(crate) fn keep_alive_ack(question: &[u8]) -> Option<Vec<u8>> {
    if question[0] != AsapType::ENDPOINT_KEEP_ALIVE.0 {
        return None;
    }
    let decoded = asap::Message::decode_with(question, Compat::Rsplib).expect("a keep-alive");
    let asap::Message::EndpointKeepAlive { handle, pe_id: Some(pe_id), .. } = decoded.message
    else {
        panic!("no element is named: {question:02x?}")
    };
    let ack = asap::Message::EndpointKeepAliveAck { handle, pe_id };
    Some(ack.encode_with(Compat::Rsplib).expect("encodes"))
}
