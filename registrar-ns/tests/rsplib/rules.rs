//! What no capture shows: a registrar among scripted peers, elements and users, by hand.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use dialtone_registrar_ns::core::{Config, Event, Output, Registrar, Removal};
use dialtone_transport::{AssocId, NetCommand, NetEvent, Protocol};
use dialtone_wire::enrp::Body;
use dialtone_wire::{
    Compat, PeId, Policy, PoolElement, PoolHandle, SctpTransport, ServerId, Transport,
    TransportUse, UpdateAction, asap, enrp,
};

use crate::replay::{keep_alive_ack, remote};

const OWN: ServerId = ServerId(5);
const POOL: PoolHandle<'static> = PoolHandle(b"pool");

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ip(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, n)
}

/// A registrar in service, and all who talk to it.
struct Desk {
    compat: Compat,
    now: Instant,
    core: Registrar,
    accepted: u64,
    said: Vec<(AssocId, Vec<u8>)>,
    dialled: Vec<SocketAddrV4>,
    events: Vec<Event>,
    /// Elements answer keep-alives.
    answering: bool,
}

impl Desk {
    #[expect(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
    fn new(compat: Compat) -> Self {
        let now = Instant::now();
        let config = Config { compat, ..Config::new(IpAddr::V4(ip(1))) };
        let core = Registrar::new(now, config, OWN, fastrand::Rng::with_seed(1));
        let mut desk = Self {
            compat,
            now,
            core,
            accepted: 0,
            said: Vec::new(),
            dialled: Vec::new(),
            events: Vec::new(),
            answering: true,
        };
        desk.run(s(3));
        assert!(desk.core.in_service());
        desk
    }

    fn dial(&mut self, protocol: Protocol, from: SocketAddrV4) -> AssocId {
        self.accepted += 1;
        let assoc = AssocId::accepted(self.accepted);
        self.net(NetEvent::Up { assoc, protocol, remote: remote(from), peer: None });
        assoc
    }

    fn net(&mut self, event: NetEvent) {
        self.core.handle_net(self.now, event);
        self.drain();
    }

    fn asap(&mut self, assoc: AssocId, message: &asap::Message<'_>) {
        let payload = message.encode_with(Compat::Rsplib).unwrap();
        self.net(NetEvent::Message { assoc, payload });
    }

    fn enrp(&mut self, assoc: AssocId, sender: u32, body: Body<'_>) {
        let message = enrp::Message { sender: ServerId(sender), receiver: OWN, body };
        // Whoever says less than rsplib wants is none.
        let payload = message.encode_with(self.compat).or_else(|_| message.encode()).unwrap();
        self.net(NetEvent::Message { assoc, payload });
    }

    /// A peer that has said that it owns nothing.
    fn peer(&mut self, id: u32) -> AssocId {
        let assoc = self.dial(Protocol::Enrp, SocketAddrV4::new(ip(id as u8), 9901));
        self.presence(assoc, id, 0xffff);
        let body = Body::HandleTableResponse { reject: false, more: false, pools: Vec::new() };
        self.enrp(assoc, id, body);
        assoc
    }

    fn presence(&mut self, assoc: AssocId, id: u32, checksum: u16) {
        let body = Body::Presence { reply_required: false, checksum: Some(checksum), server: None };
        self.enrp(assoc, id, body);
    }

    fn update(
        &mut self,
        assoc: AssocId,
        sender: u32,
        handle: PoolHandle<'_>,
        element: PoolElement<'_>,
    ) {
        let body = Body::HandleUpdate {
            takeover_suggested: false,
            action: UpdateAction::ADD_PE,
            handle,
            element: Box::new(element),
        };
        self.enrp(assoc, sender, body);
    }

