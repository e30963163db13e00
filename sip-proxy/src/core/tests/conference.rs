//! Rooms and who has them: first claims, owners that die, databases that do not answer, names of all kinds.

use dialtone_handlespace::{Element, rendezvous};
use dialtone_location::{Claim, ClaimChange, ClaimOutcome};
use dialtone_pool_user::{Freshness, View};
use dialtone_sip_pool::hops::{self, Hops};
use dialtone_sip_pool::token::DialogCookie;
use dialtone_wire::{PeId, Policy, PolicyType, ServerId as Home, Transport};

use super::relayed::{ALICE_SDP, BOB_SDP, ELEMENT, FROM};
use super::*;

/// The elements of the pool.
const POOL: [u32; 3] = [31, 32, 33];
/// Another proxy, which has died.
const CORE_OF_OTHER: &str = "127.0.0.42:5080";

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The elements in the order of a room.
fn order(room: &str) -> Vec<u32> {
    let name = format!("conference/{room}");
    rendezvous::order(name.as_bytes(), POOL.map(PeId))
        .into_iter()
        .map(|element| element.0)
        .collect()
}

fn address(element: u32) -> SocketAddr {
    gateway_address(element)
}

impl World {
    fn with_rooms(change: impl FnOnce(&mut Settings)) -> Self {
        let mut world = Self::with(|settings| {
            settings.element = ELEMENT;
            settings.conference = Some(ConferenceSettings::default());
            change(settings);
        });
        world.set_gateways(&[FROM]);
        world.set_elements(&POOL.map(|element| (element, 0)));
        world
    }

    /// Conference servers with their load.
    fn set_elements(&mut self, elements: &[(u32, u32)]) {
        let member = |&(element, load): &(u32, u32)| {
            dialtone_pool_user::Member::from(Element {
                pe_id: PeId(element),
                home: Home(1),
                life: 30,
                encaps_port: None,
                transport: Transport::tcp(address(element)),
                policy: Policy::LeastUsed { load },
                asap_transport: None,
            })
        };
        self.serial += 1;
        let view = View {
            version: self.serial,
            policy: PolicyType::LEAST_USED,
            members: elements.iter().map(member).collect(),
            order: elements.iter().map(|(element, _)| PeId(*element)).collect(),
            complete: true,
            freshness: Freshness::Fresh,
            ..View::unknown(crate::CONFERENCES.parse().unwrap())
        };
        self.proxy.set_conferences(self.now, Arc::new(view));
        self.run();
    }

    fn invite_room(&mut self, room: &str, branch: &str) {
        let invite = self.call_to(&format!("sip:conf-{room}@{DOMAIN}"), branch, ALICE_SDP);
        self.receive(GATEWAY, invite);
    }

    /// Calls a room and hangs up; where the INVITE went.
    fn joins(&mut self, room: &str, branch: &str) -> u32 {
        self.invite_room(room, branch);
        let invite = self.request("INVITE");
        let Hop::Focus(element) = invite.0 else { panic!("{:?}", invite.0) };
        self.reply(&invite, 486, "tb", "");
        self.take();
        element
    }

    fn claim(&self, room: &str) -> Option<Claim> {
        let name = format!("conference/{room}").into();
        match self.table.clone().carry_out(WriterId(1), &Request::ReadClaim { name }) {
            Answer::ReadClaim(claim) => claim,
            other => panic!("{other:?}"),
        }
    }

    fn owner(&self, room: &str) -> Option<u32> {
        self.claim(room).map(|claim| claim.owner)
    }

    /// What another proxy does.
    fn change_claim(&mut self, change: ClaimChange) {
        let answer = self.table.carry_out(WriterId(2), &Request::Claim(change));
        assert!(matches!(answer, Answer::Claim(ClaimOutcome::Done(_))), "{answer:?}");
    }

    fn heard_codes(&mut self) -> Vec<u16> {
        self.heard().iter().filter_map(Message::status).collect()
    }
}

