//! Phones behind gateways: Path, tokens, lost flows, dead gateways (RFC 5626 section 5.3).

use super::*;

const REMOTE: &str = "192.0.2.7:5060";

fn world() -> World {
    let mut world = World::new();
    world.set_gateways(&[21, 22]);
    world
}

fn flow(contact: &str, reg_id: u32) -> String {
    format!("<{contact}>;+sip.instance=\"<urn:uuid:1>\";reg-id={reg_id}")
}

#[test]
fn a_call_goes_to_the_gateway_that_holds_the_phone() {
    let mut world = world();
    world.register_by_gateway("bob", "<sip:bob@192.0.2.7>", 22, REMOTE);
    let text = invite("bob", "leg.1.mac")
        .replace("SIP/2.0/UDP 127.0.0.1:9", "SIP/2.0/TCP 127.0.0.21:5080");
    world.receive(GATEWAY, text);
    let (to, call) = world.request("INVITE");
    assert_eq!(to, Hop::Element(22));
    assert_eq!(call.request_uri_str(), Some("sip:bob@192.0.2.7"));
    assert_eq!(header(&call, HeaderName::Route), [world.path(22, REMOTE)]);
    let vias = header(&call, HeaderName::Via);
    assert!(vias[0].starts_with("SIP/2.0/TCP 127.0.0.41:5080;branch=z9hG4bK"), "{vias:?}");
    assert_eq!(
        vias[1], "SIP/2.0/TCP 127.0.0.21:5080;rport;branch=z9hG4bKleg.1.mac",
        "the leg id stays in view"
    );
    assert_eq!(header(&call, HeaderName::RecordRoute).len(), 0);
    world.respond(&(to, call), 200);
    assert_eq!(world.codes(GATEWAY), [200]);
}

#[test]
fn invite_is_answered_100_at_once() {
    let mut world = world();
    world.register_by_gateway("bob", "<sip:bob@192.0.2.7>", 22, REMOTE);
    world.receive(GATEWAY, invite("bob", "at-once"));
    assert_eq!(world.codes(GATEWAY), [100]);
    world.receive(GATEWAY, request("MESSAGE", "sip:bob@dialtone.test", "m"));
    assert_eq!(world.codes(GATEWAY), [0; 0]);
    world.advance(Duration::from_millis(51));
    assert_eq!(world.codes(GATEWAY), [100]);
}

#[test]
fn of_two_flows_the_newest_is_tried_and_430_leads_to_the_other() {
    let mut world = world();
    world.register_by_gateway("bob", &flow("sip:bob@192.0.2.7", 1), 21, REMOTE);
    world.advance(Duration::from_millis(10));
    world.register_by_gateway("bob", &flow("sip:bob@192.0.2.7", 2), 22, REMOTE);
    world.receive(GATEWAY, invite("bob", "two"));
    let first = world.request("INVITE");
    assert_eq!(first.0, Hop::Element(22));
    world.respond(&first, 430);
    let (_, second) = world.requests().into_iter().find(|(to, _)| *to == Hop::Element(21)).unwrap();
    world.respond(&(Hop::Element(21), second), 486);
    assert_eq!(world.codes(GATEWAY), [486]);
}

#[test]
fn after_the_last_flow_the_database_is_asked_once() {
    let mut world = world();
    world.register_by_gateway("bob", &flow("sip:bob@192.0.2.7", 1), 21, REMOTE);
    // Meanwhile the phone has registered through another proxy: only the database knows.
    let old = world.rows.values().next().unwrap().clone();
    let path = world.path(22, "192.0.2.8:5060");
    let moved = Record { path: path.into(), gateway: 22, changed_at: old.changed_at + 1, ..old };
    world.rows.insert((moved.aor.clone(), moved.key.clone()), moved);
    world.receive(GATEWAY, invite("bob", "moved"));
    let first = world.request("INVITE");
    assert_eq!(first.0, Hop::Element(21));
    world.respond(&first, 430);
    let (_, second) = world.requests().into_iter().find(|(to, _)| *to == Hop::Element(22)).unwrap();
    world.respond(&(Hop::Element(22), second), 430);
    assert_eq!(world.codes(GATEWAY), [480], "430 is not for phones");
    assert_eq!(world.proxy.stats().lookups, 1);
}

