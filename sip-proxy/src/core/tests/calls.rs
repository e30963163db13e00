//! Calls: forking, best answer, CANCEL, Timer C, dialogs (RFC 3261 sections 16.6 to 16.10, RFC 6026).

use super::*;

#[test]
fn a_call_rings_and_is_answered() {
    let mut world = World::new();
    world.register("bob", "<sip:bob@127.0.0.1:6000>");
    world.receive(phone(1), invite("bob", "c1"));
    assert_eq!(
        world.take().iter().map(|(_, message)| message.status()).collect::<Vec<_>>(),
        [None, Some(100)]
    );
}

#[test]
fn answers_travel_back_without_our_via() {
    let mut world = World::new();
    world.register("bob", "<sip:bob@127.0.0.1:6000>");
    world.receive(phone(1), invite("bob", "c1"));
    let call = world.request("INVITE");
    world.respond(&call, 100);
    world.respond(&call, 180);
    world.respond(&call, 200);
    let answers = world.take();
    assert_eq!(
        answers.iter().map(|(_, message)| message.status().unwrap()).collect::<Vec<_>>(),
        [180, 200]
    );
    assert_eq!(answers[1].0, phone(1));
    assert_eq!(
        header(&answers[1].1, HeaderName::Via),
        ["SIP/2.0/UDP 127.0.0.1:9;rport=1;branch=z9hG4bKc1;received=127.0.0.1"]
    );
    // A 2xx that comes again goes up again (RFC 6026); nothing else does.
    world.respond(&call, 200);
    world.respond(&call, 486);
    assert_eq!(world.codes(phone(1)), [200]);
}

#[test]
fn all_phones_of_equal_q_ring_and_the_others_are_cancelled() {
    let mut world = World::new();
    world.register(
        "bob",
        "<sip:bob@127.0.0.1:6001>, <sip:bob@127.0.0.1:6002>, <sip:bob@127.0.0.1:6003>",
    );
    world.receive(phone(1), invite("bob", "fork"));
    let calls = world.forks();
    assert_eq!(calls.len(), 3);
    world.respond(&calls[0], 180);
    world.respond(&calls[1], 180);
    world.take();
    world.respond(&calls[0], 200);
    let sent = world.take();
    assert_eq!(sent[0].1.status(), Some(200));
    // The second is cancelled at once, the third as soon as it has answered anything (section 9.1).
    let cancels = |sent: &[(Hop, Message)]| -> Vec<Hop> {
        sent.iter()
            .filter(|(_, message)| {
                message.method().is_some_and(|method| method.as_str() == "CANCEL")
                    && message.is_request()
            })
            .map(|(to, _)| *to)
            .collect()
    };
    assert_eq!(cancels(&sent), [phone(6002)]);
    world.respond(&calls[2], 100);
    let sent = world.take();
    assert_eq!(cancels(&sent), [phone(6003)]);
    world.respond(&calls[1], 487);
    world.respond(&calls[2], 487);
    let acks = world.requests();
    assert!(
        acks.iter().all(|(_, message)| message.method().unwrap().as_str() == "ACK")
            && acks.len() == 2
    );
    assert_eq!(world.codes(phone(1)), [0; 0]);
}

#[test]
fn lower_q_follows_when_higher_q_fails() {
    let mut world = World::new();
    world.register("bob", "<sip:bob@127.0.0.1:6001>;q=0.2, <sip:bob@127.0.0.1:6002>;q=0.9");
    world.receive(phone(1), invite("bob", "serial"));
    let first = world.request("INVITE");
    assert_eq!(first.0, phone(6002));
    world.respond(&first, 486);
    let second = world.request("INVITE");
    assert_eq!(second.0, phone(6001));
    world.respond(&second, 404);
    assert_eq!(world.codes(phone(1)), [486], "the first of equals");
}

