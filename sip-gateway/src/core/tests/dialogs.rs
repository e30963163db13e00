//! Dialogs that the pool of the proxies stays in, by a cookie in their route set.

use dialtone_sip::{HeaderName, Method};

use super::super::*;
use super::calls::answered_call;
use super::lab::{Fault, Lab, Phone};

/// Two phones with a call, at two gateways or at one.
fn call(gateways: usize) -> (Lab, [Phone; 2], Message, Message) {
    let mut lab = Lab::new(gateways, 2);
    lab.stays = true;
    let (alice, bob) = (Phone::new("alice", 0, 1), Phone::new("bob", gateways - 1, 2));
    bob.register(&mut lab);
    let (invite, answer) = answered_call(&mut lab, &alice, &bob);
    (lab, [alice, bob], invite, answer)
}

fn tag(phone: &Phone) -> String {
    format!("to{}", phone.address.port())
}

#[test]
fn requests_of_either_side_travel_through_the_preferred_proxy() {
    for gateways in [2, 1] {
        let (mut lab, [alice, bob], invite, answer) = call(gateways);
        let first = lab.handled_by[1];
        assert_eq!(lab.at_proxy.last().unwrap().method(), Some(Method::Ack));
        let mut cseq = 1;
        for method in ["INFO", "UPDATE", "PRACK", "INVITE"].map(Method::new) {
            cseq += 1;
            let request = alice.in_dialog(&mut lab, method, &answer, cseq);
            let request = request.header("Contact", &format!("<{}>", alice.contact())).build();
            alice.send(&mut lab, request);
            let got = bob.take(&mut lab).remove(0);
            assert_eq!((got.method(), got.routes().count()), (Some(method), 0));
            assert!(got.max_forwards().unwrap() < Some(69));
            bob.answer(&mut lab, &got, 200);
            assert_eq!(alice.got(&mut lab).last().map(String::as_str), Some("200"));
        }
        let ack = alice.in_dialog(&mut lab, Method::Ack, &answer, cseq).build();
        alice.send(&mut lab, ack);
        assert_eq!(bob.got(&mut lab), ["ACK"]);
        // The other way, with a proxy that is somebody else's at the moment.
        for method in ["INVITE", "BYE"].map(Method::new) {
            let request = bob.back(&mut lab, method, &invite, &tag(&bob));
            let request = request.header("Contact", &format!("<{}>", bob.contact())).build();
            bob.send(&mut lab, request);
            let got = alice.take(&mut lab).remove(0);
            assert_eq!((got.method(), got.routes().count()), (Some(method), 0));
            alice.answer(&mut lab, &got, 200);
            assert_eq!(bob.got(&mut lab).last().map(String::as_str), Some("200"));
        }
        assert_eq!(lab.at_proxy.len(), 10, "REGISTER, INVITE, ACK, and all that followed");
        assert!(lab.handled_by[1..].iter().all(|proxy| *proxy == first), "{:?}", lab.handled_by);
        lab.run(60_000);
        for gateway in &lab.gateways {
            let gauges = gateway.gauges();
            let left = [gauges.legs, gauges.deliveries, gauges.clients, gauges.servers];
            assert_eq!((left, gauges.dialogs), ([0; 4], 0));
        }
    }
}

#[test]
fn any_other_proxy_goes_on_with_a_dialog() {
    let (mut lab, [alice, bob], invite, answer) = call(2);
    let first = lab.handled_by[1];
    // So long may the ACK be lost with it.
    lab.run(1_000);
    lab.kill(first);
    let info = alice.in_dialog(&mut lab, Method::Info, &answer, 2).build();
    alice.send(&mut lab, info);
    let got = bob.take(&mut lab).remove(0);
    bob.answer(&mut lab, &got, 200);
    assert_eq!(alice.got(&mut lab), ["200"]);
    assert_ne!(lab.handled_by.last(), Some(&first));
    // One that dies with the request in its hands, or when it has passed it on.
    lab.revive(first);
    lab.run(2_000);
    lab.fault = Some((lab.messages + 1, Fault::KillAfter));
    let bye = bob.back(&mut lab, Method::Bye, &invite, &tag(&bob)).build();
    bob.send(&mut lab, bye);
    let got = alice.take(&mut lab);
    assert_eq!(got.len(), 1);
    alice.answer(&mut lab, &got[0], 200);
    assert_eq!(bob.got(&mut lab), ["200"]);
    assert_eq!(alice.got(&mut lab), Vec::<String>::new());
}

