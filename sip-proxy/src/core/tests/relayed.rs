//! Calls through media relays while these answer: what phones see, what relays are asked.

use dialtone_sip_pool::token::DialogCookie;
use dialtone_sip_pool::uri::pool_uri;

use super::relay::Asked;
use super::*;

/// Own element identifier.
pub(super) const ELEMENT: u32 = 9;
/// The gateways of caller and callee.
pub(super) const FROM: u32 = 21;
pub(super) const TO: u32 = 22;

pub(super) const ALICE_SDP: &str = "v=0\r\no=- 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n";
pub(super) const BOB_SDP: &str = "v=0\r\no=- 2 2 IN IP4 10.0.0.2\r\ns=-\r\nc=IN IP4 10.0.0.2\r\nt=0 0\r\nm=audio 5000 RTP/AVP 0\r\n";
const BOB: &str = "sip:bob@10.0.0.2:5060";

impl World {
    /// A proxy that uses relays, with bob behind a gateway and relays 1, 2 …
    pub(super) fn with_relays(count: u32, change: impl FnOnce(&mut Settings)) -> Self {
        let mut world = Self::with(|settings| {
            settings.element = ELEMENT;
            settings.media = Some(MediaSettings::default());
            change(settings);
        });
        world.set_gateways(&[FROM, TO]);
        world.set_relays(&(1..=count).collect::<Vec<_>>());
        world.register_by_gateway("bob", &format!("<{BOB}>"), TO, "192.0.2.2:5060");
        world
    }

    pub(super) fn relay(&mut self, element: u32) -> &mut FakeRelay {
        self.relays.get_mut(&element).expect("a relay")
    }

    /// What a relay was asked since the last look.
    pub(super) fn asked(&mut self, element: u32) -> Vec<Asked> {
        std::mem::take(&mut self.relay(element).asked)
    }

    pub(super) fn dialog_route(&self, gateway: u32, remote: &str) -> String {
        format!("<sip:{}@127.0.0.1:5070;lr>", self.token(gateway, remote, Use::Dialog))
    }

    /// An INVITE as alice's gateway sends it.
    pub(super) fn call(&self, branch: &str, sdp: &str) -> String {
        self.call_to("sip:bob@dialtone.test", branch, sdp)
    }

    pub(super) fn call_to(&self, uri: &str, branch: &str, sdp: &str) -> String {
        let route = self.dialog_route(FROM, "192.0.2.1:5060");
        let text = request("INVITE", uri, branch)
            .replace("Via: SIP/2.0/UDP 127.0.0.1:9;rport;", "Via: SIP/2.0/TCP 127.0.0.21:5070;")
            .replace(
                "Max-F",
                &format!(
                    "Via: SIP/2.0/UDP 10.0.0.1;received=192.0.2.1;branch=z9hG4bKp{branch}\r\n\
                     Record-Route: {route}\r\nContact: <sip:alice@10.0.0.1>\r\nMax-F"
                ),
            );
        with_body(&text, sdp)
    }

    /// A request inside the dialog of `invite` (as the callee got it); from the caller, or from the callee.
    pub(super) fn within(
        &self,
        invite: &Message,
        method: &str,
        branch: &str,
        by_callee: bool,
        sdp: &str,
    ) -> String {
        let mut routes = header(invite, HeaderName::RecordRoute);
        let (alice, bob) = ("<sip:alice@dialtone.test>;tag=a1", "<sip:bob@dialtone.test>;tag=tb");
        let (from, to, uri) = if by_callee {
            (bob, alice, "sip:alice@10.0.0.1")
        } else {
            routes.pop();
            routes.reverse();
            (alice, bob, BOB)
        };
        // What the sender's gateway leaves of it: the pool, and the way to the other phone.
        let other = self.dialog_route(TO, "192.0.2.2:5060");
        let routes = if by_callee { routes } else { [routes, vec![other]].concat() };
        let text = request(method, uri, branch)
            .replace("Via: SIP/2.0/UDP 127.0.0.1:9;rport;", "Via: SIP/2.0/TCP 127.0.0.21:5070;")
            .replace("Max-F", &format!("Route: {}\r\nMax-F", routes.join(", ")))
            .replace("From: <sip:alice@dialtone.test>;tag=a1", &format!("From: {from}"))
            .replace(&format!("To: <{uri}>"), &format!("To: {to}"))
            .replace(
                &format!("Call-ID: call-{branch}"),
                &format!("Call-ID: {}", invite.call_id().unwrap()),
            );
        with_body(&text, sdp)
    }

