//! Body of a fuzz target as a plain function: a registrar core is fed with whatever a sequence of operations says.
//! Corpora replay in ordinary tests. It panics on a violated property.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use dialtone_handlespace::Checksum;
use dialtone_transport::{
    AssocId, DownCause, ENCAPSULATION_PORT, Link, NetCommand, NetEvent, Protocol, Remote,
};
use dialtone_wire::asap::Message;
use dialtone_wire::enrp::{Body, Message as Enrp, PoolEntry};
use dialtone_wire::{
    AsapType, CauseCode, EnrpType, PeId, Policy, PoolElement, PoolHandle, SctpTransport, ServerId,
    ServerInformation, Transport, TransportUse, UpdateAction,
};

use crate::core::{Config, Limits, Output, Registrar};

/// Associations at a time, and what a run may take.
const ASSOCS: usize = 12;
const STEPS: usize = 2_000;
/// Outputs of one input: a handlespace of [`ELEMENTS`] told to everybody is far below.
const MOST_OUTPUTS: usize = 20_000;
const ELEMENTS: usize = 64;
const PEERS: usize = 8;
/// Kinds of events there are.
const EVENTS: usize = 15;

/// Which messages reached their handlers: nothing was dropped or refused for want of a budget.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    pub asap: BTreeSet<AsapType>,
    pub enrp: BTreeSet<EnrpType>,
    /// Kinds of events that were reported.
    pub events: BTreeSet<String>,
}

impl Reached {
    pub fn extend(&mut self, other: Self) {
        self.asap.extend(other.asap);
        self.enrp.extend(other.enrp);
        self.events.extend(other.events);
    }

    /// Whether every message that a registrar has a handler for has reached it, and every kind of event has come of it.
    pub fn is_everything(&self) -> bool {
        // The other messages of ASAP are for elements and users.
        self.asap == [1, 2, 5, 8, 9, 14].map(AsapType).into()
            && self.enrp == (1..=10).map(EnrpType).collect()
            && self.events.len() == EVENTS
    }
}