    fn drain(&mut self) {
        while let Some(output) = self.core.poll() {
            match output {
                Output::Event(event) => self.events.push(event),
                Output::Net(NetCommand::Send { assoc, payload }) => {
                    self.said.push((assoc, payload));
                }
                Output::Net(NetCommand::Connect { assoc, protocol, remote }) => {
                    let IpAddr::V4(addr) = remote.addr.ip() else { panic!("{remote:?}") };
                    self.dialled.push(SocketAddrV4::new(addr, remote.sctp_port));
                    let event = NetEvent::Up { assoc, protocol, remote, peer: None };
                    if protocol == Protocol::Asap {
                        self.core.handle_net(self.now, event);
                    }
                }
                _ => {}
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.drain();
        while let Some(next) = self.core.next_deadline().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.core.handle_timeout(self.now);
            let heard = self.said.len();
            self.drain();
            // Only a keep-alive has this length.
            let questions = self.said[heard..].iter().filter(|(_, said)| said.len() == 0x18);
            let answering = self.answering;
            let answers: Vec<_> = questions
                .filter_map(|(assoc, question)| Some((*assoc, keep_alive_ack(question)?)))
                .collect();
            for (assoc, payload) in answers.into_iter().filter(|_| answering) {
                self.net(NetEvent::Message { assoc, payload });
            }
        }
        self.now = end;
    }

    /// All that was said on this association since the last look, of this type.
    fn heard(&mut self, at: AssocId, kind: u8) -> Vec<Vec<u8>> {
        let said = std::mem::take(&mut self.said);
        let wanted = |(assoc, payload): &(AssocId, Vec<u8>)| *assoc == at && payload[0] == kind;
        said.into_iter().filter(wanted).map(|(_, payload)| payload).collect()
    }

    fn home_of(&self, pe_id: u32) -> Option<ServerId> {
        Some(self.core.handlespace().get(POOL.0, PeId(pe_id))?.home)
    }
}

fn element(pe_id: u32, home: u32, life: i32) -> PoolElement<'static> {
    let sctp = |port| SctpTransport {
        port,
        use_: TransportUse::DATA_ONLY,
        addrs: IpAddr::V4(ip(20)).into(),
    };
    PoolElement {
        pe_id: PeId(pe_id),
        home: ServerId(home),
        life,
        transport: Transport::Sctp(sctp(7000)),
        policy: Policy::RoundRobin,
        asap_transport: (home != 0).then(|| sctp(5000)),
        encaps_port: None,
    }
}

fn register(desk: &mut Desk, life: i32) -> AssocId {
    let assoc = desk.dial(Protocol::Asap, SocketAddrV4::new(ip(20), 5000));
    let element = element(1, 0, life);
    desk.asap(assoc, &asap::Message::Registration { handle: POOL, element });
    assert_eq!(desk.home_of(1), Some(OWN));
    assoc
}

#[test]
fn a_registration_life_is_in_milliseconds() {
    for (compat, expires) in [(Compat::Rsplib, true), (Compat::Rfc, false)] {
        let mut desk = Desk::new(compat);
        desk.answering = compat == Compat::Rsplib;
        // 3,000 on the wire.
        register(&mut desk, 3);
        desk.run(Duration::from_millis(2900));
        let expired = |desk: &Desk| {
            desk.events.iter().any(|e| matches!(e, Event::Removed { reason: Removal::Expired, .. }))
        };
        assert!(!expired(&desk));
        desk.run(Duration::from_millis(200));
        assert_eq!(expired(&desk), expires, "{compat:?}");
    }
}

#[test]
fn a_keep_alive_names_the_element() {
    for (compat, names) in [(Compat::Rsplib, true), (Compat::Rfc, false)] {
        let mut desk = Desk::new(compat);
        desk.answering = false;
        let assoc = register(&mut desk, 300);
        desk.run(Duration::from_millis(1600));
        let asked = desk.heard(assoc, 7);
        let decoded = asap::Message::decode_with(&asked[0], compat).unwrap().message;
        let asap::Message::EndpointKeepAlive { pe_id, .. } = decoded else { panic!() };
        assert_eq!(pe_id, names.then_some(PeId(1)), "{compat:?}");
    }
}

