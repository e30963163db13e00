//! Media relays that are late, full, silent, gone or wrong: no call fails or waits because of them. Calls that other
//! proxies have begun.

use dialtone_sip_pool::token::DialogCookie;
use dialtone_sip_pool::uri::pool_uri;
use proptest::prelude::*;

use super::relayed::{ALICE_SDP, BOB_SDP, asked};
use super::*;

const WITHIN: Duration = Duration::from_millis(100);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn quiet(sdp: &str) -> String {
    sdp.replace("c=IN IP4 10.0.0.2", "c=IN IP4 0.0.0.0")
}

#[test]
fn a_relay_that_is_silent_is_passed_over_and_reported() {
    let mut world = World::with_relays(2, |_| {});
    world.relay(1).manner = Manner::Silent;
    world.receive(GATEWAY, world.call("c", ALICE_SDP));
    world.advance(WITHIN - ms(1));
    assert_eq!(world.requests(), []);
    world.advance(ms(1));
    let invite = world.request("INVITE");
    assert_eq!(world.whose(2, &invite.1).as_deref(), Some("to a1"));
    assert_eq!(world.cookie(&invite.1).unwrap().relay, 2);
    assert_eq!(world.relays_reported, [1]);
    // The next call does not ask it.
    world.receive(GATEWAY, world.call("d", ALICE_SDP));
    let second = world.request("INVITE");
    assert_eq!(world.cookie(&second.1).unwrap().relay, 2);
    // Not for ever: if it still is in the pool, it is worth another question.
    world.relay(1).manner = Manner::Answers;
    world.advance(Duration::from_secs(6));
    world.receive(GATEWAY, world.call("e", ALICE_SDP));
    let third = world.request("INVITE");
    assert_eq!(world.cookie(&third.1).unwrap().relay, 1);
    for invite in [&second, &third] {
        world.reply(invite, 486, "tb", "");
    }
    // Or it answers something else: the end of a call, of which the next relay is told as well.
    world.reply(&invite, 200, "tb", BOB_SDP);
    world.relay(1).manner = Manner::Silent;
    world.receive(GATEWAY, world.call("f", ALICE_SDP));
    world.advance(WITHIN);
    let fourth = world.request("INVITE");
    world.reply(&fourth, 486, "tb", "");
    assert_eq!(world.relays_reported, [1, 1]);
    world.relay(1).manner = Manner::Answers;
    let bye = world.within(&invite.1, "BYE", "bye", false, "");
    world.receive(GATEWAY, bye);
    assert_eq!(world.relays_reported, [0; 0]);
    let bye = world.request("BYE");
    world.reply(&bye, 200, "tb", "");
    assert_eq!(world.proxy.media_stats().timeouts, 2);
}

#[test]
fn one_where_nobody_listens_or_that_cannot_costs_no_time() {
    for manner in [Manner::Absent, Manner::Fails, Manner::Limited] {
        let mut world = World::with_relays(2, |_| {});
        world.relay(1).manner = manner;
        world.receive(GATEWAY, world.call("c", ALICE_SDP));
        let invite = world.request("INVITE");
        assert_eq!(world.whose(2, &invite.1).as_deref(), Some("to a1"), "{manner:?}");
        let dead: &[u32] = if manner == Manner::Absent { &[1] } else { &[] };
        assert_eq!(world.relays_reported, dead, "{manner:?}");
        world.reply(&invite, 486, "tb", "");
    }
}

#[test]
fn of_relays_that_are_slow_the_first_that_answers_counts() {
    for (slow, slower, relay, after) in
        [(150, 90, 1, 150), (250, 60, 2, 160), (150, 150, 1, 150), (290, 250, 1, 290)]
    {
        let mut world = World::with_relays(2, |_| {});
        world.relay(1).manner = Manner::Slow(ms(slow));
        world.relay(2).manner = Manner::Slow(ms(slower));
        world.receive(GATEWAY, world.call("c", ALICE_SDP));
        world.advance(ms(after) - ms(1));
        assert_eq!(world.requests(), []);
        world.advance(ms(1));
        let invite = world.request("INVITE");
        assert_eq!(world.cookie(&invite.1).unwrap().relay, relay);
        assert_eq!(world.whose(relay, &invite.1).as_deref(), Some("to a1"));
        // The other one need not keep what it has.
        assert_eq!(world.relay(3 - relay).commands(), ["offer", "delete"]);
        world.advance(ms(300));
        world.relay(relay).manner = Manner::Answers;
        world.reply(&invite, 200, "tb", BOB_SDP);
        assert_eq!(world.told(relay).as_deref(), Some("of a1"));
    }
}

