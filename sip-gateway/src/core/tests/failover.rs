//! Proxies that die and freeze at every moment of a call: phones notice nothing.

use dialtone_sip::{Method, ack_for, cancel_for};

use super::super::*;
use super::lab::{Fault, Lab, Phone};

fn phones() -> (Lab, Phone, Phone) {
    let mut lab = Lab::new(2, 2);
    let (alice, bob) = (Phone::new("alice", 0, 1), Phone::new("bob", 1, 2));
    bob.register(&mut lab);
    lab.at_proxy.clear();
    (lab, alice, bob)
}

#[test]
fn killed_before_it_has_seen_the_request() {
    let (mut lab, alice, bob) = phones();
    lab.sabotage = Some(|message| message.method() == Some(Method::Invite) && message.is_request());
    alice.invite(&mut lab, "bob");
    let invite = bob.take(&mut lab);
    assert_eq!(invite.len(), 1, "without any time passing");
    bob.answer(&mut lab, &invite[0], 200);
    assert_eq!(alice.got(&mut lab), ["100", "200"]);
    assert_eq!(lab.reports.len(), 2, "each gateway reports the proxy");
}

#[test]
fn killed_while_it_rings() {
    let (mut lab, alice, bob) = phones();
    alice.invite(&mut lab, "bob");
    let invite = bob.take(&mut lab).remove(0);
    bob.answer(&mut lab, &invite, 180);
    lab.run(1_000);
    let proxy = lab.busy_proxy();
    lab.kill(proxy);
    lab.run(3_000);
    assert_eq!(
        bob.got(&mut lab),
        Vec::<String>::new(),
        "the phone rings once and is not cancelled"
    );
    bob.answer(&mut lab, &invite, 200);
    assert_eq!(alice.got(&mut lab), ["100", "180", "180", "200"]);
    assert_eq!(lab.gateways[1].counters().reattached, 1);
    let legs: Vec<_> = lab
        .at_proxy
        .iter()
        .map(|m| m.top_via().unwrap().branch().unwrap()[..24].to_owned())
        .collect();
    assert_eq!(legs[0], legs[1], "the same leg, another attempt");
    assert_ne!(
        lab.at_proxy[0].top_via().unwrap().branch(),
        lab.at_proxy[1].top_via().unwrap().branch()
    );
}

#[test]
fn killed_with_the_final_answer_in_its_hands() {
    for (code, acks) in [(200, 0), (486, 1)] {
        let (mut lab, alice, bob) = phones();
        alice.invite(&mut lab, "bob");
        let invite = bob.take(&mut lab).remove(0);
        lab.sabotage = Some(|message| message.status() >= Some(200));
        bob.answer(&mut lab, &invite, code);
        assert_eq!(alice.got(&mut lab), ["100".to_owned(), code.to_string()]);
        assert_eq!(bob.got(&mut lab).len(), acks);
    }
}

#[test]
fn frozen_before_and_after_it_has_forwarded() {
    for ringing in [false, true] {
        let (mut lab, alice, bob) = phones();
        // Whichever proxy gets the call is frozen.
        if ringing {
            alice.invite(&mut lab, "bob");
            let invite = bob.take(&mut lab).remove(0);
            bob.answer(&mut lab, &invite, 180);
            let proxy = lab.busy_proxy();
            lab.freeze(proxy);
            lab.run(50);
            bob.answer(&mut lab, &invite, 200);
            lab.run(350);
            assert_eq!(alice.got(&mut lab), ["100", "180", "200"]);
        } else {
            lab.freeze(0);
            lab.freeze(1);
            alice.invite(&mut lab, "bob");
            lab.run(100);
            assert_eq!(bob.got(&mut lab), Vec::<String>::new());
            lab.kill(0);
            lab.revive(0);
            lab.run(500);
            let invite = bob.take(&mut lab).remove(0);
            bob.answer(&mut lab, &invite, 200);
            assert_eq!(alice.got(&mut lab), ["100", "200"]);
        }
        assert_eq!(bob.got(&mut lab), Vec::<String>::new());
    }
}