#[test]
fn a_gateway_dies_before_and_during_a_call() {
    let mut world = world();
    world.register_by_gateway("bob", &flow("sip:bob@192.0.2.7", 1), 21, REMOTE);
    world.advance(Duration::from_millis(10));
    world.register_by_gateway("bob", &flow("sip:bob@192.0.2.7", 2), 22, REMOTE);
    world.receive(GATEWAY, invite("bob", "during"));
    assert_eq!(world.request("INVITE").0, Hop::Element(22));
    world.kill_gateway(22);
    assert_eq!(world.request("INVITE").0, Hop::Element(21), "at once");
    assert!(world.reported.contains(&22));
    world.receive(GATEWAY, invite("bob", "after"));
    let call = world.request("INVITE");
    assert_eq!(call.0, Hop::Element(21));
    world.respond(&call, 200);
    assert_eq!(world.codes(GATEWAY), [200]);
    // The only one left.
    world.kill_gateway(21);
    assert_eq!(world.codes(GATEWAY), [480]);
    world.receive(GATEWAY, invite("bob", "nobody"));
    assert_eq!(world.codes(GATEWAY).last(), Some(&480));
}

#[test]
fn nothing_more_is_started_for_a_sender_that_is_lost() {
    let mut world = world();
    world.register_by_gateway("bob", &flow("sip:bob@192.0.2.7", 1), 21, REMOTE);
    world.register_by_gateway("bob", "<sip:bob@192.0.2.8>;q=0.1", 21, REMOTE);
    world.advance(Duration::from_millis(10));
    world.register_by_gateway("bob", &flow("sip:bob@192.0.2.7", 2), 22, REMOTE);
    for code in [430, 486] {
        world.receive(GATEWAY, invite("bob", &format!("lost{code}")));
        let call = world.request("INVITE");
        assert_eq!(call.0, Hop::Element(22));
        let Hop::Core(conn) = GATEWAY else { unreachable!() };
        world.proxy.handle_closed(world.now, conn);
        world.run();
        world.respond(&call, code);
        let sent: Vec<_> = world
            .requests()
            .into_iter()
            .map(|(to, m)| (to, m.method().map(|m| m.to_string())))
            .collect();
        assert_eq!(sent, [(Hop::Element(22), Some("ACK".to_owned()))], "{code}");
    }
}

#[test]
fn routes_lead_to_gateways_by_token_only() {
    let mut world = world();
    let routed = |route: &str| {
        request("BYE", "sip:bob@192.0.2.7", route)
            .replace("Max-F", &format!("Route: <sip:{route}@127.0.0.1:5070;lr>\r\nMax-F"))
    };
    let token = world.token(22, REMOTE, Use::Dialog);
    world.receive(GATEWAY, routed(&token));
    let bye = world.request("BYE");
    assert_eq!(bye.0, Hop::Element(22));
    assert_eq!(header(&bye.1, HeaderName::Route).len(), 1, "the gateway reads its token itself");
    world.respond(&bye, 200);
    assert_eq!(world.codes(GATEWAY), [200]);
    // A token for another use, and one with a changed character.
    let path = world.token(22, REMOTE, Use::Path);
    let mut changed = token.into_bytes();
    changed[5] ^= 2;
    for wrong in [path, String::from_utf8(changed).unwrap()] {
        world.receive(phone(1), routed(&wrong));
        assert_eq!(world.codes(phone(1)), [403], "{wrong}");
    }
}

#[test]
fn a_bad_path_in_a_binding_is_a_phone_that_is_not_there() {
    let mut world = world();
    let mut text = register("bob", "bad", 1, "<sip:bob@192.0.2.7>");
    text = text.replace(
        "Content-Length",
        "Path: <sip:AQEAAAAAAAAAAAAAAAAAAAAAAAAAAAAA@gw.test;lr>\r\nContent-Length",
    );
    world.receive(GATEWAY, text);
    world.take();
    world.receive(GATEWAY, invite("bob", "nowhere"));
    assert_eq!(world.codes(GATEWAY), [480]);
}
