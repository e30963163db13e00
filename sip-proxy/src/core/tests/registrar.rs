//! RFC 3261 section 10.3, RFC 3327, RFC 5626 section 6.

use super::*;

#[test]
fn an_answer_lists_all_bindings_with_what_was_granted() {
    let mut world = World::new();
    world.receive(
        phone(5999),
        register(
            "bob",
            "c",
            1,
            "<sip:bob@127.0.0.1:1;ob>;q=0.5;x=\"a,b\", sip:bob@127.0.0.1:2;expires=600",
        ),
    );
    let (to, answer) = world.take().pop().unwrap();
    assert_eq!((to, answer.status()), (phone(5999), Some(200)));
    assert_eq!(
        header(&answer, HeaderName::Contact),
        [
            "<sip:bob@127.0.0.1:1;ob>;x=\"a,b\";q=0.500;expires=3600",
            "<sip:bob@127.0.0.1:2>;expires=600"
        ]
    );
    assert!(answer.to().unwrap().tag().is_some());
    let via = answer.top_via().unwrap();
    assert_eq!((via.rport(), via.received()), (Some(Some(5999)), Some([127, 0, 0, 1].into())));
    world.advance(Duration::from_secs(599));
    // Without Contact: only asks.
    world.receive(phone(5999), register("bob", "c", 2, ""));
    let (_, answer) = world.take().pop().unwrap();
    assert!(header(&answer, HeaderName::Contact)[1].ends_with(";expires=1"));
}

#[test]
fn lifetimes_are_bounded() {
    let mut world = World::new();
    let mut ask = |contact: &str, cseq| {
        world.receive(phone(1), register("bob", "c", cseq, contact));
        world.take().pop().unwrap().1
    };
    let brief = ask("<sip:b@127.0.0.1:1>;expires=59", 1);
    assert_eq!((brief.status(), brief.header_str(HeaderName::MinExpires)), (Some(423), Some("60")));
    let long = ask("<sip:b@127.0.0.1:1>;expires=4294967295", 2);
    assert!(header(&long, HeaderName::Contact)[0].ends_with("expires=7200"));
    let malformed = ask("<sip:b@127.0.0.1:1>;expires=soon", 3);
    assert!(header(&malformed, HeaderName::Contact)[0].ends_with("expires=3600"));
    let removed = ask("<sip:b@127.0.0.1:1>;expires=0", 4);
    assert_eq!((removed.status(), header(&removed, HeaderName::Contact).len()), (Some(200), 0));
}

#[test]
fn a_star_stands_alone_with_expires_zero() {
    let mut world = World::new();
    world.register("bob", "<sip:bob@127.0.0.1:1>, <sip:bob@127.0.0.1:2>");
    for (contact, expires, code) in [
        ("*", "", 400),
        ("*", "Expires: 60\r\n", 400),
        ("*, <sip:b@1.1.1.1>", "Expires: 0\r\n", 400),
        ("*", "Expires: 0\r\n", 200),
    ] {
        let text =
            register("bob", &format!("s{code}{}", contact.len() + expires.len()), 9, contact);
        world
            .receive(phone(1), text.replace("Content-Length", &format!("{expires}Content-Length")));
        assert_eq!(world.codes(phone(1)), [code], "{contact} {expires}");
    }
    world.receive(phone(1), invite("bob", "gone"));
    assert_eq!(world.codes(phone(1)).last(), Some(&480));
}

#[test]
fn refusals() {
    let mut world = World::new();
    let mut code = |text: String| {
        world.receive(phone(1), text);
        world.codes(phone(1)).pop()
    };
    let ours = |n: u32| register("bob", &format!("r{n}"), 1, "<sip:b@127.0.0.1:1>");
    assert_eq!(
        code(ours(1).replace("REGISTER sip:dialtone.test", "REGISTER sip:elsewhere.test")),
        Some(403)
    );
    assert_eq!(
        code(ours(2).replace("To: <sip:bob@dialtone.test>", "To: <sip:bob@elsewhere.test>")),
        Some(404)
    );
    assert_eq!(code(ours(3).replace("Contact: ", "Require: path, gruu\r\nContact: ")), Some(420));
    assert_eq!(code(ours(4).replace("Contact: ", "Require: path\r\nContact: ")), Some(200));
    assert_eq!(code(register("bob", "r5", 1, "<mailto:b@x>")), Some(400));
    assert_eq!(code(register("bob", "r6", 1, "<sip:b@x>;q=7")), Some(400));
    let many: Vec<String> = (1..30).map(|n| format!("<sip:b@127.0.0.1:{n}>")).collect();
    assert_eq!(code(register("bob", "r7", 1, &many.join(","))), Some(403));
    assert_eq!(code(register("bob", "r8", 5, "<sip:b@127.0.0.1:9>")), Some(200));
    assert_eq!(
        code(register("bob", "r8", 4, "<sip:b@127.0.0.1:9>")),
        Some(500),
        "CSeq out of order"
    );
}

