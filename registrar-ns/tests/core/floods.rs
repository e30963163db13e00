//! What strangers can make a registrar do and hold (RFC 5355): all of it is bounded, and others are served meanwhile.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use dialtone_registrar_ns::core::{Config, Limits, Output, Registrar, TimerConfig};
use dialtone_transport::{
    ASAP_PORT, AssocId, DownCause, ENRP_PORT, Link, NetCommand, NetEvent, Protocol, Remote,
};
use dialtone_wire::asap::Message;
use dialtone_wire::enrp::{Body, Message as Enrp};
use dialtone_wire::{CauseCode, PeId, Policy, PoolElement, PoolHandle, ServerId, Transport};

use crate::world::ms;

/// A registrar that is alone with whoever a test comes up with.
struct Alone {
    core: Registrar,
    now: Instant,
    accepted: u64,
    sent: Vec<(AssocId, Vec<u8>)>,
    aborted: Vec<AssocId>,
}

impl Alone {
    fn new(limits: Limits) -> Self {
        Self::with(Config { limits, ..Config::new(IpAddr::from([127, 0, 0, 1])) })
    }

    #[expect(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
    fn with(config: Config) -> Self {
        let now = Instant::now();
        let core = Registrar::new(now, config, ServerId(1), fastrand::Rng::with_seed(1));
        let (sent, aborted) = (Vec::new(), Vec::new());
        let mut alone = Self { core, now, accepted: 0, sent, aborted };
        alone.pass(ms(3000));
        assert!(alone.core.in_service());
        alone
    }

    /// Lets time pass; elements' keep-alives are not answered.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.core.next_deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.core.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn drain(&mut self) {
        while let Some(output) = self.core.poll() {
            match output {
                Output::Net(NetCommand::Send { assoc, payload }) => {
                    self.sent.push((assoc, payload))
                }
                Output::Net(NetCommand::Abort { assoc }) => {
                    self.aborted.push(assoc);
                    self.down(assoc, DownCause::Local);
                }
                _ => {}
            }
        }
    }

    fn connect(&mut self, addr: &str, protocol: Protocol, link: Link) -> AssocId {
        self.accepted += 1;
        let assoc = AssocId::accepted(self.accepted);
        let addr = SocketAddr::new(addr.parse().unwrap(), 9899);
        let sctp_port = match protocol {
            Protocol::Asap => ASAP_PORT,
            Protocol::Enrp => ENRP_PORT,
        };
        let remote = Remote { link, addr, sctp_port };
        self.core.handle_net(self.now, NetEvent::Up { assoc, protocol, remote, peer: None });
        self.drain();
        assoc
    }

    fn element(&mut self, addr: &str) -> AssocId {
        self.connect(addr, Protocol::Asap, Link::Sctp)
    }

    fn down(&mut self, assoc: AssocId, cause: DownCause) {
        self.core.handle_net(self.now, NetEvent::Down { assoc, cause });
        self.drain();
    }

    /// What it answers; pushes and keep-alives to others among it.
    fn say(&mut self, assoc: AssocId, payload: &[u8]) -> Vec<(AssocId, Vec<u8>)> {
        self.sent.clear();
        let payload = payload.to_vec();
        self.core.handle_net(self.now, NetEvent::Message { assoc, payload });
        self.drain();
        std::mem::take(&mut self.sent)
    }

    /// Why a registration was refused, if it was.
    fn register(&mut self, assoc: AssocId, pool: &str, pe: u32, addr: &str) -> Option<CauseCode> {
        let answers = self.say(assoc, &registration(pool, pe, addr, 5060));
        let answer = answers.iter().find(|(to, bytes)| *to == assoc && bytes[0] == 0x03);
        match Message::decode(&answer.expect("an answer").1).unwrap().message {
            Message::RegistrationResponse { error, .. } => error.map(|error| error.causes[0].code),
            other => panic!("{other:?}"),
        }
    }

    fn is_open(&self, assoc: AssocId) -> bool {
        !self.aborted.contains(&assoc)
    }
}

fn registration(pool: &str, pe: u32, addr: &str, port: u16) -> Vec<u8> {
    let element = PoolElement {
        pe_id: PeId(pe),
        home: ServerId::NONE,
        life: 600,
        transport: Transport::tcp(SocketAddr::new(addr.parse().unwrap(), port)),
        policy: Policy::RoundRobin,
        asap_transport: None,
        encaps_port: None,
    };
    Message::Registration { handle: PoolHandle(pool.as_bytes()), element }.encode().unwrap()
}