#[test]
fn a_question_that_got_lost_is_asked_again() {
    let mut world = World::with_relays(2, |_| {});
    world.relay(1).manner = Manner::Silent;
    world.receive(GATEWAY, world.call("c", ALICE_SDP));
    world.advance(ms(30));
    world.relay(1).manner = Manner::Answers;
    world.advance(ms(10));
    let invite = world.request("INVITE");
    assert_eq!(world.whose(1, &invite.1).as_deref(), Some("to a1"));
    world.reply(&invite, 486, "tb", "");
}

#[test]
fn without_any_relay_a_call_goes_on_directly_or_is_refused() {
    // Who has been asked may answer until three have had their time.
    for (relays, after) in [(0, ms(0)), (1, ms(300)), (2, ms(300)), (4, ms(300))] {
        for sdp in [ALICE_SDP, ""] {
            let mut world = World::with_relays(relays, |_| {});
            (1..=relays).for_each(|element| world.relay(element).manner = Manner::Silent);
            world.receive(GATEWAY, world.call("direct", sdp));
            if relays > 0 && sdp.is_empty() {
                // Nobody has been asked yet; the answer is the offer.
                let invite = world.request("INVITE");
                world.reply(&invite, 200, "tb", BOB_SDP);
                assert_eq!(world.heard(), []);
                world.advance(after);
                assert_eq!(world.heard()[0].body(), BOB_SDP.as_bytes());
                let ack = world.within(&invite.1, "ACK", "ack", false, ALICE_SDP);
                world.receive(GATEWAY, ack);
                world.advance(after);
                assert_eq!(world.request("ACK").1.body(), ALICE_SDP.as_bytes());
                continue;
            }
            world.advance(after);
            let invite = world.request("INVITE");
            assert_eq!((invite.1.body(), world.cookie(&invite.1)), (sdp.as_bytes(), None));
            world.reply(&invite, 200, "tb", BOB_SDP);
            assert_eq!(world.heard()[0].body(), BOB_SDP.as_bytes());
            assert_eq!(world.proxy.media_stats().direct, 1);

            let refuse =
                MediaSettings { without_relay: WithoutRelay::Refuse, ..MediaSettings::default() };
            let mut world = World::with_relays(relays, |settings| settings.media = Some(refuse));
            (1..=relays).for_each(|element| world.relay(element).manner = Manner::Silent);
            world.receive(GATEWAY, world.call("refused", sdp));
            world.advance(after);
            let heard = world.heard();
            assert_eq!(heard[0].status(), Some(503));
            assert!(heard[0].header(HeaderName::RetryAfter).is_some());
            assert_eq!((world.requests(), world.proxy.media_stats().refused), (vec![], 1));
        }
    }
}

#[test]
fn an_answer_for_a_relay_that_is_gone_is_not_kept_waiting() {
    for manner in [Manner::Silent, Manner::Absent, Manner::Fails, Manner::Babbles] {
        let mut world = World::with_relays(2, |_| {});
        world.receive(GATEWAY, world.call("c", ALICE_SDP));
        let invite = world.request("INVITE");
        world.relay(1).manner = manner;
        world.reply(&invite, 183, "tb", BOB_SDP);
        let waits = matches!(manner, Manner::Silent | Manner::Babbles);
        assert_eq!(world.heard().len(), usize::from(!waits), "{manner:?}");
        world.advance(WITHIN);
        world.take();
        // Once is enough.
        world.reply(&invite, 200, "tb", BOB_SDP);
        let heard = world.heard();
        assert_eq!(heard[0].status(), Some(200), "{manner:?}");
        assert_eq!(String::from_utf8_lossy(heard[0].body()), quiet(BOB_SDP), "{manner:?}");
        let ack = world.within(&invite.1, "ACK", "ack", false, "");
        world.receive(GATEWAY, ack);
        assert_eq!(world.request("ACK").0, Hop::Element(relayed::TO));
        world.asked(2);
        let bye = world.within(&invite.1, "BYE", "bye", false, "");
        world.receive(GATEWAY, bye);
        let bye = world.request("BYE");
        world.reply(&bye, 200, "tb", "");
        assert_eq!(world.asked(2), [asked("delete", "c", "a1", "tb", "")]);
    }
}

