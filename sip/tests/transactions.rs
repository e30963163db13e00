//! Transactions with virtual time: RFC 3261 section 17, RFC 6026, RFC 3581, RFC 4320.

mod common;

use std::time::{Duration, Instant};

use common::{invite, parse};
use dialtone_sip::transaction::{
    ClientId, Destination, Layer, LayerStats, Output, ServerId, Timers,
};
use dialtone_sip::{HeaderName, Message, Method, ResponseBuilder, Via};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Dest {
    Udp(u16),
    Tcp(u16),
    /// A core hop: every request gets a 100 after 50 ms.
    Core(u16),
}

impl Destination for Dest {
    fn is_reliable(&self) -> bool {
        !matches!(self, Self::Udp(_))
    }

    fn reply_to(self, via: &Via<'_>) -> Self {
        match self {
            Self::Udp(_) if via.rport().is_none() => Self::Udp(via.port_or_default()),
            other => other,
        }
    }

    fn trying_after(&self, invite: bool) -> Option<Duration> {
        match self {
            Self::Core(_) => Some(Duration::from_millis(50)),
            Self::Udp(_) | Self::Tcp(_) => invite.then_some(Duration::from_millis(200)),
        }
    }
}

/// A layer with a clock of its own.
struct World {
    start: Instant,
    now: Instant,
    layer: Layer<Dest>,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "an origin for virtual time")]
    fn new() -> Self {
        let now = Instant::now();
        Self { start: now, now, layer: Layer::new(Timers::default()) }
    }

    fn receive(&mut self, text: &str, from: Dest) -> Vec<Output<Dest>> {
        self.layer.handle_message(self.now, parse(text), from).expect("a transaction");
        self.drain()
    }

    fn drain(&mut self) -> Vec<Output<Dest>> {
        std::iter::from_fn(|| self.layer.poll()).collect()
    }

    /// Lets time pass; returns what happened and when, in milliseconds since the start.
    fn run_until(&mut self, ms: u64) -> Vec<(u64, Output<Dest>)> {
        let end = self.start + Duration::from_millis(ms);
        let mut out = Vec::new();
        while let Some(at) = self.layer.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.layer.handle_timeout(self.now);
            let ms = self.now.duration_since(self.start).as_millis() as u64;
            out.extend(self.drain().into_iter().map(|output| (ms, output)));
        }
        self.now = end;
        out
    }

    fn send(&mut self, text: &str, to: Dest) -> (ClientId, Vec<Output<Dest>>) {
        let id = self.layer.send_request(self.now, &parse(text), to).expect("sent");
        (id, self.drain())
    }

    fn respond(&mut self, id: ServerId, request: &str, code: u16) -> Vec<Output<Dest>> {
        assert!(
            self.layer.respond(self.now, id, code, answer(request, code).into()),
            "{code} refused"
        );
        self.drain()
    }

    fn is_empty(&self) -> bool {
        self.layer.next_deadline().is_none()
            && matches!(self.layer.stats(), LayerStats { clients: 0, servers: 0, .. })
    }
}