fn resolution(pool: &str, subscribe: bool) -> Vec<u8> {
    let handle = PoolHandle(pool.as_bytes());
    Message::HandleResolution { subscribe, handle, items: None }.encode().unwrap()
}

fn report(pool: &str, pe: u32) -> Vec<u8> {
    let handle = PoolHandle(pool.as_bytes());
    Message::EndpointUnreachable { handle, pe_id: PeId(pe) }.encode().unwrap()
}

fn peer_says(sender: u32, body: Body<'_>) -> Vec<u8> {
    Enrp { sender: ServerId(sender), receiver: ServerId::NONE, body }.encode().unwrap()
}

/// Associations of one address, or of one IPv6 network, are counted together.
#[test]
fn associations_of_one_address() {
    let limits = Limits { associations_per_address: 3, ..Limits::default() };
    let mut alone = Alone::new(limits);
    for (addrs, other) in [
        (["10.0.0.1"; 4], "10.0.0.2"),
        (["::ffff:10.0.0.3", "10.0.0.3", "10.0.0.3", "::ffff:10.0.0.3"], "10.0.0.4"),
        (["fd00::1", "fd00::2", "fd00::ffff:0:1", "fd00::3"], "fd00:0:0:1::1"),
    ] {
        let ids = addrs.map(|addr| alone.element(addr));
        assert_eq!(ids.map(|id| alone.is_open(id)), [true, true, true, false], "{addrs:?}");
        let elsewhere = alone.element(other);
        assert!(alone.is_open(elsewhere), "{other}");
        alone.down(ids[0], DownCause::Closed);
        let again = alone.element(addrs[0]);
        assert!(alone.is_open(again));
    }
    assert_eq!(alone.core.counters().associations_refused, 3);
}

/// New elements, each in a pool of its own: so many from one address, also over new associations, and not more in all.
/// What is refused is told, and leaves nothing behind; what was granted goes with its association.
#[test]
fn floods_of_registrations_and_new_pools() {
    let limits = Limits { elements_per_address: 100, elements: 250, ..Limits::default() };
    let mut alone = Alone::new(limits);
    let mut granted = Vec::new();
    for host in 1..=3 {
        let addr = format!("10.0.0.{host}");
        let assocs: Vec<_> = (0..5).map(|_| alone.element(&addr)).collect();
        let mut count = 0;
        for n in 0..500u32 {
            let pool = format!("pool-{n}");
            let assoc = assocs[n as usize % 5];
            match alone.register(assoc, &pool, 1000 * host + n, &addr) {
                None => count += 1,
                Some(cause) => assert_eq!(cause, CauseCode::LACK_OF_RESOURCES),
            }
            // Who is in may go on to say so.
            if n == 499 && host == 1 {
                assert_eq!(alone.register(assocs[0], "pool-0", 1000, &addr), None);
            }
        }
        granted.push(count);
        for assoc in assocs.into_iter().filter(|_| host == 2) {
            alone.down(assoc, DownCause::Aborted);
        }
        // Until it is gone, what was registered over an association that has ended counts.
        if host == 2 {
            let again = alone.element(&addr);
            let cause = alone.register(again, "another", 1, &addr);
            assert_eq!(cause, Some(CauseCode::LACK_OF_RESOURCES));
        }
    }
    assert_eq!(granted, [100, 100, 50]);
    assert_eq!(alone.core.snapshot(alone.now).elements, 250);
    // The second host is gone, and the others do not answer either.
    alone.pass(ms(5000));
    let snapshot = alone.core.snapshot(alone.now);
    assert_eq!((snapshot.elements, snapshot.pools), (0, 0));
}

/// A handle or an element that is as large as messages allow would make each of them cost 64 KiB.
#[test]
fn large_entries_are_refused() {
    let mut alone = Alone::new(Limits::default());
    let assoc = alone.element("10.0.0.1");
    let pool = "p".repeat(3000);
    let cause = alone.register(assoc, &pool, 1, "10.0.0.1");
    assert_eq!(cause, Some(CauseCode::LACK_OF_RESOURCES));
    // From a peer it is not taken either.
    let peer = alone.connect("10.0.0.2", Protocol::Enrp, Link::Sctp);
    let registered = registration(&pool, 1, "10.0.0.1", 5060);
    let Message::Registration { handle, mut element } =
        Message::decode(&registered).unwrap().message
    else {
        panic!("a registration");
    };
    element.home = ServerId(2);
    let action = dialtone_wire::UpdateAction::ADD_PE;
    let element = Box::new(element);
    let update = Body::HandleUpdate { takeover_suggested: false, action, handle, element };
    alone.say(peer, &peer_says(2, update));
    assert!(alone.core.handlespace().is_empty());
}