#[test]
fn a_request_inside_a_dialog_moves_on_when_the_first_relay_is_gone() {
    let mut world = World::with_relays(3, |_| {});
    world.receive(GATEWAY, world.call("c", ALICE_SDP));
    let invite = world.request("INVITE");
    world.reply(&invite, 200, "tb", BOB_SDP);
    world.take();
    // Out of the pool: another one takes it, and every proxy would choose the same.
    world.relay(1).manner = Manner::Silent;
    world.set_relays(&[2, 3]);
    let order = dialtone_handlespace::rendezvous::order(b"call-c", [2, 3].map(dialtone_wire::PeId));
    let next = order[0].0;
    let again = world.within(&invite.1, "INVITE", "re", false, ALICE_SDP);
    world.receive(GATEWAY, again);
    let again = world.request("INVITE");
    assert_eq!(world.whose(next, &again.1).as_deref(), Some("to a1"));
    world.reply(&again, 200, "tb", BOB_SDP);
    assert_eq!(world.told(next).as_deref(), Some("of a1"));
    // The end is told to the one that has left as well, in case it only takes no new calls.
    world.relay(1).manner = Manner::Answers;
    let bye = world.within(&invite.1, "BYE", "bye", true, "");
    world.receive(GATEWAY, bye);
    let bye = world.request("BYE");
    world.reply(&bye, 200, "tb", "");
    assert_eq!(world.relay(1).commands().last(), Some(&"delete"));
    assert_eq!(world.relay(next).commands().last(), Some(&"delete"));
    // Still in the pool, but silent: asked first all the same.
    world.set_relays(&[1, 2, 3]);
    world.receive(GATEWAY, world.call("d", ALICE_SDP));
    let invite = world.request("INVITE");
    world.reply(&invite, 200, "tb", BOB_SDP);
    world.take();
    world.relay(1).manner = Manner::Silent;
    let again = world.within(&invite.1, "UPDATE", "up", true, BOB_SDP);
    world.receive(GATEWAY, again);
    world.advance(WITHIN);
    let again = world.request("UPDATE");
    assert!(again.1.body().starts_with(b"v=0\r\no=- 9 9 IN IP4 203.0.113."));
    world.reply(&again, 488, "ta", "");
}