#[test]
fn killed_during_cancel() {
    // Killed with the CANCEL in its hands, and killed after it passed the CANCEL on.
    for passed in [false, true] {
        let (mut lab, alice, bob) = phones();
        let invite = alice.invite(&mut lab, "bob");
        let got = bob.take(&mut lab).remove(0);
        bob.answer(&mut lab, &got, 180);
        if !passed {
            lab.sabotage = Some(|message| message.method() == Some(Method::Cancel));
        }
        alice.send(&mut lab, cancel_for(&invite).unwrap());
        if passed {
            let proxy = lab.busy_proxy();
            lab.kill(proxy);
        }
        let cancel = bob.take(&mut lab);
        assert_eq!(cancel.len(), 1, "passed: {passed}");
        bob.answer(&mut lab, &cancel[0], 200);
        bob.answer(&mut lab, &got, 487);
        assert_eq!(bob.got(&mut lab), ["ACK"]);
        let answers = alice.take(&mut lab);
        assert_eq!(answers.last().unwrap().status(), Some(487));
        alice.send(&mut lab, ack_for(&invite, answers.last().unwrap()).unwrap());
        lab.run(60_000);
        assert_eq!(lab.gateways[0].unfinished() + lab.gateways[1].unfinished(), 0);
    }
}

/// The INVITE of the frozen proxy, as it would send it when it goes on, over a new connection to the callee's gateway.
#[test]
fn a_proxy_that_goes_on_after_its_successor_took_over_ends_nothing() {
    let (mut lab, alice, bob) = phones();
    alice.invite(&mut lab, "bob");
    let invite = bob.take(&mut lab).remove(0);
    bob.answer(&mut lab, &invite, 180);
    let proxy = lab.busy_proxy();
    let stale = lab.sent_by(proxy);
    lab.kill(proxy);
    lab.run(500);
    assert_eq!(alice.got(&mut lab), ["100", "180", "180"]);
    let conn = ConnId(hops::ACCEPTED + 10_000);
    lab.input(1, Input::CoreAccepted { conn });
    lab.input(1, Input::CoreMessage { conn, bytes: stale.bytes().clone() });
    bob.answer(&mut lab, &invite, 183);
    assert_eq!(alice.got(&mut lab), ["183"], "the successor is still told");
    let cancel = cancel_for(&stale).unwrap();
    lab.input(1, Input::CoreMessage { conn, bytes: cancel });
    lab.input(1, Input::CoreClosed { conn });
    lab.run(3_500);
    assert_eq!(bob.got(&mut lab), Vec::<String>::new(), "it rings on");
    bob.answer(&mut lab, &invite, 200);
    assert_eq!(alice.got(&mut lab), ["200"]);
}

#[test]
fn requests_inside_a_dialog_wait_for_a_gateway_that_starts_anew() {
    let (mut lab, alice, bob) = phones();
    alice.invite(&mut lab, "bob");
    let invite = bob.take(&mut lab).remove(0);
    bob.answer(&mut lab, &invite, 200);
    let answer = alice.take(&mut lab).pop().unwrap();
    lab.cut(1);
    let bye = alice.in_dialog(&mut lab, Method::Bye, &answer, 2).build();
    alice.send(&mut lab, bye);
    lab.run(300);
    lab.mend(1);
    let mut got = Vec::new();
    for _ in 0..15 {
        lab.run(100);
        got = bob.take(&mut lab);
        if !got.is_empty() {
            break;
        }
    }
    assert_eq!(got.len(), 1);
    bob.answer(&mut lab, &got[0], 200);
    assert_eq!(alice.got(&mut lab), ["200"]);
    // For ever away: an answer after two seconds; out of the pool: at once.
    lab.cut(1);
    for left in [false, true] {
        let bye = alice.in_dialog(&mut lab, Method::Bye, &answer, 3).build();
        alice.send(&mut lab, bye);
        assert_eq!(alice.got(&mut lab), Vec::<String>::new());
        if left {
            let own = [Member { element: 100, address: super::lab::core_of(0) }];
            let view = pool_view(Pool::Gateway, 2, &own);
            lab.input(0, Input::View { pool: Pool::Gateway, view });
        } else {
            lab.run(2_000);
        }
        assert_eq!(alice.got(&mut lab), ["480"]);
    }
}

#[test]
fn all_proxies_die_and_one_comes_back_within_two_seconds() {
    let (mut lab, alice, bob) = phones();
    alice.invite(&mut lab, "bob");
    let invite = bob.take(&mut lab).remove(0);
    bob.answer(&mut lab, &invite, 180);
    lab.run(10_000);
    alice.got(&mut lab);
    lab.kill(0);
    lab.kill(1);
    lab.run(500);
    let register = alice.request(&mut lab, Method::Register, "alice").build();
    alice.send(&mut lab, register);
    lab.run(100);
    lab.revive(1);
    lab.run(1_300);
    let mut got = alice.got(&mut lab);
    got.sort_unstable();
    assert_eq!(got, ["180", "180", "200"], "the registration waited, the call rings on");
    bob.answer(&mut lab, &invite, 200);
    assert_eq!(alice.got(&mut lab), ["200"]);
    assert_eq!(bob.got(&mut lab), Vec::<String>::new());
}