#[test]
fn the_first_call_claims_a_name_and_later_ones_follow() {
    let mut world = World::with_rooms(|_| {});
    for room in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        assert_eq!(world.joins(room, room), order(room)[0]);
        assert_eq!(world.owner(room), Some(order(room)[0]));
    }
    // What runs stays where it is, whoever comes or goes.
    let others: Vec<_> = [(31, 0), (32, 0), (33, 0), (34, 0), (35, 0)].to_vec();
    world.set_elements(&others);
    for room in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        assert_eq!(world.joins(room, &format!("again-{room}")), order(room)[0]);
    }
    let stats = world.proxy.conference_stats();
    assert_eq!((stats.requests, stats.claimed, stats.moved, stats.renewed), (16, 8, 0, 0));
    // However long it has run.
    world.advance(Duration::from_secs(100_000));
    world.set_elements(&others[1..]);
    let gone: Vec<&str> = ["a", "b", "c", "d", "e", "f", "g", "h"]
        .into_iter()
        .filter(|room| order(room)[0] == 31)
        .collect();
    assert!(!gone.is_empty());
    for room in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        let owner = world.joins(room, &format!("later-{room}"));
        assert_eq!(owner != order(room)[0], gone.contains(&room), "{room}");
        assert_eq!(world.owner(room), Some(owner));
    }
    assert_eq!(world.proxy.conference_stats().moved, gone.len() as u64);
}

#[test]
fn a_full_server_gets_no_new_rooms_while_others_have_room() {
    let mut world = World::with_rooms(|_| {});
    let first = order("a")[0];
    assert_eq!(world.joins("a", "1"), first);
    world.set_elements(&POOL.map(|one| (one, if one == first { u32::MAX } else { 0 })));
    // Its own rooms go on.
    assert_eq!(world.joins("a", "2"), first);
    let room = (0..).map(|number| format!("r{number}")).find(|room| order(room)[0] == first);
    let room = room.unwrap();
    assert_eq!(world.joins(&room, "3"), order(&room)[1]);
    world.set_elements(&POOL.map(|one| (one, u32::MAX)));
    let other = (0..).map(|number| format!("s{number}")).find(|room| order(room)[0] == first);
    assert_eq!(world.joins(&other.unwrap(), "4"), first);
    // What it says of itself is what the caller hears.
    world.invite_room("a", "5");
    let invite = world.request("INVITE");
    world.reply(&invite, 503, "tb", "");
    assert_eq!(world.heard_codes(), [503]);
    assert_eq!(world.owner("a"), Some(first));
}

#[test]
fn a_killed_owner_is_replaced_at_once() {
    let mut world = World::with_rooms(|_| {});
    let [first, second, third] = order("a")[..] else { panic!() };
    // Before anything is sent there, as long as the pool still has it.
    world.joins("a", "1");
    world.kill_gateway(first);
    assert_eq!(world.reported, [first]);
    assert_eq!(world.joins("a", "2"), second);
    assert_eq!(world.owner("a"), Some(second));
    // While the INVITE is there: rung or not, it goes on to the next.
    world.invite_room("a", "3");
    let invite = world.request("INVITE");
    assert_eq!(invite.0, Hop::Focus(second));
    world.reply(&invite, 180, "tb", "");
    let began = world.now;
    world.kill_gateway(second);
    let again = world.request("INVITE");
    assert_eq!((again.0, world.now), (Hop::Focus(third), began));
    world.reply(&again, 200, "tc", BOB_SDP);
    assert_eq!(world.heard_codes(), [200]);
    assert_eq!(world.owner("a"), Some(third));
    assert_eq!(world.proxy.conference_stats().failed, 1);
    // Nobody is left.
    world.kill_gateway(third);
    world.invite_room("a", "4");
    let refused = world.heard();
    assert_eq!(refused[0].status(), Some(503));
    assert!(refused[0].header(HeaderName::RetryAfter).is_some());
    world.set_elements(&[]);
    world.invite_room("new", "5");
    assert_eq!((world.heard_codes(), world.owner("new")), (vec![503], None));
    // One of them comes back.
    world.dead.clear();
    world.set_elements(&[(first, 0)]);
    assert_eq!(world.joins("a", "6"), first);
}

