//! Bindings and where phones really are: a UDP phone that is gone and has left its binding behind, and one that registers
//! by another gateway with the request that it has sent already.

#[allow(dead_code, reason = "each test has use for a part of it")]
#[path = "support/sip.rs"]
mod sip;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use dialtone::launcher::{Launcher, Layout};
use sip::{Phone, Sip};

/// Far below the 32 s for which a request is sent again to somebody who keeps silent.
const SOON: Duration = Duration::from_secs(5);

/// A phone of this user at gateway `n`, registered.
fn phone(launcher: &mut Launcher, user: &str, n: u8) -> Phone {
    let socket = UdpSocket::bind((launcher.slice().host(100 + n), 0)).unwrap();
    let addresses = launcher.addresses(&format!("sip-gateway-{n}")).unwrap();
    let mut phone = Phone::new(user, socket, addresses["sip-udp"].parse().unwrap());
    phone.register();
    phone
}

/// Calls `user`: the INVITE's final answer, and how long that took from when `answered` was called.
#[expect(clippy::disallowed_methods, reason = "how long phones wait is the point")]
fn call(alice: &mut Phone, user: &str, answer: impl FnOnce()) -> (Sip, Duration) {
    let contact = alice.contact();
    let invite = alice.request("INVITE", &format!("sip:{user}@dialtone.test"), &contact, "");
    alice.send(&invite);
    answer();
    let began = Instant::now();
    let answer = alice.expect("a final answer", |answer| answer.status() >= 200);
    (answer, began.elapsed())
}

/// Two gateways.
fn start() -> Launcher {
    let layout = Layout { registrars: 1, ..Layout::default() };
    let mut launcher = Launcher::for_test(env!("CARGO_BIN_EXE_dialtone"), layout).unwrap();
    launcher.start_registrar(1).unwrap();
    let names = [
        launcher.spawn_location_db(),
        launcher.spawn_proxy(1),
        launcher.spawn_gateway(1),
        launcher.spawn_gateway(2),
    ];
    for name in names {
        launcher.wait_ready(&name.unwrap()).unwrap();
    }
    launcher
}

#[test]
fn a_phone_tries_the_next_gateway_with_the_same_request() {
    let mut launcher = start();
    let mut alice = phone(&mut launcher, "alice", 1);
    let mut bob = phone(&mut launcher, "bob", 1);
    let headers = format!("{}Expires: 600\r\n", bob.contact());
    let register = bob.request("REGISTER", "sip:dialtone.test", &headers, "");
    let register = register.replace("To: <sip:dialtone.test>", "To: <sip:bob@dialtone.test>");
    assert_eq!(bob.ask(&register).status(), 200);
    let addresses = launcher.addresses("sip-gateway-2").unwrap();
    bob.gateway = addresses["sip-udp"].parse().unwrap();
    let again = register.replace("branch=z9hG4bK", "branch=z9hG4bKagain");
    let answer = bob.ask(&again);
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.lines("Contact").len(), 1);
    // What comes from the other gateway would not be taken.
    let (answer, _) = call(&mut alice, "bob", || {
        let invite = bob.expect("the call", |request| request.is("INVITE"));
        bob.answer(&invite, "486 Busy Here", "", "");
    });
    assert_eq!(answer.status(), 486);
}

#[test]
fn no_caller_waits_for_a_phone_that_is_gone() {
    let mut launcher = start();
    let mut alice = phone(&mut launcher, "alice", 1);
    // Bob's phone was started again, on another port.
    drop(phone(&mut launcher, "bob", 2));
    let mut bob = phone(&mut launcher, "bob", 2);
    let (answer, took) = call(&mut alice, "bob", || {
        let invite = bob.expect("the call", |request| request.is("INVITE"));
        bob.answer(&invite, "486 Busy Here", "", "");
    });
    assert_eq!(answer.status(), 486);
    assert!(took < SOON, "the caller waited for {took:?}");

    // Carol is away altogether.
    drop(phone(&mut launcher, "carol", 2));
    let (answer, took) = call(&mut alice, "carol", || ());
    assert_eq!(answer.status(), 480);
    assert!(took < SOON, "the caller waited for {took:?}");
}