    /// Bob's phone answers; its gateway's Record-Route is of no interest here.
    pub(super) fn reply(&mut self, request: &(Hop, Message), code: u16, tag: &str, sdp: &str) {
        let mut response = ResponseBuilder::new(&request.1, code)
            .to_tag(tag.to_owned())
            .copy(HeaderName::RecordRoute);
        if !sdp.is_empty() {
            response = response.body("application/sdp", sdp.as_bytes());
        }
        let response = response.build().unwrap();
        self.receive(request.0, response);
    }

    /// The responses that went to alice's gateway since the last look, 100 left out.
    pub(super) fn heard(&mut self) -> Vec<Message> {
        let to_alice = |(hop, message): (Hop, Message)| {
            (hop == GATEWAY && message.status() > Some(100)).then_some(message)
        };
        self.take().into_iter().filter_map(to_alice).collect()
    }

    pub(super) fn cookie(&self, message: &Message) -> Option<DialogCookie> {
        let call_id = message.call_id().unwrap();
        message.record_routes().flatten().find_map(|route| {
            let cookie = route.uri.sip()?.user?.as_bytes();
            DialogCookie::verify(&self.keys, cookie, call_id, ["a1", ""]).ok()
        })
    }

    /// Whose port alice was told last.
    pub(super) fn told(&mut self, element: u32) -> Option<String> {
        let last = self.heard().pop().expect("a response");
        self.whose(element, &last)
    }

    /// Whose port it is in the description of a message.
    pub(super) fn whose(&self, element: u32, message: &Message) -> Option<String> {
        let (call_id, whose) = self.relays[&element].whose(message.body())?;
        assert_eq!(call_id, message.call_id().unwrap());
        assert_eq!(message.content_length(), Ok(Some(message.body().len())));
        let ip = format!("c=IN IP4 203.0.113.{element}\r\n");
        String::from_utf8_lossy(message.body()).contains(&ip).then_some(whose)
    }
}

pub(super) fn with_body(text: &str, sdp: &str) -> String {
    if sdp.is_empty() {
        return text.to_owned();
    }
    let head = text.replace(
        "Content-Length: 0",
        &format!("Content-Type: application/sdp\r\nContent-Length: {}", sdp.len()),
    );
    head + sdp
}

pub(super) fn asked(command: &'static str, call: &str, from: &str, to: &str, sdp: &str) -> Asked {
    let call_id = format!("call-{call}");
    let received_from = match sdp {
        ALICE_SDP => Some([192, 0, 2, 1].into()),
        BOB_SDP => Some([192, 0, 2, 2].into()),
        _ => None,
    };
    let [from, to, sdp] = [from, to, sdp].map(str::to_owned);
    Asked { command, call_id, from, to, sdp, received_from }
}