#[test]
fn a_frozen_owner_is_replaced_within_a_second() {
    let mut world = World::with_rooms(|_| {});
    let [first, second, _] = order("a")[..] else { panic!() };
    world.joins("a", "1");
    world.frozen.push(first);
    world.invite_room("a", "2");
    assert_eq!(world.request("INVITE").0, Hop::Focus(first));
    let began = world.now;
    while world.sent.iter().all(|(_, message)| !message.is_request()) {
        world.advance(ms(5));
        assert!(world.now - began < ms(700), "{:?}", world.now - began);
    }
    let invite = world.request("INVITE");
    assert_eq!(invite.0, Hop::Focus(second));
    world.reply(&invite, 200, "tb", BOB_SDP);
    assert_eq!((world.owner("a"), world.reported.clone()), (Some(second), vec![first]));
    // It lives again, but the room has moved, and stays.
    world.frozen.clear();
    world.advance(Duration::from_secs(3));
    assert_eq!(world.reported, [0; 0]);
    assert_eq!(world.joins("a", "3"), second);
    // A slow answer is no failure.
    world.invite_room("a", "4");
    let invite = world.request("INVITE");
    world.advance(Duration::from_secs(20));
    assert_eq!(world.requests(), []);
    world.reply(&invite, 486, "tb", "");
}

/// An owner with more requests than it may have at a time lives all the same: its room stays with it.
#[test]
fn a_busy_owner_keeps_its_rooms() {
    let mut world = World::with_rooms(|_| {});
    let times = hops::Settings { outstanding: 1, ..hops::Settings::default() };
    let few = Hops::new(times, 2, fastrand::Rng::with_seed(1));
    world.proxy.conference.as_mut().unwrap().hops = few;
    world.set_elements(&POOL.map(|element| (element, 0)));
    let owner = order("a")[0];
    world.invite_room("a", "1");
    let first = world.request("INVITE");
    assert_eq!(first.0, Hop::Focus(owner));
    world.invite_room("a", "2");
    let refused = world.heard();
    assert_eq!(refused[0].status(), Some(503));
    assert!(refused[0].header(HeaderName::RetryAfter).is_some());
    // There is room when the database has said once more whose it is.
    world.store = Store::Stalls;
    world.invite_room("a", "3");
    let (ticket, read) = world.stalled.pop().unwrap();
    let answer = world.answer(read.clone());
    world.proxy.handle_store(world.now, StoreEvent::Answer { ticket, answer });
    world.run();
    let (ticket, again) = world.stalled.pop().unwrap();
    assert_eq!((&again, world.requests().len()), (&read, 0));
    world.reply(&first, 486, "tb", "");
    let answer = world.answer(again);
    world.proxy.handle_store(world.now, StoreEvent::Answer { ticket, answer });
    world.run();
    let invite = world.request("INVITE");
    assert_eq!(invite.0, Hop::Focus(owner));
    world.reply(&invite, 486, "tc", "");
    assert_eq!((world.owner("a"), world.proxy.conference_stats().moved), (Some(owner), 0));
}

#[test]
fn other_proxies_come_first() {
    let mut world = World::with_rooms(|_| {});
    let [first, second, third] = order("a")[..] else { panic!() };
    // Between our reading and our claiming.
    world.store = Store::Stalls;
    world.invite_room("a", "1");
    let (ticket, read) = world.stalled.pop().unwrap();
    assert_eq!(read, Request::ReadClaim { name: "conference/a".into() });
    world.store = Store::Answers;
    let name: Box<str> = "conference/a".into();
    let insert =
        ClaimChange::Insert { name: name.clone(), owner: third, lease_until: 1, now_ms: EPOCH_MS };
    world.change_claim(insert);
    let nobody = Answer::ReadClaim(None);
    world.proxy.handle_store(world.now, StoreEvent::Answer { ticket, answer: nobody });
    world.run();
    let invite = world.request("INVITE");
    assert_eq!(invite.0, Hop::Focus(third));
    // Two find the owner dead, and the other one was faster.
    let generation = world.claim("a").unwrap().generation;
    world.change_claim(ClaimChange::Swap { name, generation, owner: second, lease_until: 1 });
    world.kill_gateway(third);
    let invite = world.request("INVITE");
    assert_eq!(invite.0, Hop::Focus(second));
    world.reply(&invite, 486, "tb", "");
    assert_eq!(world.proxy.conference_stats().moved, 0);
    // Memory is not asked while the database answers.
    let generation = world.claim("a").unwrap().generation;
    let name = "conference/a".into();
    world.change_claim(ClaimChange::Swap { name, generation, owner: first, lease_until: 1 });
    assert_eq!(world.joins("a", "2"), first);
}

