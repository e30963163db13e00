//! Calls through gateways and proxies get their media through relays: of a relay that was started later, in every way
//! that a call can begin and go on, and while relays and proxies die.

#[path = "support/rtp.rs"]
#[expect(dead_code, reason = "reports and attributes are a matter of others")]
mod rtp;
#[path = "support/rtpengine.rs"]
#[expect(dead_code, reason = "rtpengine itself is a matter of others")]
mod rtpengine;
#[path = "support/sip.rs"]
#[expect(dead_code, reason = "its calls carry no media")]
mod sip;

use std::{
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use dialtone::launcher::{Exclusive, Launcher, Layout, Signal, wait_for};
use dialtone_ng::{
    message::{Command, Outcome, Reply, Request},
    report::Workload,
};
use rtp::{Media, audio};
use rtpengine::NgUser;
use sip::{Dialog, Phone, Sip, hang_up, uri};

const REGISTRAR: &str = "registrar-ns-1";
const POOL: &str = "media-relay";
const LIMIT: Duration = Duration::from_secs(10);
const PACKETS: usize = 5;

/// The project's promise: what is added to a request on its way to a phone, in bytes.
const BUDGET: usize = 350;

/// Two gateways, two proxies that use relays, and as many relays; a phone at each gateway.
fn start(relays: u8) -> (Launcher, [Phone; 2]) {
    let layout = Layout { registrars: 1, relays: 2, relay_workers: Some(1), ..Layout::default() };
    let mut launcher = Launcher::for_test(env!("CARGO_BIN_EXE_dialtone"), layout).unwrap();
    launcher.start_registrar(1).unwrap();
    let mut names = vec![launcher.spawn_location_db()];
    names.extend((1..=relays).map(|n| launcher.spawn_media_relay(n)));
    names.extend((1..=2).map(|n| launcher.spawn_gateway(n)));
    for name in names {
        launcher.wait_ready(&name.unwrap()).unwrap();
    }
    // A proxy that finds an empty pool looks again half a second later.
    for name in [launcher.spawn_proxy(1), launcher.spawn_proxy(2)] {
        launcher.wait_ready(&name.unwrap()).unwrap();
    }
    await_relays(&mut launcher, relays.into());
    let phones = [("alice", 1), ("bob", 2)].map(|(user, n)| {
        let addresses = launcher.addresses(&format!("sip-gateway-{n}")).unwrap();
        let socket = UdpSocket::bind((launcher.slice().host(200 + n), 0)).unwrap();
        let mut phone = Phone::new(user, socket, addresses["sip-udp"].parse().unwrap());
        phone.register();
        phone
    });
    (launcher, phones)
}

/// Waits until the registrar has as many relays in the pool.
fn await_relays(launcher: &mut Launcher, count: usize) {
    let found = wait_for(LIMIT, || {
        let loads = launcher.loads(REGISTRAR, POOL);
        (loads.map_or(0, |loads| loads.len()) == count).then_some(())
    });
    assert!(found.is_some(), "{:?}", launcher.loads(REGISTRAR, POOL));
}

/// How many calls relay `n` has.
fn sessions(launcher: &mut Launcher, n: u8) -> u64 {
    let addresses = launcher.addresses(&format!("media-relay-{n}")).unwrap();
    let address = addresses.values().find(|address| address.ends_with(":2223")).unwrap();
    let relay = NgUser::new(address.parse().unwrap());
    let answer = relay.ask(&Request::new(Command::Statistics));
    Workload::read(&Reply::decode(&answer).unwrap().dict).unwrap().sessions
}

fn await_idle(launcher: &mut Launcher, n: u8) {
    let idle = wait_for(LIMIT, || (sessions(launcher, n) == 0).then_some(()));
    assert!(idle.is_some(), "relay {n} still has {}", sessions(launcher, n));
}

fn with_sdp(contact: &str) -> String {
    format!("{contact}Content-Type: application/sdp\r\n")
}

/// A call that goes on.
struct Call {
    /// As either side has it.
    dialogs: [Dialog; 2],
    media: [Media; 2],
    /// Where either side sends.
    to: [SocketAddr; 2],
    /// From the INVITE to the answer, without the callee's own time.
    took: Duration,
}

impl Call {
    /// `late`: without an offer in the INVITE.
    #[expect(clippy::disallowed_methods, reason = "phones live in real time")]
    fn place([alice, bob]: &mut [Phone; 2], late: bool) -> Self {
        let (mut a, mut b) = (Media::new(alice.local.ip()), Media::new(bob.local.ip()));
        let began = Instant::now();
        let contact = alice.contact();
        let invite = if late {
            alice.request("INVITE", "sip:bob@dialtone.test", &contact, "")
        } else {
            alice.request("INVITE", "sip:bob@dialtone.test", &with_sdp(&contact), &a.sdp(""))
        };
        alice.send(&invite);
        let delivered = bob.expect("an INVITE", |message| message.is("INVITE"));
        let added = delivered.bytes.len() - delivered.body().len() - head_length(&invite);
        assert!(added <= BUDGET, "{added} bytes of headers added");
        bob.answer(&delivered, "200 OK", &with_sdp(&bob.contact()), &b.sdp(""));
        let answered = alice.expect("an answer", |message| message.status() >= 200);
        let took = began.elapsed();
        assert_eq!(answered.status(), 200, "{}", answered.start());
        let dialogs = [Dialog::new(&answered), reversed(&delivered, &answered)];
        let to_alice = audio(answered.body());
        let ack = dialogs[0].request(alice, "ACK", &dialogs[0].routes);
        alice.send(&if late { with_body(&ack, &a.sdp("")) } else { ack });
        let acknowledged = bob.expect("an ACK", |message| message.is("ACK"));
        let to_bob = audio(if late { acknowledged.body() } else { delivered.body() });
        Self { dialogs, media: [a, b], to: [to_alice, to_bob], took }
    }

    /// Who of the two has a new offer; the other one answers it.
    fn offer(&mut self, phones: &mut [Phone; 2], by: usize) {
        let other = 1 - by;
        let again = self.dialogs[by].request(&mut phones[by], "INVITE", &self.dialogs[by].routes);
        phones[by].send(&with_body(&again, &self.media[by].sdp("")));
        let delivered = phones[other].expect("an INVITE", |message| message.is("INVITE"));
        self.to[other] = audio(delivered.body());
        let contact = with_sdp(&phones[other].contact());
        phones[other].answer(&delivered, "200 OK", &contact, &self.media[other].sdp(""));
        let answered = phones[by].expect("an answer", |message| message.status() >= 200);
        assert_eq!(answered.status(), 200, "{}", answered.start());
        self.to[by] = audio(answered.body());
        let transaction = Dialog { cseq: Dialog::new(&answered).cseq, ..self.dialogs[by].clone() };
        let ack = transaction.request(&mut phones[by], "ACK", &self.dialogs[by].routes);
        phones[by].send(&ack);
        phones[other].expect("an ACK", |message| message.is("ACK"));
    }

    /// Audio flows both ways through one relay.
    fn converse(&mut self) -> String {
        let [a, b] = &mut self.media;
        let [to_alice, to_bob] = self.to;
        assert_eq!(to_alice.ip(), to_bob.ip(), "one relay");
        assert!(to_alice != b.local() && to_bob != a.local(), "not directly");
        // It answers for the call as a whole when it has done what it was asked.
        let relay = NgUser::new(SocketAddr::new(to_alice.ip(), dialtone_ng::NG_PORT));
        let call_id = Some(self.dialogs[0].call_id.as_bytes());
        let answer = relay.ask(&Request { call_id, ..Request::new(Command::Query) });
        assert_eq!(Reply::decode(&answer).unwrap().outcome, Outcome::Ok);
        let packets = a.send(to_alice, PACKETS);
        b.expect(&packets, to_bob);
        let packets = b.send(to_bob, PACKETS);
        a.expect(&packets, to_alice);
        to_alice.ip().to_string()
    }

    fn hang_up(&self, phones: &mut [Phone; 2], by: usize) {
        let [alice, bob] = phones;
        let (one, other) = if by == 0 { (alice, bob) } else { (bob, alice) };
        hang_up(one, other, &self.dialogs[by]);
    }
}

/// The dialog as the callee has it.
fn reversed(request: &Sip, answer: &Sip) -> Dialog {
    let routes = answer.lines("Record-Route").into_iter();
    Dialog {
        from: answer.value("To").to_owned(),
        to: answer.value("From").to_owned(),
        call_id: answer.value("Call-ID").to_owned(),
        cseq: 0,
        target: uri(request.value("Contact")).to_owned(),
        routes: routes.map(|line| line.split_once(':').unwrap().1.trim().to_owned()).collect(),
    }
}

fn head_length(request: &str) -> usize {
    request.find("\r\n\r\n").unwrap() + 4
}

/// A request without a body, with one.
fn with_body(request: &str, sdp: &str) -> String {
    let (head, _) = request.split_once("Content-Length: 0").unwrap();
    format!("{head}Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}", sdp.len())
}

#[test]
fn a_relay_that_comes_later_carries_calls_in_all_their_ways() {
    let (mut launcher, mut phones) = start(0);
    let call = Call::place(&mut phones, false);
    assert_eq!(call.to, [call.media[1].local(), call.media[0].local()], "directly, without relays");
    assert_eq!(call.dialogs[0].routes.len(), 2, "no proxy stays");
    call.hang_up(&mut phones, 0);

    launcher.start_media_relay(1).unwrap();
    // The registrar tells the proxies in its own time.
    for proxy in ["sip-proxy-1", "sip-proxy-2"] {
        let knows = wait_for(LIMIT, || {
            launcher.log(proxy).unwrap().contains("pool=media-relay members=1").then_some(())
        });
        assert!(knows.is_some(), "{proxy} has not heard of the relay");
    }
    for late in [false, true] {
        for by in [0, 1] {
            let mut call = Call::place(&mut phones, late);
            assert_eq!(call.dialogs[0].routes.len(), 3, "{:?}", call.dialogs[0].routes);
            let relay = call.converse();
            call.offer(&mut phones, by);
            assert_eq!(call.converse(), relay);
            // Whichever proxy stayed in the dialog: the other one goes on.
            let dead = format!("sip-proxy-{}", 1 + by);
            launcher.kill(&dead, Signal::SIGKILL).unwrap();
            call.offer(&mut phones, 1 - by);
            assert_eq!(call.converse(), relay);
            assert_eq!(sessions(&mut launcher, 1), 1);
            call.hang_up(&mut phones, by);
            await_idle(&mut launcher, 1);
            launcher.restart(&dead).unwrap();
        }
    }
    // What fails leaves nothing behind.
    let [alice, bob] = &mut phones;
    let mut media = Media::new(alice.local.ip());
    let contact = with_sdp(&alice.contact());
    let invite = alice.request("INVITE", "sip:bob@dialtone.test", &contact, &media.sdp(""));
    alice.send(&invite);
    let delivered = bob.expect("an INVITE", |message| message.is("INVITE"));
    assert_ne!(audio(delivered.body()), media.local());
    bob.answer(&delivered, "486 Busy Here", "", "");
    alice.expect("a refusal", |message| message.status() == 486);
    await_idle(&mut launcher, 1);
}

#[test]
fn dead_and_frozen_relays_cost_no_call() {
    let _turn = Exclusive::wait().unwrap();
    let (mut launcher, mut phones) = start(2);
    let address = |n| format!("media-relay-{n}");
    for (signal, bound) in [(Signal::SIGKILL, 250), (Signal::SIGSTOP, 500)] {
        // One call that has the relay, and one that is being set up.
        let mut call = Call::place(&mut phones, false);
        let relay = call.converse();
        let n = (1..=2).find(|n| launcher.media_ports(*n).0.to_string() == relay).unwrap();
        launcher.kill(&address(n), signal).unwrap();
        let mut slowest = Duration::ZERO;
        for late in [false, false, true, false] {
            let mut next = Call::place(&mut phones, late);
            slowest = slowest.max(next.took);
            let other = next.converse();
            assert_ne!(other, relay, "the one that lives");
            next.hang_up(&mut phones, 1);
        }
        println!(
            "table: a relay gets {signal}: the slowest new call took {slowest:.1?} (bound {bound} ms)"
        );
        assert!(slowest < Duration::from_millis(3 * bound), "{slowest:?}");
        // Its call ends as if nothing had happened, and could have gone on elsewhere.
        call.offer(&mut phones, 1);
        assert_ne!(call.converse(), relay);
        call.hang_up(&mut phones, 0);
        await_relays(&mut launcher, 1);
        if signal == Signal::SIGKILL {
            launcher.restart(&address(n)).unwrap();
        } else {
            launcher.kill(&address(n), Signal::SIGCONT).unwrap();
        }
        await_relays(&mut launcher, 2);
    }
}