#[test]
fn without_any_proxy_everything_is_answered_503_after_two_seconds() {
    let mut lab = Lab::new(1, 0);
    let alice = Phone::new("alice", 0, 1);
    let invite = alice.invite(&mut lab, "bob");
    let options = alice.request(&mut lab, Method::Options, "bob").build();
    alice.send(&mut lab, options);
    lab.run(1_999);
    assert_eq!(alice.got(&mut lab), ["100"]);
    lab.run(1);
    let answers = alice.take(&mut lab);
    assert_eq!(answers.iter().map(|a| a.status().unwrap()).collect::<Vec<_>>(), [503, 503]);
    assert!(answers.iter().all(|a| a.header(dialtone_sip::HeaderName::RetryAfter).is_some()));
    let refused = answers.iter().find(|a| a.method() == Some(Method::Invite)).unwrap();
    alice.send(&mut lab, ack_for(&invite, refused).unwrap());
    // A waiting call that is cancelled ends at once.
    let invite = alice.invite(&mut lab, "bob");
    alice.send(&mut lab, cancel_for(&invite).unwrap());
    assert_eq!(alice.got(&mut lab), ["100", "200", "487"]);
}

#[test]
fn a_call_whose_caller_is_lost_stops_ringing_after_two_seconds() {
    let (mut lab, alice, bob) = phones();
    alice.invite(&mut lab, "bob");
    let invite = bob.take(&mut lab).remove(0);
    bob.answer(&mut lab, &invite, 180);
    // The first gateway dies together with the proxy: nobody repeats the INVITE.
    lab.gateways[0] = Gateway::new(
        Settings::new(100, Vec::new(), "127.0.0.1:1".parse().unwrap()),
        super::lab::keys(),
        fastrand::Rng::new(),
    );
    let proxy = lab.busy_proxy();
    lab.kill(proxy);
    lab.run(1_999);
    assert_eq!(bob.got(&mut lab), Vec::<String>::new());
    lab.run(1);
    assert_eq!(bob.got(&mut lab), ["CANCEL"]);
    assert_eq!(lab.gateways[1].counters().orphaned, 1);
    // The phone says nothing any more; nothing of it stays.
    lab.run(100_000);
    let gauges = lab.gateways[1].gauges();
    let left = [gauges.legs, gauges.deliveries, gauges.clients, gauges.servers];
    assert_eq!((left, lab.gateways[1].unfinished()), ([0; 4], 0));
}

#[test]
fn a_repeated_bye_gets_the_same_answer_without_a_second_bye() {
    let (mut lab, alice, bob) = phones();
    // BYE outside of our dialogs goes by the proxy, where it can be repeated.
    let bye = alice.request(&mut lab, Method::Other("PING"), "bob").build();
    lab.sabotage = Some(|message| message.status() == Some(200));
    alice.send(&mut lab, bye);
    let got = bob.take(&mut lab);
    assert_eq!(got.len(), 1);
    bob.answer(&mut lab, &got[0], 200);
    assert_eq!(alice.got(&mut lab), ["200"]);
    assert_eq!(bob.got(&mut lab), Vec::<String>::new());
    assert_eq!(lab.gateways[1].counters().reattached, 1);
}

#[test]
fn a_slow_phone_is_no_dead_proxy() {
    let (mut lab, alice, bob) = phones();
    let request = alice.request(&mut lab, Method::Options, "bob").build();
    alice.send(&mut lab, request);
    let got = bob.take(&mut lab).remove(0);
    lab.run(3_000);
    bob.answer(&mut lab, &got, 200);
    assert_eq!(alice.got(&mut lab), ["200"]);
    assert_eq!((lab.gateways[0].counters().failed_over, lab.reports.len()), (0, 0));
}

#[test]
fn a_process_that_was_frozen_drops_what_others_have_given_up() {
    let (mut lab, alice, bob) = phones();
    alice.invite(&mut lab, "bob");
    let invite = bob.take(&mut lab).remove(0);
    bob.answer(&mut lab, &invite, 180);
    lab.input(1, Input::Frozen);
    let late =
        Input::CoreMessage { conn: ConnId(hops::ACCEPTED + 1), bytes: invite.bytes().clone() };
    let strays = lab.gateways[1].counters().stray;
    lab.input(1, late);
    assert_eq!(lab.gateways[1].counters().stray, strays + 1);
}