#[test]
fn without_a_database_known_rooms_are_found_and_others_refused() {
    for store in [Store::Stalls, Store::Fails] {
        let mut world = World::with_rooms(|_| {});
        let [first, second, _] = order("a")[..] else { panic!() };
        world.joins("a", "1");
        world.store = store;
        let wait = |world: &mut World, time| {
            if store == Store::Stalls {
                world.advance(time - ms(1));
                let early = world.take();
                assert!(early.iter().all(|(_, sent)| sent.status() == Some(100)), "{early:?}");
                world.advance(ms(1));
            }
        };
        // Where it was seen last, after a short wait.
        world.invite_room("a", "2");
        wait(&mut world, ms(100));
        let invite = world.request("INVITE");
        assert_eq!(invite.0, Hop::Focus(first), "{store:?}");
        world.reply(&invite, 486, "tb", "");
        world.take();
        // Nobody guesses who has another one.
        world.invite_room("b", "3");
        wait(&mut world, ms(2_100));
        let refused = world.heard();
        assert_eq!(refused[0].status(), Some(503));
        assert!(refused[0].header(HeaderName::RetryAfter).is_some());
        let subscribe = request("SUBSCRIBE", &format!("sip:conf-b@{DOMAIN}"), "4");
        world.receive(GATEWAY, subscribe);
        world.advance(ms(100));
        assert_eq!(world.codes(GATEWAY).last(), Some(&503));
        // Nor where one is whose server has failed.
        world.kill_gateway(first);
        world.invite_room("a", "5");
        wait(&mut world, ms(2_100));
        assert_eq!(world.heard_codes(), [503]);
        assert_eq!(world.proxy.conference_stats().remembered, 1);
        world.stalled.clear();
        world.store = Store::Answers;
        assert_eq!(world.joins("a", "6"), second);
        world.store = store;
        // A caller who loses patience.
        world.invite_room("a", "7");
        let text =
            world.call_to(&format!("sip:conf-a@{DOMAIN}"), "7", "").replace("INVITE", "CANCEL");
        if store == Store::Stalls {
            world.receive(GATEWAY, text);
            let mut codes = world.heard_codes();
            codes.sort_unstable();
            assert_eq!(codes, [200, 487]);
        } else {
            let invite = world.request("INVITE");
            world.reply(&invite, 486, "tb", "");
            world.take();
        }
        // Answers that come late are of no harm.
        for (ticket, request) in std::mem::take(&mut world.stalled) {
            let answer = world.answer(request);
            world.proxy.handle_store(world.now, StoreEvent::Answer { ticket, answer });
        }
        world.run();
        assert_eq!(world.requests(), []);
    }
}

