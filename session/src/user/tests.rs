//! The core under a virtual clock.

use dialtone_handlespace::Element;
use dialtone_pool_user::Member;
use dialtone_wire::{
    Cause, CauseCode, OperationError, Policy, PolicyType, SctpTransport, ServerId, Transport,
    TransportUse,
};

use super::*;

const POOL: &str = "echo";
const A: PeId = PeId(0xa);
const B: PeId = PeId(0xb);
const C: PeId = PeId(0xc);
const S: SessionId = SessionId(1);

fn pool() -> Handle {
    POOL.parse().unwrap()
}

fn sctp(element: PeId, use_: TransportUse) -> Transport<'static> {
    let addr = std::net::IpAddr::from([127, 0, 0, element.0 as u8]);
    Transport::Sctp(SctpTransport { port: 7, use_, addrs: addr.into() })
}

fn member(element: PeId, transport: Transport<'static>) -> Member {
    Member::from(Element {
        pe_id: element,
        home: ServerId(1),
        life: 300,
        encaps_port: Some(40_000 + element.0 as u16),
        transport,
        policy: Policy::RoundRobin,
        asap_transport: None,
    })
}

fn view_of(handle: Handle, members: Vec<Member>) -> Arc<View> {
    Arc::new(View {
        handle,
        version: 1,
        policy: PolicyType::ROUND_ROBIN,
        order: members.iter().map(|member| member.pe_id).collect(),
        members: members.into(),
        complete: true,
        freshness: Freshness::Fresh,
    })
}

fn view(elements: &[PeId]) -> Arc<View> {
    let with_control =
        |element: &PeId| member(*element, sctp(*element, TransportUse::DATA_PLUS_CONTROL));
    view_of(pool(), elements.iter().map(with_control).collect())
}

struct Lab {
    users: Users,
    now: Instant,
    /// Everything since the last look, but dials.
    outputs: Vec<Output>,
    dials: Vec<(AssocId, PeId)>,
    number: u64,
}

impl Lab {
    fn new() -> Self {
        Self::with(UserConfig::default(), None)
    }

    #[expect(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
    fn with(config: UserConfig, own: Option<Own>) -> Self {
        let users = Users::new(config, own, fastrand::Rng::with_seed(1));
        let (outputs, dials) = (Vec::new(), Vec::new());
        let mut lab = Self { users, now: Instant::now(), outputs, dials, number: 0 };
        lab.command(Command::Open { session: S, handle: pool() });
        lab
    }

    /// A session that has its element.
    fn established(own: Option<Own>, elements: &[PeId]) -> (Self, AssocId, PeId) {
        let mut lab = Self::with(UserConfig::default(), own);
        lab.view(view(elements));
        let (assoc, element) = lab.dialled();
        lab.up(assoc);
        (lab, assoc, element)
    }

    fn drain(&mut self) {
        while let Some(output) = self.users.poll() {
            match output {
                Output::Net(SessionCommand::Connect { assoc, remote }) => {
                    let element = PeId(u32::from(remote.addr.port()) - 40_000);
                    assert_eq!(
                        remote.addr.ip(),
                        std::net::IpAddr::from([127, 0, 0, element.0 as u8])
                    );
                    assert_eq!(remote.sctp_port, 7);
                    self.dials.push((assoc, element));
                }
                output => self.outputs.push(output),
            }
        }
    }

    fn command(&mut self, command: Command) {
        self.users.handle_command(self.now, command);
        self.drain();
    }

    fn net(&mut self, event: SessionEvent) {
        self.users.handle_net(self.now, event);
        self.drain();
    }

    fn view(&mut self, view: Arc<View>) {
        self.users.handle_view(self.now, view);
        self.drain();
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.users.next_deadline().filter(|at| *at <= end) {
            assert!(at >= self.now, "a deadline in the past");
            self.now = at;
            self.users.handle_timeout(at);
            assert!(self.users.next_deadline().is_none_or(|next| next > at), "not done");
            self.drain();
        }
        self.now = end;
    }

    fn up(&mut self, assoc: AssocId) {
        let remote = session_remote();
        self.net(SessionEvent::Up { assoc, remote });
    }

    fn down(&mut self, assoc: AssocId, cause: DownCause) {
        self.net(SessionEvent::Down { assoc, cause });
    }

