//! The core under a virtual clock.

use dialtone_keys::{Generation, Keys};
use dialtone_pool_user::{Freshness, Member};
use dialtone_transport::session::session_remote;
use dialtone_wire::{
    PeId, Policy, PolicyType, PoolHandle, SctpTransport, ServerId, Transport, TransportUse,
};

use super::*;

const A: PeId = PeId(0xa);

fn cookies(pool: &str, key: u8) -> Cookies<u32> {
    let keys = Keys::new(&Generation { id: 1, secret: [key; 32] }, None);
    Cookies::new(keys, pool.parse().unwrap(), Duration::from_secs(60))
}

fn transport() -> Transport<'static> {
    let addr = std::net::IpAddr::from([127, 0, 0, 1]);
    let use_ = TransportUse::DATA_PLUS_CONTROL;
    Transport::Sctp(SctpTransport { port: 7, use_, addrs: addr.into() })
}

fn own() -> Own {
    Own::new("echo".parse().unwrap(), A, transport(), Policy::RoundRobin)
}

fn view(elements: &[u32]) -> Arc<View> {
    let member = |element: &u32| {
        Member::from(dialtone_handlespace::Element {
            pe_id: PeId(*element),
            home: ServerId(1),
            life: 300,
            encaps_port: Some(4_000),
            transport: transport(),
            policy: Policy::RoundRobin,
            asap_transport: None,
        })
    };
    Arc::new(View {
        handle: "echo".parse().unwrap(),
        version: 1,
        policy: PolicyType::ROUND_ROBIN,
        order: elements.iter().map(|element| PeId(*element)).collect(),
        members: elements.iter().map(member).collect(),
        complete: true,
        freshness: Freshness::Fresh,
    })
}

struct Lab {
    element: Element<u32>,
    now: Instant,
    opened: u64,
}

impl Lab {
    #[expect(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
    fn new() -> Self {
        let element = Element::new(own(), cookies("echo", 7));
        Self { element, now: Instant::now(), opened: 0 }
    }

    fn open(&mut self) -> AssocId {
        self.opened += 1;
        let assoc = AssocId::accepted_session(self.opened);
        let remote = session_remote([127, 0, 0, 9].into(), 7, 1_000 + self.opened as u16);
        self.net(SessionEvent::Up { assoc, remote });
        assoc
    }

    fn net(&mut self, event: SessionEvent) {
        self.element.handle_net(1_000, event);
    }

    fn control(&mut self, assoc: AssocId, message: &Message<'_>) {
        self.net(SessionEvent::Control { assoc, payload: message.encode().unwrap() });
    }

    fn data(&mut self, assoc: AssocId) {
        self.net(SessionEvent::Data { assoc, ppid: 0, payload: b"data".to_vec() });
    }

    fn view(&mut self, elements: &[u32]) {
        self.element.handle_view(self.now, view(elements));
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.element.handle_timeout(self.now);
    }

    fn take(&mut self) -> Vec<Output<u32>> {
        std::iter::from_fn(|| self.element.poll()).collect()
    }

    fn events(&mut self) -> Vec<Event<u32>> {
        let event = |output| match output {
            Output::Event(event) => Some(event),
            _ => None,
        };
        self.take().into_iter().filter_map(event).collect()
    }

    /// The cards that were sent: to whom, and in which order.
    fn cards(&mut self) -> Vec<(AssocId, Vec<u32>)> {
        let card = |output| match output {
            Output::Net(SessionCommand::Control { assoc, payload }) => {
                let card = Card::read(&Message::decode(&payload).unwrap().message)?;
                assert_eq!(card.handle.as_bytes(), b"echo");
                Some((assoc, card.order.iter().map(|element| element.0).collect()))
            }
            _ => None,
        };
        self.take().into_iter().filter_map(card).collect()
    }
}

/// Proves A-144.
#[test]
fn a_genuine_echo_brings_the_state_before_any_data() {
    let mut lab = Lab::new();
    let cookie = cookies("echo", 7).seal(1_000, &42).unwrap();
    let session = lab.open();
    lab.control(session, &Message::CookieEcho(&cookie));
    lab.data(session);
    let events = lab.events();
    assert!(matches!(events[0], Event::Opened { .. }), "{events:?}");
    assert_eq!(events[1], Event::Resumed { session, state: 42 });
    assert!(matches!(&events[2], Event::Received { payload, .. } if payload == b"data"));
    assert_eq!((lab.element.counters().resumed, lab.element.counters().refused()), (1, 0));
}

