//! Calls of participants.

use super::*;
use crate::core::RoomOptions;
use crate::mix::Codec;

#[test]
fn a_call_begins_and_ends() {
    let mut lab = Lab::new();
    let alice = Caller::new("alice", "conf-sales");
    let answer = lab.say(alice.invite(OFFER)).response();
    assert_eq!(answer.status(), Some(200));
    let contact = header(&answer, HeaderName::Contact);
    assert_eq!(contact, "<sip:conf-sales@127.0.0.9:5060;transport=tcp>;isfocus");
    assert_eq!(header(&answer, HeaderName::RecordRoute), "<sip:token@192.0.2.1:5060;lr>");
    assert!(answer.has_token(HeaderName::AllowEvents, "conference"));
    assert!(body(&answer).contains("m=audio 4002 RTP/AVP 8 101\r\n"), "{}", body(&answer));
    assert!(answer.header(HeaderName::SessionExpires).is_none(), "the caller does not know of it");
    let agreed = lab.agreed().clone();
    assert_eq!(agreed.rtp, "192.0.2.9:7000".parse().ok());
    assert_eq!(agreed.rtcp, "192.0.2.9:7001".parse().ok());
    assert_eq!(agreed.member.codecs, [(8, Codec::Pcma), (0, Codec::Pcmu)]);
    assert!(agreed.member.hears && agreed.member.speaks);
    lab.say(alice.ack(&answer, ""));
    lab.pass(Duration::from_secs(60));
    assert!(lab.take().is_empty(), "nothing is repeated");
    assert_eq!((lab.focus.participants(), lab.focus.rooms().count()), (1, 1));
    assert_eq!(lab.say(alice.bye(&answer, 2)).status(), 200);
    assert_eq!(lab.closed(), 1);
    assert_eq!(lab.focus.rooms().count(), 0);
    // A gateway that has lost a proxy sends it again by another way.
    let again = alice.bye(&answer, 2).replace("branch=z9hG4bK", "branch=z9hG4bKother");
    assert_eq!(lab.say(again).status(), 200);
    lab.is_clean();
}

#[test]
fn wide_codecs_are_preferred() {
    let mut lab = Lab::new();
    let offer = OFFER.replace("AVP 8 0 101", "AVP 8 9 0 101");
    let answer = lab.say(Caller::new("alice", "conf-a").invite(&offer)).response();
    assert!(body(&answer).contains("RTP/AVP 9 101\r\na=rtpmap:9 G722/8000\r\n"));
    assert_eq!(lab.agreed().member.codecs[0], (9, Codec::G722));
    // Unless they are too dear; who knows nothing else gets it all the same.
    let mut lab = Lab::with(|settings| settings.wideband = false);
    let answer = lab.say(Caller::new("alice", "conf-a").invite(&offer)).response();
    assert!(body(&answer).contains("RTP/AVP 8 101\r\n"));
    let answer = lab.say(Caller::new("bob", "conf-a").invite("")).response();
    assert!(body(&answer).contains("RTP/AVP 8 0 101\r\n"));
    let only = OFFER.replace("AVP 8 0 101", "AVP 9");
    let answer = lab.say(Caller::new("carol", "conf-a").invite(&only)).response();
    assert!(body(&answer).contains("RTP/AVP 9\r\n"));
}

#[test]
fn an_answer_is_repeated_until_it_is_acknowledged() {
    let mut lab = Lab::new();
    let alice = Caller::new("alice", "conf-a");
    lab.say(alice.invite(OFFER));
    lab.take();
    lab.pass(Duration::from_secs(10));
    let repeated = lab.take();
    assert!(repeated.len() >= 4, "{}", repeated.len());
    assert!(repeated.iter().all(|(_, message)| message.status() == Some(200)));
    lab.pass(Duration::from_secs(23));
    let (hop, bye) = lab.take().pop().expect("a BYE");
    assert!(is(&bye, Method::Bye));
    lab.answer(hop, &bye, 200);
    assert_eq!(lab.focus.stats().expired, 1);
    lab.is_clean();
}