    fn dialled(&mut self) -> (AssocId, PeId) {
        assert_eq!(self.dials.len(), 1, "{:?}", self.dials);
        self.dials.remove(0)
    }

    fn send(&mut self, text: &str, options: SendOptions) -> u64 {
        self.number += 1;
        let (number, payload) = (self.number, text.as_bytes().to_vec());
        self.command(Command::Send { session: S, number, payload, options });
        number
    }

    fn control(&mut self, assoc: AssocId, message: &Message<'_>) {
        self.net(SessionEvent::Control { assoc, payload: message.encode().unwrap() });
    }

    fn take(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    fn events(&mut self) -> Vec<Event> {
        let event = |output| match output {
            Output::Event { event, .. } => Some(event),
            _ => None,
        };
        self.take().into_iter().filter_map(event).collect()
    }

    /// What went onto the wire: association and text, control messages as what they are.
    fn wire(&mut self) -> Vec<(AssocId, String)> {
        let mut wire = Vec::new();
        for output in self.take() {
            match output {
                Output::Net(SessionCommand::Data { assoc, payload, .. }) => {
                    wire.push((assoc, String::from_utf8(payload).unwrap()));
                }
                Output::Net(SessionCommand::Control { assoc, payload }) => {
                    let text = match Message::decode(&payload).unwrap().message {
                        Message::CookieEcho(cookie) => format!("echo {cookie:?}"),
                        Message::BusinessCard { .. } => "card".to_owned(),
                        message => format!("{message:?}"),
                    };
                    wire.push((assoc, text));
                }
                _ => (),
            }
        }
        wire
    }
}

fn session_remote() -> dialtone_transport::Remote {
    dialtone_transport::session::session_remote([127, 0, 0, 9].into(), 7, 9899)
}

fn own() -> Own {
    let transport = sctp(C, TransportUse::DATA_PLUS_CONTROL);
    Own::new(pool(), C, transport, Policy::RoundRobin)
}

fn unsent(number: u64, text: &str, reason: Reason) -> Event {
    Event::Unsent { number, payload: text.as_bytes().to_vec(), reason }
}

/// Proves.
#[test]
fn messages_wait_for_the_resolution_in_order() {
    let mut lab = Lab::new();
    assert_eq!(lab.take(), [Output::Watch(pool())]);
    lab.send("one", SendOptions::DEFAULT);
    lab.send("two", SendOptions::FAILOVER);
    lab.send("three", SendOptions::TO_LAST);
    assert_eq!(lab.users.state(S), Some(State::Resolving));
    lab.pass(Duration::from_secs(1));
    assert!(lab.take().is_empty() && lab.dials.is_empty());
    lab.view(view(&[A]));
    let (assoc, element) = lab.dialled();
    assert_eq!(lab.users.state(S), Some(State::Connecting { element }));
    lab.send("four", SendOptions::DEFAULT);
    assert!(lab.take().is_empty(), "there is no association yet");
    lab.up(assoc);
    assert_eq!(lab.users.state(S), Some(State::Established { element }));
    let sent: Vec<String> = lab.wire().into_iter().map(|(_, text)| text).collect();
    assert_eq!(sent, ["one", "two", "three", "four"]);
}

/// wherever and however the element registered; the dial of [`Lab::drain`] checks address and ports.
///
/// Proves A-004.
#[test]
fn the_registered_transport_is_what_is_dialled() {
    let (mut lab, assoc, element) = Lab::established(None, &[A]);
    assert_eq!(element, A);
    assert_eq!(lab.events(), [Event::Connected { element }]);
    lab.net(SessionEvent::Data { assoc, ppid: 9, payload: b"push".to_vec() });
    assert_eq!(lab.events(), [Event::Received { element, ppid: 9, payload: b"push".to_vec() }]);
    // An element without SCTP is passed over.
    let tcp = Transport::tcp(([127, 0, 0, 1], 5).into());
    let mut lab = Lab::new();
    lab.view(view_of(pool(), vec![member(A, tcp), member(B, sctp(B, TransportUse::DATA_ONLY))]));
    assert_eq!(lab.dialled().1, B);
}

/// Proves, S-025.
#[test]
fn the_latest_cookie_goes_first_to_the_next_element() {
    let (mut lab, assoc, first) = Lab::established(None, &[A, B]);
    lab.control(assoc, &Message::Cookie(&[1, 2, 3]));
    lab.control(assoc, &Message::Cookie(&[4, 5, 6, 7, 8]));
    lab.send("request", SendOptions::DEFAULT);
    lab.take();
    lab.down(assoc, DownCause::TimedOut);
    assert_eq!(lab.users.state(S), Some(State::FailingOver { from: first }));
    assert!(lab.take().contains(&Output::Unreachable { handle: pool(), element: first }));
    let (next, second) = lab.dialled();
    assert_ne!(first, second);
    lab.send("after", SendOptions::DEFAULT);
    lab.up(next);
    let failed_over = Event::FailedOver { from: first, to: second, cookie: true };
    let told =
        |output: &Output| matches!(output, Output::Event { event, .. } if *event == failed_over);
    assert!(lab.outputs.iter().any(told));
    let wire = lab.wire();
    let texts: Vec<&str> = wire.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["echo [4, 5, 6, 7, 8]", "request", "after"]);
    assert!(wire.iter().all(|(assoc, _)| *assoc == next));
    assert_eq!(lab.users.counters().failovers, 1);
    // Kept for the next time, too.
    lab.down(next, DownCause::Aborted);
    lab.take();
    lab.pass(Duration::from_millis(300));
    let (third, _) = lab.dialled();
    lab.up(third);
    assert_eq!(lab.wire()[0], (third, "echo [4, 5, 6, 7, 8]".to_owned()));
}