#[test]
fn both_phones_get_ports_of_one_relay_and_their_dialog_names_it() {
    let mut world = World::with_relays(2, |_| {});
    world.receive(GATEWAY, world.call("c", ALICE_SDP));
    let invite = world.request("INVITE");
    assert_eq!(invite.0, Hop::Element(TO));
    assert_eq!(world.whose(1, &invite.1).as_deref(), Some("to a1"));
    let named = DialogCookie { preferred: ELEMENT, relay: 1, flags: 0 };
    assert_eq!(world.cookie(&invite.1), Some(named));
    let routes = header(&invite.1, HeaderName::RecordRoute);
    assert!(routes[0].ends_with("@sip-proxy.pool.invalid;lr>") && routes.len() == 2, "{routes:?}");
    assert_eq!(world.asked(1), [asked("offer", "c", "a1", "", ALICE_SDP)]);

    world.reply(&invite, 180, "tb", "");
    world.reply(&invite, 183, "tb", BOB_SDP);
    world.reply(&invite, 200, "tb", BOB_SDP);
    world.reply(&invite, 200, "tb", BOB_SDP);
    let heard = world.heard();
    let codes: Vec<_> = heard.iter().filter_map(Message::status).collect();
    assert_eq!(codes, [180, 183, 200, 200]);
    for answer in &heard[1..] {
        assert_eq!(world.whose(1, answer).as_deref(), Some("of a1"));
    }
    // The same description is not asked about again.
    assert_eq!(world.asked(1), [asked("answer", "c", "a1", "tb", BOB_SDP)]);
    // Another one is.
    world.reply(&invite, 200, "tb", &BOB_SDP.replace("5000", "5002"));
    assert_eq!(world.asked(1).len(), 1);
    world.take();

    let ack = world.within(&invite.1, "ACK", "ack", false, "");
    world.receive(GATEWAY, ack);
    let (hop, ack) = world.request("ACK");
    assert_eq!((hop, ack.routes().count()), (Hop::Element(TO), 1));
    // A new description from the callee, and its answer.
    let again = world.within(&invite.1, "INVITE", "re", true, BOB_SDP);
    world.receive(GATEWAY, again);
    let again = world.request("INVITE");
    assert_eq!((again.0, world.whose(1, &again.1)), (Hop::Element(FROM), Some("to tb".to_owned())));
    assert_eq!(again.1.record_routes().count(), 0);
    world.reply(&again, 200, "tb", ALICE_SDP);
    assert_eq!(world.told(1).as_deref(), Some("of tb"));
    let questions = world.asked(1);
    let offer = Asked { received_from: None, ..asked("offer", "c", "tb", "a1", BOB_SDP) };
    assert_eq!(questions, [offer, asked("answer", "c", "tb", "a1", ALICE_SDP)]);
    // Requests without one are none of the relay's business.
    for method in ["INFO", "UPDATE", "PRACK"] {
        let text = world.within(&invite.1, method, method, false, "");
        world.receive(GATEWAY, text);
        let request = world.request(method);
        world.reply(&request, 200, "tb", "");
        assert_eq!(world.codes(GATEWAY), [200]);
    }
    assert_eq!(world.asked(1), []);

    for (branch, by_callee) in [("bye1", false), ("bye2", true)] {
        let bye = world.within(&invite.1, "BYE", branch, by_callee, "");
        world.receive(GATEWAY, bye);
        let bye = world.request("BYE");
        world.reply(&bye, 200, "tb", "");
        assert_eq!(world.codes(GATEWAY), [200]);
        for element in [1, 2] {
            let deleted = asked("delete", "c", "a1", "tb", "");
            assert_eq!(world.asked(element), [deleted], "whoever sends it");
        }
    }
    let stats = world.proxy.media_stats();
    assert_eq!((stats.offers, stats.answers, stats.deletes), (2, 3, 4));
    assert_eq!((stats.timeouts, stats.errors, stats.direct), (0, 0, 0));
}