/// The INVITE that rings was sent by another proxy, which has asked another relay.
#[test]
fn an_answer_goes_to_the_relay_that_its_route_names() {
    for by in [180, 200] {
        let mut world = World::with_relays(2, |_| {});
        world.receive(GATEWAY, world.call("c", ALICE_SDP));
        let (hop, mine) = world.request("INVITE");
        assert_eq!(world.cookie(&mine).unwrap().relay, 1);
        // As the other relay knows it.
        world.relay(2).calls.insert("call-c".to_owned());
        let cookie = DialogCookie { preferred: 8, relay: 2, flags: 0 };
        let theirs = pool_uri(crate::POOL, &cookie.sign(&world.keys, "call-c", "a1"));
        let own = header(&mine, HeaderName::RecordRoute).remove(0);
        let text = String::from_utf8(mine.bytes().to_vec()).unwrap();
        let other = text.replace(&own, &format!("<{theirs}>"));
        let rings = (hop, Message::parse(other.into()).unwrap());
        world.asked(1);
        world.reply(&rings, by, "tb", BOB_SDP);
        assert_eq!(world.told(2).as_deref(), Some("of a1"));
        assert_eq!(world.asked(2), [asked("answer", "c", "a1", "tb", BOB_SDP)]);
        let deleted = asked("delete", "c", "a1", "", "");
        if by == 200 {
            assert_eq!(world.asked(1), [deleted], "nobody has its ports");
            continue;
        }
        world.reply(&rings, 486, "tb", "");
        assert_eq!((world.asked(1), world.asked(2)), (vec![deleted.clone()], vec![deleted]));
    }
    // Another proxy found no relay.
    let mut world = World::with_relays(1, |_| {});
    world.receive(GATEWAY, world.call("c", ALICE_SDP));
    let (hop, mine) = world.request("INVITE");
    let own = header(&mine, HeaderName::RecordRoute).remove(0);
    let text = String::from_utf8(mine.bytes().to_vec()).unwrap();
    let other = text.replace(&format!("Record-Route: {own}\r\n"), "");
    world.asked(1);
    world.reply(&(hop, Message::parse(other.into()).unwrap()), 200, "tb", BOB_SDP);
    assert_eq!(world.heard()[0].body(), BOB_SDP.as_bytes());
    assert_eq!(world.asked(1), [asked("delete", "c", "a1", "", "")]);
}

#[test]
fn a_call_that_fails_is_ended_at_its_relay_before_anybody_hears_of_it() {
    let mut world = World::with_relays(2, |_| {});
    world.receive(GATEWAY, world.call("busy", ALICE_SDP));
    let invite = world.request("INVITE");
    world.reply(&invite, 486, "tb", "");
    assert_eq!(world.asked(1)[1..], [asked("delete", "busy", "a1", "", "")]);
    assert_eq!(world.asked(2), []);
    // Once only: the caller may try again at once with the same Call-ID.
    world.relay(1).manner = Manner::Silent;
    world.receive(GATEWAY, world.call("gone", ""));
    let invite = world.request("INVITE");
    world.reply(&invite, 486, "tb", "");
    let deletes = world.proxy.media_stats().deletes;
    assert_eq!(deletes, 1, "no relay knows of an INVITE without a description");

    // Cancelled while the relay is asked.
    world.receive(GATEWAY, world.call("early", ALICE_SDP));
    world.take();
    let cancel = world.call("early", "").replace("INVITE", "CANCEL");
    world.receive(GATEWAY, cancel);
    let codes: Vec<_> = world.heard().iter().filter_map(Message::status).collect();
    assert_eq!(codes, [200, 487]);
    world.relay(1).manner = Manner::Answers;
    world.advance(ms(200));
    assert_eq!((world.requests(), world.proxy.media_stats().deletes), (vec![], 2));
    // Who calls is lost: another proxy goes on, perhaps with the same relay.
    (1..3).for_each(|element| world.relay(element).manner = Manner::Slow(ms(50)));
    world.receive(GATEWAY, world.call("lost", ALICE_SDP));
    let Hop::Core(conn) = GATEWAY else { unreachable!() };
    world.proxy.handle_closed(world.now, conn);
    world.advance(ms(200));
    assert_eq!((world.requests(), world.proxy.media_stats().deletes), (vec![], 2));
}

/// What rings may have been sent by a proxy that is gone, and is reached by the same INVITE only.
#[test]
fn a_repeated_call_that_is_cancelled_goes_on_at_once_to_be_cancelled_there() {
    for attempt in [1, 2] {
        let mut world = World::with_relays(1, |_| {});
        world.relay(1).manner = Manner::Slow(ms(50));
        let leg = dialtone_sip_pool::leg::LegId(7).branch(&world.keys, attempt);
        let call = world.call("c", ALICE_SDP).replace("z9hG4bKc\r\n", &format!("{leg}\r\n"));
        world.receive(GATEWAY, call);
        assert_eq!(world.requests(), []);
        let cancel = world.call("c", "").replace("INVITE", "CANCEL");
        world.receive(GATEWAY, cancel.replace("z9hG4bKc\r\n", &format!("{leg}\r\n")));
        let sent = world.take();
        let invite = sent.iter().find(|(_, message)| message.is_request()).cloned();
        assert_eq!(invite.is_some(), attempt > 1);
        if let Some(invite) = invite {
            world.reply(&invite, 180, "tb", "");
            world.request("CANCEL");
            world.reply(&invite, 487, "tb", "");
            assert_eq!(world.heard()[0].status(), Some(487));
        }
        assert_eq!(world.relay(1).commands(), ["offer", "delete"]);
    }
}