#[test]
fn a_late_offer_is_answered_by_the_ack() {
    let mut lab = Lab::new();
    let alice = Caller::new("alice", "conf-a");
    let offer = lab.say(alice.invite("")).response();
    assert!(body(&offer).contains("RTP/AVP 9 8 0 101\r\n"), "{}", body(&offer));
    assert!(!lab.media.iter().any(|command| matches!(command, MediaCommand::Set { .. })));
    lab.say(alice.ack(&offer, OFFER));
    assert_eq!(lab.agreed().member.codecs, [(8, Codec::Pcma), (0, Codec::Pcmu)]);
    // An ACK without an answer ends the call.
    let bob = Caller::new("bob", "conf-a");
    let offer = lab.say(bob.invite("")).response();
    lab.say(bob.ack(&offer, ""));
    let (_, bye) = lab.request();
    assert!(is(&bye, Method::Bye));
    assert_eq!(lab.focus.participants(), 1);
}

#[test]
fn without_a_common_codec_it_is_488() {
    let mut lab = Lab::new();
    let alice = Caller::new("alice", "conf-a");
    let offer = OFFER.replace("RTP/AVP 8 0 101", "RTP/AVP 18 3 101");
    let refusal = lab.say(alice.invite(&offer)).response();
    assert_eq!(refusal.status(), Some(488));
    assert!(header(&refusal, HeaderName::Warning).starts_with("305 "));
    assert!(lab.media.is_empty());
    for (offer, kind, status) in [
        ("nonsense", "application/sdp", 400),
        ("x", "text/plain", 415),
        (OFFER, "Application/SDP;charset=utf-8", 200),
    ] {
        let caller = Caller::new(
            ["dora", "erik", "fred"][usize::from(status == 415) + 2 * usize::from(status == 200)],
            "conf-a",
        );
        let more = format!("Content-Type: {kind}\r\n");
        assert_eq!(lab.say(caller.request("INVITE", 1, "", &more, offer)).status(), status);
    }
    assert_eq!(lab.focus.stats().no_codec, 1);
}

#[test]
fn the_way_of_our_requests_follows_the_route() {
    let mut lab = Lab::new();
    let alice = Caller::new("alice", "conf-a");
    let call = lab.join(&alice);
    lab.tell(MediaEvent::Lost { call });
    let (hop, bye) = lab.request();
    assert!(is(&bye, Method::Bye));
    // By the connection of a proxy, whatever its address is.
    assert_eq!(hop, PROXY);
    assert_eq!(bye.request_uri_str(), Some("sip:alice@192.0.2.9:5062"));
    assert_eq!(header(&bye, HeaderName::Route), "<sip:token@192.0.2.1:5060;lr>");
    assert_eq!(bye.to().expect("To").tag(), Some("falice"));
    lab.answer(hop, &bye, 200);
    // When it is gone to another one, and to the address only if there is none.
    let mut bob = Caller::new("bob", "conf-a");
    bob.more = "Record-Route: <sip:token@192.0.2.1;lr>\r\n".to_owned();
    let through_pool = |text: String| {
        text.replacen("<sip:token@192.0.2.1:5060;lr>", "<sip:cookie@sip-proxy.pool.invalid;lr>", 1)
    };
    let answer = lab.say(through_pool(bob.invite(OFFER))).response();
    lab.say(through_pool(bob.ack(&answer, "")));
    lab.focus.handle_connected(2);
    lab.focus.handle_closed(lab.now, PROXY);
    lab.focus.drain(lab.now);
    lab.drain();
    let (hop, bye) = lab.request();
    assert_eq!(hop, Hop::Accepted(2));
    let routes: Vec<&str> = bye.routes().map(|route| route.expect("a route").raw).collect();
    assert_eq!(routes, ["<sip:cookie@sip-proxy.pool.invalid;lr>", "<sip:token@192.0.2.1;lr>"]);
    lab.answer(hop, &bye, 200);
    assert_eq!(lab.focus.stats().lost, 1);
    lab.is_clean();
}

#[test]
fn a_cancelled_call_leaves_nothing() {
    let mut lab = Lab::new();
    lab.opens = false;
    let alice = Caller::new("alice", "conf-a");
    lab.say(alice.invite(OFFER));
    let cancel = alice.request("CANCEL", 1, "", "", "").replace("aliceCANCEL", "aliceINVITE");
    lab.say(cancel);
    let sent = lab.take();
    let codes: Vec<_> = sent.iter().filter_map(|(_, message)| message.status()).collect();
    assert_eq!(codes, [200, 487]);
    assert_eq!(lab.closed(), 1);
    // Its sockets come too late.
    let call = match &lab.media[0] {
        MediaCommand::Open { call, .. } => *call,
        other => panic!("{other:?}"),
    };
    lab.tell(MediaEvent::Opened { call, rtp: "127.0.0.1:4".parse().expect("address") });
    assert!(lab.take().is_empty());
    lab.say(alice.ack(&sent[1].1, "").replace("z9hG4bKackaliceACK", "z9hG4bKaliceINVITE"));
    lab.is_clean();
}