#[test]
fn an_offer_in_the_answer_is_answered_in_the_ack() {
    let mut world = World::with_relays(2, |_| {});
    world.receive(GATEWAY, world.call("late", ""));
    let invite = world.request("INVITE");
    let flags = DialogCookie::LATE_OFFER;
    let named = DialogCookie { preferred: ELEMENT, relay: 1, flags };
    assert_eq!((world.cookie(&invite.1), world.asked(1)), (Some(named), vec![]));
    world.reply(&invite, 183, "tb", BOB_SDP);
    world.reply(&invite, 200, "tb", BOB_SDP);
    let heard = world.heard();
    assert_eq!(heard.len(), 2);
    for answer in &heard {
        assert_eq!(world.whose(1, answer).as_deref(), Some("to tb"));
    }
    assert_eq!(world.asked(1), [asked("offer", "late", "tb", "a1", BOB_SDP)]);
    // PRACK answers the offer of a reliable 183, ACK that of the 200.
    for method in ["PRACK", "ACK"] {
        let text = world.within(&invite.1, method, method, false, ALICE_SDP);
        world.receive(GATEWAY, text);
        let request = world.request(method);
        assert_eq!(world.whose(1, &request.1).as_deref(), Some("of tb"), "{method}");
        let question =
            Asked { received_from: None, ..asked("answer", "late", "tb", "a1", ALICE_SDP) };
        assert_eq!(world.asked(1), [question]);
        if method == "PRACK" {
            world.reply(&request, 200, "tb", "");
        }
    }
    // Later on the callee asks for an offer.
    let again = world.within(&invite.1, "INVITE", "re", true, "");
    world.receive(GATEWAY, again);
    let again = world.request("INVITE");
    world.reply(&again, 200, "tb", ALICE_SDP);
    assert_eq!(world.told(1).as_deref(), Some("to a1"));
    let ack = world.within(&invite.1, "ACK", "ack2", true, BOB_SDP);
    world.receive(GATEWAY, ack);
    let (_, ack) = world.request("ACK");
    assert_eq!(world.whose(1, &ack).as_deref(), Some("of a1"));
    assert_eq!(world.relay(1).commands(), ["offer", "answer"]);
}

#[test]
fn every_phone_of_a_fork_is_an_answer_of_its_own() {
    let mut world = World::with_relays(1, |_| {});
    world.register_by_gateway("bob", "<sip:bob@10.0.0.3>", FROM, "192.0.2.3:5060");
    world.receive(GATEWAY, world.call("fork", ALICE_SDP));
    let calls = world.forks();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0].1.body(), calls[1].1.body(), "one offer for all");
    world.reply(&calls[0], 183, "t0", BOB_SDP);
    world.reply(&calls[1], 183, "t1", BOB_SDP);
    // The first one answers: what the relay heard last was the other one's.
    world.reply(&calls[0], 200, "t0", BOB_SDP);
    let tags: Vec<_> = world.asked(1)[1..].iter().map(|asked| asked.to.clone()).collect();
    assert_eq!(tags, ["t0", "t1", "t0"]);
    let heard = world.heard();
    assert!(heard.iter().all(|answer| world.whose(1, answer).is_some()) && heard.len() == 3);
    world.reply(&calls[1], 487, "t1", "");
    assert_eq!(world.asked(1), [], "the call goes on");
}

#[test]
fn phones_without_a_gateway_get_the_address_of_the_proxy_in_their_route() {
    let mut world = World::with_relays(1, |_| {});
    world.register("carol", "<sip:carol@127.0.0.1:6001>");
    world.receive(phone(9), with_body(&invite("carol", "d"), ALICE_SDP));
    let call = world.request("INVITE");
    let route = header(&call.1, HeaderName::RecordRoute).remove(0);
    assert!(route.ends_with("@127.0.0.1:5060;lr>"), "{route}");
    assert_eq!(world.cookie(&call.1).map(|cookie| cookie.relay), Some(1));
    world.reply(&call, 200, "tb", BOB_SDP);
    let (_, answer) = world.take().remove(0);
    assert_eq!(world.whose(1, &answer).as_deref(), Some("of a1"));
    let bye = request("BYE", "sip:carol@127.0.0.1:6001", "bye")
        .replace("Max-F", &format!("Route: {route}\r\nMax-F"))
        .replace("To: <sip:carol@127.0.0.1:6001>", "To: <sip:carol@dialtone.test>;tag=tb")
        .replace("Call-ID: call-bye", "Call-ID: call-d");
    world.receive(phone(9), bye);
    let bye = world.request("BYE");
    world.reply(&bye, 200, "tb", "");
    assert_eq!(world.relay(1).commands(), ["offer", "answer", "delete"]);
}