#[test]
fn without_the_database_no_answer_says_yes() {
    let mut world = World::new();
    world.store = Store::Fails;
    world.receive(phone(1), register("bob", "f", 1, "<sip:b@127.0.0.1:1>"));
    let (_, answer) = world.take().pop().unwrap();
    assert_eq!(
        (answer.status(), answer.header_str(HeaderName::RetryAfter)),
        (Some(503), Some("5"))
    );

    world.store = Store::Stalls;
    world.receive(phone(1), register("bob", "g", 1, "<sip:b@127.0.0.1:1>"));
    world.advance(Duration::from_millis(3_990));
    assert_eq!(world.codes(phone(1)), [0; 0]);
    world.advance(Duration::from_millis(20));
    assert_eq!(world.codes(phone(1)), [503]);
    // What is committed late is true nevertheless.
    let (ticket, request) = world.stalled.pop().unwrap();
    let answer = world.answer(request);
    world.proxy.handle_store(world.now, StoreEvent::Answer { ticket, answer });
    world.run();
    world.receive(phone(1), invite("bob", "late"));
    assert_eq!(world.request("INVITE").0, phone(1));
}

#[test]
fn a_pool_element_is_answered_100_while_the_database_thinks() {
    let mut world = World::new();
    world.store = Store::Stalls;
    world.receive(GATEWAY, register("bob", "slow", 1, "<sip:b@127.0.0.1:1>"));
    world.advance(Duration::from_millis(49));
    assert_eq!(world.codes(GATEWAY), [0; 0]);
    world.advance(Duration::from_millis(2));
    assert_eq!(world.codes(GATEWAY), [100]);
    let (ticket, request) = world.stalled.remove(0);
    let answer = world.answer(request);
    world.proxy.handle_store(world.now, StoreEvent::Answer { ticket, answer });
    world.run();
    assert_eq!(world.codes(GATEWAY), [200]);
}

#[test]
fn path_is_kept_from_pool_elements_only_and_not_answered() {
    let mut world = World::new();
    let path = world.path(21, "192.0.2.7:5060");
    let text = register("bob", "p", 1, "<sip:bob@192.0.2.7>").replace(
        "Content-Length",
        &format!("Path: {path}, <sip:second.test;lr>\r\nContent-Length"),
    );
    world.receive(GATEWAY, text.clone());
    let (_, answer) = world.take().pop().unwrap();
    assert_eq!((answer.status(), header(&answer, HeaderName::Path).len()), (Some(200), 0));
    let row = world.rows.values().next().unwrap();
    assert_eq!(*row.path, *format!("{path}, <sip:second.test;lr>"));
    assert_eq!((row.gateway, row.flow_token.is_empty(), &*row.received), (21, false, ""));
    world.receive(phone(4000), text.replace("bob", "eve"));
    world.take();
    let row = world.rows.values().find(|row| row.aor.starts_with("eve")).unwrap();
    assert_eq!((&*row.path, row.gateway, &*row.received), ("", 0, "udp:127.0.0.1:4000"));
}

#[test]
fn flows_of_an_instance_are_bindings_of_their_own() {
    let mut world = World::new();
    let contact = |reg_id, port| {
        format!("<sip:bob@127.0.0.1:{port}>;+sip.instance=\"<urn:uuid:1>\";reg-id={reg_id}")
    };
    for (cseq, reg_id, port, bindings) in [(1, 1, 1, 1), (2, 2, 2, 2), (3, 1, 3, 2)] {
        let text = register("bob", "o", cseq, &contact(reg_id, port));
        world.receive(
            phone(1),
            text.replace("Content-Length", "Supported: path, outbound\r\nContent-Length"),
        );
        let (_, answer) = world.take().pop().unwrap();
        let contacts = header(&answer, HeaderName::Contact);
        assert_eq!(contacts.len(), bindings, "{contacts:?}");
        assert!(
            contacts
                .iter()
                .all(|contact| contact.contains("+sip.instance=\"<urn:uuid:1>\";reg-id="))
        );
        assert!(answer.has_token(HeaderName::Require, "outbound"));
    }
    assert!(
        world.rows.values().any(|row| &*row.contact == "sip:bob@127.0.0.1:3" && row.reg_id == 1)
    );
}