/// The bytes as a source of decisions; zeros when they are used up.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, end: u8) -> u8 {
        self.byte() % end
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn handle(&mut self) -> PoolHandle<'static> {
        PoolHandle(
            [&b"a"[..], b"echo", b"sip-proxy", b"sip-edge-udp", b""][usize::from(self.below(5))],
        )
    }

    fn pe_id(&mut self) -> PeId {
        PeId(self.below(6).into())
    }

    /// Ours is 100; 0 is nobody.
    fn server(&mut self) -> ServerId {
        ServerId([0, 1, 99, 100, 101, 102][usize::from(self.below(6))])
    }

    fn address(&mut self) -> IpAddr {
        IpAddr::from([127, 0, 0, self.below(6)])
    }

    fn policy(&mut self) -> Policy<'static> {
        let (load, more) = (u32::from(self.byte()) << 24, u32::from(self.byte()) << 24);
        match self.below(10) {
            0 => Policy::RoundRobin,
            1 => Policy::WeightedRoundRobin { weight: load },
            2 => Policy::Random,
            3 => Policy::WeightedRandom { weight: load },
            4 => Policy::Priority { priority: load },
            5 => Policy::LeastUsed { load },
            6 => Policy::LeastUsedDegradation { load, degradation: more },
            7 => Policy::PriorityLeastUsed { load, degradation: more },
            8 => Policy::RandomizedLeastUsed { load },
            _ => Policy::of_pool(dialtone_wire::PolicyType(load)),
        }
    }

    fn element(&mut self) -> PoolElement<'static> {
        let address = SocketAddr::new(self.address(), 5060);
        PoolElement {
            pe_id: self.pe_id(),
            home: self.server(),
            life: [-1, 0, 1, 300, i32::MIN, i32::MAX][usize::from(self.below(6))],
            transport: if self.flag() { Transport::tcp(address) } else { Transport::udp(address) },
            policy: self.policy(),
            asap_transport: self.flag().then(|| self.sctp()),
            encaps_port: self.flag().then_some(ENCAPSULATION_PORT),
        }
    }

    fn sctp(&mut self) -> SctpTransport {
        let (port, addrs) = (u16::from(self.byte()), self.address().into());
        SctpTransport { port, use_: TransportUse::DATA_ONLY, addrs }
    }

    fn information(&mut self) -> ServerInformation {
        ServerInformation { server_id: self.server(), transport: self.sctp() }
    }

    /// A well-formed message that some peer of a registrar could send.
    fn asap(&mut self) -> Option<Vec<u8>> {
        let (handle, pe_id) = (self.handle(), self.pe_id());
        let message = match self.below(20) {
            0..6 => Message::Registration { handle, element: self.element() },
            6 => Message::Deregistration { handle, pe_id },
            7 | 8 => {
                let items = self.flag().then(|| self.byte().into());
                Message::HandleResolution { subscribe: self.flag(), handle, items }
            }
            9 | 10 => Message::EndpointKeepAliveAck { handle, pe_id },
            11 => Message::EndpointUnreachable { handle, pe_id },
            12 => {
                let (home, server_id) = (self.flag(), self.server());
                Message::EndpointKeepAlive { home, server_id, handle, pe_id: None }
            }
            13 => Message::RegistrationResponse { reject: false, handle, pe_id, error: None },
            14 => Message::ServerAnnounce { server_id: self.server(), transports: Vec::new() },
            15 => Message::Error(CauseCode::UNSPECIFIED.into()),
            16 => Message::BusinessCard { handle, elements: vec![self.element()] },
            17 => Message::DeregistrationResponse { handle, pe_id, error: None },
            18 => {
                let outcome = Err(CauseCode::UNKNOWN_POOL_HANDLE.into());
                Message::HandleResolutionResponse { accepted: self.flag(), handle, outcome }
            }
            _ if self.flag() => Message::CookieEcho(self.take(4)),
            _ => Message::Cookie(self.take(4)),
        };
        message.encode().ok()
    }

    fn enrp(&mut self) -> Option<Vec<u8>> {
        let (sender, receiver) = (self.server(), self.server());
        let body = match self.below(13) {
            0 | 1 => Body::Presence {
                reply_required: self.flag(),
                checksum: self.flag().then(|| self.byte().into()),
                server: self.flag().then(|| self.information()),
            },
            2 => Body::HandleTableRequest { own_children_only: self.flag() },
            3 | 4 => {
                let (reject, more) = (self.below(4) == 0, self.flag());
                let pools = (0..self.below(4)).map(|_| {
                    let elements = (0..=self.below(3)).map(|_| self.element()).collect();
                    PoolEntry { handle: self.handle(), elements }
                });
                Body::HandleTableResponse { reject, more, pools: pools.collect() }
            }
            5 | 6 => Body::HandleUpdate {
                takeover_suggested: self.flag(),
                action: UpdateAction(self.below(3).into()),
                handle: self.handle(),
                element: Box::new(self.element()),
            },
            7 => Body::ListRequest,
            8 => Body::ListResponse {
                reject: self.below(4) == 0,
                servers: (0..self.below(4)).map(|_| self.information()).collect(),
            },
            9 => Body::InitTakeover { target: self.server() },
            10 => Body::InitTakeoverAck { target: self.server() },
            11 => Body::TakeoverServer { target: self.server() },
            _ => Body::Error(CauseCode::UNSPECIFIED.into()),
        };
        Enrp { sender, receiver, body }.encode().ok()
    }
}

/// The network as a registrar sees it: what is up, and what was dialled and not answered.
#[derive(Default)]
struct Net {
    up: Vec<(AssocId, Protocol)>,
    /// Those that the registrar has aborted: it does not look at what still comes.
    aborted: BTreeSet<AssocId>,
    /// Where associations come from: that does not change, as far as the endpoint lets anybody know.
    addresses: BTreeMap<AssocId, IpAddr>,
    dialled: VecDeque<(AssocId, Protocol, Remote)>,
    accepted: u64,
}