#[test]
fn the_best_answer_is_chosen() {
    for (codes, best) in [
        ([404, 503, 486], 486),
        ([503, 500, 503], 500),
        ([503, 503, 503], 500),
        ([486, 302, 404], 302),
        ([486, 407, 404], 407),
        ([408, 486, 480], 486),
        ([404, 603, 302], 603),
    ] {
        let mut world = World::new();
        // The first of equals is the one that registered last: 6003.
        world.register(
            "bob",
            "<sip:bob@127.0.0.1:6001>, <sip:bob@127.0.0.1:6002>, <sip:bob@127.0.0.1:6003>",
        );
        world.receive(phone(1), invite("bob", "best"));
        let calls = world.forks();
        for (call, code) in calls.iter().zip(codes) {
            world.respond(call, code);
        }
        assert_eq!(world.codes(phone(1)), [best], "{codes:?}");
    }
}

#[test]
fn challenges_are_collected() {
    let mut world = World::new();
    world.register("bob", "<sip:bob@127.0.0.1:6001>, <sip:bob@127.0.0.1:6002>");
    world.receive(phone(1), invite("bob", "auth"));
    let calls = world.forks();
    for (call, (code, name, realm)) in
        calls.iter().zip([(401, "WWW-Authenticate", "one"), (407, "Proxy-Authenticate", "two")])
    {
        let challenge = format!("Digest realm=\"{realm}\", nonce=\"1,2\"");
        let answer = ResponseBuilder::new(&call.1, code)
            .to_tag("x")
            .header(name, challenge)
            .build()
            .unwrap();
        world.receive(call.0, answer);
    }
    let (_, answer) = world.take().pop().unwrap();
    assert!(matches!(answer.status(), Some(401 | 407)));
    assert!(answer.header_str(HeaderName::WwwAuthenticate).unwrap().contains("one"));
    assert!(answer.header_str(HeaderName::ProxyAuthenticate).unwrap().contains("two"));
}

#[test]
fn a_decline_everywhere_cancels_and_waits() {
    let mut world = World::new();
    world.register(
        "bob",
        "<sip:bob@127.0.0.1:6001>, <sip:bob@127.0.0.1:6002>, <sip:bob@127.0.0.1:6003>;q=0.1",
    );
    world.receive(phone(1), invite("bob", "decline"));
    let calls = world.forks();
    world.respond(&calls[1], 180);
    world.respond(&calls[0], 603);
    world.respond(&calls[1], 487);
    assert_eq!(world.codes(phone(1)), [180, 603]);
    assert_eq!(calls.len(), 2, "the group of lower q is not tried");
}

#[test]
fn cancel_reaches_every_branch() {
    let mut world = World::new();
    world.register("bob", "<sip:bob@127.0.0.1:6001>, <sip:bob@127.0.0.1:6002>");
    world.receive(phone(1), invite("bob", "x"));
    let calls = world.forks();
    world.respond(&calls[0], 180);
    world.take();
    let cancel = invite("bob", "x").replace("INVITE", "CANCEL");
    world.receive(phone(1), cancel.clone());
    let sent = world.take();
    let kinds: Vec<_> = sent.iter().map(|(to, message)| (*to, message.status())).collect();
    assert_eq!(kinds, [(phone(1), Some(200)), (phone(6001), None)]);
    assert_eq!(header(&sent[1].1, HeaderName::Via), [calls[0].1.top_via().unwrap().raw]);
    world.respond(&calls[0], 487);
    world.respond(&calls[1], 180);
    let sent = world.requests();
    assert_eq!(sent.last().unwrap().0, phone(6002));
    world.respond(&calls[1], 487);
    assert_eq!(world.codes(phone(1)), [487]);
    // For a transaction that is not there.
    world.receive(phone(1), cancel.replace("z9hG4bKx", "z9hG4bKy"));
    assert_eq!(world.codes(phone(1)), [481]);
}

#[test]
fn a_cancelled_phone_that_says_nothing_is_given_up() {
    let mut world = World::new();
    world.register("bob", "<sip:bob@127.0.0.1:6001>");
    world.receive(phone(1), invite("bob", "mute"));
    let call = world.request("INVITE");
    world.respond(&call, 180);
    world.receive(phone(1), invite("bob", "mute").replace("INVITE", "CANCEL"));
    world.take();
    world.advance(Duration::from_secs(33));
    assert_eq!(world.codes(phone(1)).first(), Some(&487));
}