#[test]
fn dialogs_with_rooms_go_on_through_any_proxy() {
    let mut world = World::with_rooms(|_| {});
    let owner = order("a")[0];
    world.invite_room("a", "1");
    let invite = world.request("INVITE");
    let routes = header(&invite.1, HeaderName::RecordRoute);
    // The server dials an address, phones' gateways a pool.
    assert_eq!(routes.len(), 3, "{routes:?}");
    assert!(routes[0].ends_with(&format!("@{CORE};transport=tcp;lr>")), "{routes:?}");
    assert!(routes[1].ends_with("@sip-proxy.pool.invalid;lr>"), "{routes:?}");
    let cookie = world.cookie(&invite.1).unwrap();
    let wanted = DialogCookie { preferred: ELEMENT, relay: 0, flags: DialogCookie::CONFERENCE };
    assert_eq!(cookie, wanted);
    world.reply(&invite, 200, "tb", BOB_SDP);
    world.take();

    let contact = format!("sip:conf-a@{};transport=tcp", address(owner));
    let within = |method: &str, branch: &str, by_server: bool, host: &str| {
        let mut values = routes.clone();
        if !by_server {
            values.pop();
            values.reverse();
        }
        let values = values.join(", ").replace(CORE, host);
        let room = format!("<sip:conf-a@{DOMAIN}>;tag=tb");
        let alice = format!("<sip:alice@{DOMAIN}>;tag=a1");
        let (from, to, uri) = if by_server {
            (room, alice, "sip:alice@10.0.0.1".to_owned())
        } else {
            (alice, room, contact.clone())
        };
        request(method, &uri, branch)
            .replace("Via: SIP/2.0/UDP 127.0.0.1:9;rport;", "Via: SIP/2.0/TCP 127.0.0.21:5070;")
            .replace("Max-F", &format!("Route: {values}\r\nMax-F"))
            .replace(&format!("From: <sip:alice@{DOMAIN}>;tag=a1"), &format!("From: {from}"))
            .replace(&format!("To: <{uri}>"), &format!("To: {to}"))
            .replace(&format!("Call-ID: call-{branch}"), "Call-ID: call-1")
    };
    // Also when the proxy that the server knows is another one.
    for host in [CORE, CORE_OF_OTHER] {
        for method in ["ACK", "UPDATE", "SUBSCRIBE"] {
            let branch = format!("{method}-{host}");
            world.receive(GATEWAY, within(method, &branch, false, host));
            let passed = world.request(method);
            assert_eq!(passed.0, Hop::Focus(owner), "{method} {host}");
            assert_eq!(header(&passed.1, HeaderName::Route), [""; 0]);
            if method != "ACK" {
                world.respond(&passed, 200);
            }
        }
        // From the server, over the connection that it has made, or over ours.
        for (source, method) in [
            (Hop::Core(ConnId(dialtone_sip_pool::hops::ACCEPTED | 9)), "NOTIFY"),
            (Hop::Focus(owner), "UPDATE"),
        ] {
            let branch = format!("{method}-by-{host}");
            world.receive(source, within(method, &branch, true, host));
            let passed = world.request(method);
            assert_eq!(passed.0, Hop::Element(FROM));
            assert_eq!(header(&passed.1, HeaderName::Route).len(), 1);
            world.respond(&passed, 200);
            assert_eq!(world.codes(source), [200]);
        }
    }
    // Broken ones are answered over the same connection.
    let broken = within("BYE", "broken", true, CORE).replace("CSeq: 1 BYE", "CSeq: 1 INVITE");
    world.receive(Hop::Focus(owner), broken);
    assert_eq!(world.codes(Hop::Focus(owner)), [400]);
    // A made-up cookie opens no way.
    let forged = within("BYE", "forged", false, CORE).replace("Call-ID: call-1", "Call-ID: x");
    world.receive(GATEWAY, forged);
    let refused = world.codes(GATEWAY);
    assert!(refused.iter().all(|code| *code >= 400), "{refused:?}");
    // What the server had is lost with it: whoever asks is told that there is no such dialog.
    world.kill_gateway(owner);
    world.receive(GATEWAY, within("UPDATE", "dead", false, CORE));
    assert_eq!(world.codes(GATEWAY), [481]);
    world.set_elements(&[]);
    world.receive(GATEWAY, within("BYE", "gone", false, CORE));
    assert_eq!(world.codes(GATEWAY), [481]);
    assert_eq!(world.owner("a"), Some(owner), "nothing moves without an INVITE");
}

#[test]
fn phones_at_the_proxy_itself_are_given_its_address() {
    let mut world = World::with_rooms(|settings| settings.record_route = true);
    let text = request("INVITE", &format!("sip:conf-a@{DOMAIN}"), "1");
    for (source, near) in
        [(phone(9), EDGE.to_owned()), (tcp_phone(9), format!("{EDGE};transport=tcp"))]
    {
        let text = text.replace("branch=z9hG4bK", &format!("branch=z9hG4bK{}", near.len()));
        world.receive(source, text);
        let invite = world.request("INVITE");
        let routes = header(&invite.1, HeaderName::RecordRoute);
        assert!(routes[0].ends_with(&format!("@{CORE};transport=tcp;lr>")), "{routes:?}");
        assert!(routes[1].ends_with(&format!("@{near};lr>")), "{routes:?}");
        world.reply(&invite, 486, "tb", "");
    }
}