#[test]
fn what_passes_a_second_time_has_a_relay_already() {
    let mut world = World::with_relays(1, |_| {});
    let cookie = DialogCookie { preferred: 1, relay: 3, flags: 0 };
    let route = pool_uri(crate::POOL, &cookie.sign(&world.keys, "call-spiral", "a1"));
    let call = world.call("spiral", ALICE_SDP);
    world.receive(GATEWAY, call.replace("Record-Route: ", &format!("Record-Route: <{route}>, ")));
    let invite = world.request("INVITE");
    assert_eq!((invite.1.body(), invite.1.record_routes().count()), (ALICE_SDP.as_bytes(), 2));
    world.reply(&invite, 200, "tb", BOB_SDP);
    assert_eq!(world.heard()[0].body(), BOB_SDP.as_bytes());
    assert_eq!(world.asked(1), []);
    // One that was made for another call does not count.
    let call = world.call("other", ALICE_SDP);
    world.receive(GATEWAY, call.replace("Record-Route: ", &format!("Record-Route: <{route}>, ")));
    let invite = world.request("INVITE");
    assert_eq!(world.whose(1, &invite.1).as_deref(), Some("to a1"));
    world.reply(&invite, 486, "tb", "");
}

#[test]
fn a_description_among_other_parts_is_replaced_and_a_sealed_one_is_not() {
    let mut world = World::with_relays(1, |_| {});
    let parts = format!(
        "--b\r\nContent-Type: text/plain\r\n\r\nhello\r\n--b\r\nContent-Type: application/sdp\r\n\r\n{ALICE_SDP}\r\n--b--\r\n"
    );
    let call = |world: &World, branch: &str| {
        let text = world.call(branch, &parts);
        text.replace(
            "application/sdp\r\nContent-Length",
            "multipart/mixed; boundary=b\r\nContent-Length",
        )
    };
    world.receive(GATEWAY, call(&world, "parts"));
    let invite = world.request("INVITE");
    let body = String::from_utf8_lossy(invite.1.body()).into_owned();
    assert!(body.starts_with("--b\r\nContent-Type: text/plain\r\n\r\nhello\r\n--b\r\n"), "{body}");
    assert!(body.contains("203.0.113.1") && body.ends_with("\r\n--b--\r\n"), "{body}");
    assert_eq!(invite.1.content_length(), Ok(Some(body.len())));
    world.reply(&invite, 486, "tb", "");
    world.take();
    let sealed = call(&world, "sealed").replace("Max-F", "Content-Encoding: gzip\r\nMax-F");
    world.receive(GATEWAY, sealed);
    let invite = world.request("INVITE");
    assert_eq!((invite.1.body(), invite.1.record_routes().count()), (parts.as_bytes(), 1));
    world.reply(&invite, 200, "tb", BOB_SDP);
    assert_eq!(world.heard()[0].body(), BOB_SDP.as_bytes());
    assert_eq!(world.proxy.media_stats().sealed, 1);
}

#[test]
fn without_a_pool_of_relays_nothing_changes() {
    let mut world = World::with_relays(0, |settings| settings.media = None);
    world.receive(GATEWAY, world.call("plain", ALICE_SDP));
    let invite = world.request("INVITE");
    assert_eq!((invite.1.body(), invite.1.record_routes().count()), (ALICE_SDP.as_bytes(), 1));
    world.reply(&invite, 200, "tb", BOB_SDP);
    assert_eq!(world.heard()[0].body(), BOB_SDP.as_bytes());
}