/// Requests of one address are limited, large answers count for more, and who does not stop is hung up. Others do not
/// notice.
#[test]
fn floods_of_resolutions() {
    let rate = 2000;
    let limits = Limits { requests_per_second: rate, ..Limits::default() };
    // Nobody asks the elements here.
    let timers = TimerConfig { keep_alive: ms(3_600_000), ..TimerConfig::telephony() };
    let address = IpAddr::from([127, 0, 0, 1]);
    let mut alone = Alone::with(Config { limits, timers, ..Config::new(address) });
    let element = alone.element("10.0.0.1");
    assert_eq!(alone.register(element, "small", 1, "10.0.0.1"), None);
    for pe in 1..=128 {
        assert_eq!(alone.register(element, "large", pe, "10.0.0.1"), None);
    }
    alone.pass(ms(400));
    let answer = alone.say(element, &resolution("large", false)).remove(0).1.len();
    for (addr, pool, cost) in [
        ("10.0.0.2", "small", 1),
        ("10.0.0.3", "unknown", 1),
        ("10.0.0.4", "large", 1 + answer / 1024),
    ] {
        let user = alone.connect(addr, Protocol::Asap, Link::Tcp);
        let (mut answered, mut bytes, mut refused) = (0, 0, 0);
        let start = alone.now;
        // A second at four times the rate; the first half of it is the burst.
        while alone.now < start + ms(1000) && alone.is_open(user) {
            for _ in 0..rate / 250 {
                let answers = alone.say(user, &resolution(pool, false));
                answered += answers.len();
                bytes += answers.iter().map(|(_, payload)| payload.len()).sum::<usize>();
            }
            // Another address is always answered, at once.
            refused += usize::from(alone.say(element, &resolution("small", false)).is_empty());
            alone.pass(ms(1));
        }
        let most = 2 * rate as usize / cost + 1;
        assert!((most / 3..=most).contains(&answered), "{pool}: {answered} of {most}");
        assert!(bytes <= most * cost * 1024, "{pool}: {bytes}");
        assert_eq!(refused, 0, "{pool}");
    }
    assert!(alone.core.counters().requests_limited > 0);
    // Who goes on at full speed loses the association.
    let before = alone.core.counters().hung_up;
    let user = alone.connect("10.0.0.9", Protocol::Asap, Link::Tcp);
    let mut said = 0;
    while alone.is_open(user) {
        alone.say(user, &resolution("small", false));
        said += 1;
        assert!(said <= 2 * rate + 1, "still there");
    }
    assert_eq!(alone.core.counters().hung_up, before + 1);
    // Dialling again brings nothing new at once.
    let again = alone.connect("10.0.0.9", Protocol::Asap, Link::Tcp);
    assert!(alone.say(again, &resolution("small", false)).is_empty());
    alone.pass(ms(1000));
    assert_eq!(alone.say(again, &resolution("small", false)).len(), 1);
}

/// A neighbour at the same address cannot get an element removed: its answers to keep-alives are looked at.
#[test]
fn keep_alives_are_heard_beside_a_flood() {
    let mut alone = Alone::new(Limits { requests_per_second: 100, ..Limits::default() });
    let element = alone.element("10.0.0.1");
    assert_eq!(alone.register(element, "echo", 1, "10.0.0.1"), None);
    let flooder = alone.element("10.0.0.1");
    let ack = Message::EndpointKeepAliveAck { handle: PoolHandle(b"echo"), pe_id: PeId(1) };
    let ack = ack.encode().unwrap();
    for _ in 0..10_000 {
        if alone.is_open(flooder) {
            alone.say(flooder, &resolution("echo", false));
        }
        alone.sent.clear();
        alone.pass(ms(1));
        if alone.sent.iter().any(|(to, payload)| *to == element && payload[0] == 0x07) {
            alone.say(element, &ack);
        }
    }
    assert_eq!(alone.core.handlespace().len(), 1);
}

