//! Registrations and calls while nothing fails.

use dialtone_sip::{HeaderName, Method, cancel_for};

use super::super::*;
use super::lab::{Lab, Phone, edge_of};

pub(super) fn answered_call(lab: &mut Lab, alice: &Phone, bob: &Phone) -> (Message, Message) {
    alice.invite(lab, bob.user);
    assert_eq!(alice.got(lab), ["100"]);
    let invite = bob.take(lab).remove(0);
    bob.answer(lab, &invite, 180);
    bob.answer(lab, &invite, 200);
    let answers = alice.take(lab);
    assert_eq!(answers.iter().map(|a| a.status().unwrap()).collect::<Vec<_>>(), [180, 200]);
    let answer = answers[1].clone();
    let ack = alice.in_dialog(lab, Method::Ack, &answer, 1).build();
    alice.send(lab, ack);
    assert_eq!(bob.got(lab), ["ACK"]);
    (invite, answer)
}

#[test]
fn a_phone_registers_and_its_pinhole_is_kept_open_until_a_call_comes() {
    let mut lab = Lab::new(2, 2);
    let (alice, bob) = (Phone::new("alice", 0, 1), Phone::new("bob", 1, 2));
    let register = bob.request(&mut lab, Method::Register, "bob").build();
    bob.send(&mut lab, register);
    let answer = bob.take(&mut lab).remove(0);
    assert!(answer.header(HeaderName::Path).is_none(), "phones know nothing of Path");
    let via = answer.top_via().unwrap();
    assert_eq!(
        (via.received(), via.rport()),
        (Some(bob.address.ip()), Some(Some(bob.address.port())))
    );
    assert!(
        lab.at_proxy[0]
            .header_str(HeaderName::Path)
            .unwrap()
            .ends_with("@192.168.100.101:5060;lr;ob>")
    );

    lab.run(180_000);
    assert_eq!(lab.gateways[1].counters().refreshed, 7);
    let pings = lab.inbox.remove(&(1, bob.address)).unwrap();
    assert!(pings.iter().all(|ping| ping == hops::PING));
    answered_call(&mut lab, &alice, &bob);

    // A registration of another phone refreshes nothing here, and its removal ends the refreshing.
    let bye = bob.request(&mut lab, Method::Register, "bob").header("Expires", "0").build();
    bob.send(&mut lab, bye);
    assert_eq!(lab.gateways[1].gauges().pinholes, 1, "this model of a proxy still grants 3600 s");
}

#[test]
fn a_call_across_two_gateways_and_what_follows_go_by_tokens_without_a_proxy() {
    let mut lab = Lab::new(2, 2);
    let (alice, bob) = (Phone::new("alice", 0, 1), Phone::new("bob", 1, 2));
    bob.register(&mut lab);
    let (invite, answer) = answered_call(&mut lab, &alice, &bob);
    let via = invite.top_via().unwrap();
    assert_eq!(invite.vias().count(), 1, "the phone sees its gateway only");
    assert_eq!((via.transport, via.port), ("UDP", Some(5060)));
    assert_eq!(invite.record_routes().count(), 2);
    assert_eq!(invite.max_forwards(), Ok(Some(68)));
    assert_eq!(lab.gateways[0].dialogs().len(), 1);
    assert_eq!(lab.gateways[1].dialogs().len(), 1);

    let seen = lab.at_proxy.len();
    let reinvite = alice
        .in_dialog(&mut lab, Method::Invite, &answer, 2)
        .header("Contact", "<sip:alice@10.0.0.1>");
    let reinvite = reinvite.build();
    alice.send(&mut lab, reinvite);
    let got = bob.take(&mut lab).remove(0);
    assert_eq!(got.request_uri_str(), Some(bob.contact().as_str()));
    assert_eq!(got.routes().count(), 0);
    bob.answer(&mut lab, &got, 200);
    assert_eq!(alice.got(&mut lab), ["100", "200"]);
    let ack = alice.in_dialog(&mut lab, Method::Ack, &answer, 2).build();
    alice.send(&mut lab, ack);
    assert_eq!(bob.got(&mut lab), ["ACK"]);

    let bye =
        bob.back(&mut lab, Method::Bye, &invite, &format!("to{}", bob.address.port())).build();
    bob.send(&mut lab, bye);
    let got = alice.take(&mut lab).remove(0);
    assert_eq!(
        (got.method(), got.request_uri_str()),
        (Some(Method::Bye), Some(alice.contact().as_str()))
    );
    alice.answer(&mut lab, &got, 200);
    assert_eq!(bob.got(&mut lab), ["200"]);
    assert_eq!(lab.at_proxy.len(), seen, "no proxy has seen any of it");
    assert_eq!(lab.gateways[0].dialogs().len() + lab.gateways[1].dialogs().len(), 0);

    // Nothing is left behind when all timers have run out.
    lab.run(60_000);
    for gateway in &lab.gateways {
        let gauges = gateway.gauges();
        let left = [gauges.legs, gauges.deliveries, gauges.clients, gauges.servers];
        assert_eq!((left, gateway.unfinished()), ([0; 4], 0));
    }
}

