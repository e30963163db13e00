//! What phones must not be able to do.

use dialtone_sip::{HeaderName, Method};

use super::super::*;
use super::lab::{Lab, Phone};
use dialtone_sip_pool::token::EdgeTransport;

/// A call between two gateways, and the 200 as the caller got it.
fn call(lab: &mut Lab) -> (Phone, Phone, Message) {
    let (alice, bob) = (Phone::new("alice", 0, 1), Phone::new("bob", 1, 2));
    bob.register(lab);
    alice.invite(lab, "bob");
    let invite = bob.take(lab).remove(0);
    bob.answer(lab, &invite, 200);
    let answer = alice.take(lab).pop().unwrap();
    (alice, bob, answer)
}

#[test]
fn tokens_with_one_bit_changed_get_403() {
    let mut lab = Lab::new(2, 1);
    let (alice, bob, answer) = call(&mut lab);
    let bye = alice.in_dialog(&mut lab, Method::Bye, &answer, 2).build();
    let sound = Message::parse(bye.clone()).unwrap();
    let tokens: Vec<_> = sound
        .routes()
        .map(|route| sound.span_of(route.unwrap().uri.sip().unwrap().user.unwrap()).unwrap())
        .collect();
    assert_eq!(tokens.len(), 2);
    let mut tried = 0;
    for at in tokens.into_iter().flatten() {
        for bit in 0..8 {
            let mut changed = bye.to_vec();
            changed[at] ^= 1 << bit;
            if !changed[at].is_ascii_alphanumeric() && !b"-_".contains(&changed[at]) {
                continue;
            }
            // Each is a transaction of its own.
            let text = String::from_utf8(changed).unwrap();
            tried += 1;
            alice.send(
                &mut lab,
                text.replace("branch=z9hG4bK", &format!("branch=z9hG4bK{tried}x")).into(),
            );
            assert_eq!(alice.got(&mut lab), ["403"]);
        }
    }
    assert!(tried > 200);
    assert_eq!(bob.got(&mut lab), Vec::<String>::new());
    alice.send(&mut lab, bye);
    assert_eq!(bob.got(&mut lab), ["BYE"]);
}

#[test]
fn a_made_up_route_set_makes_no_relay_of_a_gateway() {
    let mut lab = Lab::new(2, 1);
    let (alice, bob, answer) = call(&mut lab);
    lab.at_proxy.clear();
    // A new request: its routes are dropped, proxies decide where it goes.
    let request = alice
        .request(&mut lab, Method::Options, "bob")
        .header("Route", "<sip:192.168.100.100;lr>, <sip:evil@203.0.113.9;lr>")
        .header("Record-Route", "<sip:203.0.113.9;lr>")
        .header("Path", "<sip:203.0.113.9;lr>")
        .build();
    alice.send(&mut lab, request);
    let forwarded = lab.at_proxy.remove(0);
    for header in [HeaderName::Route, HeaderName::RecordRoute, HeaderName::Path] {
        assert!(forwarded.header(header).is_none());
    }
    assert_eq!(bob.got(&mut lab), ["OPTIONS"]);
    // A token of ours with something wrong in it is refused even there.
    let request = alice
        .request(&mut lab, Method::Options, "bob")
        .header("Route", "<sip:AQEB@192.168.100.100;lr>");
    let request = request.build();
    alice.send(&mut lab, request);
    assert_eq!(alice.got(&mut lab), ["403"]);

    // Inside dialogs, valid tokens followed, or not followed, by something made up.
    let own = answer.record_routes().last().unwrap().unwrap().raw.to_owned();
    let path = {
        let flow =
            lab.gateways[1].flows.flow_of(Peer::Udp { listener: 0, remote: bob.address }).unwrap();
        let token =
            dialtone_sip_pool::token::FlowToken { use_: dialtone_sip_pool::token::Use::Path, flow };
        format!("<sip:{}@192.168.100.101:5060;lr>", token.sign(&super::lab::keys()))
    };
    for routes in [
        vec![own.clone()],
        vec![own.clone(), "<sip:203.0.113.9;lr>".to_owned()],
        vec![own.clone(), "<sip:203.0.113.9:5060>".to_owned()],
        vec![own.clone(), "<sip:cookie@sip-proxy.pool.invalid;lr>".to_owned()],
        vec!["<sip:203.0.113.9;lr>".to_owned(), own.clone()],
        vec![own.clone(), path],
        vec![own.clone(); 9],
        vec!["<tel:+1>".to_owned()],
    ] {
        let serial = lab.serial();
        let mut request =
            dialtone_sip::RequestBuilder::new(Method::Message, "sip:victim@203.0.113.9")
                .via("UDP", "10.0.0.1:5060".parse().unwrap(), &format!("z9hG4bKevil{serial}"))
                .header("From", "<sip:alice@dialtone.test>;tag=1")
                .header("To", "<sip:bob@dialtone.test>;tag=made-up")
                .header("Call-ID", "evil")
                .header("CSeq", "1 MESSAGE");
        for route in &routes {
            request = request.header("Route", route);
        }
        alice.send(&mut lab, request.build());
        assert_eq!(alice.got(&mut lab), ["403"], "{routes:?}");
    }
    assert!(lab.at_proxy.is_empty());
    assert_eq!(bob.got(&mut lab), Vec::<String>::new());
}