#[test]
fn a_made_up_cookie_or_that_of_another_dialog_leads_nowhere() {
    let (mut lab, [alice, bob], _, answer) = call(2);
    let seen = lab.at_proxy.len();
    let info = alice.in_dialog(&mut lab, Method::Info, &answer, 2).build();
    let text = String::from_utf8(info.to_vec()).unwrap();
    let at = text.find("@sip-proxy.pool.invalid").unwrap();
    let last = &text[at - 1..at];
    let changed =
        format!("{}{}{}", &text[..at - 1], if last == "A" { "E" } else { "A" }, &text[at..]);
    let call_id = answer.call_id().unwrap();
    let other_call = text.replace(&format!("Call-ID: {call_id}"), "Call-ID: mine");
    let other_pool = text.replace("@sip-proxy.pool", "@media-relay.pool");
    for (number, forged) in [changed, other_call, other_pool].into_iter().enumerate() {
        let forged = forged.replace("branch=z9hG4bK", &format!("branch=z9hG4bKf{number}"));
        alice.send(&mut lab, forged.into());
        assert_eq!(alice.got(&mut lab), ["403"], "{number}");
    }
    assert_eq!((lab.at_proxy.len(), bob.got(&mut lab).len()), (seen, 0));
}

#[test]
fn an_ack_that_a_proxy_took_to_its_grave_goes_by_another_one() {
    for fault in [Fault::KillBefore, Fault::FreezeBefore] {
        let mut lab = Lab::new(2, 2);
        lab.stays = true;
        let (alice, bob) = (Phone::new("alice", 0, 1), Phone::new("bob", 1, 2));
        bob.register(&mut lab);
        alice.invite(&mut lab, "bob");
        let invite = bob.take(&mut lab).remove(0);
        bob.answer(&mut lab, &invite, 200);
        let answer = alice.take(&mut lab).pop().unwrap();
        lab.fault = Some((lab.messages + 1, fault));
        let ack = alice.in_dialog(&mut lab, Method::Ack, &answer, 1).build();
        alice.send(&mut lab, ack);
        lab.run(if fault == Fault::KillBefore { 0 } else { 350 });
        assert_eq!(bob.got(&mut lab), ["ACK"], "{fault:?}");
        assert_eq!(lab.gateways[0].counters().failed_over, 1);
        let branches: Vec<_> = lab.at_proxy.iter().rev().take(1).collect();
        assert_eq!(branches[0].header_str(HeaderName::CSeq), Some("1 ACK"));
    }
    // It is not kept for longer than a proxy may take.
    let (mut lab, [_, bob], ..) = call(2);
    lab.run(1_000);
    lab.kill(0);
    lab.kill(1);
    assert_eq!(bob.got(&mut lab), Vec::<String>::new());
    assert_eq!(lab.gateways[0].counters().failed_over, 0);
}

#[test]
fn a_call_can_be_ended_while_there_is_no_proxy() {
    for gateways in [2, 1] {
        let (mut lab, [alice, bob], invite, answer) = call(gateways);
        lab.run(1_000);
        lab.kill(0);
        lab.kill(1);
        // The same answer once more: its ACK has to come as well.
        bob.answer(&mut lab, &invite, 200);
        let ack = alice.in_dialog(&mut lab, Method::Ack, &answer, 1).build();
        alice.send(&mut lab, ack);
        assert_eq!(bob.got(&mut lab), ["ACK"]);
        alice.got(&mut lab);
        // A new description needs a proxy, and waits for one.
        let update = alice.in_dialog(&mut lab, Method::Update, &answer, 2);
        let update = update.body("application/sdp", "v=0\r\n").build();
        alice.send(&mut lab, update);
        lab.run(2_000);
        assert_eq!(alice.got(&mut lab), ["503"]);
        let bye = alice.in_dialog(&mut lab, Method::Bye, &answer, 3).build();
        alice.send(&mut lab, bye);
        lab.run(499);
        assert_eq!(bob.got(&mut lab), Vec::<String>::new());
        lab.run(1);
        let got = bob.take(&mut lab).remove(0);
        assert_eq!((got.method(), got.routes().count()), (Some(Method::Bye), 0));
        bob.answer(&mut lab, &got, 200);
        assert_eq!(alice.got(&mut lab), ["200"]);
    }
}