#[test]
fn a_port_where_nobody_listens_is_enough_to_fail_over() {
    let (mut lab, assoc, first) = Lab::established(None, &[A, B]);
    lab.take();
    lab.net(SessionEvent::Suspect { assoc });
    let outputs = lab.take();
    assert_eq!(outputs[0], Output::Net(SessionCommand::Abort { assoc }));
    assert_eq!(outputs[1], Output::Unreachable { handle: pool(), element: first });
    assert_ne!(lab.dialled().1, first);
    lab.down(assoc, DownCause::Local);
    assert!(lab.dials.is_empty(), "the association was given up already");
}

/// Proves A-155.
#[test]
fn failover_sends_again_what_was_not_acknowledged() {
    let (mut lab, assoc, _) = Lab::established(None, &[A, B]);
    for text in ["one", "two", "three"] {
        lab.send(text, SendOptions::TO_LAST | SendOptions::FAILOVER);
    }
    assert_eq!(lab.wire().len(), 3);
    lab.net(SessionEvent::Delivered { assoc, number: 1 });
    lab.down(assoc, DownCause::Unreachable);
    let (next, _) = lab.dialled();
    lab.up(next);
    assert_eq!(lab.wire(), [(next, "two".to_owned()), (next, "three".to_owned())]);
    assert_eq!(lab.users.counters().resent, 2);
}

/// Proves A-156.
#[test]
fn without_failover_the_message_comes_back() {
    let (mut lab, assoc, element) = Lab::established(None, &[A, B]);
    let options = SendOptions::TO_LAST | SendOptions::NO_FAILOVER;
    lab.send("delivered", options);
    let number = lab.send("lost", options);
    lab.net(SessionEvent::Delivered { assoc, number: 1 });
    lab.take();
    lab.down(assoc, DownCause::TimedOut);
    let back = unsent(number, "lost", Reason::Unreachable { element });
    assert_eq!(lab.events(), [back]);
    // The session fails over all the same, without the message.
    let (next, _) = lab.dialled();
    lab.up(next);
    assert!(lab.wire().is_empty());
    // Selected first and found unreachable before anything was sent.
    let mut lab = Lab::new();
    let number = lab.send("never", SendOptions::NO_FAILOVER);
    lab.view(view(&[A, B]));
    let (assoc, element) = lab.dialled();
    lab.take();
    lab.down(assoc, DownCause::Unreachable);
    assert_eq!(lab.events(), [unsent(number, "never", Reason::Unreachable { element })]);
}

/// RFC 5352 section 6.5.5 speaks of the element that was selected: who only waits behind another message has none.
#[test]
fn what_waits_for_another_messages_element_is_not_refused_with_it() {
    let (mut lab, first, _) = Lab::established(None, &[A, B]);
    lab.take();
    let other = (0..2).find_map(|n| {
        lab.send(&n.to_string(), SendOptions::FAILOVER);
        lab.dials.pop()
    });
    let (other, _) = other.expect("the policy chooses the other one");
    lab.take();
    lab.send("waits", SendOptions::NO_FAILOVER);
    lab.down(other, DownCause::Unreachable);
    let sent = lab.wire();
    assert!(sent.contains(&(first, "waits".to_owned())), "{sent:?}");
}