/// Registration, an answered call and a cancelled one, with one fault at the proxy that gets message number `number`.
/// Returns how many messages proxies got.
fn whole_story(number: usize, fault: Fault) -> usize {
    let what = format!("{fault:?} at message {number}");
    let mut lab = Lab::new(2, 2);
    lab.fault = Some((number, fault));
    // Long enough to notice a freeze, and shorter than what makes phones repeat themselves.
    let settle = |lab: &mut Lab| lab.run(400);
    let (alice, bob) = (Phone::new("alice", 0, 1), Phone::new("bob", 1, 2));
    let register = bob.request(&mut lab, Method::Register, "bob").build();
    bob.send(&mut lab, register);
    settle(&mut lab);
    assert_eq!(bob.got(&mut lab), ["200"], "{what}");

    // Everything that comes to Bob is one INVITE, sent once or again, however often it was sent in the core.
    let rings_once = |lab: &mut Lab| {
        let invites = bob.take(lab);
        let branch = |invite: &Message| invite.top_via().unwrap().branch().unwrap().to_owned();
        assert!(
            invites
                .iter()
                .all(|i| i.method() == Some(Method::Invite) && branch(i) == branch(&invites[0])),
            "{what}"
        );
        invites.into_iter().next().expect("an INVITE")
    };
    alice.invite(&mut lab, "bob");
    settle(&mut lab);
    let invite = rings_once(&mut lab);
    bob.answer(&mut lab, &invite, 180);
    settle(&mut lab);
    bob.answer(&mut lab, &invite, 200);
    settle(&mut lab);
    let answers = alice.take(&mut lab);
    let codes: Vec<u16> = answers.iter().filter_map(Message::status).collect();
    assert_eq!((codes.first(), codes.last()), (Some(&100), Some(&200)), "{what}: {codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == 200).count(), 1, "{what}: {codes:?}");
    let answer = answers.last().unwrap();
    let ack = alice.in_dialog(&mut lab, Method::Ack, answer, 1).build();
    alice.send(&mut lab, ack);
    let bye = alice.in_dialog(&mut lab, Method::Bye, answer, 2).build();
    alice.send(&mut lab, bye);
    let got = bob.take(&mut lab);
    assert_eq!(
        got.iter().map(|m| m.method().unwrap()).collect::<Vec<_>>(),
        [Method::Ack, Method::Bye],
        "{what}"
    );
    bob.answer(&mut lab, &got[1], 200);
    assert_eq!(alice.got(&mut lab), ["200"], "{what}");

    let invite = alice.invite(&mut lab, "bob");
    settle(&mut lab);
    let got = rings_once(&mut lab);
    bob.answer(&mut lab, &got, 180);
    settle(&mut lab);
    alice.send(&mut lab, cancel_for(&invite).unwrap());
    settle(&mut lab);
    let cancels = bob.take(&mut lab);
    assert_eq!(cancels.len(), 1, "{what}");
    bob.answer(&mut lab, &cancels[0], 200);
    bob.answer(&mut lab, &got, 487);
    assert_eq!(bob.got(&mut lab), ["ACK"], "{what}");
    settle(&mut lab);
    let answers = alice.take(&mut lab);
    let last = answers.last().unwrap();
    assert_eq!((answers[0].status(), last.status()), (Some(100), Some(487)), "{what}");
    alice.send(&mut lab, ack_for(&invite, last).unwrap());
    lab.run(100_000);
    assert_eq!(
        [alice.got(&mut lab), bob.got(&mut lab)],
        [Vec::<String>::new(), Vec::new()],
        "{what}"
    );
    for gateway in &lab.gateways {
        let gauges = gateway.gauges();
        let left = [gauges.legs, gauges.deliveries, gauges.clients, gauges.servers];
        assert_eq!((left, gateway.unfinished()), ([0; 4], 0), "{what}");
    }
    lab.messages
}

#[test]
fn one_fault_at_any_message_is_noticed_by_nobody() {
    let messages = whole_story(usize::MAX, Fault::KillBefore);
    assert!(messages > 10);
    for number in 1..=messages {
        for fault in [Fault::KillBefore, Fault::KillAfter, Fault::FreezeBefore, Fault::FreezeAfter]
        {
            whole_story(number, fault);
        }
    }
}