#[test]
fn a_repeated_datagram_is_answered_from_the_transaction() {
    let mut world = World::new();
    let text = register("bob", "twice", 1, "<sip:b@127.0.0.1:1>");
    world.receive(phone(1), text.clone());
    world.receive(phone(1), text);
    assert_eq!(world.codes(phone(1)), [200, 200]);
    assert_eq!(world.proxy.stats().registers, 1);
}

#[test]
fn a_jump_of_the_clock_ends_no_binding() {
    const YEAR_MS: u64 = 365 * 24 * 3_600_000;
    for system in [EPOCH_MS + YEAR_MS, EPOCH_MS - YEAR_MS] {
        let mut world = World::new();
        world.register("bob", "<sip:bob@127.0.0.1:6000>;expires=600");
        let told = world.proxy.set_wall(world.now, Duration::ZERO, system);
        assert!(matches!(told, Some(ClockNotice::Jumped { .. })), "{told:?}");
        assert_eq!(world.proxy.stats().clock_jumps, 1);
        world.receive(phone(1), invite("bob", "c1"));
        assert_eq!(world.request("INVITE").0, phone(6000));
        // Nor does a new one get the other time, and the database forgets nothing.
        world.register("bob", "<sip:bob@127.0.0.1:6000>;expires=600");
        assert_eq!(world.rows.values().next().map(|row| row.expires_at), Some(EPOCH_MS + 600_000));
        world.store = Store::Stalls;
        world.advance(Duration::from_secs(20));
        let expired = world.stalled.iter().find_map(|(_, request)| match request {
            Request::Expire { now_ms } => Some(*now_ms),
            _ => None,
        });
        assert!(expired.is_some_and(|now_ms| now_ms.abs_diff(EPOCH_MS) <= 20_000), "{expired:?}");
        let stalled = std::mem::take(&mut world.stalled);
        for (ticket, request) in stalled {
            let answer = world.answer(request);
            world.proxy.handle_store(world.now, StoreEvent::Answer { ticket, answer });
        }
    }
}

#[test]
fn time_that_the_machine_slept_counts() {
    let mut world = World::new();
    world.register("bob", "<sip:bob@127.0.0.1:6000>;expires=60");
    world.proxy.set_wall(world.now, Duration::ZERO, EPOCH_MS);
    world.proxy.set_wall(world.now, Duration::from_secs(120), EPOCH_MS + 120_000);
    world.receive(phone(1), invite("bob", "c2"));
    assert_eq!(world.codes(phone(1)).last(), Some(&480));
    world.register("bob", "<sip:bob@127.0.0.1:6000>;expires=60");
    let row = world.rows.values().next().unwrap();
    assert_eq!(row.expires_at, EPOCH_MS + 180_000);
}

#[test]
fn a_proxy_that_starts_with_a_wrong_clock_takes_the_time_of_the_others() {
    const YEAR_MS: u64 = 365 * 24 * 3_600_000;
    let mut world = World::new();
    world.register("bob", "<sip:bob@127.0.0.1:6000>;expires=600");
    let mut record = world.rows.values().next().unwrap().clone();
    for n in 1..=3 {
        record.changed_at += 1;
        record.expires_at = EPOCH_MS - YEAR_MS + n * 1_000 + 600_000;
        record.aor = format!("carol{n}@{DOMAIN}").into();
        world.advance(Duration::from_secs(1));
        world.proxy.handle_store(world.now, StoreEvent::Changes(vec![record.clone()]));
    }
    world.register("dave", "<sip:dave@127.0.0.1:6001>;expires=600");
    let row = world.rows.values().find(|row| row.aor.starts_with("dave")).unwrap();
    assert_eq!(row.expires_at, EPOCH_MS - YEAR_MS + 3_000 + 600_000);
}

#[test]
fn too_many_contacts() {
    for evict_oldest in [true, false] {
        let mut world = World::with(|settings| settings.evict_oldest = evict_oldest);
        world.store = Store::Stalls;
        world.receive(phone(1), register("bob", "many", 1, "<sip:b@127.0.0.1:1>"));
        let (ticket, request) = world.stalled.remove(0);
        let Request::Save(save) = request else { panic!("{request:?}") };
        assert_eq!(save.evict_oldest, evict_oldest);
        let answer = Answer::Save(SaveOutcome::TooMany);
        world.proxy.handle_store(world.now, StoreEvent::Answer { ticket, answer });
        world.run();
        let (_, answer) = world.take().pop().unwrap();
        let told = (answer.status(), answer.header_str(HeaderName::RetryAfter));
        assert_eq!(told, if evict_oldest { (Some(503), Some("40")) } else { (Some(403), None) });
    }
}