/// Any sequence of what happens to a registrar: associations that come and go, valid and broken messages, time that
/// passes, late and early.
///
/// # Panics
/// When a deadline lies in the past, outputs have no end or cannot be read, a limit does not hold, or a checksum is wrong.
pub fn operations(bytes: &[u8]) -> Reached {
    let mut input = Input(bytes);
    let mut now = begin();
    let peers: Vec<SocketAddr> = (1..=input.below(3))
        .map(|n| SocketAddr::from(([127, 0, 0, n], ENCAPSULATION_PORT)))
        .collect();
    let mut config = Config {
        multicast: input.flag(),
        mentors: peers.clone(),
        peers,
        ..Config::new([127, 0, 0, 100].into())
    };
    config.limits = Limits {
        elements: ELEMENTS,
        elements_per_pool: ELEMENTS / 2,
        peers: PEERS,
        ..Limits::default()
    };
    let rng = fastrand::Rng::with_seed(input.byte().into());
    let mut registrar = Registrar::new(now, config, ServerId(100), rng);
    let (mut net, mut reached) = (Net::default(), Reached::default());
    drain(&mut registrar, &mut net, &mut reached);
    for _ in 0..STEPS {
        if input.0.is_empty() {
            break;
        }
        step(&mut input, &mut registrar, &mut net, &mut now, &mut reached);
        drain(&mut registrar, &mut net, &mut reached);
        registrar.handle_timeout(now);
        drain(&mut registrar, &mut net, &mut reached);
        check(&registrar, now);
    }
    reached
}

fn step(
    input: &mut Input<'_>,
    registrar: &mut Registrar,
    net: &mut Net,
    now: &mut Instant,
    reached: &mut Reached,
) {
    let kind = input.below(16);
    let slot = usize::from(input.byte());
    let chosen = (!net.up.is_empty()).then(|| net.up[slot % net.up.len().max(1)]);
    match (kind, chosen) {
        (0, _) if net.up.len() < ASSOCS => {
            let (protocol, link) = match input.below(3) {
                0 => (Protocol::Asap, Link::Sctp),
                1 => (Protocol::Asap, Link::Tcp),
                _ => (Protocol::Enrp, Link::Sctp),
            };
            let assoc = AssocId::accepted(net.accepted);
            net.accepted += 1;
            net.up.push((assoc, protocol));
            let remote = Remote { link, ..remote(input) };
            net.addresses.insert(assoc, remote.addr.ip());
            registrar.handle_net(*now, NetEvent::Up { assoc, protocol, remote, peer: None });
        }
        (1, _) if let Some((assoc, protocol, remote)) = net.dialled.pop_front() => {
            net.up.push((assoc, protocol));
            net.addresses.insert(assoc, remote.addr.ip());
            registrar.handle_net(*now, NetEvent::Up { assoc, protocol, remote, peer: None });
        }
        (2, _) if let Some((assoc, ..)) = net.dialled.pop_front() => {
            registrar.handle_net(*now, NetEvent::Down { assoc, cause: cause(input) });
        }
        (3, Some((assoc, _))) => {
            net.up.retain(|(up, _)| *up != assoc);
            registrar.handle_net(*now, NetEvent::Down { assoc, cause: cause(input) });
        }
        (4, Some((assoc, _))) => registrar.handle_net(*now, NetEvent::Suspect { assoc }),
        (5, Some((assoc, _))) => {
            let mut remote = remote(input);
            remote.addr = SocketAddr::new(net.addresses[&assoc], 1024 + remote.sctp_port);
            registrar.handle_net(*now, NetEvent::Moved { assoc, remote });
        }
        (6, Some((assoc, protocol))) => {
            let payload =
                input.take(usize::from(input.0.first().copied().unwrap_or(0)) + 1).to_vec();
            say(registrar, *now, net, (assoc, protocol), payload, reached);
        }
        (7..12, Some((assoc, protocol))) => {
            let payload = match protocol {
                Protocol::Asap => input.asap(),
                Protocol::Enrp => input.enrp(),
            };
            if let Some(payload) = payload {
                say(registrar, *now, net, (assoc, protocol), payload, reached);
            }
        }
        (12 | 13, _) if let Some(deadline) = registrar.next_deadline() => {
            // In time, or late.
            *now = deadline.max(*now) + Duration::from_millis(u64::from(input.byte()).pow(2));
            registrar.handle_timeout(*now);
        }
        (14, _) => {
            let from = SocketAddr::new(input.address(), 9901);
            let payload = input.enrp().unwrap_or_default();
            registrar.handle_presence(*now, from, &payload);
        }
        _ => {
            *now += Duration::from_millis(u64::from(input.byte()) * 20);
            registrar.handle_timeout(*now);
        }
    }
}

fn remote(input: &mut Input<'_>) -> Remote {
    let addr = SocketAddr::new(input.address(), ENCAPSULATION_PORT);
    Remote { link: Link::Sctp, addr, sctp_port: u16::from(input.byte()) }
}