#[test]
fn core_requests_without_a_path_token_are_refused() {
    let mut lab = Lab::new(1, 0);
    let conn = ConnId(hops::ACCEPTED | 77);
    lab.input(0, Input::CoreAccepted { conn });
    let request = |method: Method<'_>, route: Option<&str>| {
        let mut request = dialtone_sip::RequestBuilder::new(method, "sip:bob@198.51.100.2")
            .via(
                "TCP",
                "127.0.0.41:5070".parse().unwrap(),
                &format!("z9hG4bK{method}{}", route.is_some()),
            )
            .header("From", "<sip:a@dialtone.test>;tag=1")
            .header("To", "<sip:b@dialtone.test>")
            .header("Call-ID", "x")
            .header("CSeq", &format!("1 {method}"));
        if let Some(route) = route {
            request = request.header("Route", route);
        }
        request.build()
    };
    let gateway = &mut lab.gateways[0];
    let now = lab.now;
    let mut ask = |bytes: Bytes| {
        gateway.handle(now, Input::CoreMessage { conn, bytes });
        let answers = std::iter::from_fn(|| gateway.poll());
        let answers = answers.filter_map(|output| match output {
            Output::CoreWrite { bytes, .. } => Message::parse(bytes).unwrap().status(),
            _ => None,
        });
        answers.collect::<Vec<_>>()
    };
    assert_eq!(ask(request(Method::Options, None)), [200], "a health check");
    assert_eq!(ask(request(Method::Message, None)), [403]);
    let flow = dialtone_sip_pool::token::Flow {
        gateway: 100,
        transport: EdgeTransport::Udp,
        listener: 0,
        remote: "198.51.100.2:5060".parse().unwrap(),
        serial: 0,
    };
    let token =
        dialtone_sip_pool::token::FlowToken { use_: dialtone_sip_pool::token::Use::Dialog, flow };
    let route = format!("<sip:{}@192.168.100.100;lr>", token.sign(&super::lab::keys()));
    assert_eq!(
        ask(request(Method::Message, Some(&route))),
        [403],
        "a dialog's token opens no new request"
    );
}

#[test]
fn broken_requests_are_answered_and_junk_is_counted() {
    let mut lab = Lab::new(1, 1);
    let alice = Phone::new("alice", 0, 1);
    let sound = alice.request(&mut lab, Method::Options, "bob").build();
    let text = String::from_utf8(sound.to_vec()).unwrap();
    for (from, to, code) in [
        ("Call-ID: ", "X-Nothing: ", "400"),
        ("CSeq: 1 OPTIONS", "CSeq: 1 INVITE", "400"),
        ("Max-Forwards: 70", "Max-Forwards: 0", "483"),
        ("Max-Forwards: 70", "Max-Forwards: 256", "400"),
        ("Max-Forwards: 70", "Max-Forwards: 70\r\nProxy-Require: magic", "420"),
        ("SIP/2.0\r\n", "SIP/3.0\r\n", "505"),
    ] {
        assert!(text.contains(from));
        let broken = text
            .replacen(from, to, 1)
            .replace("branch=z9hG4bK", &format!("branch=z9hG4bK{}", lab.serial()));
        alice.send(&mut lab, broken.into());
        assert_eq!(alice.got(&mut lab), [code], "{to}");
    }
    for junk in [b"\x00\x01".as_slice(), b"hello", &[0xff; 1_000], b"SIP/2.0 200 OK\r\n\r\n"] {
        alice.send(&mut lab, Bytes::copy_from_slice(junk));
        assert_eq!(alice.got(&mut lab), Vec::<String>::new());
    }
    assert!(lab.at_proxy.is_empty());
}