#[test]
fn a_request_that_comes_back_is_answered_at_once() {
    let mut lab = Lab::new(2, 2);
    let (alice, bob) = (Phone::new("alice", 0, 1), Phone::new("bob", 1, 2));
    bob.register(&mut lab);
    let returned = |lab: &mut Lab, remote, bytes| {
        lab.input(1, Input::DatagramReturned { listener: 0, remote, bytes });
    };
    alice.invite(&mut lab, "bob");
    assert_eq!(alice.got(&mut lab), ["100"]);
    let invite = bob.take(&mut lab).remove(0);
    let bytes = invite.bytes().slice(..160);
    let branch = invite.top_via().unwrap().branch().unwrap().to_owned();

    // Made up, of another address, or too short to be believed.
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    returned(&mut lab, bob.address, text.replace(&branch, "z9hG4bK0123456789abcdef").into());
    returned(&mut lab, alice.address, bytes.clone());
    returned(&mut lab, bob.address, bytes.slice(..40));
    returned(&mut lab, bob.address, Bytes::new());
    assert_eq!((alice.got(&mut lab).len(), lab.gateways[1].counters().unreachable), (0, 0));

    returned(&mut lab, bob.address, bytes.clone());
    assert_eq!(alice.got(&mut lab), ["430"], "a real proxy tries the next flow now");
    returned(&mut lab, bob.address, bytes);
    assert_eq!(lab.gateways[1].counters().unreachable, 1);
    lab.run(40_000);
    assert!(bob.got(&mut lab).is_empty(), "not sent again");
    assert_eq!(lab.gateways[1].gauges().clients, 0);

    // Who rings is there, whatever comes back.
    alice.invite(&mut lab, "bob");
    let invite = bob.take(&mut lab).remove(0);
    bob.answer(&mut lab, &invite, 180);
    returned(&mut lab, bob.address, invite.bytes().clone());
    bob.answer(&mut lab, &invite, 486);
    assert_eq!(alice.got(&mut lab).last().map(String::as_str), Some("486"));
}

#[test]
fn a_call_on_one_gateway() {
    let mut lab = Lab::new(1, 1);
    let (alice, bob) = (Phone::new("alice", 0, 1), Phone::new("bob", 0, 2));
    bob.register(&mut lab);
    let (_, answer) = answered_call(&mut lab, &alice, &bob);
    let bye = alice.in_dialog(&mut lab, Method::Bye, &answer, 2).build();
    alice.send(&mut lab, bye);
    let got = bob.take(&mut lab).remove(0);
    bob.answer(&mut lab, &got, 200);
    assert_eq!(alice.got(&mut lab), ["200"]);
    lab.run(60_000);
    let gauges = lab.gateways[0].gauges();
    assert_eq!([gauges.legs, gauges.deliveries, gauges.clients, gauges.servers], [0; 4]);
}