#[test]
fn the_same_invite_by_another_way_is_the_same_call() {
    let mut lab = Lab::new();
    lab.opens = false;
    let alice = Caller::new("alice", "conf-a");
    let other_way =
        |text: &str, number: u32| text.replace("z9hG4bKalice", &format!("z9hG4bK{number}alice"));
    let invite = alice.invite(OFFER);
    lab.say(invite.clone());
    // Before it is answered: the answer goes the new way.
    lab.say_over(Hop::Accepted(2), other_way(&invite, 2));
    let call = match &lab.media[..] {
        [MediaCommand::Open { call, .. }] => *call,
        other => panic!("{other:?}"),
    };
    lab.take();
    lab.tell(MediaEvent::Opened { call, rtp: "127.0.0.9:4".parse().expect("address") });
    let sent = lab.take();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].0, Hop::Accepted(2));
    let first = sent[0].1.clone();
    // After it was answered: the same answer again.
    let second = lab.say_over(Hop::Accepted(3), other_way(&invite, 3)).response();
    assert_eq!((tag(&second), body(&second)), (tag(&first), body(&first)));
    lab.say(alice.ack(&second, ""));
    // After it was acknowledged: that counts.
    assert_eq!(lab.say_over(Hop::Accepted(4), other_way(&invite, 4)).status(), 200);
    lab.pass(Duration::from_secs(60));
    assert!(lab.take().is_empty());
    assert_eq!(lab.focus.participants(), 1);
}

#[test]
fn rooms_and_servers_are_full_some_time() {
    let mut lab = Lab::with(|settings| {
        (settings.max_room, settings.max_participants, settings.max_rooms) = (2, 4, 2);
        settings.rooms.insert(
            "small".into(),
            RoomOptions { max_participants: Some(1), ..RoomOptions::default() },
        );
    });
    let mut status = |name, room| lab.say(Caller::new(name, room).invite(OFFER)).response();
    let mut codes = Vec::new();
    for (name, room) in [
        ("a", "conf-small"),
        ("b", "conf-small"),
        ("c", "conf-big"),
        ("d", "conf-big"),
        ("e", "conf-big"),
        ("f", "conf-third"),
    ] {
        let answer = status(name, room);
        codes.push(answer.status().expect("a response"));
        if answer.status() == Some(503) {
            assert_eq!(header(&answer, HeaderName::RetryAfter), "5");
        }
    }
    assert_eq!(codes, [200, 486, 200, 200, 486, 503]);
    assert!((lab.focus.load() - 1.0).abs() < 1e-9, "there is room for nobody's room");
    assert_eq!(lab.focus.stats().full, 3);
    lab.opens = false;
    lab.focus = Lab::new().focus;
    lab.media.clear();
    lab.say(Caller::new("g", "conf-a").invite(OFFER));
    let call = match &lab.media[..] {
        [MediaCommand::Open { call, .. }] => *call,
        other => panic!("{other:?}"),
    };
    lab.tell(MediaEvent::Failed { call });
    assert_eq!(lab.status(), 503);
}