#[test]
fn without_to_last_the_policy_chooses_for_each_message() {
    let (mut lab, _, _) = Lab::established(None, &[A, B]);
    lab.take();
    for n in 0..4 {
        lab.send(&n.to_string(), SendOptions::FAILOVER);
        if let Some((assoc, _)) = lab.dials.pop() {
            assert!(lab.outputs.is_empty(), "waits for its association");
            lab.up(assoc);
        }
    }
    let round_robin: Vec<AssocId> = lab.wire().into_iter().map(|(assoc, _)| assoc).collect();
    assert_eq!(round_robin.len(), 4);
    assert_ne!(round_robin[0], round_robin[1]);
    assert_eq!(round_robin[..2], round_robin[2..]);
    // To the one before, whichever that was.
    lab.send("last", SendOptions::TO_LAST);
    lab.send("last", SendOptions::DEFAULT);
    assert!(lab.wire().iter().all(|(assoc, _)| *assoc == round_robin[3]));
}

#[test]
fn a_copy_for_all_but_this_process_unless_it_wants_one() {
    let (mut lab, assoc, element) = Lab::established(Some(own()), &[A, B, C]);
    lab.take();
    lab.send("all", SendOptions::TO_ALL);
    let dials = std::mem::take(&mut lab.dials);
    let mut reached: Vec<PeId> = dials.iter().map(|(_, element)| *element).collect();
    reached.push(element);
    reached.sort();
    reached.dedup();
    let expected = if element == C { vec![A, B, C] } else { vec![A, B] };
    assert_eq!(reached, expected);
    for (assoc, _) in &dials {
        lab.up(*assoc);
    }
    let copies = lab.wire().iter().filter(|(_, text)| text == "all").count();
    assert_eq!(copies, 2, "A and B");
    lab.send("self", SendOptions::TO_ALL | SendOptions::TO_SELF);
    if let Some((assoc, _)) = lab.dials.pop() {
        lab.up(assoc);
    }
    assert_eq!(lab.wire().iter().filter(|(_, text)| text == "self").count(), 3);
    // A copy that cannot be delivered comes back and goes to nobody else.
    let number = lab.number;
    lab.down(assoc, DownCause::TimedOut);
    let events = lab.events();
    let back = unsent(number, "self", Reason::Unreachable { element });
    assert!(events.contains(&back), "{events:?}");
    assert!(!lab.wire().iter().any(|(_, text)| text == "self"));
}

#[test]
fn unordered_is_asked_of_the_transport() {
    let (mut lab, assoc, _) = Lab::established(None, &[A]);
    lab.take();
    lab.send("fast", SendOptions::UNORDERED);
    let outputs = lab.take();
    assert!(
        matches!(&outputs[..], [Output::Net(SessionCommand::Data { assoc: at, unordered: true, .. })] if *at == assoc),
        "{outputs:?}"
    );
}

/// Proves.
#[test]
fn the_order_of_the_card_decides_who_is_next() {
    for order in [[A, B, C], [C, B, A], [B, A, C]] {
        let (mut lab, assoc, first) = Lab::established(None, &[A, B, C]);
        let members: Vec<Member> =
            order.iter().map(|e| member(*e, sctp(*e, TransportUse::DATA_PLUS_CONTROL))).collect();
        let elements = members.iter().map(|member| member.to_wire()).collect();
        lab.control(assoc, &Message::BusinessCard { handle: pool().to_wire(), elements });
        lab.down(assoc, DownCause::TimedOut);
        let expected = order.into_iter().find(|element| *element != first);
        let (next, second) = lab.dialled();
        assert_eq!(Some(second), expected);
        lab.down(next, DownCause::TimedOut);
        let expected = order.into_iter().find(|element| ![first, second].contains(element));
        assert_eq!(Some(lab.dialled().1), expected);
        assert!(lab.users.counters().cards == 1);
    }
}