#[test]
fn one_address_cannot_take_more_than_its_share() {
    let mut settings = Settings::new(1, vec![], "127.0.0.21:5070".parse().unwrap());
    settings
        .listeners
        .push(Listener { transport: EdgeTransport::Udp, advertised: super::lab::edge_of(0) });
    settings.bounds.per_source = 10;
    settings.bounds.legs = 5;
    let mut lab = Lab::new(1, 0);
    lab.gateways[0] = Gateway::new(settings, super::lab::keys(), fastrand::Rng::with_seed(1));
    let alice = Phone::new("alice", 0, 1);
    for _ in 0..20 {
        alice.invite(&mut lab, "bob");
    }
    let got = alice.got(&mut lab);
    let count = |what: &str| got.iter().filter(|code| *code == what).count();
    assert_eq!((count("100"), count("503"), got.len()), (5, 5, 10));
    assert_eq!(lab.gateways[0].counters().over_bounds, 15);
}

/// Sound messages of every kind, damaged: no panic, no deadline in the past, nothing left when all timers have run out,
/// and a sound call in the middle of it succeeds.
#[test]
fn damaged_messages_from_either_side_do_no_harm() {
    for seed in 0..40 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut lab = Lab::new(2, 1);
        let (alice, bob, answer) = call(&mut lab);
        let invite = alice.request(&mut lab, Method::Invite, "bob").build();
        let bye = alice.in_dialog(&mut lab, Method::Bye, &answer, 2).build();
        let mut sound = vec![
            invite.clone(),
            bye,
            answer.bytes().clone(),
            dialtone_sip::cancel_for(&Message::parse(invite).unwrap()).unwrap(),
        ];
        sound.extend(lab.at_proxy.iter().map(|message| message.bytes().clone()));
        let conn = ConnId(hops::ACCEPTED | 99);
        lab.input(1, Input::CoreAccepted { conn });
        lab.input(1, Input::EdgeOpened { conn: 5, listener: 1, remote: bob.address });
        for _ in 0..200 {
            let mut bytes = sound[rng.usize(..sound.len())].to_vec();
            for _ in 0..rng.usize(1..8) {
                let at = rng.usize(..bytes.len());
                match rng.u8(..5) {
                    0 => bytes[at] ^= 1 << rng.u8(..8),
                    1 => bytes[at] = rng.u8(..),
                    2 => bytes.truncate(at.max(1)),
                    3 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, b",;:<>@\"\r\n "[rng.usize(..10)]),
                }
                if bytes.is_empty() {
                    bytes.push(0);
                }
            }
            let bytes = Bytes::from(bytes);
            let remote = bob.address;
            lab.input_only(
                1,
                match rng.u8(..5) {
                    0 => Input::CoreMessage { conn, bytes },
                    1 => Input::DatagramReturned { listener: 0, remote, bytes },
                    2 => Input::EdgeMessage { conn: 5, bytes },
                    _ => Input::Datagram { listener: 0, remote, bytes },
                },
            );
            lab.run(rng.u64(..300));
        }
        lab.inbox.clear();
        let carol = Phone::new("carol", 1, 5);
        carol.register(&mut lab);
        alice.invite(&mut lab, "carol");
        let invite = carol.take(&mut lab).remove(0);
        carol.answer(&mut lab, &invite, 200);
        assert_eq!(alice.got(&mut lab), ["100", "200"]);
        lab.run(400_000);
        for gateway in &lab.gateways {
            let gauges = gateway.gauges();
            let left = [gauges.legs, gauges.deliveries, gauges.clients, gauges.servers];
            assert_eq!((left, gateway.unfinished()), ([0; 4], 0), "seed {seed}");
        }
    }
}