/// Answers to keep-alives cost nothing as far as they are such: elements of one pool in one process all answer each of
/// them. Others cost what any message does, and what has to be answered with an error costs that as well.
#[test]
fn floods_of_keep_alive_answers() {
    let ack = |pe_id| Message::EndpointKeepAliveAck { handle: PoolHandle(b"echo"), pe_id };
    let known = ack(PeId(1)).encode().unwrap();
    let unknown = ack(PeId(2)).encode().unwrap();
    // A parameter that nobody knows and that is to be reported.
    let mut odd = known.clone();
    odd.extend([0xff, 0xf0, 0x00, 0x04]);
    odd[3] += 4;
    let mut large = known.clone();
    large.extend([0xbf, 0xf0, 0x08, 0x00]);
    large.resize(known.len() + 0x800, 0);
    let length = u16::try_from(large.len()).unwrap();
    large[2..4].copy_from_slice(&length.to_be_bytes());
    for (what, payload, hung_up) in [
        ("of an element", &known, false),
        ("of nobody", &unknown, true),
        ("with an unknown parameter", &odd, true),
        ("large", &large, true),
    ] {
        let mut alone = Alone::new(Limits { requests_per_second: 100, ..Limits::default() });
        let element = alone.element("10.0.0.1");
        assert_eq!(alone.register(element, "echo", 1, "10.0.0.1"), None);
        let mut answers = 0;
        for _ in 0..1000 {
            if alone.is_open(element) {
                answers += alone.say(element, payload).len();
            }
        }
        assert!(answers <= 100, "{what}: {answers} answers");
        assert_eq!(alone.is_open(element), !hung_up, "{what}");
    }
}

/// Anybody can move from packet to packet; the peers hear of it once a second at most, where the elements are then.
#[test]
fn floods_of_moves() {
    let peers = vec!["10.0.0.7:9899".parse().unwrap()];
    let timers = TimerConfig { keep_alive: ms(3_600_000), ..TimerConfig::telephony() };
    let mut alone = Alone::with(Config { peers, timers, ..Config::new([127, 0, 0, 1].into()) });
    let peer = alone.connect("10.0.0.7", Protocol::Enrp, Link::Sctp);
    let body = Body::Presence { reply_required: false, checksum: Some(0xffff), server: None };
    alone.say(peer, &peer_says(7, body));
    let element = alone.element("10.0.0.1");
    for pe in 1..=100 {
        assert_eq!(alone.register(element, "echo", pe, "10.0.0.1"), None);
    }
    alone.sent.clear();
    let mut port = 0;
    for n in 0..2000u16 {
        port = 20_000 + n;
        let addr = SocketAddr::new([10, 0, 0, 1].into(), port);
        let remote = Remote { link: Link::Sctp, addr, sctp_port: ASAP_PORT };
        alone.core.handle_net(alone.now, NetEvent::Moved { assoc: element, remote });
        alone.drain();
        // 2.5 s in all: at once, and after 1 and 2 s.
        alone.pass(Duration::from_micros(1250));
    }
    let updates = |alone: &Alone| {
        let told = alone.sent.iter().filter(|(to, bytes)| *to == peer && bytes[0] == 0x04);
        told.map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>()
    };
    assert_eq!(updates(&alone).len(), 300);
    alone.sent.clear();
    alone.pass(ms(1000));
    let last = updates(&alone);
    assert_eq!(last.len(), 100);
    let Body::HandleUpdate { element, .. } = Enrp::decode(&last[0]).unwrap().message.body else {
        panic!("{last:?}");
    };
    assert_eq!(element.encaps_port, Some(port));
}

/// Subscriptions of an association, of an address, and in all; beyond them answers come without the promise of more.
#[test]
fn floods_of_subscriptions() {
    let limits = Limits {
        subscriptions: 10,
        subscriptions_per_address: 25,
        all_subscriptions: 40,
        ..Limits::default()
    };
    let mut alone = Alone::new(limits);
    let element = alone.element("10.0.0.1");
    for n in 0..100 {
        assert_eq!(alone.register(element, &format!("pool-{n}"), n + 1, "10.0.0.1"), None);
    }
    let mut accepted = Vec::new();
    for host in 2..=4 {
        let addr = format!("10.0.0.{host}");
        let users: Vec<_> =
            (0..3).map(|_| alone.connect(&addr, Protocol::Asap, Link::Tcp)).collect();
        for user in &users {
            let mut count = 0;
            for n in 0..100 {
                for _ in 0..2 {
                    let answers = alone.say(*user, &resolution(&format!("pool-{n}"), true));
                    assert_eq!(answers.len(), 1, "an answer in any case");
                    count += usize::from(answers[0].1[1] & 1);
                }
            }
            // The second time is no new one.
            accepted.push(count / 2);
        }
        if host == 2 {
            assert_eq!(alone.core.snapshot(alone.now).subscriptions, 25);
        }
    }
    assert_eq!(accepted, [10, 10, 5, 10, 5, 0, 0, 0, 0]);
    assert_eq!(alone.core.snapshot(alone.now).subscriptions, 40);
    for id in 1..=alone.accepted {
        alone.down(AssocId::accepted(id), DownCause::Closed);
    }
    assert_eq!(alone.core.snapshot(alone.now).subscriptions, 0);
}