fn cause(input: &mut Input<'_>) -> DownCause {
    [DownCause::Aborted, DownCause::Closed, DownCause::TimedOut, DownCause::Unreachable]
        [usize::from(input.below(4))]
}

fn say(
    registrar: &mut Registrar,
    now: Instant,
    net: &Net,
    (assoc, protocol): (AssocId, Protocol),
    payload: Vec<u8>,
    reached: &mut Reached,
) {
    let number = payload.first().copied().unwrap_or(0);
    let valid = match protocol {
        Protocol::Asap => Message::decode(&payload).is_ok(),
        Protocol::Enrp => Enrp::decode(&payload).is_ok(),
    };
    let ignored = |registrar: &Registrar| {
        let counters = registrar.counters();
        let (dropped, limited) = (counters.dropped, counters.requests_limited);
        dropped + limited + counters.reports_limited + counters.hung_up
    };
    let before = ignored(registrar);
    registrar.handle_net(now, NetEvent::Message { assoc, payload });
    if valid && !net.aborted.contains(&assoc) && ignored(registrar) == before {
        match protocol {
            Protocol::Asap => drop(reached.asap.insert(AsapType(number))),
            Protocol::Enrp => drop(reached.enrp.insert(EnrpType(number))),
        }
    }
}

fn drain(registrar: &mut Registrar, net: &mut Net, reached: &mut Reached) {
    let mut outputs = 0;
    while let Some(output) = registrar.poll() {
        outputs += 1;
        assert!(outputs < MOST_OUTPUTS, "endless outputs");
        match output {
            Output::Net(NetCommand::Connect { assoc, protocol, remote }) => {
                net.dialled.push_back((assoc, protocol, remote));
            }
            Output::Net(NetCommand::Send { assoc, payload }) => {
                let protocol =
                    net.up.iter().find(|(up, _)| *up == assoc).map(|(_, protocol)| *protocol);
                match protocol {
                    Some(Protocol::Asap) => assert!(Message::decode(&payload).is_ok()),
                    Some(Protocol::Enrp) => assert!(Enrp::decode(&payload).is_ok()),
                    // Ended, and the registrar does not know yet.
                    None => {}
                }
            }
            Output::Net(NetCommand::Abort { assoc }) => drop(net.aborted.insert(assoc)),
            Output::Net(NetCommand::Shutdown { .. }) => {}
            Output::Presence(payload) => assert!(Enrp::decode(&payload).is_ok()),
            Output::Event(event) => {
                let name = format!("{event:?}");
                reached.events.insert(name.split(' ').next().unwrap_or_default().to_owned());
            }
        }
    }
}

fn check(registrar: &Registrar, now: Instant) {
    assert!(
        registrar.next_deadline().is_none_or(|deadline| deadline >= now),
        "a deadline in the past"
    );
    let page = registrar.page(None, usize::MAX);
    let elements: usize = page.pools.iter().map(|pool| pool.elements.len()).sum();
    let snapshot = registrar.snapshot(now);
    assert_eq!(elements, snapshot.elements);
    assert!(elements <= ELEMENTS, "{elements} elements");
    assert!(page.pools.iter().all(|pool| pool.elements.len() <= ELEMENTS / 2), "a pool too large");
    // Those of the configuration have their place in any case.
    assert!(snapshot.peers.len() <= PEERS + 3, "{} peers", snapshot.peers.len());
    let homes: BTreeSet<ServerId> =
        page.pools.iter().flat_map(|pool| &pool.elements).map(|element| element.home).collect();
    let space = registrar.handlespace();
    for home in homes {
        let mut sum = Checksum::default();
        for pool in &page.pools {
            let owned = pool.elements.iter().filter(|element| element.home == home);
            owned.for_each(|element| sum.add(&pool.handle, element.pe_id));
        }
        assert!(Checksum::same(space.checksum(home), sum.value()), "checksum of {home}");
    }
}

#[expect(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
fn begin() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_operations_reach_every_handler() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut all = Reached::default();
        for _ in 0..300 {
            let length = rng.usize(..4_000);
            let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(length).collect();
            all.extend(operations(&bytes));
        }
        assert!(all.is_everything(), "{all:?}");
    }
}