fn answer(request: &str, code: u16) -> String {
    let request = parse(request);
    let bytes = ResponseBuilder::new(&request, code).to_tag("server").build().expect("built");
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn register() -> String {
    invite().replace("INVITE", "REGISTER")
}

fn of_method(method: &str) -> String {
    let text = invite().replace("CSeq: 1 INVITE", &format!("CSeq: 1 {method}"));
    text.replace("INVITE sip:", &format!("{method} sip:"))
}

fn sent(outputs: &[Output<Dest>]) -> Vec<(Dest, Message)> {
    let sends = outputs.iter().filter_map(|output| match output {
        Output::Send { to, bytes } => Some((*to, Message::parse(bytes.clone()).expect("whole"))),
        _ => None,
    });
    sends.collect()
}

fn times_of_sends(outputs: &[(u64, Output<Dest>)]) -> Vec<u64> {
    outputs
        .iter()
        .filter(|(_, output)| matches!(output, Output::Send { .. }))
        .map(|(ms, _)| *ms)
        .collect()
}

fn request_id(outputs: &[Output<Dest>]) -> ServerId {
    match outputs {
        [Output::Request { id, .. }] => *id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn client_invite_retransmits_then_times_out() {
    let mut world = World::new();
    let (id, outputs) = world.send(&invite(), Dest::Udp(1));
    assert_eq!(sent(&outputs).len(), 1);
    let outputs = world.run_until(40_000);
    // Timer A doubles without bound, timer B ends it after 64*T1.
    assert_eq!(times_of_sends(&outputs), [500, 1500, 3500, 7500, 15500, 31500]);
    assert_eq!(
        outputs[6..],
        [(32_000, Output::ClientTimeout { id }), (32_000, Output::ClientTerminated { id })]
    );
    assert!(world.is_empty());
}

#[test]
fn client_invite_over_tcp_sends_once() {
    let mut world = World::new();
    let (id, _) = world.send(&invite(), Dest::Tcp(1));
    let outputs = world.run_until(40_000);
    assert_eq!(
        outputs,
        [(32_000, Output::ClientTimeout { id }), (32_000, Output::ClientTerminated { id })]
    );
}

#[test]
fn client_invite_rings_and_is_refused() {
    let mut world = World::new();
    let (id, _) = world.send(&invite(), Dest::Udp(1));
    let ringing = answer(&invite(), 180);
    assert_eq!(
        world.receive(&ringing, Dest::Udp(1)),
        [Output::Response { id, response: parse(&ringing) }]
    );
    // Ringing has no timer here.
    assert_eq!(world.run_until(100_000), []);
    let busy = answer(&invite(), 486);
    let outputs = world.receive(&busy, Dest::Udp(1));
    let acks = sent(&outputs);
    assert_eq!((acks[0].0, acks[0].1.method()), (Dest::Udp(1), Some(Method::Ack)));
    assert_eq!(outputs[1], Output::Response { id, response: parse(&busy) });
    // A retransmission of the answer is acknowledged, not passed up; another answer is nothing.
    let again = world.receive(&busy, Dest::Udp(1));
    assert_eq!(sent(&again), acks);
    assert_eq!(again.len(), 1);
    assert_eq!(world.receive(&answer(&invite(), 200), Dest::Udp(1)), []);
    assert_eq!(world.run_until(200_000), [(132_000, Output::ClientTerminated { id })]);
    assert!(world.is_empty());
    // What comes later belongs to nobody.
    assert!(matches!(world.receive(&busy, Dest::Udp(1))[..], [Output::StrayResponse { .. }]));
}

#[test]
fn client_invite_passes_every_2xx_up_for_timer_m() {
    let mut world = World::new();
    let (id, _) = world.send(&invite(), Dest::Udp(1));
    let ok = answer(&invite(), 200);
    for _ in 0..3 {
        assert_eq!(
            world.receive(&ok, Dest::Udp(1)),
            [Output::Response { id, response: parse(&ok) }]
        );
    }
    assert_eq!(world.receive(&answer(&invite(), 486), Dest::Udp(1)), []);
    assert_eq!(world.run_until(40_000), [(32_000, Output::ClientTerminated { id })]);
    assert!(world.is_empty());
}

#[test]
fn client_request_retransmits_up_to_t2() {
    let mut world = World::new();
    let (id, _) = world.send(&register(), Dest::Udp(1));
    let outputs = world.run_until(40_000);
    assert_eq!(
        times_of_sends(&outputs),
        [500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500]
    );
    assert_eq!(outputs.last(), Some(&(32_000, Output::ClientTerminated { id })));
    assert!(world.is_empty());
}

#[test]
fn client_request_completes() {
    for (dest, end) in [(Dest::Udp(1), 5000), (Dest::Tcp(1), 0)] {
        let mut world = World::new();
        let (id, _) = world.send(&register(), dest);
        let trying = answer(&register(), 100);
        assert_eq!(world.receive(&trying, dest).len(), 1);
        let ok = answer(&register(), 200);
        let mut outputs = world.receive(&ok, dest);
        assert_eq!(outputs.remove(0), Output::Response { id, response: parse(&ok) });
        if end == 0 {
            assert_eq!(outputs, [Output::ClientTerminated { id }]);
        } else {
            // Retransmissions are absorbed until timer K.
            assert_eq!(world.receive(&ok, dest), []);
            assert_eq!(world.run_until(40_000), [(end, Output::ClientTerminated { id })]);
        }
        assert!(world.is_empty());
    }
}

#[test]
fn server_invite_refuses_until_acknowledged() {
    let mut world = World::new();
    let text = invite();
    let id = request_id(&world.receive(&text, Dest::Udp(5062)));
    // A retransmission before any answer is absorbed, one after it gets the answer again.
    assert_eq!(world.receive(&text, Dest::Udp(5062)), []);
    assert_eq!(sent(&world.respond(id, &text, 180)).len(), 1);
    assert_eq!(sent(&world.receive(&text, Dest::Udp(5062)))[0].1.status(), Some(180));
    world.respond(id, &text, 486);
    assert_eq!(times_of_sends(&world.run_until(12_000)), [500, 1500, 3500, 7500, 11500]);
    assert!(!world.layer.respond(world.now, id, 200, answer(&text, 200).into()));
    assert_eq!(world.receive(&of_method("ACK"), Dest::Udp(5062)), []);
    assert_eq!(world.receive(&text, Dest::Udp(5062)), []);
    assert_eq!(world.run_until(60_000), [(17_000, Output::ServerTerminated { id })]);
    assert!(world.is_empty());
}

#[test]
fn server_invite_without_ack_times_out() {
    let mut world = World::new();
    let id = request_id(&world.receive(&invite(), Dest::Tcp(1)));
    world.respond(id, &invite(), 486);
    assert_eq!(
        world.run_until(40_000),
        [(32_000, Output::ServerTimeout { id }), (32_000, Output::ServerTerminated { id })]
    );
}

#[test]
fn server_invite_accepted_as_rfc_6026_says() {
    let mut world = World::new();
    let id = request_id(&world.receive(&invite(), Dest::Udp(5062)));
    assert_eq!(sent(&world.respond(id, &invite(), 200)).len(), 1);
    // The user agent retransmits its 2xx; the INVITE is absorbed; nothing is retransmitted from here.
    assert_eq!(world.receive(&invite(), Dest::Udp(5062)), []);
    assert_eq!(sent(&world.respond(id, &invite(), 200)).len(), 1);
    // An ACK with the same branch (RFC 2543 style) is passed up, one with its own as well.
    let outputs = world.receive(&of_method("ACK"), Dest::Udp(5062));
    assert!(
        matches!(outputs[..], [Output::Ack { invite: Some(found), .. }] if found == id),
        "{outputs:?}"
    );
    let other = of_method("ACK").replace("branch=z9hG4bK", "branch=z9hG4bKother");
    assert!(matches!(
        world.receive(&other, Dest::Udp(5062))[..],
        [Output::Ack { invite: None, .. }]
    ));
    assert_eq!(world.run_until(40_000), [(32_000, Output::ServerTerminated { id })]);
    assert!(world.is_empty());
}

#[test]
fn server_answers_100_by_itself_where_the_hop_wants_it() {
    let mut world = World::new();
    request_id(&world.receive(&invite(), Dest::Udp(5062)));
    let outputs = world.run_until(1000);
    assert_eq!(times_of_sends(&outputs), [200]);
    let mut world = World::new();
    let id = request_id(&world.receive(&register(), Dest::Core(1)));
    let outputs = world.run_until(1000);
    assert_eq!(times_of_sends(&outputs), [50]);
    assert_eq!(sent(&[outputs[0].1.clone()])[0].1.status(), Some(100));
    assert!(matches!(
        world.respond(id, &register(), 200)[..],
        [Output::Send { .. }, Output::ServerTerminated { .. }]
    ));
    let mut world = World::new();
    let id = request_id(&world.receive(&register(), Dest::Tcp(1)));
    assert_eq!(world.run_until(1000), []);
    world.layer.forget_server(id);
    assert!(world.is_empty());
}

#[test]
fn server_request_repeats_its_answer() {
    let mut world = World::new();
    let id = request_id(&world.receive(&register(), Dest::Udp(5062)));
    world.respond(id, &register(), 200);
    assert_eq!(sent(&world.receive(&register(), Dest::Udp(5062)))[0].1.status(), Some(200));
    assert_eq!(world.run_until(40_000), [(32_000, Output::ServerTerminated { id })]);
    assert!(world.is_empty());
}

#[test]
fn requests_match_by_branch_sent_by_and_method() {
    let mut world = World::new();
    let id = request_id(&world.receive(&invite(), Dest::Udp(5062)));
    // Another sent-by with the same branch is another transaction (RFC 3261 section 17.2.3).
    request_id(
        &world.receive(&invite().replace("192.0.2.10:5062;", "192.0.2.11:5062;"), Dest::Udp(5062)),
    );
    let cancel = world.receive(&of_method("CANCEL"), Dest::Udp(5062));
    assert!(
        matches!(cancel[..], [Output::Request { cancels: Some(found), .. }] if found == id),
        "{cancel:?}"
    );
    let stray = of_method("CANCEL").replace("branch=z9hG4bK", "branch=z9hG4bKother");
    assert!(matches!(
        world.receive(&stray, Dest::Udp(5062))[..],
        [Output::Request { cancels: None, .. }]
    ));
    // RFC 2543: no cookie; ACK and CANCEL are told by URI, tag, Call-ID, CSeq and Via.
    let old = |text: String| text.replace("branch=z9hG4bK-524287-1---7d3f6c2b;", "branch=1;");
    let id = request_id(&world.receive(&old(invite()), Dest::Udp(5062)));
    assert_eq!(world.receive(&old(invite()), Dest::Udp(5062)), []);
    world.respond(id, &old(invite()), 486);
    let ack = old(of_method("ACK"))
        .replace("To: \"Bob\" <sip:bob@example.com>", "To: <sip:bob@example.com>;tag=server");
    assert_eq!(world.receive(&ack, Dest::Udp(5062)), []);
    assert_eq!(times_of_sends(&world.run_until(150)), [0_u64; 0]);
}

#[test]
fn answers_without_rport_go_to_the_sent_by_port() {
    let mut world = World::new();
    let text = register().replace(";rport\r\n", "\r\n");
    let id = request_id(&world.receive(&text, Dest::Udp(31_000)));
    assert_eq!(sent(&world.respond(id, &text, 200))[0].0, Dest::Udp(5062));
    let id = request_id(&world.receive(&register().replace("7d3f", "8d3f"), Dest::Udp(31_000)));
    assert_eq!(sent(&world.respond(id, &register(), 200))[0].0, Dest::Udp(31_000));
}

#[test]
fn cancel_waits_for_a_provisional_response() {
    let mut world = World::new();
    let (invite_id, _) = world.send(&invite(), Dest::Udp(1));
    assert_eq!(world.layer.cancel(world.now, invite_id), Ok(None));
    world.receive(&answer(&invite(), 100), Dest::Udp(1));
    let cancel = world.layer.cancel(world.now, invite_id).expect("built").expect("sent");
    let outputs = sent(&world.drain());
    assert_eq!(outputs[0].1.method(), Some(Method::Cancel));
    assert_eq!(world.layer.cancel(world.now, invite_id), Ok(None));
    // The answers to both have the same branch and are told apart by CSeq.
    let ok = answer(&of_method("CANCEL"), 200);
    assert!(
        matches!(world.receive(&ok, Dest::Udp(1))[..], [Output::Response { id, .. }] if id == cancel)
    );
    let terminated = world.receive(&answer(&invite(), 487), Dest::Udp(1));
    assert!(matches!(terminated[1], Output::Response { id, .. } if id == invite_id));
}

#[test]
fn a_lost_connection_ends_what_depends_on_it() {
    let mut world = World::new();
    let (lost, _) = world.send(&invite(), Dest::Tcp(1));
    let (kept, _) = world.send(&invite().replace("7d3f", "8d3f"), Dest::Tcp(2));
    let server = request_id(&world.receive(&register().replace("7d3f", "9d3f"), Dest::Tcp(1)));
    world.layer.handle_transport_error(world.now, Dest::Tcp(1));
    assert_eq!(
        world.drain(),
        [
            Output::ClientTimeout { id: lost },
            Output::ClientTerminated { id: lost },
            Output::ServerTerminated { id: server },
        ]
    );
    assert!(!world.layer.respond(world.now, server, 200, answer(&register(), 200).into()));
    world.layer.forget_client(kept);
    assert!(world.is_empty());
}

#[test]
fn branches_are_used_once() {
    let mut world = World::new();
    world.send(&invite(), Dest::Udp(1));
    assert!(world.layer.send_request(world.now, &parse(&invite()), Dest::Udp(1)).is_err());
    let without = parse(&invite().replace("Via:", "X-Via:"));
    assert!(world.layer.handle_message(world.now, without.clone(), Dest::Udp(1)).is_err());
    assert_eq!(without.header(HeaderName::Via).map(|header| header.name), None);
    assert_eq!(world.layer.stats().unmatched, 1);
}

#[test]
fn a_late_caller_gets_no_burst() {
    let mut world = World::new();
    world.send(&register(), Dest::Udp(1));
    world.now += Duration::from_secs(20);
    world.layer.handle_timeout(world.now);
    assert_eq!(sent(&world.drain()).len(), 1);
    assert!(world.layer.next_deadline().is_some_and(|at| at > world.now));
}