#[test]
fn hold_and_other_changes() {
    let mut lab = Lab::new();
    let alice = Caller::new("alice", "conf-a");
    let answer = lab.say(alice.invite(OFFER)).response();
    lab.say(alice.ack(&answer, ""));
    let mut sequence = 1;
    for (change, hears, speaks, answered) in [
        ("a=sendonly\r\n", false, false, "a=recvonly"),
        ("a=inactive\r\n", false, false, "a=inactive"),
        ("a=recvonly\r\n", true, false, "a=sendonly"),
        ("a=sendrecv\r\n", true, true, "a=sendrecv"),
    ] {
        for method in ["INVITE", "UPDATE"] {
            sequence += 1;
            let offer = format!("{OFFER}{change}");
            let request = alice.request(method, sequence, &tag(&answer), kind(&offer), &offer);
            let changed = lab.say(request).response();
            assert_eq!(changed.status(), Some(200));
            assert!(body(&changed).contains(answered), "{method} {}", body(&changed));
            assert!(body(&changed).contains("m=audio 4002 "), "the same port");
            let member = &lab.agreed().member;
            assert_eq!((member.hears, member.speaks), (hears, speaks), "{change}");
            if method == "INVITE" {
                // Until it is acknowledged, another one must wait.
                let early = alice.request("INVITE", sequence + 50, &tag(&answer), "", "");
                assert_eq!(
                    lab.say(early.replace(
                        &format!("CSeq: {}", sequence + 50),
                        &format!("CSeq: {sequence}")
                    ))
                    .status(),
                    491
                );
                lab.say(alice.ack(&changed, ""));
            }
        }
    }
    // Without an offer we make one.
    let request = alice.request("INVITE", sequence + 1, &tag(&answer), "", "");
    let ours = lab.say(request).response();
    assert!(body(&ours).contains("RTP/AVP 8 101\r\n"), "{}", body(&ours));
    lab.say(alice.ack(&ours, &OFFER.replace("7000", "7100")));
    assert_eq!(lab.agreed().rtp, "192.0.2.9:7100".parse().ok());
    // An offer that cannot be taken changes nothing.
    let request = alice.request(
        "INVITE",
        sequence + 2,
        &tag(&answer),
        kind("x"),
        &OFFER.replace("8 0 101", "18"),
    );
    assert_eq!(lab.say(request).status(), 488);
    assert_eq!(lab.focus.participants(), 1);
    // What is older than what came before is out of order.
    let request = alice.request("UPDATE", 2, &tag(&answer), "", "");
    assert_eq!(lab.say(request.replace("z9hG4bK", "z9hG4bKold")).status(), 500);
}

#[test]
fn sessions_that_nobody_refreshes_end() {
    let mut lab = Lab::new();
    let mut alice = Caller::new("alice", "conf-a");
    alice.more = "Supported: timer\r\nSession-Expires: 60\r\n".to_owned();
    let refusal = lab.say(alice.invite(OFFER)).response();
    assert_eq!((refusal.status(), header(&refusal, HeaderName::MinSe)), (Some(422), "90"));
    alice.more = "Supported: timer\r\nSession-Expires: 120;refresher=uac\r\n".to_owned();
    let answer = lab.say(alice.invite(OFFER).replace("aliceINVITE", "alice2INVITE")).response();
    assert_eq!(header(&answer, HeaderName::SessionExpires), "120;refresher=uac");
    assert!(answer.has_token(HeaderName::Require, "timer"));
    lab.say(alice.ack(&answer, ""));
    // A refresh after a minute, then none.
    lab.pass(Duration::from_secs(60));
    let refreshed = lab.say(alice.request("UPDATE", 2, &tag(&answer), "", "")).response();
    assert_eq!(header(&refreshed, HeaderName::SessionExpires), "120;refresher=uac");
    assert!(refreshed.body().is_empty());
    lab.pass(Duration::from_secs(87));
    assert!(lab.take().is_empty());
    lab.pass(Duration::from_secs(2));
    let (hop, bye) = lab.request();
    assert!(is(&bye, Method::Bye));
    lab.answer(hop, &bye, 200);
    assert_eq!(lab.focus.stats().expired, 1);
    lab.is_clean();
}

