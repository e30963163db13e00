//! RFC 3261 section 16.3, RFC 5393, and who may be reached at all.

use super::*;

#[test]
fn what_is_refused_and_how() {
    let mut world = World::new();
    world.register("bob", "<sip:bob@127.0.0.1:6000>");
    let mut number = 0;
    let mut code = |change: &dyn Fn(String) -> String| {
        number += 1;
        world.receive(phone(1), change(invite("bob", &format!("n{number}"))));
        let codes: Vec<u16> =
            world.codes(phone(1)).into_iter().filter(|code| *code != 100).collect();
        assert!(codes.len() <= 1, "{codes:?}");
        codes.first().copied()
    };
    assert_eq!(code(&|text| text.replace("Max-Forwards: 70", "Max-Forwards: 0")), Some(483));
    assert_eq!(
        code(&|text| text.replace("INVITE sip:bob@dialtone.test", "INVITE tel:+123")),
        Some(416)
    );
    assert_eq!(
        code(&|text| text.replace("INVITE sip:bob@dialtone.test", "INVITE nobody:x")),
        Some(416)
    );
    assert_eq!(code(&|text| text.replace("Max-F", "Proxy-Require: foo, bar\r\nMax-F")), Some(420));
    assert_eq!(code(&|text| text.replace("INVITE sip:bob@", "INVITE sip:unknown@")), Some(404));
    let granted = |text: String| text.replace("Max-F", "Proxy-Require: path, Outbound\r\nMax-F");
    assert_eq!(
        code(&|text| granted(text).replace("INVITE sip:bob@", "INVITE sip:unknown@")),
        Some(404)
    );
    assert_eq!(
        code(&|text| text.replace("INVITE sip:bob@dialtone.test", "INVITE sip:bob@example.com")),
        Some(403)
    );
    assert_eq!(code(&|text| text.replace("INVITE sip:bob@", "INVITE sip:")), Some(405));
    assert_eq!(
        code(&|text| text.replace("bob@dialtone.test SIP", "bob@dialtone.test?a=b SIP")),
        Some(400)
    );
    assert_eq!(
        code(&|text| text.replace("Max-F", "Route: <sip:192.0.2.66;lr>\r\nMax-F")),
        Some(403)
    );
    assert_eq!(code(&|text| text.replace("Call-ID", "X")), Some(400));
    assert_eq!(code(&|text| text.replace("1 INVITE", "1 BYE")), Some(400));
    assert_eq!(code(&|text| text.replace("SIP/2.0\r\nVia", "SIP/7.0\r\nVia")), Some(505));
    assert_eq!(world.requests().len(), 0, "nothing was forwarded");
    // 420 names what is not supported.
    world.receive(phone(1), invite("bob", "x").replace("Max-F", "Proxy-Require: foo\r\nMax-F"));
    let (_, answer) = world.take().pop().unwrap();
    assert_eq!(answer.header_str(HeaderName::Unsupported), Some("foo"));
}

#[test]
fn options_for_the_proxy_itself_is_a_health_check() {
    let mut world = World::new();
    for uri in ["sip:dialtone.test", "sip:127.0.0.1", "sip:127.0.0.41:5080"] {
        world.receive(phone(1), request("OPTIONS", uri, uri));
        let (_, answer) = world.take().pop().unwrap();
        assert_eq!(answer.status(), Some(200), "{uri}");
        assert!(answer.has_token(HeaderName::Allow, "INVITE"));
    }
}

#[test]
fn loops_are_found_and_spirals_are_none() {
    let mut world = World::new();
    world.register("bob", "<sip:bob@127.0.0.1:6000>");
    world.receive(phone(1), invite("bob", "loop"));
    let (_, forwarded) = world.request("INVITE");
    // It comes back with the Request-URI that we wrote: a spiral, our contact is foreign to us.
    world.receive(phone(6000), forwarded.bytes().clone());
    assert_eq!(world.codes(phone(6000)).last(), Some(&403));
    // It comes back as it had come: a loop.
    let text = String::from_utf8(forwarded.bytes().to_vec()).unwrap();
    let back = text.replace("INVITE sip:bob@127.0.0.1:6000", "INVITE sip:bob@dialtone.test");
    let back = back.replacen(
        "Via: ",
        "Via: SIP/2.0/UDP 127.0.0.1:6000;rport;branch=z9hG4bKother\r\nVia: ",
        1,
    );
    world.receive(phone(6000), back.clone());
    assert_eq!(world.codes(phone(6000)).last(), Some(&482));
    // Another user: a spiral.
    world.register("carol", "<sip:carol@127.0.0.1:7000>");
    let spiral = back
        .replace("INVITE sip:bob@", "INVITE sip:carol@")
        .replace("z9hG4bKother", "z9hG4bKthird");
    world.receive(phone(6000), spiral);
    assert_eq!(world.request("INVITE").0, phone(7000));
}