#[test]
fn the_end_of_a_call_does_not_overtake_its_ack() {
    let mut world = World::with_relays(1, |_| {});
    world.receive(GATEWAY, world.call("late", ""));
    let invite = world.request("INVITE");
    world.reply(&invite, 200, "tb", BOB_SDP);
    world.relay(1).manner = Manner::Slow(ms(50));
    let ack = world.within(&invite.1, "ACK", "ack", false, ALICE_SDP);
    world.receive(GATEWAY, ack);
    assert_eq!(world.requests(), []);
    let bye = world.within(&invite.1, "BYE", "bye", false, "");
    world.receive(GATEWAY, bye);
    let sent = world.requests();
    let methods: Vec<_> = sent.iter().map(|(_, m)| m.method().unwrap().as_str()).collect();
    assert_eq!(methods, ["ACK", "BYE"]);
    world.reply(&sent[1], 200, "tb", "");
    world.advance(ms(100));
    assert_eq!(world.requests(), []);
}

#[test]
fn what_a_branch_says_goes_up_in_order() {
    let mut world = World::with_relays(1, |_| {});
    world.receive(GATEWAY, world.call("c", ALICE_SDP));
    let invite = world.request("INVITE");
    world.relay(1).manner = Manner::Slow(ms(60));
    let codes = |world: &mut World| -> Vec<u16> {
        world.heard().iter().filter_map(Message::status).collect()
    };
    world.reply(&invite, 183, "tb", BOB_SDP);
    world.reply(&invite, 180, "tb", "");
    assert_eq!(codes(&mut world), [0; 0]);
    world.advance(ms(60));
    assert_eq!(codes(&mut world), [183, 180]);
    let other = BOB_SDP.replace("5000", "5002");
    for code in [183, 180, 200, 200] {
        world.reply(&invite, code, "tb", if code == 180 { "" } else { &other });
    }
    world.advance(ms(60));
    assert_eq!(codes(&mut world), [200, 200], "a final answer has been given meanwhile");

    world.receive(GATEWAY, world.call("d", ALICE_SDP));
    world.advance(ms(60));
    let invite = world.request("INVITE");
    world.reply(&invite, 183, "tb", BOB_SDP);
    world.reply(&invite, 486, "tb", "");
    assert_eq!(codes(&mut world), [486], "it waits for nothing");
    world.advance(ms(60));
    assert_eq!(codes(&mut world), [0; 0]);
    // A phone that says very much.
    world.receive(GATEWAY, world.call("e", ALICE_SDP));
    world.advance(ms(60));
    let invite = world.request("INVITE");
    for port in 0..100 {
        world.reply(&invite, 183, "tb", &BOB_SDP.replace("5000", &format!("6{port:03}")));
    }
    world.reply(&invite, 200, "tb", BOB_SDP);
    world.advance(ms(120));
    assert_eq!(codes(&mut world), [200]);
    assert_eq!(world.relay(1).commands().iter().filter(|what| **what == "answer").count(), 5);
}

#[test]
fn a_process_that_stood_still_asks_nobody_about_what_it_has_dropped() {
    let mut world = World::with_relays(2, |_| {});
    world.relay(1).manner = Manner::Slow(ms(50));
    world.receive(GATEWAY, world.call("c", ALICE_SDP));
    // Its caller asks us directly and sends it nowhere else.
    world.receive(phone(9), relayed::with_body(&invite("bob", "edge"), ALICE_SDP));
    world.take();
    world.now += Duration::from_secs(5);
    world.proxy.handle_standstill(world.now);
    world.run();
    assert_eq!(world.proxy.sizes().questions, 1);
    // The answers have been waiting all the time.
    world.advance(ms(200));
    assert_eq!(world.relays_reported, [0; 0], "the silence was ours");
    let invite = world.request("INVITE");
    assert_eq!(invite.1.call_id(), Ok("call-edge"));
    world.reply(&invite, 486, "tb", "");
}