#[test]
fn a_busy_phone_and_a_cancelled_call() {
    let mut lab = Lab::new(2, 1);
    let (alice, bob) = (Phone::new("alice", 0, 1), Phone::new("bob", 1, 2));
    bob.register(&mut lab);
    let invite = alice.invite(&mut lab, "bob");
    let got = bob.take(&mut lab).remove(0);
    bob.answer(&mut lab, &got, 486);
    assert_eq!(bob.got(&mut lab), ["ACK"]);
    let busy = alice.take(&mut lab).pop().unwrap();
    assert_eq!(busy.status(), Some(486));
    lab.run(600);
    assert_eq!(alice.got(&mut lab), ["486"], "repeated until the ACK");
    let ack = dialtone_sip::ack_for(&invite, &busy).unwrap();
    alice.send(&mut lab, ack);
    lab.run(10_000);
    assert_eq!(alice.got(&mut lab), Vec::<String>::new());

    let invite = alice.invite(&mut lab, "bob");
    let got = bob.take(&mut lab).remove(0);
    let cancel = cancel_for(&invite).unwrap();
    alice.send(&mut lab, cancel.clone());
    assert_eq!(alice.got(&mut lab), ["100", "200"]);
    assert_eq!(bob.got(&mut lab), Vec::<String>::new(), "no CANCEL before a provisional answer");
    bob.answer(&mut lab, &got, 180);
    let cancelled = bob.take(&mut lab).remove(0);
    assert_eq!(cancelled.method(), Some(Method::Cancel));
    assert_eq!(cancelled.top_via().unwrap().branch(), got.top_via().unwrap().branch());
    bob.answer(&mut lab, &cancelled, 200);
    bob.answer(&mut lab, &got, 487);
    assert_eq!(bob.got(&mut lab), ["ACK"]);
    assert_eq!(alice.got(&mut lab), ["180", "487"]);
    // A CANCEL for nothing.
    let late = String::from_utf8(cancel.to_vec())
        .unwrap()
        .replace("branch=z9hG4bK", "branch=z9hG4bKother");
    alice.send(&mut lab, late.into());
    assert_eq!(alice.got(&mut lab), ["481"]);
}

#[test]
fn forked_answers_and_repeated_ones_pass() {
    let mut lab = Lab::new(2, 1);
    let alice = Phone::new("alice", 0, 1);
    let (desk, mobile) = (Phone::new("bob", 1, 2), Phone::new("bob", 0, 3));
    desk.register(&mut lab);
    mobile.register(&mut lab);
    alice.invite(&mut lab, "bob");
    let at_desk = desk.take(&mut lab).remove(0);
    let at_mobile = mobile.take(&mut lab).remove(0);
    desk.answer(&mut lab, &at_desk, 180);
    mobile.answer(&mut lab, &at_mobile, 180);
    mobile.answer(&mut lab, &at_mobile, 200);
    desk.answer(&mut lab, &at_desk, 200);
    mobile.answer(&mut lab, &at_mobile, 200);
    let answers = alice.take(&mut lab);
    let tags: Vec<_> = answers
        .iter()
        .map(|a| (a.status().unwrap(), a.to().unwrap().tag().map(str::to_owned)))
        .collect();
    let tag = |phone: &Phone| Some(format!("to{}", phone.address.port()));
    assert_eq!(
        tags,
        [
            (100, None),
            (180, tag(&desk)),
            (180, tag(&mobile)),
            (200, tag(&mobile)),
            (200, tag(&desk)),
            (200, tag(&mobile)),
        ]
    );
}

#[test]
fn phones_over_tcp_are_reached_by_their_connection_and_430_says_that_it_is_gone() {
    let mut lab = Lab::new(2, 1);
    let alice = Phone::new("alice", 0, 1);
    let carol = Phone::new("carol", 1, 4);
    lab.input(1, Input::EdgeOpened { conn: 9, listener: 1, remote: carol.address });
    let register = carol.request(&mut lab, Method::Register, "carol").build();
    lab.input(1, Input::EdgeMessage { conn: 9, bytes: register });
    let answer = lab.streams.remove(&(1, 9)).unwrap().remove(0).unwrap();
    assert!(answer.starts_with(b"SIP/2.0 200"));
    assert!(
        lab.at_proxy[0].header_str(HeaderName::Path).unwrap().contains(";transport=tcp;lr;ob>")
    );

    alice.invite(&mut lab, "carol");
    let invite = Message::parse(lab.streams.remove(&(1, 9)).unwrap().remove(0).unwrap()).unwrap();
    assert_eq!(invite.top_via().unwrap().transport, "TCP");
    assert_eq!(alice.got(&mut lab), ["100"]);
    lab.input(1, Input::EdgeClosed { conn: 9 });
    assert_eq!(alice.got(&mut lab), ["430"], "at once, not after a timeout");
    alice.invite(&mut lab, "carol");
    assert_eq!(alice.got(&mut lab), ["100", "430"]);
    // The same address again is another flow.
    lab.input(1, Input::EdgeOpened { conn: 10, listener: 1, remote: carol.address });
    alice.invite(&mut lab, "carol");
    assert_eq!(alice.got(&mut lab), ["100", "430"]);
    assert_eq!(lab.gateways[1].counters().flow_gone, 3);
}