#[test]
fn breadth_is_shared_and_bounded() {
    let mut world = World::new();
    world.register(
        "bob",
        "<sip:bob@127.0.0.1:6001>, <sip:bob@127.0.0.1:6002>, <sip:bob@127.0.0.1:6003>",
    );
    let with_breadth = |breadth, branch| {
        invite("bob", branch).replace("Max-F", &format!("Max-Breadth: {breadth}\r\nMax-F"))
    };
    world.receive(phone(1), with_breadth(2, "narrow"));
    assert_eq!(world.codes(phone(1)), [440]);
    world.receive(phone(1), with_breadth(9, "wide"));
    let shares: Vec<_> = world
        .requests()
        .iter()
        .map(|(_, sent)| sent.header_str(HeaderName::MaxBreadth).map(str::to_owned))
        .collect();
    assert_eq!(shares, vec![Some("3".to_owned()); 3]);
}

#[test]
fn a_forwarded_request_is_changed_where_the_standard_says_and_nowhere_else() {
    let mut world = World::new();
    world.register("bob", "<sip:bob@127.0.0.1:6000;x=y>");
    let body = "v=0\r\n\u{0}binary";
    let text = format!(
        "INVITE sip:b%6fb@DIALTONE.test;a=b SIP/2.0\r\n\
         v: SIP/2.0/UDP 10.9.9.9;branch=z9hG4bKf;rport\r\n\
         X-Odd:   folded\r\n \tline\r\n\
         f: alice <sip:alice@dialtone.test>;tag=1\r\n\
         t: <sip:bob@dialtone.test>\r\n\
         i: f1\r\n\
         CSeq: 1 INVITE\r\n\
         Route: <sip:127.0.0.1:5060;lr>\r\n\
         l: {}\r\n\r\n{body}",
        body.len()
    );
    world.receive(phone(1234), text);
    let (to, sent) = world.request("INVITE");
    assert_eq!(to, phone(6000));
    let branch = sent.top_via().unwrap().branch().unwrap().to_owned();
    assert_eq!(
        String::from_utf8(sent.bytes().to_vec()).unwrap(),
        format!(
            "INVITE sip:bob@127.0.0.1:6000;x=y SIP/2.0\r\n\
             Via: SIP/2.0/UDP 127.0.0.1:5060;rport;branch={branch}\r\n\
             v: SIP/2.0/UDP 10.9.9.9;branch=z9hG4bKf;rport=1234;received=127.0.0.1\r\n\
             X-Odd:   folded\r\n \tline\r\n\
             f: alice <sip:alice@dialtone.test>;tag=1\r\n\
             t: <sip:bob@dialtone.test>\r\n\
             i: f1\r\n\
             CSeq: 1 INVITE\r\n\
             l: {}\r\n\
             Max-Forwards: 70\r\n\r\n{body}",
            body.len()
        )
    );
}

#[test]
fn stray_responses_and_acks_go_nowhere() {
    let mut world = World::new();
    world.register("bob", "<sip:bob@127.0.0.1:6000>");
    world.receive(
        phone(1),
        "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bK1.2\r\nVia: SIP/2.0/UDP 127.0.0.1:9\r\n\
         From: <sip:a@x>;tag=1\r\nTo: <sip:b@x>;tag=2\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n",
    );
    world.receive(phone(1), request("ACK", "sip:bob@dialtone.test", "ack1"));
    world.receive(phone(1), request("ACK", "sip:bob@192.0.2.1", "ack2"));
    world.receive(phone(1), "no SIP at all\r\n\r\n");
    assert_eq!(world.take().len(), 0);
    assert_eq!(world.proxy.stats().dropped, 4);
}

#[test]
fn too_many_requests_under_way_are_answered_503() {
    let mut world = World::with(|settings| settings.max_contexts = 2);
    world.register("bob", "<sip:bob@127.0.0.1:6000>");
    for (branch, code) in [("a", 100), ("b", 100), ("c", 503)] {
        world.receive(phone(1), invite("bob", branch));
        assert_eq!(world.codes(phone(1)), [code]);
    }
}

#[test]
fn more_requests_than_can_be_remembered_are_answered_without_memory() {
    let mut world = World::with(|settings| settings.max_transactions = 3);
    for n in 0..6 {
        world.receive(phone(1), request("OPTIONS", "sip:dialtone.test", &n.to_string()));
    }
    assert_eq!(world.codes(phone(1)), [200, 200, 200, 503, 503, 503]);
    assert_eq!(world.proxy.sizes().servers, 3);
}