#[test]
fn a_cancelled_lookup_is_answered_at_once() {
    let mut world = World::new();
    world.store = Store::Stalls;
    world.receive(phone(1), invite("bob", "early"));
    world.receive(phone(1), invite("bob", "early").replace("INVITE", "CANCEL"));
    assert_eq!(world.codes(phone(1)), [100, 200, 487]);
}

#[test]
fn timer_c_cancels_what_rings_too_long() {
    let mut world = World::new();
    world.register("bob", "<sip:bob@127.0.0.1:6001>");
    world.receive(phone(1), invite("bob", "long"));
    let call = world.request("INVITE");
    world.respond(&call, 180);
    world.advance(Duration::from_secs(150));
    // A provisional answer starts it anew.
    world.respond(&call, 183);
    world.advance(Duration::from_secs(150));
    assert!(
        world.requests().iter().all(|(_, message)| message.method().unwrap().as_str() != "CANCEL")
    );
    world.advance(Duration::from_secs(40));
    let cancel = world.requests();
    assert_eq!(cancel[0].1.method().unwrap().as_str(), "CANCEL");
    world.respond(&call, 487);
    assert_eq!(world.codes(phone(1)), [487]);
}

#[test]
fn a_phone_that_is_not_there_is_408() {
    let mut world = World::new();
    world.register("bob", "<sip:bob@127.0.0.1:6001>");
    world.receive(phone(1), invite("bob", "nobody"));
    world.advance(Duration::from_secs(31));
    assert_eq!(world.codes(phone(1)), [100]);
    world.advance(Duration::from_secs(2));
    assert_eq!(world.codes(phone(1)).first(), Some(&408));
}

#[test]
fn phones_on_tcp_are_reached_over_their_connection() {
    let mut world = World::new();
    world
        .receive(tcp_phone(4444), register("bob", "t", 1, "<sip:bob@10.1.1.1:5060;transport=tcp>"));
    world.take();
    world.receive(phone(1), invite("bob", "tcp"));
    let call = world.request("INVITE");
    assert_eq!(call.0, tcp_phone(4444));
    assert_eq!(call.1.top_via().unwrap().transport, "TCP");
    // The connection breaks: there is no other way to this phone.
    world.proxy.handle_edge_closed(world.now, SocketAddr::from(([127, 0, 0, 1], 4444)));
    world.run();
    assert_eq!(world.codes(phone(1)), [408]);
}

#[test]
fn known_users_are_away_and_others_unknown() {
    let mut world = World::new();
    world.register("bob", "<sip:bob@127.0.0.1:6001>;expires=60");
    world.advance(Duration::from_secs(61));
    world.receive(phone(1), invite("bob", "away"));
    assert_eq!(world.codes(phone(1)).last(), Some(&480));
    world.receive(phone(1), invite("nobody", "who"));
    assert_eq!(world.codes(phone(1)).last(), Some(&404));
    // The database knows who has just registered elsewhere.
    world.register("carol", "<sip:carol@127.0.0.1:6002>");
    let row = world.rows.values().find(|row| row.aor.starts_with("carol")).unwrap().clone();
    let other = Record { aor: "dave@dialtone.test".into(), ..row };
    world.rows.insert((other.aor.clone(), other.key.clone()), other);
    world.receive(phone(1), invite("dave", "new"));
    assert_eq!(world.request("INVITE").0, phone(6002));
    // It is asked for 100 ms.
    world.store = Store::Stalls;
    world.receive(phone(1), invite("erin", "slow"));
    world.take();
    world.advance(Duration::from_millis(101));
    assert_eq!(world.codes(phone(1)), [404]);
}