#[test]
fn an_invite_of_1200_bytes_with_video_grows_by_less_than_350_bytes() {
    for stays in [false, true] {
        let mut lab = Lab::new(2, 1);
        lab.stays = stays;
        let (alice, bob) = (Phone::new("alice", 0, 1), Phone::new("bob", 1, 2));
        bob.register(&mut lab);
        let mut sdp = String::from(
            "v=0\r\no=- 1 1 IN IP4 198.51.100.1\r\ns=-\r\nc=IN IP4 198.51.100.1\r\nt=0 0\r\n",
        );
        sdp.push_str("m=audio 4000 RTP/AVP 0 8 96\r\na=rtpmap:96 opus/48000/2\r\na=sendrecv\r\n");
        sdp.push_str("m=video 4002 RTP/AVP 97\r\na=rtpmap:97 H264/90000\r\n");
        while sdp.len() < 830 {
            sdp.push_str("a=fmtp:97 profile-level-id=42e01f;packetization-mode=1\r\n");
        }
        let invite = alice
            .request(&mut lab, Method::Invite, "bob")
            .body("application/sdp", sdp.clone())
            .build();
        assert!((1_150..1_250).contains(&invite.len()), "{}", invite.len());
        alice.send(&mut lab, invite.clone());
        let got = bob.take(&mut lab).remove(0);
        assert_eq!(got.body(), sdp.as_bytes());
        assert_eq!(got.record_routes().count(), if stays { 3 } else { 2 });
        let added = got.bytes().len() as i64 - invite.len() as i64;
        assert!(added <= 350, "{added} bytes added");
        println!("{added} bytes added to {}, stays: {stays}", invite.len());
    }
}

#[test]
fn stun_and_line_ends_are_answered() {
    let mut lab = Lab::new(1, 0);
    let alice = Phone::new("alice", 0, 1);
    let mut stun = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    stun.extend_from_slice(b"transactions");
    alice.send(&mut lab, stun.into());
    alice.send(&mut lab, Bytes::from_static(b"\r\n\r\n"));
    let got = lab.inbox.remove(&(0, alice.address)).unwrap();
    assert_eq!((got.len(), got[0].len(), &got[1][..]), (2, 32, &b"\r\n"[..]));
    assert_eq!(edge_of(0).port(), 5060);
}

#[test]
fn the_proxy_is_chosen_by_turns_or_by_what_requests_have_in_common() {
    for (choice, same) in [(Choice::Policy, false), (Choice::CallId, true), (Choice::To, true)] {
        let mut lab = Lab::with(2, 3, |settings| settings.choice = choice);
        for gateway in [0, 1] {
            let alice = Phone::new("alice", gateway, 1);
            for _ in 0..3 {
                let options = alice.request(&mut lab, Method::Options, "bob").build();
                let text = String::from_utf8(options.to_vec()).unwrap();
                let from = text.find("Call-ID: ").unwrap() + "Call-ID: ".len();
                let to = from + text[from..].find("\r\n").unwrap();
                alice.send(&mut lab, format!("{}one-call{}", &text[..from], &text[to..]).into());
                assert_eq!(alice.got(&mut lab), ["404"]);
            }
        }
        lab.handled_by.sort_unstable();
        lab.handled_by.dedup();
        assert_eq!(lab.handled_by.len(), if same { 1 } else { 3 }, "{choice:?}");
    }
}