/// What was pushed to an address, or downloaded by the registrar there, does not shut up who else is there for long.
#[test]
fn answers_that_nobody_asked_for_are_forgiven() {
    let limits = Limits { requests_per_second: 20, ..Limits::default() };
    let timers = TimerConfig { keep_alive: ms(3_600_000), ..TimerConfig::telephony() };
    let peer: SocketAddr = "10.0.0.1:9899".parse().unwrap();
    let peers = vec![peer];
    let mut alone =
        Alone::with(Config { limits, timers, peers, ..Config::new([127, 0, 0, 1].into()) });
    let user = alone.element("10.0.0.9");
    let element = alone.element("10.0.0.2");
    assert_eq!(alone.register(element, "large", 1, "10.0.0.2"), None);
    assert_eq!(alone.say(user, &resolution("large", true)).len(), 1);
    for n in 2..=200 {
        assert_eq!(alone.register(element, "large", n, "10.0.0.2"), None);
        alone.pass(ms(60));
    }
    alone.pass(ms(1200));
    assert_eq!(alone.say(user, &resolution("large", false)).len(), 1, "after so many pushes");

    let registrar = alone.connect("10.0.0.1", Protocol::Enrp, Link::Sctp);
    let beside = alone.element("10.0.0.1");
    for _ in 0..100 {
        let request = peer_says(7, Body::HandleTableRequest { own_children_only: true });
        assert!(!alone.say(registrar, &request).is_empty());
    }
    assert_eq!(alone.register(beside, "small", 1, "10.0.0.1"), None, "after so many tables");
}

/// An element that changes all the time does not keep its pool's subscribers busy; what they are told last is right.
#[test]
fn a_flood_of_changes_is_pushed_together() {
    let mut alone = Alone::new(Limits::default());
    let element = alone.element("10.0.0.1");
    assert_eq!(alone.register(element, "echo", 1, "10.0.0.1"), None);
    let user = alone.connect("10.0.0.2", Protocol::Asap, Link::Tcp);
    alone.say(user, &resolution("echo", true));
    let mut pushes = Vec::new();
    let start = alone.now;
    for port in 1..=5000 {
        let out = alone.say(element, &registration("echo", 1, "10.0.0.1", port));
        pushes.extend(out.into_iter().filter(|(to, _)| *to == user));
        if port % 5 == 0 {
            alone.pass(ms(1));
            pushes.extend(alone.sent.drain(..).filter(|(to, _)| *to == user));
        }
    }
    alone.pass(ms(20));
    pushes.extend(alone.sent.drain(..).filter(|(to, _)| *to == user));
    let most = (alone.now - start).as_millis() / 20 + 1;
    assert!((10..=most).contains(&(pushes.len() as u128)), "{} of {most}", pushes.len());
    let last = Message::decode(&pushes.last().unwrap().1).unwrap().message;
    let Message::HandleResolutionResponse { outcome: Ok(found), .. } = last else {
        panic!("{last:?}");
    };
    assert_eq!(found.elements[0].transport.socket_addr().unwrap().port(), 5000);
}