/// The target is silent; another registrar starts to take it over while we do.
#[test]
fn the_smaller_identifier_takes_over() {
    let cases = [
        (Compat::Rsplib, 3, true),
        (Compat::Rsplib, 9, false),
        (Compat::Rfc, 3, false),
        (Compat::Rfc, 9, true),
    ];
    for (compat, rival, yields) in cases {
        let mut desk = Desk::new(compat);
        let target = desk.peer(7);
        let other = desk.peer(rival);
        desk.update(target, 7, POOL, element(1, 7, 300));
        for _ in 0..40 {
            desk.run(Duration::from_millis(100));
            desk.presence(other, rival, 0xffff);
            if desk.events.contains(&Event::TakeoverStarted { target: ServerId(7) }) {
                break;
            }
        }
        assert!(desk.events.contains(&Event::TakeoverStarted { target: ServerId(7) }));
        desk.said.clear();
        desk.enrp(other, rival, Body::InitTakeover { target: ServerId(7) });
        assert_eq!(desk.heard(other, 8).len(), usize::from(yields), "{compat:?}, {rival}");
        let lost = Event::TakeoverLost { target: ServerId(7), to: Some(ServerId(rival)) };
        assert_eq!(desk.events.contains(&lost), yields, "{compat:?}, {rival}");
    }
}

/// Who has won dies before it says so: the target is watched again and its elements find a home here.
#[test]
fn a_takeover_whose_winner_dies_is_begun_again() {
    let mut desk = Desk::new(Compat::Rsplib);
    let (target, winner) = (desk.peer(7), desk.peer(3));
    desk.update(target, 7, POOL, element(1, 7, 300));
    desk.enrp(winner, 3, Body::InitTakeover { target: ServerId(7) });
    assert_eq!(desk.heard(winner, 8).len(), 1, "acknowledged");
    desk.run(s(20));
    assert_eq!(desk.home_of(1), Some(OWN), "{:?}", desk.events);
    assert!(desk.dialled.contains(&SocketAddrV4::new(ip(20), 5000)), "asked at its ASAP transport");
    assert!(desk.core.snapshot(desk.now).peers.is_empty(), "both are forgotten");
}

/// Who has won lives and never says so: its checksum tells, and its elements stay there when the target is given up.
#[test]
fn a_takeover_server_that_never_comes_is_made_up_for_by_the_audit() {
    let mut desk = Desk::new(Compat::Rsplib);
    let (target, winner) = (desk.peer(7), desk.peer(3));
    desk.update(target, 7, POOL, element(1, 7, 300));
    desk.enrp(winner, 3, Body::InitTakeover { target: ServerId(7) });
    let checksum = desk.core.handlespace().checksum(ServerId(7));
    // Not at once after the first table.
    desk.run(Duration::from_millis(1100));
    desk.said.clear();
    desk.presence(winner, 3, checksum);
    assert_eq!(desk.heard(winner, 2).len(), 1, "what it owns is asked for");
    let pools = vec![enrp::PoolEntry { handle: POOL, elements: vec![element(1, 3, 300)] }];
    desk.enrp(winner, 3, Body::HandleTableResponse { reject: false, more: false, pools });
    assert_eq!(desk.home_of(1), Some(ServerId(3)));
    for _ in 0..40 {
        desk.run(Duration::from_millis(500));
        desk.presence(winner, 3, checksum);
        // rsplib acknowledges the takeover of whom it does not know any more.
        if !desk.heard(winner, 7).is_empty() {
            desk.enrp(winner, 3, Body::InitTakeoverAck { target: ServerId(7) });
        }
    }
    assert_eq!(desk.home_of(1), Some(ServerId(3)));
    let peers: Vec<_> = desk.core.snapshot(desk.now).peers.iter().map(|peer| peer.id).collect();
    assert_eq!(peers, [ServerId(3)], "the target is forgotten");
    assert!(!desk.events.iter().any(|e| matches!(e, Event::Removed { .. })));
}

