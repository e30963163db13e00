//! One pool with two of our relays and an rtpengine: calls through gateways and proxies are served by all of them.

use std::{collections::BTreeMap, net::UdpSocket, time::Duration};

use dialtone::launcher::{Exclusive, Launcher, Layout, Sidecar, wait_for};
use dialtone_ng::message::{Command, Reply, Request};
use dialtone_ng::report::Workload;

use crate::{
    calls::{converse, relayed, with_sdp},
    rtp::Media,
    rtpengine::{self, NgUser, Rtpengine},
    sip::{Dialog, Phone, hang_up},
};

const REGISTRAR: &str = "registrar-ns-1";
const POOL: &str = "media-relay";

/// Calls that each relay is said to carry. So few that a call weighs more than the processor time of an idle relay.
const CAPACITY: u32 = 100;

/// Calls that are placed before it is waited for that the registrar knows of them: loads are told once a second, and
/// whoever has the least gets all calls until then.
const ROUND: usize = 4;
const ROUNDS: usize = 12;

/// Packets that go each way in each call.
const PACKETS: usize = 10;

/// How long the registrar may take to know of calls.
const LIMIT: Duration = Duration::from_secs(20);

/// A call that goes on, and what was found out about it.
struct Call {
    dialog: Dialog,
    media: [Media; 2],
    /// The address of the relay.
    relay: String,
}

#[test]
fn calls_are_served_by_our_relays_and_rtpengine() {
    if !rtpengine::is_installed() {
        return;
    }
    let _turn = Exclusive::wait().unwrap();
    let (mut launcher, rtpengine) = start();
    let mut alice = phone(&mut launcher, "alice", 1);
    let mut bob = phone(&mut launcher, "bob", 2);
    await_way(&mut alice, &mut bob);
    let mut calls = Vec::new();
    for round in 1..=ROUNDS {
        calls.extend((0..ROUND).map(|_| place(&mut alice, &mut bob)));
        await_calls(&mut launcher, round * ROUND);
    }
    for call in &mut calls {
        // What all the others have carried meanwhile does not matter.
        let [a, b] = &mut call.media;
        a.expect_nothing();
        b.expect_nothing();
    }
    let mut share = BTreeMap::<_, usize>::new();
    for call in &calls {
        *share.entry(call.relay.clone()).or_default() += 1;
    }
    println!("table: {} calls in one pool: {share:?}; rtpengine is {}", calls.len(), rtpengine.ng);
    assert_eq!(share.len(), 3, "{share:?}");
    let least = calls.len() / 6;
    assert!(share.values().all(|count| *count >= least), "less than {least}: {share:?}");

    for call in &calls {
        hang_up(&mut alice, &mut bob, &call.dialog);
    }
    await_calls(&mut launcher, 0);
}

/// Two gateways, two proxies, two relays of ours, and an rtpengine with its sidecar; all relays are in the pool.
fn start() -> (Launcher, Rtpengine) {
    let layout = Layout {
        registrars: 1,
        relays: 2,
        relay_sessions: Some(CAPACITY),
        relay_workers: Some(1),
        ..Layout::default()
    };
    let mut launcher = Launcher::for_test(env!("CARGO_BIN_EXE_dialtone"), layout).unwrap();
    launcher.start_registrar(1).unwrap();
    let folder = launcher.folder().join("rtpengine");
    let rtpengine = Rtpengine::start(&folder, launcher.slice().host(80), &(30_000..=39_999));
    let sidecar = Sidecar {
        name: "rtpengine".to_owned(),
        pool: POOL.to_owned(),
        transport: format!("udp:{}", rtpengine.ng),
        options: vec!["--check=ng".to_owned(), format!("--capacity={CAPACITY}")],
        command: Vec::new(),
    };
    let names = [
        launcher.spawn_location_db(),
        launcher.spawn_media_relay(1),
        launcher.spawn_media_relay(2),
        launcher.spawn_sidecar(&sidecar),
        launcher.spawn_proxy(1),
        launcher.spawn_proxy(2),
        launcher.spawn_gateway(1),
        launcher.spawn_gateway(2),
    ];
    for name in names {
        launcher.wait_ready(&name.unwrap()).unwrap();
    }
    let all = wait_for(LIMIT, || (launcher.loads(REGISTRAR, POOL)?.len() == 3).then_some(()));
    assert!(all.is_some(), "{:?}", launcher.loads(REGISTRAR, POOL));
    (launcher, rtpengine)
}