/// Proves A-137.
#[test]
fn an_unknown_pool_on_a_card_is_resolved_once_and_not_without_end() {
    let (mut lab, assoc, _) = Lab::established(None, &[A]);
    lab.take();
    let member = member(B, sctp(B, TransportUse::DATA_PLUS_CONTROL));
    let meet = |lab: &mut Lab, name: &str| {
        let handle: Handle = name.parse().unwrap();
        let elements = vec![member.to_wire()];
        lab.control(assoc, &Message::BusinessCard { handle: handle.to_wire(), elements });
        let resolves = |output: &Output| *output == Output::Resolve(handle.clone());
        lab.take().iter().filter(|output| resolves(output)).count()
    };
    assert_eq!(meet(&mut lab, POOL), 0, "known");
    assert_eq!(meet(&mut lab, "other"), 1);
    assert_eq!(meet(&mut lab, "other"), 0, "asked for already");
    let asked: usize = (0..200).map(|n| meet(&mut lab, &format!("pool{n}"))).sum();
    assert_eq!(asked, MAX_FOREIGN - 1);
    lab.pass(CARD_MEMORY);
    assert_eq!(meet(&mut lab, "other"), 1, "again after a while");
}

/// Proves.
#[test]
fn a_user_sends_its_card_only_if_it_is_an_element_and_after_the_cookie() {
    let (mut lab, _, _) = Lab::established(None, &[A]);
    assert!(lab.wire().is_empty());
    let (mut lab, assoc, _) = Lab::established(Some(own()), &[A, B]);
    assert_eq!(lab.wire(), [(assoc, "card".to_owned())]);
    lab.control(assoc, &Message::Cookie(&[9]));
    lab.send("data", SendOptions::DEFAULT);
    lab.take();
    lab.down(assoc, DownCause::TimedOut);
    let (next, _) = lab.dialled();
    lab.up(next);
    let texts: Vec<String> = lab.wire().into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["echo [9]", "card", "data"]);
}

/// The driver watches that pool already.
#[test]
fn the_pool_of_this_process_is_known_before_a_session_wants_it() {
    let mut lab = Lab::with(UserConfig::default(), Some(own()));
    lab.users.sessions.clear();
    lab.users.pools.clear();
    lab.view(view(&[A, B]));
    assert!(lab.dials.is_empty());
    lab.command(Command::Open { session: S, handle: pool() });
    lab.dialled();
}

/// Proves A-135.
#[test]
fn without_a_control_channel_there_is_neither_cookie_nor_card() {
    let mut lab = Lab::with(UserConfig::default(), Some(own()));
    let data_only = |element| member(element, sctp(element, TransportUse::DATA_ONLY));
    lab.view(view_of(pool(), vec![data_only(A), data_only(B)]));
    let (assoc, from) = lab.dialled();
    lab.up(assoc);
    lab.control(assoc, &Message::Cookie(&[9]));
    lab.down(assoc, DownCause::TimedOut);
    let (next, to) = lab.dialled();
    lab.up(next);
    let failed_over = Event::FailedOver { from, to, cookie: false };
    assert!(lab.outputs.contains(&Output::Event { session: S, event: failed_over }));
    assert!(lab.wire().is_empty());
}

#[test]
fn an_element_that_leaves_in_order_is_not_reported_and_not_dialled_again() {
    let (mut lab, assoc, first) = Lab::established(None, &[A, B]);
    lab.take();
    lab.down(assoc, DownCause::Closed);
    assert!(!lab.take().iter().any(|output| matches!(output, Output::Unreachable { .. })));
    assert_ne!(lab.dialled().1, first);
}

#[test]
fn an_element_that_was_removed_and_acknowledges_nothing_is_left() {
    let (mut lab, assoc, first) = Lab::established(None, &[A, B]);
    let other = if first == A { B } else { A };
    // It may have left the pool, and serve until its users have gone.
    lab.view(view(&[other]));
    lab.send("one", SendOptions::DEFAULT);
    lab.net(SessionEvent::Delivered { assoc, number: 1 });
    lab.view(view(&[other]));
    assert!(lab.dials.is_empty());
    lab.view(view(&[A, B]));
    lab.send("two", SendOptions::DEFAULT);
    lab.view(view(&[A, B]));
    assert!(lab.dials.is_empty());
    lab.take();
    lab.view(view(&[other]));
    assert_eq!(lab.take(), [Output::Net(SessionCommand::Abort { assoc })]);
    let (next, second) = lab.dialled();
    assert_eq!(second, other);
    lab.up(next);
    assert_eq!(lab.wire(), [(next, "two".to_owned())]);
}