fn any_manner() -> impl Strategy<Value = Manner> {
    prop_oneof![
        Just(Manner::Answers),
        (0..250_u64).prop_map(|after| Manner::Slow(ms(after))),
        Just(Manner::Silent),
        Just(Manner::Fails),
        Just(Manner::Limited),
        Just(Manner::Babbles),
        Just(Manner::Absent),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever relays do: every INVITE gets one final answer, and nothing waits for longer than is promised.
    #[test]
    fn no_call_fails_or_waits_because_of_relays(
        first in prop::collection::vec(any_manner(), 0..4),
        then in prop::collection::vec(any_manner(), 4),
        late in any::<bool>(),
        early in prop::collection::vec((any::<bool>(), 0..150_u64), 0..4),
        code in prop_oneof![Just(200_u16), Just(486)],
        cancelled in prop::option::of(0..400_u64),
    ) {
        let mut world = World::with_relays(first.len() as u32, |_| {});
        for (element, manner) in (1..).zip(&first) {
            world.relay(element).manner = *manner;
        }
        let bound = WITHIN * 3;
        world.receive(GATEWAY, world.call("p", if late { "" } else { ALICE_SDP }));
        if let Some(after) = cancelled {
            world.advance(ms(after));
            let cancel = world.call("p", "").replace("INVITE", "CANCEL");
            world.receive(GATEWAY, cancel);
            let mut sent = world.take();
            let is_invite = |message: &Message| {
                message.is_request() && message.method().unwrap().as_str() == "INVITE"
            };
            let rings = sent.iter().find(|(_, message)| is_invite(message)).cloned();
            if let Some(invite) = rings {
                world.reply(&invite, 180, "tb", "");
                world.reply(&invite, 487, "tb", "");
            }
            world.advance(bound);
            sent.extend(world.take());
            prop_assert!(sent.iter().filter(|(_, message)| is_invite(message)).count() <= 1);
            let finals = sent.iter().filter(|(hop, message)| {
                *hop == GATEWAY
                    && message.status() >= Some(200)
                    && message.cseq().unwrap().method.as_str() == "INVITE"
            });
            let codes: Vec<_> = finals.filter_map(|(_, message)| message.status()).collect();
            prop_assert_eq!(codes, vec![487]);
        } else {
            world.advance(bound);
            let invite = world.request("INVITE");
            for (element, manner) in (1..=first.len() as u32).zip(&then) {
                world.relay(element).manner = *manner;
            }
            for (with, after) in early {
                world.reply(&invite, 183, "tb", if with { BOB_SDP } else { "" });
                world.advance(ms(after));
            }
            world.take();
            world.reply(&invite, code, "tb", if code == 200 { BOB_SDP } else { "" });
            world.advance(if late { bound * 2 } else { WITHIN * 2 });
            let heard = world.heard();
            let finals: Vec<_> = heard.iter().filter_map(Message::status).filter(|c| *c >= 200).collect();
            prop_assert_eq!(finals, vec![code]);
            if code == 200 && !late && world.cookie(&invite.1).is_some() {
                let body = heard.last().unwrap().body();
                prop_assert_ne!(body, BOB_SDP.as_bytes(), "the other side sends to a relay");
            }
            if code == 200 && world.cookie(&invite.1).is_some() {
                let ack = world.within(&invite.1, "ACK", "ack", false, if late { ALICE_SDP } else { "" });
                world.receive(GATEWAY, ack);
                world.advance(if late { bound } else { ms(0) });
                prop_assert_eq!(world.request("ACK").0, Hop::Element(relayed::TO));
            }
        }
        world.advance(Duration::from_secs(1));
        prop_assert_eq!(world.proxy.sizes().questions, 0);
    }
}
