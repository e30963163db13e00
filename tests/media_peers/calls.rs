//! Kamailio's calls go through our relay as they go through rtpengine: offers, answers, early media, re-INVITEs from
//! both sides, queries, deletions. The phones are scripts that check every packet.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use dialtone::launcher::{Exclusive, Launcher, Layout, wait_for};
use dialtone_ng::{
    message::{Command, Outcome, Reply, Request},
    report::{CallReport, Workload},
};

use crate::{
    kamailio::{self, Kamailio},
    rtp::{Media, audio, next},
    rtpengine::{self, NgUser, Rtpengine},
    sip::{Dialog, Phone, Sip, hang_up, uri},
};

/// Packets that go each way each time; rtpengine drops some if more than 50 come at once.
const PACKETS: usize = 40;

/// What Kamailio asks of the relay in every offer and answer, each for a call of its own.
const FLAGS: [&str; 3] = [
    "trust-address replace-origin replace-session-connection ICE=remove symmetric",
    "SIP-source-address replace-origin replace-session-connection ICE=remove strict-source via-branch=auto \
     rtcp-mux-demux",
    "replace-origin replace-session-connection ICE=remove asymmetric label=phone RTP/AVP record-call=no",
];

#[test]
fn kamailio_uses_rtpengine() {
    if !kamailio::is_installed() || !rtpengine::is_installed() {
        return;
    }
    let _turn = Exclusive::wait().unwrap();
    let launcher = launcher();
    let folder = launcher.folder().join("rtpengine");
    let relay = Rtpengine::start(&folder, launcher.slice().host(80), &(30_000..=30_999));
    // It sends to the second of two phones from another port than the one that its offer named.
    serve(&launcher, relay.ng, false);
}

#[test]
fn kamailio_uses_our_relay() {
    if !kamailio::is_installed() {
        return;
    }
    let _turn = Exclusive::wait().unwrap();
    let mut launcher = launcher();
    launcher.start_registrar(1).unwrap();
    launcher.start_media_relay(1).unwrap();
    let ng = launcher.addresses("media-relay-1").unwrap()["ng"].parse().unwrap();
    serve(&launcher, ng, true);
    assert!(launcher.stop("media-relay-1").unwrap(), "stopped in order");
}

fn launcher() -> Launcher {
    let layout = Layout { registrars: 1, relays: 1, relay_workers: Some(1), ..Layout::default() };
    Launcher::for_test(env!("CARGO_BIN_EXE_dialtone"), layout).unwrap()
}

/// Phones at a Kamailio that uses the relay at `ng`.
fn serve(launcher: &Launcher, ng: SocketAddr, forks: bool) {
    for (n, flags) in (0..).zip(FLAGS) {
        let host = |base: u8| launcher.slice().host(base + n);
        let folder = launcher.folder().join(format!("kamailio-{n}"));
        let kamailio = Kamailio::start(&folder, host(190), ng, flags);
        let phone = |user, base| {
            let socket = UdpSocket::bind((host(base), 5060)).unwrap();
            let mut phone = Phone::new(user, socket, kamailio.sip);
            phone.register();
            phone
        };
        let mut alice = phone("alice", 200);
        let mut bob = phone("bob", 210);
        let relay = NgUser::new(ng);

        talk(&mut alice, &mut bob, &relay);
        await_idle(&relay);
        refuse(&mut alice, &mut bob, &relay);
        await_idle(&relay);
        if forks {
            let mut second = phone("bob", 220);
            fork(&mut alice, [&mut bob, &mut second]);
            await_idle(&relay);
        }
        assert!(!kamailio.log().contains("no media for"), "{}", kamailio.log());
    }
}