#[test]
fn a_pool_of_one_is_tried_again_until_it_is_too_late() {
    let (mut lab, assoc, element) = Lab::established(None, &[A]);
    lab.control(assoc, &Message::Cookie(&[9]));
    lab.down(assoc, DownCause::Aborted);
    let number = lab.send("waits", SendOptions::DEFAULT);
    lab.take();
    for _ in 0..3 {
        lab.pass(Duration::from_millis(250));
        let (assoc, _) = lab.dialled();
        lab.down(assoc, DownCause::Unreachable);
    }
    assert_eq!(lab.users.state(S), Some(State::FailingOver { from: element }));
    lab.pass(Duration::from_secs(10));
    let events = lab.events();
    assert_eq!(events, [unsent(number, "waits", Reason::NoElement)]);
    assert_eq!(lab.users.state(S), Some(State::Idle));
    // The next message starts over, and the cookie is not forgotten.
    let (assoc, _) = lab.dialled();
    lab.send("again", SendOptions::DEFAULT);
    lab.pass(Duration::from_millis(250));
    lab.up(assoc);
    assert_eq!(lab.wire()[0].1, "echo [9]");
}

#[test]
fn what_is_too_much_or_makes_no_sense_comes_back_at_once() {
    let config = UserConfig { max_messages: 3, max_bytes: 1_000, ..UserConfig::default() };
    let mut lab = Lab::with(config, None);
    for _ in 0..3 {
        lab.send("kept", SendOptions::DEFAULT);
    }
    assert!(lab.events().is_empty());
    let number = lab.send("more", SendOptions::DEFAULT);
    assert_eq!(lab.events(), [unsent(number, "more", Reason::Full)]);
    let number = lab.send("", SendOptions::DEFAULT);
    assert_eq!(lab.events(), [unsent(number, "", Reason::Size)]);
    let contradiction = SendOptions::FAILOVER | SendOptions::NO_FAILOVER;
    assert_eq!(SendOptions::from_bits(contradiction.bits()), None);
    assert_eq!(SendOptions::from_bits(0x2000), None);
    assert_eq!(SendOptions::from_bits(0x1005).map(SendOptions::bits), Some(0x1005));
    let number = lab.send("odd", contradiction);
    assert_eq!(lab.events(), [unsent(number, "odd", Reason::Options)]);
    lab.command(Command::Close { session: S });
    let events = lab.events();
    assert_eq!(events.len(), 4, "three messages and the end: {events:?}");
    assert_eq!(events[0], unsent(1, "kept", Reason::Closed));
    assert_eq!(events[3], Event::Closed);
    let number = lab.send("late", SendOptions::DEFAULT);
    assert_eq!(lab.events(), [unsent(number, "late", Reason::Closed)]);
}

#[test]
fn only_so_many_sessions_are_opened() {
    let mut lab = Lab::with(UserConfig { max_sessions: 1, ..UserConfig::default() }, None);
    lab.take();
    let session = SessionId(2);
    lab.command(Command::Open { session, handle: pool() });
    assert_eq!(lab.take(), [Output::Event { session, event: Event::Closed }]);
}

#[test]
fn a_session_on_hold_stays_so_with_the_next_element() {
    let (mut lab, assoc, _) = Lab::established(None, &[A, B]);
    lab.take();
    lab.command(Command::Hold { session: S, on: true });
    assert_eq!(lab.take(), [Output::Net(SessionCommand::Hold { assoc })]);
    lab.down(assoc, DownCause::TimedOut);
    let (next, _) = lab.dialled();
    lab.take();
    lab.up(next);
    assert_eq!(lab.take()[0], Output::Net(SessionCommand::Hold { assoc: next }));
    lab.command(Command::Hold { session: S, on: false });
    assert_eq!(lab.take(), [Output::Net(SessionCommand::Release { assoc: next })]);
}

/// No ERROR answers an ERROR, and no other message does anything.
#[test]
fn odd_control_messages_are_counted() {
    let (mut lab, assoc, _) = Lab::established(None, &[A]);
    lab.take();
    let error = OperationError::from(Cause::plain(CauseCode::UNSPECIFIED));
    lab.control(assoc, &Message::Error(error));
    lab.control(assoc, &Message::CookieEcho(&[1]));
    lab.net(SessionEvent::Control { assoc, payload: vec![0x0b, 0] });
    assert!(lab.take().is_empty());
    assert_eq!(lab.users.counters().unexpected, 3);
    // Top bits 01: report.
    lab.net(SessionEvent::Control { assoc, payload: vec![0x7f, 0, 0, 4] });
    let outputs = lab.take();
    let [Output::Net(SessionCommand::Control { payload, .. })] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert!(matches!(Message::decode(payload).unwrap().message, Message::Error(_)));
}