#[test]
fn sessions_are_refreshed_for_callers_who_cannot() {
    for (allow, method) in [("Allow: INVITE, UPDATE\r\n", Method::Update), ("", Method::Invite)] {
        let mut lab = Lab::with(|settings| settings.session_expires = Duration::from_secs(200));
        let mut alice = Caller::new("alice", "conf-a");
        alice.more = allow.to_owned();
        lab.join(&alice);
        for _ in 0..5 {
            lab.pass(Duration::from_secs(101));
            let (hop, refresh) = lab.request();
            assert!(is(&refresh, method), "{refresh:?}");
            assert_eq!(header(&refresh, HeaderName::SessionExpires), "200;refresher=uac");
            assert_eq!(body(&refresh).is_empty(), method == Method::Update);
            lab.answer(hop, &refresh, 200);
            if method == Method::Invite {
                let (_, ack) = lab.request();
                assert!(is(&ack, Method::Ack));
                assert_eq!(ack.cseq().expect("CSeq").seq, refresh.cseq().expect("CSeq").seq);
                // The answer once more: so is the ACK.
                lab.answer(hop, &refresh, 200);
                assert!(is(&lab.request().1, Method::Ack));
            }
        }
        // Both sides have begun at once: again before the session expires.
        lab.pass(Duration::from_secs(101));
        let (hop, refresh) = lab.request();
        lab.answer(hop, &refresh, 491);
        lab.take();
        lab.pass(Duration::from_secs(26));
        let (hop, refresh) = lab.request();
        assert!(is(&refresh, method), "{refresh:?}");
        lab.answer(hop, &refresh, 200);
        lab.take();
        // The other side has forgotten the call.
        lab.pass(Duration::from_secs(101));
        let (hop, refresh) = lab.request();
        lab.answer(hop, &refresh, 481);
        assert_eq!(lab.focus.participants(), 0);
    }
}

#[test]
fn who_does_not_know_the_number_is_hung_up() {
    let mut lab = Lab::with(|settings| {
        let options =
            RoomOptions { pin: Some("4711".into()), record: true, ..RoomOptions::default() };
        settings.rooms.insert("secret".into(), options);
    });
    let call = lab.join(&Caller::new("alice", "conf-secret"));
    let MediaCommand::Open { settings, .. } = &lab.media[0] else { panic!("{:?}", lab.media) };
    assert_eq!((settings.pin.as_deref(), settings.records), (Some("4711"), true));
    lab.tell(MediaEvent::Refused { call });
    assert!(is(&lab.request().1, Method::Bye));
    assert_eq!((lab.focus.participants(), lab.focus.stats().wrong_pin), (0, 1));
}

#[test]
fn draining_hangs_everybody_up() {
    let mut lab = Lab::new();
    for name in ["alice", "bob", "carol"] {
        lab.join(&Caller::new(name, "conf-a"));
    }
    lab.focus.drain(lab.now);
    lab.drain();
    let sent = lab.take();
    assert_eq!(sent.len(), 3);
    assert!(!lab.focus.is_empty(), "answers are waited for");
    for (hop, bye) in sent {
        assert!(is(&bye, Method::Bye));
        lab.answer(hop, &bye, 200);
    }
    assert!(lab.focus.is_empty());
    assert_eq!(lab.say(Caller::new("dora", "conf-a").invite(OFFER)).status(), 503);
    assert!((lab.focus.load() - 1.0).abs() < 1e-9);
}

#[test]
fn what_a_dying_proxy_takes_with_it_goes_to_another() {
    let other = Hop::Accepted(2);
    let mut lab = Lab::new();
    lab.focus.handle_connected(2);
    let call = lab.join(&Caller::new("alice", "conf-a"));
    lab.tell(MediaEvent::Lost { call });
    let (hop, bye) = lab.request();
    assert_eq!((hop, bye.method()), (PROXY, Some(Method::Bye)));
    lab.focus.handle_closed(lab.now, PROXY);
    lab.drain();
    let (hop, again) = lab.request();
    assert_eq!((hop, again.method()), (other, Some(Method::Bye)));
    assert_eq!((again.cseq(), again.call_id()), (bye.cseq(), bye.call_id()));
    let branch = |message: &Message| {
        let via = header(message, HeaderName::Via).to_owned();
        assert_eq!(via.split(";branch=").next(), Some("SIP/2.0/TCP 127.0.0.9:5060;rport"));
        via
    };
    assert_ne!(branch(&again), branch(&bye), "another transaction");
    // Once: whoever kills proxies gets no more of it.
    lab.focus.handle_connected(3);
    lab.focus.handle_closed(lab.now, other);
    lab.drain();
    assert_eq!(lab.take(), []);
    lab.is_clean();
    // One that is silent is as dead.
    let mut lab = Lab::new();
    lab.focus.handle_connected(2);
    let call = lab.join(&Caller::new("alice", "conf-a"));
    lab.tell(MediaEvent::Lost { call });
    assert_eq!(lab.request().0, PROXY);
    lab.pass(Duration::from_secs(33));
    let (hop, bye) = lab.request();
    assert_eq!(hop, other);
    lab.answer(hop, &bye, 200);
    lab.is_clean();
}