/// A call with everything in it.
fn talk(alice: &mut Phone, bob: &mut Phone, relay: &NgUser) {
    let (mut a, mut b) = (Media::new(alice.local.ip()), Media::new(bob.local.ip()));
    let contact = alice.contact();
    let invite = alice.request("INVITE", "sip:bob@dialtone.test", &with_sdp(&contact), &a.sdp(""));
    alice.send(&invite);
    let delivered = bob.expect("an INVITE", |message| message.is("INVITE"));
    let to_bob = relayed(delivered.body(), &a);

    // Early media, and the same answer again.
    let answer = b.sdp("");
    bob.answer(&delivered, "183 Session Progress", &with_sdp(&bob.contact()), &answer);
    let progress = alice.expect("a 183", |message| message.status() == 183);
    let to_alice = relayed(progress.body(), &b);
    let packets = b.send(to_bob, PACKETS);
    a.expect(&packets, to_alice);
    bob.answer(&delivered, "200 OK", &with_sdp(&bob.contact()), &answer);
    let answered = alice.expect("an answer", |message| message.status() == 200);
    assert_eq!(relayed(answered.body(), &b), to_alice, "the port of the early media");
    let dialog = Dialog::new(&answered);
    let back = reversed(&delivered, &answered);
    let ack = dialog.request(alice, "ACK", &dialog.routes);
    alice.send(&ack);
    bob.expect("an ACK", |message| message.is("ACK"));
    converse(PACKETS, &mut a, to_alice, &mut b, to_bob);

    let call_id = dialog.call_id.clone();
    let report = query(relay, &call_id).expect("the call is known");
    let tags: Vec<_> = report.0.iter().map(String::as_str).collect();
    assert_eq!(tags.len(), 2, "{tags:?}");
    let sent = 3 * PACKETS as u64;
    assert!(report.1 >= sent, "{} of {sent} packets counted", report.1);

    // Alice moves to another port.
    let mut moved = Media::new(alice.local.ip());
    let again = dialog.request(alice, "INVITE", &dialog.routes);
    let delivered = ask_with_sdp(alice, bob, &again, &moved.sdp(""));
    let to_bob = relayed(delivered.body(), &moved);
    bob.answer(&delivered, "200 OK", &with_sdp(&bob.contact()), &b.sdp(""));
    let answered = alice.expect("an answer", |message| message.status() == 200);
    let to_alice = relayed(answered.body(), &b);
    acknowledge(alice, bob, &dialog, &answered);
    converse(PACKETS, &mut moved, to_alice, &mut b, to_bob);

    // Bob holds the call.
    let hold = back.request(bob, "INVITE", &back.routes);
    let delivered = ask_with_sdp(bob, alice, &hold, &b.sdp("a=sendonly\r\n"));
    assert!(has_line(delivered.body(), "a=sendonly"), "{}", text(delivered.body()));
    let to_alice = relayed(delivered.body(), &b);
    let answer = moved.sdp("a=recvonly\r\n");
    alice.answer(&delivered, "200 OK", &with_sdp(&alice.contact()), &answer);
    let answered = bob.expect("an answer", |message| message.status() == 200);
    assert!(has_line(answered.body(), "a=recvonly"), "{}", text(answered.body()));
    let to_bob = relayed(answered.body(), &moved);
    acknowledge(bob, alice, &back, &answered);
    let packets = b.send(to_bob, PACKETS);
    moved.expect(&packets, to_alice);
    for media in [&a, &b, &moved] {
        media.expect_nothing();
    }

    let bye = dialog.request(alice, "BYE", &dialog.routes);
    alice.send(&bye);
    let delivered = bob.expect("a BYE", |message| message.is("BYE"));
    bob.answer(&delivered, "200 OK", "", "");
    let ended = alice.expect("the answer to a BYE", |message| {
        message.status() == 200 && message.value("CSeq").ends_with("BYE")
    });
    println!(
        "table: Kamailio of one call: {}; MOS {}",
        ended.value("X-Totals"),
        ended.value("X-MOS")
    );
    let totals = ended.value("X-Totals");
    let packets: u64 = totals
        .split(", ")
        .find_map(|part| part.strip_suffix(" packets")?.parse().ok())
        .unwrap_or_else(|| panic!("no packets in {totals}"));
    let sent = 6 * PACKETS as u64;
    assert!(packets >= sent, "{packets} of {sent} packets counted: {totals}");
    assert_eq!(query(relay, &call_id), None, "the call is forgotten");
}

/// A call that is refused leaves nothing behind.
fn refuse(alice: &mut Phone, bob: &mut Phone, relay: &NgUser) {
    let mut a = Media::new(alice.local.ip());
    let contact = alice.contact();
    let invite = alice.request("INVITE", "sip:bob@dialtone.test", &with_sdp(&contact), &a.sdp(""));
    alice.send(&invite);
    let delivered = bob.expect("an INVITE", |message| message.is("INVITE"));
    let call_id = delivered.value("Call-ID").to_owned();
    assert!(query(relay, &call_id).is_some(), "the call is known");
    bob.answer(&delivered, "486 Busy Here", "", "");
    let refused = alice.expect("a final answer", |message| message.status() >= 200);
    assert_eq!(refused.status(), 486);
    let gone = wait_for(Duration::from_secs(5), || query(relay, &call_id).is_none().then_some(()));
    assert!(gone.is_some(), "the call is still known");
}