/// 20,000 elements whose sum, in rsplib's byte order, does not fit 32 bits.
#[test]
fn checksums_wrap_as_those_of_rsplib() {
    let handle = PoolHandle(&[0xff; 4]);
    let ids = 0xffff_0001..0xffff_4e21_u32;
    let mut sum = 0_u32;
    for id in ids.clone() {
        let [a, b, c, d] = id.to_be_bytes();
        for word in [[0xff, 0xff], [0xff, 0xff], [a, b], [c, d]] {
            sum = sum.wrapping_add(u16::from_le_bytes(word).into());
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let rsplib = (!(sum as u16)).swap_bytes();
    for compat in [Compat::Rsplib, Compat::Rfc] {
        let mut desk = Desk::new(compat);
        let peer = desk.peer(7);
        for id in ids.clone() {
            desk.update(peer, 7, handle, element(id, 7, 300));
            // Nobody may say 20,000 things in one moment.
            if id % 5_000 == 0 {
                desk.run(Duration::from_millis(300));
            }
        }
        assert_eq!(desk.core.handlespace().len(), 20_000);
        let rfc = desk.core.handlespace().checksum(ServerId(7));
        assert_ne!(rfc, rsplib);
        let asked = |desk: &mut Desk, checksum| {
            desk.said.clear();
            desk.presence(peer, 7, checksum);
            !desk.heard(peer, 2).is_empty()
        };
        assert_eq!(asked(&mut desk, rsplib), compat == Compat::Rfc, "{compat:?}");
        // What was the peer's is ours, and so is the sum.
        let other = desk.peer(3);
        let won = |e: &Event| matches!(e, Event::TakeoverWon { elements: 20_000, .. });
        for _ in 0..80 {
            desk.run(Duration::from_millis(100));
            desk.presence(other, 3, 0xffff);
            desk.enrp(other, 3, Body::InitTakeoverAck { target: ServerId(7) });
            if desk.events.iter().any(won) {
                break;
            }
        }
        assert!(desk.events.iter().any(won));
        desk.said.clear();
        desk.run(s(1));
        let said = desk.heard(other, 1);
        let presence = enrp::Message::decode(&said[0]).unwrap().message;
        let Body::Presence { checksum, .. } = presence.body else { panic!() };
        assert_eq!(checksum, Some(if compat == Compat::Rsplib { rsplib } else { rfc }));
    }
}

/// An element that came from a peer which says less than rsplib wants: the others are told all the same (G27).
#[test]
fn a_table_leaves_out_what_rsplib_would_refuse() {
    for (compat, told) in [(Compat::Rsplib, vec![1]), (Compat::Rfc, vec![1, 2])] {
        let mut desk = Desk::new(compat);
        let peer = desk.peer(7);
        desk.update(peer, 7, POOL, element(1, 7, 300));
        desk.update(peer, 7, POOL, PoolElement { asap_transport: None, ..element(2, 7, 300) });
        let bare = PoolElement { asap_transport: None, ..element(3, 7, 300) };
        desk.update(peer, 7, PoolHandle(b"bare"), bare);
        let other = desk.peer(3);
        desk.said.clear();
        desk.enrp(other, 3, Body::HandleTableRequest { own_children_only: false });
        let said = desk.heard(other, 3);
        let table = enrp::Message::decode(&said[0]).unwrap().message;
        let Body::HandleTableResponse { reject: false, pools, .. } = table.body else { panic!() };
        let pool = pools.iter().find(|pool| pool.handle == POOL).unwrap();
        let ids: Vec<u32> = pool.elements.iter().map(|element| element.pe_id.0).collect();
        assert_eq!(ids, told, "{compat:?}");
        assert_eq!(pools.len(), told.len(), "no pool without elements");
    }
}

/// rsplib discards an answer with more elements than that.
#[test]
fn an_answer_has_128_elements_at_most() {
    for (compat, count) in [(Compat::Rsplib, 128), (Compat::Rfc, 200)] {
        let mut desk = Desk::new(compat);
        let peer = desk.peer(7);
        for id in 1..=200 {
            desk.update(peer, 7, POOL, element(id, 7, 300));
        }
        let user = desk.dial(Protocol::Asap, SocketAddrV4::new(ip(30), 5000));
        desk.said.clear();
        let items = Some(u32::MAX);
        let question = asap::Message::HandleResolution { subscribe: false, handle: POOL, items };
        desk.asap(user, &question);
        let said = desk.heard(user, 6);
        let answer = asap::Message::decode_with(&said[0], compat).unwrap().message;
        let asap::Message::HandleResolutionResponse { outcome: Ok(found), .. } = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(found.elements.len(), count, "{compat:?}");
    }
}