#[test]
fn the_callers_connection_breaks() {
    let mut world = World::new();
    world.register("bob", "<sip:bob@127.0.0.1:6001>");
    world.receive(GATEWAY, invite("bob", "orphan"));
    let call = world.request("INVITE");
    world.respond(&call, 180);
    world.take();
    let Hop::Core(conn) = GATEWAY else { unreachable!() };
    world.proxy.handle_closed(world.now, conn);
    world.run();
    // The gateway may send it again through another proxy: no CANCEL yet.
    world.advance(Duration::from_millis(2_900));
    assert_eq!(world.requests().len(), 0);
    world.advance(Duration::from_millis(200));
    assert_eq!(world.request("CANCEL").0, phone(6001));
    world.respond(&call, 487);
}

#[test]
fn other_requests_are_forked_and_answered_once() {
    let mut world = World::new();
    world.register("bob", "<sip:bob@127.0.0.1:6001>, <sip:bob@127.0.0.1:6002>");
    world.receive(phone(1), request("MESSAGE", "sip:bob@dialtone.test", "m"));
    let both = world.requests();
    assert_eq!(both.len(), 2);
    world.respond(&both[0], 200);
    world.respond(&both[1], 200);
    let sent = world.take();
    assert_eq!(sent.iter().map(|(_, message)| message.status()).collect::<Vec<_>>(), [Some(200)]);
}

#[test]
fn a_stand_alone_proxy_stays_in_dialogs_that_it_signed() {
    let mut world = World::with(|settings| settings.record_route = true);
    world.register("bob", "<sip:bob@127.0.0.1:6001>");
    world.receive(phone(1), invite("bob", "d"));
    let call = world.request("INVITE");
    let route = header(&call.1, HeaderName::RecordRoute).remove(0);
    world.respond(&call, 200);
    world.take();
    let in_dialog = |method: &str, route: &str, to: &str| {
        request(method, "sip:bob@127.0.0.1:6001", method)
            .replace("Max-F", &format!("Route: {route}\r\nMax-F"))
            .replace("To: <sip:bob@127.0.0.1:6001>", to)
            .replace(&format!("Call-ID: call-{method}"), "Call-ID: call-d")
    };
    let to = "To: <sip:bob@dialtone.test>;tag=t200";
    world.receive(phone(1), in_dialog("ACK", &route, to));
    let (hop, ack) = world.request("ACK");
    assert_eq!((hop, header(&ack, HeaderName::Route).len()), (phone(6001), 0));
    world.receive(phone(1), in_dialog("BYE", &route, to));
    let bye = world.request("BYE");
    world.respond(&bye, 200);
    assert_eq!(world.codes(phone(1)), [200]);
    // The callee has the caller's tag in To.
    let from_bob = in_dialog("UPDATE", &route, "To: <sip:alice@dialtone.test>;tag=a1").replace(
        "From: <sip:alice@dialtone.test>;tag=a1",
        "From: <sip:bob@dialtone.test>;tag=t200",
    );
    world.receive(phone(6001), from_bob);
    let update = world.request("UPDATE");
    world.respond(&update, 200);
    assert_eq!(world.codes(phone(6001)), [200]);
    // No dialog, no signature, or that of another dialog: no relay.
    let forged = in_dialog("REFER", "<sip:AQEAAAAAAA@127.0.0.1:5060;lr>", to);
    let other_call = in_dialog("FOO", &route, to).replace("Call-ID: call-d", "Call-ID: mine");
    let other_caller = in_dialog("BAR", &route, to).replace(";tag=a1", ";tag=mine");
    let begun = in_dialog("INFO", &route, "To: <sip:bob@dialtone.test>");
    for refused in [begun, forged, other_call, other_caller] {
        world.receive(phone(1), refused);
        assert_eq!(world.codes(phone(1)), [403]);
    }
    let stray = in_dialog("ACK", &route, to).replace("Call-ID: call-d", "Call-ID: mine");
    world.receive(phone(1), stray);
    assert_eq!(world.take(), []);
    // Every dialog has its own.
    world.receive(phone(1), invite("bob", "e"));
    let call = world.request("INVITE");
    assert_ne!(header(&call.1, HeaderName::RecordRoute), [route]);
    world.respond(&call, 486);
}