/// A call that rings at two phones, both with early media; the second is answered.
fn fork(alice: &mut Phone, [first, second]: [&mut Phone; 2]) {
    let mut a = Media::new(alice.local.ip());
    let contact = alice.contact();
    let invite = alice.request("INVITE", "sip:bob@dialtone.test", &with_sdp(&contact), &a.sdp(""));
    alice.send(&invite);
    let mut ring = |bob: &mut Phone, tag: &str| {
        bob.user = tag.to_owned();
        let delivered = bob.expect("an INVITE", |message| message.is("INVITE"));
        let to_bob = relayed(delivered.body(), &a);
        let mut b = Media::new(bob.local.ip());
        let answer = b.sdp("");
        bob.answer(&delivered, "183 Session Progress", &with_sdp(&bob.contact()), &answer);
        let progress = alice.expect("a 183", |message| {
            message.status() == 183 && message.value("To").ends_with(&format!("tag={tag}"))
        });
        let to_alice = relayed(progress.body(), &b);
        let packets = b.send(to_bob, PACKETS);
        a.expect(&packets, to_alice);
        (delivered, answer, b, to_bob)
    };
    let (refused, ..) = ring(first, "first");
    let (delivered, answer, mut b, to_bob) = ring(second, "second");
    second.answer(&delivered, "200 OK", &with_sdp(&second.contact()), &answer);
    let answered = alice.expect("an answer", |message| message.status() == 200);
    let to_alice = relayed(answered.body(), &b);
    let dialog = Dialog::new(&answered);
    let ack = dialog.request(alice, "ACK", &dialog.routes);
    alice.send(&ack);
    second.expect("an ACK", |message| message.is("ACK"));
    let cancelled = first.expect("a CANCEL", |message| message.is("CANCEL"));
    first.answer(&cancelled, "200 OK", "", "");
    first.answer(&refused, "487 Request Terminated", "", "");
    first.expect("an ACK", |message| message.is("ACK"));
    converse(PACKETS, &mut a, to_alice, &mut b, to_bob);
    a.expect_nothing();
    hang_up(alice, second, &dialog);
}

/// As many packets, and a report, each way.
pub(crate) fn converse(
    count: usize,
    a: &mut Media,
    to_alice: SocketAddr,
    b: &mut Media,
    to_bob: SocketAddr,
) {
    let packets = a.send(to_alice, count);
    b.expect(&packets, to_bob);
    let packets = b.send(to_bob, count);
    a.expect(&packets, to_alice);
    a.report(next(to_alice), b);
    b.expect_report(next(to_bob));
    b.report(next(to_bob), a);
    a.expect_report(next(to_alice));
}

/// The address in an SDP that went through the relay; nothing of it leads to the phone that it came from.
pub(crate) fn relayed(sdp: &[u8], from: &Media) -> SocketAddr {
    let address = audio(sdp);
    assert_ne!(address, from.local());
    let own = from.local().ip().to_string();
    let leaks = text(sdp).lines().any(|line| line.split(' ').any(|word| word == own));
    assert!(!leaks, "{own} in {}", text(sdp));
    address
}

/// Tags, and RTP packets, of a call, as the relay tells them.
fn query(relay: &NgUser, call_id: &str) -> Option<(Vec<String>, u64)> {
    let request = Request { call_id: Some(call_id.as_bytes()), ..Request::new(Command::Query) };
    let answer = relay.ask(&request);
    let reply = Reply::decode(&answer).unwrap();
    if reply.outcome == Outcome::Error(b"Unknown call-id") {
        return None;
    }
    assert_eq!(reply.outcome, Outcome::Ok);
    let report = CallReport::read(&reply.dict).expect("a report");
    Some((report.tags.iter().map(|tag| text(tag.tag)).collect(), report.rtp.packets))
}

/// Waits until the relay has no call, and says so in every way.
fn await_idle(relay: &NgUser) {
    let idle = || {
        let statistics = relay.ask(&Request::new(Command::Statistics));
        let reply = Reply::decode(&statistics).unwrap();
        (Workload::read(&reply.dict)?.sessions == 0).then_some(())
    };
    assert!(wait_for(Duration::from_secs(5), idle).is_some(), "calls are left");
    let list = relay.ask(&Request::new(Command::List));
    let reply = Reply::decode(&list).unwrap();
    assert_eq!((reply.outcome, reply.calls().count()), (Outcome::Ok, 0));
}

pub(crate) fn with_sdp(contact: &str) -> String {
    format!("{contact}Content-Type: application/sdp\r\n")
}

/// Sends a request without body with one; what the other phone gets of it.
fn ask_with_sdp(from: &Phone, to: &mut Phone, request: &str, sdp: &str) -> Sip {
    let (head, _) = request.split_once("Content-Length: 0").unwrap();
    let length = sdp.len();
    let headers = "Content-Type: application/sdp\r\n";
    from.send(&format!("{head}{headers}Content-Length: {length}\r\n\r\n{sdp}"));
    to.expect("an INVITE", |message| message.is("INVITE"))
}

/// The ACK to a re-INVITE.
fn acknowledge(from: &mut Phone, to: &mut Phone, dialog: &Dialog, answer: &Sip) {
    let transaction = Dialog { cseq: Dialog::new(answer).cseq, ..dialog.clone() };
    let ack = transaction.request(from, "ACK", &dialog.routes);
    from.send(&ack);
    to.expect("an ACK", |message| message.is("ACK"));
}

/// The dialog as the callee has it, from the INVITE that it got and the answer to it.
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

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn has_line(sdp: &[u8], line: &str) -> bool {
    text(sdp).lines().any(|found| found == line)
}