#[test]
fn media_goes_through_relays_or_directly() {
    for relayed in [true, false] {
        let mut world = World::with_rooms(|settings| {
            settings.media = Some(MediaSettings::default());
            let defaults = ConferenceSettings::default();
            settings.conference = Some(ConferenceSettings { relayed, ..defaults });
        });
        world.set_relays(&[1, 2]);
        world.invite_room("a", "1");
        let invite = world.request("INVITE");
        let cookie = world.cookie(&invite.1).unwrap();
        assert_eq!(
            (cookie.relay, invite.1.body() == ALICE_SDP.as_bytes()),
            (u32::from(relayed), !relayed)
        );
        assert_eq!(cookie.flags, DialogCookie::CONFERENCE);
        // The relay stays the same when the server does not.
        world.kill_gateway(order("a")[0]);
        let again = world.request("INVITE");
        assert_eq!(again.0, Hop::Focus(order("a")[1]));
        assert_eq!(again.1.body(), invite.1.body());
        world.reply(&again, 200, "tb", BOB_SDP);
        assert_eq!(world.heard()[0].body() == BOB_SDP.as_bytes(), !relayed);
        assert_eq!(world.asked(1).len(), if relayed { 2 } else { 0 });
    }
}

#[test]
fn only_calls_claim_names() {
    let mut world = World::with_rooms(|_| {});
    for method in ["SUBSCRIBE", "OPTIONS", "MESSAGE"] {
        let text = request(method, &format!("sip:conf-a@{DOMAIN}"), method);
        world.receive(GATEWAY, text);
        let passed = world.request(method);
        assert_eq!(passed.0, Hop::Focus(order("a")[0]));
        world.respond(&passed, 404);
    }
    let lost = request("INVITE", &format!("sip:conf-a@{DOMAIN}"), "lost")
        .replace("Call-ID", "X: y\r\nCall-ID")
        .replace(
            &format!("To: <sip:conf-a@{DOMAIN}>"),
            &format!("To: <sip:conf-a@{DOMAIN}>;tag=x"),
        );
    world.receive(GATEWAY, lost);
    let passed = world.request("INVITE");
    world.respond(&passed, 481);
    assert_eq!(world.owner("a"), None);
    // They go where the room is.
    let owner = order("a")[2];
    let name = "conference/a".into();
    world.change_claim(ClaimChange::Insert { name, owner, lease_until: 1, now_ms: EPOCH_MS });
    world.receive(GATEWAY, request("SUBSCRIBE", &format!("sip:conf-a@{DOMAIN}"), "there"));
    let passed = world.request("SUBSCRIBE");
    assert_eq!(passed.0, Hop::Focus(owner));
    // When that server dies they ask another one, and move nothing.
    world.kill_gateway(owner);
    let passed = world.request("SUBSCRIBE");
    assert_eq!(passed.0, Hop::Focus(order("a")[0]));
    world.respond(&passed, 404);
    assert_eq!((world.codes(GATEWAY), world.owner("a")), (vec![404], Some(owner)));
}

#[test]
fn names_are_bounded_and_compared_as_they_are_meant() {
    let mut world = World::with_rooms(|_| {});
    let owner = world.joins("blue", "1");
    for same in
        ["sip:c%6fnf-b%6Cue@dialtone.test", "sip:conf-blue@localhost", "sip:conf-blue:pw@gw.test"]
    {
        world.receive(GATEWAY, world.call_to(same, &format!("same{}", same.len()), ""));
        let invite = world.request("INVITE");
        assert_eq!(invite.0, Hop::Focus(owner), "{same}");
        world.reply(&invite, 486, "tb", "");
    }
    assert_eq!(world.proxy.conference_stats().claimed, 1);
    world.joins("Blue", "2");
    assert!(world.owner("Blue").is_some(), "user parts are case-sensitive");
    world.joins(&"x".repeat(MAX), "3");
    const MAX: usize = 128;
    for (name, code) in [
        ("x".repeat(MAX + 1), 414),
        ("x".repeat(10_000), 414),
        ("%41".repeat(3_000), 414),
        (String::new(), 404),
        ("a%00b".to_owned(), 404),
        ("a%20b".to_owned(), 404),
    ] {
        world.invite_room(&name, &format!("n{}", name.len()));
        assert_eq!(world.heard_codes(), [code], "{}", &name[..name.len().min(9)]);
    }
    assert_eq!(world.proxy.conference_stats().claimed, 3);
    // Others are users, and without conferences so are these.
    world.receive(GATEWAY, world.call_to("sip:conference@dialtone.test", "user", ""));
    assert_eq!(world.heard_codes(), [404]);
    let mut without = World::new();
    without.set_gateways(&[FROM]);
    without.invite_room("a", "1");
    assert_eq!((without.heard_codes(), without.owner("a")), (vec![404], None));
}