/// Proves A-134.
#[test]
fn cookies_that_are_not_good_are_refused_and_counted_each_for_its_reason() {
    let mut lab = Lab::new();
    let good = cookies("echo", 7).seal(1_000, &42).unwrap();
    let text = {
        let keys = Keys::new(&Generation { id: 1, secret: [7; 32] }, None);
        Cookies::new(keys, "echo".parse().unwrap(), Duration::from_secs(60))
            .seal(1_000, &"42".to_owned())
            .unwrap()
    };
    let cases = [
        (good[..good.len() - 1].to_vec(), Refusal::Forged),
        (good[..8].to_vec(), Refusal::Malformed),
        (cookies("echo", 8).seal(1_000, &42).unwrap(), Refusal::Forged),
        (cookies("other", 7).seal(1_000, &42).unwrap(), Refusal::ForeignPool),
        (cookies("echo", 7).seal(940, &42).unwrap(), Refusal::Expired),
        (text, Refusal::Undecodable),
    ];
    for (cookie, refusal) in &cases {
        let session = lab.open();
        lab.take();
        lab.control(session, &Message::CookieEcho(cookie));
        assert_eq!(lab.events(), [Event::Refused { session, refusal: *refusal }]);
        // The session is good for everything else.
        lab.data(session);
        assert!(matches!(lab.events()[..], [Event::Received { .. }]));
    }
    let session = lab.open();
    lab.data(session);
    lab.take();
    lab.control(session, &Message::CookieEcho(&good));
    assert_eq!(lab.events(), [Event::Refused { session, refusal: Refusal::Late }]);
    let counters = lab.element.counters();
    assert_eq!(counters.refused_malformed, 1);
    assert_eq!(counters.refused_forged, 2);
    assert_eq!(counters.refused_foreign_pool, 1);
    assert_eq!(counters.refused_expired, 1);
    assert_eq!(counters.refused_undecodable, 1);
    assert_eq!(counters.refused_late, 1);
    assert_eq!((counters.refused(), counters.resumed), (7, 0));
}

#[test]
fn a_second_echo_changes_nothing() {
    let mut lab = Lab::new();
    let session = lab.open();
    let cookie = cookies("echo", 7).seal(1_000, &42).unwrap();
    lab.control(session, &Message::CookieEcho(&cookie));
    lab.take();
    lab.control(session, &Message::CookieEcho(&cookie));
    assert_eq!(lab.events(), [Event::Refused { session, refusal: Refusal::Late }]);
}

/// Proves A-136.
#[test]
fn the_card_comes_first_and_again_when_the_pool_changes() {
    let mut lab = Lab::new();
    let first = lab.open();
    // Nothing is known of the pool, but its name and this element.
    assert_eq!(lab.cards(), [(first, vec![A.0])]);
    lab.view(&[A.0, 1, 2, 3]);
    lab.pass(Duration::ZERO);
    let cards = lab.cards();
    assert_eq!(cards.len(), 1);
    let mut order = cards[0].1.clone();
    assert_eq!(order.remove(0), A.0);
    order.sort();
    assert_eq!(order, [1, 2, 3]);
    // Not at once again, and not for nothing.
    lab.view(&[A.0, 1, 2]);
    lab.view(&[A.0, 2]);
    lab.pass(Duration::from_millis(900));
    assert!(lab.cards().is_empty());
    lab.pass(Duration::from_millis(100));
    assert_eq!(lab.cards(), [(first, vec![A.0, 2])]);
    lab.view(&[A.0, 2]);
    assert_eq!(lab.element.next_deadline(), None);
    // A card has an end.
    let many: Vec<u32> = (A.0..500).collect();
    lab.view(&many);
    let late = lab.open();
    let card = lab.cards().pop().unwrap();
    assert_eq!((card.0, card.1.len()), (late, 17));
}

#[test]
fn users_of_one_element_spread_over_the_others() {
    let mut lab = Lab::new();
    lab.view(&[1, 2, 3, A.0]);
    let mut next: BTreeMap<u32, u32> = BTreeMap::new();
    for _ in 0..300 {
        lab.open();
        let (_, order) = lab.cards().pop().unwrap();
        *next.entry(order[1]).or_default() += 1;
    }
    assert!(next.len() == 3 && next.values().all(|users| *users > 60), "{next:?}");
}

/// Proves.
#[test]
fn the_card_of_a_user_names_its_pool() {
    let mut lab = Lab::new();
    let session = lab.open();
    lab.take();
    let other: Handle = "other".parse().unwrap();
    let elements = vec![own().element.to_wire().into_owned()];
    lab.control(session, &Message::BusinessCard { handle: PoolHandle(b"other"), elements });
    let card = Card { handle: other.clone(), order: vec![A] };
    assert_eq!(lab.take(), [Output::Meet(other), Output::Event(Event::Met { session, card })]);
}

#[test]
fn commands_for_users_that_have_gone_do_nothing() {
    let mut lab = Lab::new();
    let session = lab.open();
    lab.take();
    let (ppid, payload) = (5, b"answer".to_vec());
    let send = Command::Send { session, ppid, payload: payload.clone(), unordered: true };
    lab.element.handle_command(send.clone());
    let unordered = true;
    let data = SessionCommand::Data { assoc: session, ppid, payload, unordered, number: None };
    assert_eq!(lab.take(), [Output::Net(data)]);
    lab.net(SessionEvent::Down { assoc: session, cause: DownCause::Closed });
    assert_eq!(lab.events(), [Event::Closed { session, cause: DownCause::Closed }]);
    for command in [send, Command::Cookie { session, cookie: vec![1] }, Command::Close { session }]
    {
        lab.element.handle_command(command);
    }
    lab.net(SessionEvent::Down { assoc: session, cause: DownCause::Closed });
    lab.data(session);
    assert!(lab.take().is_empty());

    // Nobody listens at the user's port.
    let session = lab.open();
    lab.take();
    lab.net(SessionEvent::Suspect { assoc: session });
    let cause = DownCause::Unreachable;
    let abort = Output::Net(SessionCommand::Abort { assoc: session });
    assert_eq!(lab.take(), [abort, Output::Event(Event::Closed { session, cause })]);
}