/// Elements come, go and fail at random: every message is acknowledged, comes back, or is still there; once.
#[test]
fn no_message_gets_lost_inside() {
    let (mut acknowledged, mut returned, mut resent) = (0, 0, 0);
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut lab = Lab::new();
        let all = [A, B, C];
        let mut live: BTreeMap<AssocId, bool> = BTreeMap::new();
        // Copies for all are several messages: without them each number stands for one.
        let options = [
            SendOptions::DEFAULT,
            SendOptions::FAILOVER,
            SendOptions::NO_FAILOVER,
            SendOptions::TO_LAST | SendOptions::NO_FAILOVER,
            SendOptions::UNORDERED,
        ];
        let mut fate: BTreeMap<u64, u32> = BTreeMap::new();
        let mut on_wire: BTreeMap<(AssocId, u64), u64> = BTreeMap::new();
        for _ in 0..200 {
            match rng.u32(..10) {
                0 => {
                    let some: Vec<PeId> = all.into_iter().filter(|_| rng.bool()).collect();
                    if !some.is_empty() {
                        lab.view(view(&some));
                    }
                }
                1..4 => {
                    let option = options[rng.usize(..options.len())];
                    lab.number += 1;
                    let (number, payload) = (lab.number, lab.number.to_string().into_bytes());
                    fate.insert(number, 0);
                    lab.command(Command::Send { session: S, number, payload, options: option });
                }
                4..6 => lab.pass(Duration::from_millis(rng.u64(..2_000))),
                6 => {
                    if let Some((assoc, up)) = live.iter_mut().nth(rng.usize(..4)) {
                        let assoc = *assoc;
                        if rng.u32(..3) > 0 && !*up {
                            *up = true;
                            lab.up(assoc);
                        } else if rng.bool() {
                            live.remove(&assoc);
                            let causes = [DownCause::TimedOut, DownCause::Closed, DownCause::Local];
                            lab.down(assoc, causes[rng.usize(..3)]);
                        }
                    }
                }
                _ => {
                    let entry = on_wire.keys().nth(rng.usize(..on_wire.len().max(1))).copied();
                    if let Some((assoc, number)) = entry {
                        let message = on_wire.remove(&(assoc, number)).unwrap();
                        if live.contains_key(&assoc) {
                            lab.net(SessionEvent::Delivered { assoc, number });
                            *fate.get_mut(&message).unwrap() += 1;
                            acknowledged += 1;
                        }
                    }
                }
            }
            live.extend(lab.dials.drain(..).map(|(assoc, _)| (assoc, false)));
            for output in lab.take() {
                match output {
                    Output::Net(SessionCommand::Data { assoc, number, payload, .. }) => {
                        let message = String::from_utf8(payload).unwrap().parse().unwrap();
                        on_wire.insert((assoc, number.unwrap()), message);
                    }
                    Output::Net(SessionCommand::Abort { assoc }) => {
                        live.remove(&assoc);
                    }
                    Output::Event { event: Event::Unsent { number, .. }, .. } => {
                        *fate.get_mut(&number).unwrap() += 1;
                        returned += 1;
                    }
                    _ => (),
                }
            }
            on_wire.retain(|(assoc, _), _| live.contains_key(assoc));
        }
        resent += lab.users.counters().resent;
        let open = fate.values().filter(|fate| **fate == 0).count();
        let session = lab.users.sessions.get(&S).unwrap();
        assert_eq!(open, session.messages(), "seed {seed}");
        assert!(fate.values().all(|fate| *fate <= 1), "seed {seed}");
        let bytes: usize = session.bytes();
        assert!(bytes <= 4 * open, "seed {seed}");
        lab.command(Command::Close { session: S });
        let in_flight = on_wire.len();
        let back = lab.events().len() - 1;
        assert_eq!(back + in_flight, open, "seed {seed}");
        assert!(lab.users.assocs.is_empty() && lab.users.timers.is_empty());
    }
    assert!(
        acknowledged > 1_000 && returned > 100 && resent > 100,
        "{acknowledged} {returned} {resent}"
    );
}