/// Reports of unreachability: so many from one address; each element is asked ten times a second at most, whoever
/// reports it; and those that answer stay, as long as only one address speaks against them.
/// Proves S-029, S-030.
#[test]
fn floods_of_reports() {
    let mut alone = Alone::new(Limits::default());
    let element = alone.element("10.0.0.1");
    for pe in 1..=50 {
        assert_eq!(alone.register(element, "echo", pe, "10.0.0.1"), None);
    }
    let user = alone.connect("10.0.0.2", Protocol::Asap, Link::Tcp);
    let start = alone.now;
    let (before, seconds) = (alone.core.counters(), 5);
    let mut rng = fastrand::Rng::with_seed(3);
    let mut asked = 0;
    while alone.now < start + ms(1000 * seconds) {
        let mut sent = Vec::new();
        for _ in 0..5 {
            sent.extend(alone.say(user, &report("echo", rng.u32(1..=50))));
        }
        alone.sent.clear();
        alone.pass(ms(1));
        sent.append(&mut alone.sent);
        // A keep-alive does not say which one it is for: all answer.
        if sent.iter().any(|(to, payload)| *to == element && payload[0] == 0x07) {
            asked += sent.iter().filter(|(_, payload)| payload[0] == 0x07).count();
            for pe in 1..=50 {
                let handle = PoolHandle(b"echo");
                let ack = Message::EndpointKeepAliveAck { handle, pe_id: PeId(pe) };
                alone.say(element, &ack.encode().unwrap());
            }
        }
    }
    let after = alone.core.counters();
    assert!(after.reports - before.reports <= 100 * (seconds + 1));
    assert!(after.reports_limited > 20_000, "{}", after.reports_limited);
    assert!(asked as u64 <= 50 * 10 * seconds, "{asked}");
    assert_eq!(alone.core.handlespace().len(), 50, "all of them answered");
}

/// Handle tables: each request costs as much as its answer, except for registrars of the configuration.
#[test]
fn floods_of_table_requests() {
    let rate = 1000;
    let address = IpAddr::from([127, 0, 0, 1]);
    let peers = vec!["10.0.0.7:9899".parse().unwrap()];
    let limits = Limits { requests_per_second: rate, ..Limits::default() };
    let mut alone = Alone::with(Config { limits, peers, ..Config::new(address) });
    let element = alone.element("10.0.0.1");
    for pe in 1..=500 {
        assert_eq!(alone.register(element, "echo", pe, "10.0.0.1"), None);
    }
    let request = Body::HandleTableRequest { own_children_only: false };
    let mut bytes_to = |addr: &str, sender| {
        let peer = alone.connect(addr, Protocol::Enrp, Link::Sctp);
        alone.say(peer, &peer_says(sender, Body::ListRequest));
        let request = peer_says(sender, request.clone());
        let answers = (0..300).flat_map(|_| alone.say(peer, &request));
        answers.map(|(_, payload)| payload.len()).sum::<usize>()
    };
    let configured = bytes_to("10.0.0.7", 7);
    let stranger = bytes_to("10.0.0.8", 8);
    assert!(configured > 2 << 20, "{configured}");
    assert!((1 << 19..=(rate as usize + 32) * 1024).contains(&stranger), "{stranger}");
}

/// Whoever makes registrars up fills no lists: an association speaks for one, an address has few associations, all have
/// their limit together, and registrars of the configuration have their place in any case.
#[test]
fn floods_of_registrars() {
    let address = IpAddr::from([127, 0, 0, 1]);
    let peers = vec!["10.0.0.7:9899".parse().unwrap()];
    let mut alone = Alone::with(Config { peers, ..Config::new(address) });
    let presence = |id| {
        let body = Body::Presence { reply_required: false, checksum: Some(0xffff), server: None };
        peer_says(id, body)
    };
    let one = alone.connect("10.0.1.1", Protocol::Enrp, Link::Sctp);
    for id in 100..200 {
        alone.say(one, &presence(id));
    }
    assert_eq!(alone.core.snapshot(alone.now).peers.len(), 1);
    let others: Vec<_> =
        (0..20).map(|_| alone.connect("10.0.1.1", Protocol::Enrp, Link::Sctp)).collect();
    assert_eq!(others.iter().filter(|id| alone.is_open(**id)).count(), 7);
    for host in 2..=250 {
        let peer = alone.connect(&format!("10.0.1.{host}"), Protocol::Enrp, Link::Sctp);
        alone.say(peer, &presence(1000 + host));
    }
    assert_eq!(alone.core.snapshot(alone.now).peers.len(), 64);
    assert!(alone.core.snapshot(alone.now).contacts <= 2 * 64 + 1);
    let ours = alone.connect("10.0.0.7", Protocol::Enrp, Link::Sctp);
    alone.say(ours, &presence(7));
    let snapshot = alone.core.snapshot(alone.now);
    assert!(snapshot.peers.iter().any(|peer| peer.id == ServerId(7)));
}