#[test]
fn ten_thousand_random_rooms_are_bounded_and_answered() {
    let mut world = World::with_rooms(|settings| {
        let defaults = ConferenceSettings::default();
        settings.conference = Some(ConferenceSettings { max_rooms: 1_000, ..defaults });
    });
    let mut codes = BTreeMap::new();
    for number in 0..10_000 {
        world.invite_room(&format!("random{number}"), &format!("r{number}"));
        for sent in world.take() {
            if sent.1.is_request() {
                world.reply(&sent, 486, "tb", "");
            } else if let Some(code) = sent.1.status().filter(|code| *code >= 200) {
                *codes.entry(code).or_insert(0) += 1;
            }
        }
        world.heard_codes().into_iter().for_each(|code| *codes.entry(code).or_insert(0) += 1);
    }
    // A tenth is kept for names in use.
    assert_eq!(codes, BTreeMap::from([(486, 900), (503, 9_100)]));
    let stats = world.proxy.conference_stats();
    assert_eq!((stats.claimed, stats.too_many), (900, 9_100));
    // Rooms that are there go on, and after a while there is room for others.
    world.joins("random5", "old");
    world.advance(Duration::from_secs(900));
    world.joins("another", "new");
}

#[test]
fn claims_of_rooms_in_use_are_renewed() {
    let mut world = World::with_rooms(|settings| {
        let defaults = ConferenceSettings::default();
        settings.conference = Some(ConferenceSettings { max_rooms: 10, ..defaults });
    });
    let owner = world.joins("a", "1");
    let first = world.claim("a").unwrap();
    assert_eq!(first.lease_until, EPOCH_MS + 86_400_000);
    world.advance(Duration::from_secs(40_000));
    world.joins("a", "2");
    assert_eq!(world.claim("a").unwrap(), first);
    world.advance(Duration::from_secs(4_000));
    world.joins("a", "3");
    let second = world.claim("a").unwrap();
    assert_eq!((second.owner, second.generation), (owner, first.generation + 1));
    assert!(second.lease_until >= first.lease_until + 43_000_000);
    // By the refreshes of sessions, too: a conference may last longer than people come to it.
    world.invite_room("a", "4");
    let invite = world.request("INVITE");
    world.reply(&invite, 200, "tb", BOB_SDP);
    world.take();
    world.advance(Duration::from_secs(44_000));
    let text = world
        .within(&invite.1, "UPDATE", "up", false, "")
        .replace("sip:bob@dialtone.test", "sip:conf-a@dialtone.test")
        .replace("sip:bob@10.0.0.2:5060", &format!("sip:conf-a@{};transport=tcp", address(owner)));
    let routes = header(&invite.1, HeaderName::RecordRoute);
    let route = format!("Route: {}, {}\r\nCSeq", routes[1], routes[0]);
    let text: String = text
        .split_inclusive("\r\n")
        .filter(|line| !line.starts_with("Route:"))
        .collect::<String>()
        .replace("CSeq", &route);
    world.receive(GATEWAY, text);
    let update = world.request("UPDATE");
    assert_eq!(update.0, Hop::Focus(owner));
    world.respond(&update, 200);
    let third = world.claim("a").unwrap();
    assert_eq!((third.owner, third.generation), (owner, second.generation + 1));
    assert_eq!(world.proxy.conference_stats().renewed, 2);
    // When its claim has been forgotten, a flood of others has left it room.
    world.take();
    world.table = Table::new();
    for number in 0..9 {
        world.joins(&format!("x{number}"), &format!("x{number}"));
    }
    world.invite_room("y", "y");
    assert_eq!(world.heard_codes(), [503]);
    assert_eq!(world.joins("a", "5"), owner);
}