/// A phone at gateway `n`, registered.
fn phone(launcher: &mut Launcher, user: &str, n: u8) -> Phone {
    let addresses = launcher.addresses(&format!("sip-gateway-{n}")).unwrap();
    let socket = UdpSocket::bind((launcher.slice().host(200 + n), 0)).unwrap();
    let mut phone = Phone::new(user, socket, addresses["sip-udp"].parse().unwrap());
    phone.register();
    phone
}

/// Waits until requests reach Bob: a proxy that has just started may not know his gateway yet.
fn await_way(alice: &mut Phone, bob: &mut Phone) {
    let reached = wait_for(LIMIT, || {
        let contact = alice.contact();
        let request = alice.request("OPTIONS", "sip:bob@dialtone.test", &contact, "");
        alice.send(&request);
        wait_for(Duration::from_secs(1), || {
            if let Some(delivered) = bob.receive(Duration::from_millis(20)) {
                bob.answer(&delivered, "200 OK", "", "");
            }
            alice.receive(Duration::from_millis(20)).filter(|answer| answer.status() >= 200)
        })
        .filter(|answer| answer.status() == 200)
    });
    assert!(reached.is_some(), "Bob is out of reach");
}

/// A call that is answered at once, with audio both ways through one relay.
fn place(alice: &mut Phone, bob: &mut Phone) -> Call {
    let (mut a, mut b) = (Media::new(alice.local.ip()), Media::new(bob.local.ip()));
    let contact = alice.contact();
    let invite = alice.request("INVITE", "sip:bob@dialtone.test", &with_sdp(&contact), &a.sdp(""));
    alice.send(&invite);
    let delivered = wait_for(LIMIT, || {
        if let Some(answer) = alice.receive(Duration::from_millis(1)) {
            assert!(answer.status() < 200, "{}", answer.start());
        }
        bob.receive(Duration::from_millis(20)).filter(|message| message.is("INVITE"))
    });
    let delivered = delivered.expect("Bob's phone rings");
    let to_bob = relayed(delivered.body(), &a);
    bob.answer(&delivered, "200 OK", &with_sdp(&bob.contact()), &b.sdp(""));
    let answered = alice.expect("an answer", |message| message.status() >= 200);
    assert_eq!(answered.status(), 200, "{}", answered.start());
    let to_alice = relayed(answered.body(), &b);
    let dialog = Dialog::new(&answered);
    let ack = dialog.request(alice, "ACK", &dialog.routes);
    alice.send(&ack);
    bob.expect("an ACK", |message| message.is("ACK"));
    assert_eq!(to_alice.ip(), to_bob.ip(), "one relay");
    converse(PACKETS, &mut a, to_alice, &mut b, to_bob);
    Call { dialog, media: [a, b], relay: to_bob.ip().to_string() }
}

/// Waits until the relays have as many calls between them, and the registrar knows it.
fn await_calls(launcher: &mut Launcher, count: usize) {
    let sessions = |address: &String| {
        let relay = NgUser::new(address.parse().unwrap());
        let answer = relay.ask(&Request::new(Command::Statistics));
        Workload::read(&Reply::decode(&answer).unwrap().dict).unwrap().sessions
    };
    let known = wait_for(LIMIT, || {
        let loads = launcher.loads(REGISTRAR, POOL)?;
        let calls: Vec<u64> = loads.keys().map(sessions).collect();
        let weigh = |calls: u64| calls * u64::from(u32::MAX) / u64::from(CAPACITY);
        // Processor time may weigh more than calls, and fractions are rounded.
        let told =
            loads.values().zip(&calls).all(|(load, calls)| u64::from(*load) + 1 >= weigh(*calls));
        (told && calls.iter().sum::<u64>() == count as u64).then_some(())
    });
    let loads = launcher.loads(REGISTRAR, POOL);
    assert!(known.is_some(), "not {count} calls: {loads:?}");
}
