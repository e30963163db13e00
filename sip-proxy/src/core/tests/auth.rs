//! RFC 3261 section 22, RFC 7616, RFC 8760: who is asked, who passes, and who may not even try.

use dialtone_location::Credential;
use dialtone_sip::digest::{Algorithm, Challenge, Hash};

use super::*;

const PASSWORD: &str = "s3cret \u{e4}";

fn world() -> World {
    world_with(|_| {})
}

/// Users are alice and bob, with the same password.
fn world_with(change: impl FnOnce(&mut AuthSettings)) -> World {
    let mut auth = AuthSettings::new(DOMAIN);
    change(&mut auth);
    let mut world = World::with(|settings| settings.auth = Some(auth));
    let credential = |(index, user): (usize, &&str)| {
        let (Hash::Md5(md5), Hash::Sha256(sha256)) =
            (ha1(Algorithm::Md5, user), ha1(Algorithm::Sha256, user))
        else {
            panic!("as asked for")
        };
        Credential {
            user: (*user).into(),
            realm: DOMAIN.into(),
            ha1_md5: Some(md5),
            ha1_sha256: Some(sha256),
            revision: index as u64 + 1,
            removed: false,
        }
    };
    let users = ["alice", "bob"].iter().enumerate().map(credential).collect();
    world.proxy.handle_store(world.now, StoreEvent::Credentials(users));
    world
}

fn ha1(algorithm: Algorithm, user: &str) -> Hash {
    Hash::of_user(algorithm, user, DOMAIN, PASSWORD)
}

impl World {
    /// The final answers sent to `to` since the last look.
    fn answers(&mut self, to: Hop) -> Vec<Message> {
        let answers = self.take().into_iter().filter(|(hop, _)| *hop == to);
        answers.map(|(_, message)| message).filter(|message| message.status() > Some(199)).collect()
    }

    fn answer_to(&mut self, source: Hop, request: &str) -> Message {
        self.receive(source, request.to_owned());
        let mut answers = self.answers(source);
        assert_eq!(answers.len(), 1, "{answers:?} to {request}");
        answers.remove(0)
    }

    fn code(&mut self, source: Hop, request: &str) -> u16 {
        self.answer_to(source, request).status().expect("an answer")
    }

    /// A nonce for everything that comes from the address of [`phone`].
    fn nonce(&mut self) -> String {
        let asked = format!("ask{}", fastrand::u64(..));
        let answer = self.answer_to(phone(9), &register("alice", &asked, 1, ""));
        challenge(&answer, 0).nonce.to_string()
    }

    /// A nonce for a phone at an address behind a gateway.
    fn nonce_for(&mut self, address: &str) -> String {
        let asked = format!("ask{}", fastrand::u64(..));
        let asked = through_gateway(&register("alice", &asked, 1, ""), 0, address);
        let answer = self.answer_to(GATEWAY, &asked);
        challenge(&answer, 0).nonce.to_string()
    }
}

fn challenge(answer: &Message, index: usize) -> Challenge<'_> {
    let lines: Vec<&str> = [HeaderName::WwwAuthenticate, HeaderName::ProxyAuthenticate]
        .into_iter()
        .flat_map(|name| answer.headers_named(name))
        .map(|line| line.text().expect("text"))
        .collect();
    Challenge::parse(lines[index]).expect("a proper challenge")
}

/// Credentials as a phone makes them.
struct Login<'a> {
    user: &'a str,
    password: &'a str,
    nonce: &'a str,
    nc: u32,
    algorithm: Algorithm,
    qop: bool,
}

fn login<'a>(user: &'a str, nonce: &'a str, nc: u32) -> Login<'a> {
    Login { user, password: PASSWORD, nonce, nc, algorithm: Algorithm::Sha256, qop: true }
}

impl Login<'_> {
    /// Adds the credentials to a request.
    fn sign(&self, request: &str) -> String {
        let mut words = request.split(' ');
        let (method, uri) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let challenge = Challenge {
            realm: DOMAIN.into(),
            nonce: self.nonce.into(),
            opaque: None,
            stale: false,
            algorithm: self.algorithm,
            qop: self.qop,
        };
        let value = challenge.answer(self.user, self.password, method, uri, self.nc, "c0ffee");
        let name = if method == "REGISTER" { "Authorization" } else { "Proxy-Authorization" };
        request.replace("Content-Length", &format!("{name}: {value}\r\nContent-Length"))
    }
}

/// A registration by way of a gateway which has noted where it came from.
fn through_gateway(request: &str, attempt: u32, source: &str) -> String {
    let noted = format!(";rport=9;received={source};branch");
    let vias = format!(
        "Via: SIP/2.0/TCP 127.0.0.21:5070;branch=z9hG4bK{:x}.{attempt}\r\nVia",
        fastrand::u64(..)
    );
    request.replacen("Via", &vias, 1).replacen(";rport;branch", &noted, 1)
}

#[test]
fn a_registration_is_asked_with_both_algorithms_and_either_will_do() {
    let mut world = world();
    for (number, algorithm) in [Algorithm::Sha256, Algorithm::Md5].into_iter().enumerate() {
        let call_id = format!("r{number}");
        let contact = format!("<sip:alice@127.0.0.1:60{number}0>");
        let asked = world.answer_to(phone(9), &register("alice", &call_id, 1, &contact));
        assert_eq!(
            (asked.status(), asked.headers_named(HeaderName::WwwAuthenticate).count()),
            (Some(401), 2)
        );
        let (one, two) = (challenge(&asked, 0), challenge(&asked, 1));
        assert_eq!((one.algorithm, two.algorithm), (Algorithm::Sha256, Algorithm::Md5));
        assert_eq!(
            (&*one.realm, one.stale, one.qop, &one.nonce),
            (DOMAIN, false, true, &two.nonce)
        );
        assert_eq!(world.rows.len(), number, "nothing is stored for nobody");
        let again = register("alice", &call_id, 2, &contact);
        let login = Login { algorithm, ..login("alice", &one.nonce, 1) };
        let accepted = world.answer_to(phone(9), &login.sign(&again));
        assert_eq!(accepted.status(), Some(200), "{accepted:?}");
        // The same nonce goes on.
        let refresh = register("alice", &call_id, 3, &contact);
        let login = Login { nc: 2, ..login };
        assert_eq!(world.code(phone(9), &login.sign(&refresh)), 200);
    }
    let stats = world.proxy.auth_stats();
    assert_eq!((stats.challenged, stats.sha256, stats.md5, stats.wrong), (2, 2, 2, 0));
    // One algorithm may be all that there is, for phones that know no other.
    let mut world = world_with(|auth| auth.algorithms = vec![Algorithm::Md5]);
    let asked = world.answer_to(phone(9), &register("bob", "c", 1, ""));
    assert_eq!(asked.headers_named(HeaderName::WwwAuthenticate).count(), 1);
    let nonce = challenge(&asked, 0).nonce.to_string();
    let sha = login("bob", &nonce, 1).sign(&register("bob", "c", 2, ""));
    assert_eq!(world.code(phone(9), &sha), 401, "not offered");
    let md5 = Login { algorithm: Algorithm::Md5, ..login("bob", &nonce, 1) };
    assert_eq!(world.code(phone(9), &md5.sign(&register("bob", "c", 3, ""))), 200);
}

#[test]
fn what_somebody_has_no_hash_of_is_offered_to_nobody_and_is_no_guess() {
    let mut world = world_with(|auth| auth.limits.per_user = 2);
    let put = |world: &mut World, user: &str, revision, has_md5: bool, has_sha256: bool| {
        let Hash::Md5(md5) = ha1(Algorithm::Md5, user) else { panic!("as asked for") };
        let Hash::Sha256(sha256) = ha1(Algorithm::Sha256, user) else { panic!("as asked for") };
        let credential = Credential {
            user: user.into(),
            realm: DOMAIN.into(),
            ha1_md5: has_md5.then_some(md5),
            ha1_sha256: has_sha256.then_some(sha256),
            revision,
            removed: !has_md5 && !has_sha256,
        };
        world.proxy.handle_store(world.now, StoreEvent::Credentials(vec![credential]));
    };
    let mut number = 0;
    let mut offered = |world: &mut World| {
        number += 1;
        // An unknown user, who sees what all see.
        let asked = register("mallory", &format!("o{number}"), 1, "");
        let answer = world.answer_to(phone(9), &asked);
        let count = answer.headers_named(HeaderName::WwwAuthenticate).count();
        let algorithms = (0..count).map(|index| challenge(&answer, index).algorithm);
        (algorithms.collect::<Vec<_>>(), challenge(&answer, 0).nonce.to_string())
    };
    let both = [Algorithm::Sha256, Algorithm::Md5];
    let (all, nonce) = offered(&mut world);
    assert_eq!(all, both);
    // Moved here from a system that had MD5 only.
    put(&mut world, "carol", 10, true, false);
    assert_eq!(offered(&mut world).0, [Algorithm::Md5]);
    let lacking = Lacking { algorithm: Algorithm::Sha256, users: 1, offered: false };
    assert_eq!(world.proxy.lacking(), [lacking]);
    // Phones that were asked before choose anew, whoever they are, as often as they like.
    for (nc, user) in (1..).zip(["alice", "alice", "alice", "carol", "carol", "carol", "mallory"]) {
        let signed = login(user, &nonce, nc).sign(&register(user, &format!("s{nc}"), 1, ""));
        let answer = world.answer_to(phone(9), &signed);
        assert_eq!(answer.status(), Some(401), "{user}");
        let challenge = challenge(&answer, 0);
        assert!(challenge.stale && challenge.algorithm == Algorithm::Md5, "{user}");
    }
    for (nc, user) in (11..).zip(["alice", "carol"]) {
        let md5 = Login { algorithm: Algorithm::Md5, ..login(user, &nonce, nc) };
        let signed = md5.sign(&register(user, &format!("m{nc}"), 1, ""));
        assert_eq!(world.code(phone(9), &signed), 200, "{user}");
    }
    assert_eq!(world.proxy.auth_stats().wrong, 0);
    // Nothing is left that all have: whoever chooses wrong is refused, and not kept out.
    put(&mut world, "dave", 11, false, true);
    assert_eq!(offered(&mut world).0, both);
    assert_eq!(
        world.proxy.lacking().iter().map(|lacking| lacking.offered).collect::<Vec<_>>(),
        [true; 2]
    );
    for nc in 21..26 {
        let signed = login("carol", &nonce, nc).sign(&register("carol", &format!("w{nc}"), 1, ""));
        assert_eq!(world.code(phone(9), &signed), 401);
    }
    let md5 = Login { algorithm: Algorithm::Md5, ..login("carol", &nonce, 26) };
    assert_eq!(world.code(phone(9), &md5.sign(&register("carol", "w26", 1, ""))), 200);
    // Both are there again as soon as nobody lacks either, those who were removed not counted.
    put(&mut world, "dave", 12, false, false);
    put(&mut world, "carol", 13, true, true);
    assert_eq!((offered(&mut world).0, world.proxy.lacking()), (both.to_vec(), vec![]));
}

#[test]
fn whoever_wants_something_of_a_user_is_asked() {
    let mut world = world();
    let nonce = world.nonce();
    let contact = "<sip:bob@127.0.0.1:6000>";
    let signed = login("bob", &nonce, 1).sign(&register("bob", "b", 1, contact));
    assert_eq!(world.code(phone(9), &signed), 200);
    for (nc, method) in (2..).zip(["INVITE", "MESSAGE", "OPTIONS", "SUBSCRIBE", "PUBLISH", "FOO"]) {
        let asking = request(method, "sip:bob@dialtone.test", &format!("{method}1"));
        let answer = world.answer_to(phone(1), &asking);
        assert_eq!(answer.status(), Some(407), "{method}");
        assert_eq!(challenge(&answer, 1).algorithm, Algorithm::Md5);
        assert_eq!(answer.headers_named(HeaderName::WwwAuthenticate).count(), 0);
        // A To tag is no proof of a dialog.
        let pretending =
            asking.replace("To: <sip:bob@dialtone.test>", "To: <sip:bob@dialtone.test>;tag=b");
        let pretending = pretending.replace(&format!("{method}1"), &format!("{method}2"));
        assert_eq!(world.code(phone(1), &pretending), 407, "{method} with a tag");
        let again = asking.replace(&format!("{method}1"), &format!("{method}3"));
        // Credentials for the registrar are none for the proxy.
        let misplaced = login("alice", &nonce, nc).sign(&again);
        let misplaced =
            misplaced.replace("Proxy-Authorization", "Authorization").replace("bK", "bKx");
        assert_eq!(world.code(phone(1), &misplaced), 407);
        let signed = login("alice", &nonce, nc).sign(&again);
        let others = "Proxy-Authorization: Digest realm=\"elsewhere\", nonce=\"n\"\r\n\
                      Authorization: Digest realm=\"dialtone.test\", nonce=\"n\"\r\nContent-Length";
        world.receive(phone(1), signed.replace("Content-Length", others));
        let (to, sent) = world.request(method);
        assert_eq!(to, phone(6000));
        let left: Vec<&str> = sent
            .headers_named(HeaderName::ProxyAuthorization)
            .flat_map(|line| line.text())
            .collect();
        assert_eq!(
            left,
            ["Digest realm=\"elsewhere\", nonce=\"n\""],
            "{method}: ours has done its duty"
        );
        assert_eq!(sent.headers_named(HeaderName::Authorization).count(), 1, "that is for bob");
        world.respond(&(to, sent), 200);
        assert_eq!(world.codes(phone(1)).last(), Some(&200));
    }
    // The health check, and what is refused anyway.
    assert_eq!(world.code(phone(1), &request("OPTIONS", "sip:dialtone.test", "o")), 200);
    assert_eq!(world.code(phone(1), &request("INVITE", "sip:bob@example.com", "f")), 403);
    assert_eq!(world.code(phone(1), &request("CANCEL", "sip:bob@dialtone.test", "c")), 481);
    world.receive(phone(1), request("ACK", "sip:bob@dialtone.test", "a"));
    assert_eq!(world.take(), []);
}

#[test]
fn a_challenged_call_can_be_cancelled_and_a_dialog_goes_on() {
    let mut world = world();
    world.proxy.settings.record_route = true;
    let nonce = world.nonce();
    let signed = login("bob", &nonce, 1).sign(&register("bob", "b", 1, "<sip:bob@127.0.0.1:6000>"));
    assert_eq!(world.code(phone(9), &signed), 200);
    let call = login("alice", &nonce, 2).sign(&invite("bob", "call"));
    world.receive(phone(1), call);
    let sent = world.request("INVITE");
    let route = header(&sent.1, HeaderName::RecordRoute).remove(0);
    world.respond(&sent, 180);
    let cancel = request("CANCEL", "sip:bob@dialtone.test", "call");
    world.receive(phone(1), cancel);
    assert_eq!(world.request("CANCEL").0, phone(6000));
    world.respond(&sent, 487);
    assert_eq!(world.codes(phone(1)), [487]);
    // Inside a dialog nobody is asked: the cookie in the Route says that its beginning passed here.
    let bye = request("BYE", "sip:bob@127.0.0.1:6000", "bye")
        .replace("To: <sip:bob@127.0.0.1:6000>", "To: <sip:bob@dialtone.test>;tag=b")
        .replace("Max-F", &format!("Route: {route}\r\nMax-F"));
    assert_eq!(world.code(phone(1), &bye), 403, "a dialog of one's own invention");
    let bye = bye.replace("Call-ID: call-bye", "Call-ID: call-call").replace("bKbye", "bKbye2");
    world.receive(phone(1), bye);
    let bye = world.request("BYE");
    world.respond(&bye, 200);
}

#[test]
fn unknown_users_and_wrong_passwords_look_the_same() {
    let mut world = world();
    let nonce = world.nonce();
    // Random parts aside.
    let answer = |world: &mut World, login: &Login<'_>| {
        let signed = login.sign(&register(login.user, "same", fastrand::u32(1..1_000_000), ""));
        let answer = world.answer_to(phone(9), &signed);
        let text = String::from_utf8_lossy(answer.bytes()).into_owned();
        let lines = text.lines().filter(|line| {
            !["Via", "From", "To", "CSeq"].iter().any(|name| line.starts_with(name))
        });
        lines.map(|line| line.split("nonce=").next().unwrap_or_default().to_owned()).collect()
    };
    let wrong: Vec<String> =
        answer(&mut world, &Login { password: "other", ..login("alice", &nonce, 1) });
    assert_eq!(wrong[0], "SIP/2.0 401 Unauthorized");
    assert_eq!(answer(&mut world, &login("mallory", &nonce, 2)), wrong);
    assert_eq!(world.proxy.auth_stats().wrong, 2);
    // A user who was removed is unknown from then on, one with a new password is known by that.
    let mut change = Credential {
        user: "alice".into(),
        realm: DOMAIN.into(),
        ha1_md5: None,
        ha1_sha256: None,
        revision: 10,
        removed: true,
    };
    world.proxy.handle_store(world.now, StoreEvent::Credentials(vec![change.clone()]));
    assert_eq!(answer(&mut world, &login("alice", &nonce, 4)), wrong);
    change.revision = 11;
    change.removed = false;
    let new = |algorithm| Hash::of_user(algorithm, "alice", DOMAIN, "new");
    let (Hash::Md5(md5), Hash::Sha256(sha256)) = (new(Algorithm::Md5), new(Algorithm::Sha256))
    else {
        panic!("as asked for")
    };
    change.ha1_md5 = Some(md5);
    change.ha1_sha256 = Some(sha256);
    world.proxy.handle_store(world.now, StoreEvent::Credentials(vec![change]));
    let right = answer(&mut world, &Login { password: "new", ..login("alice", &nonce, 5) });
    assert_eq!(right[0], "SIP/2.0 200 OK");
}

#[test]
fn credentials_are_good_for_their_user_and_their_resource() {
    let mut world = world();
    let nonce = world.nonce();
    let stolen = login("bob", &nonce, 1).sign(&register("alice", "a", 1, "<sip:bob@127.0.0.1:1>"));
    assert_eq!(world.code(phone(9), &stolen), 403);
    let pretended = login("bob", &nonce, 2).sign(&invite("carol", "p"));
    assert_eq!(world.code(phone(1), &pretended), 403, "From says alice");
    let foreign = login("alice", &nonce, 3).sign(&invite("carol", "q"));
    let foreign = foreign.replace("alice@dialtone.test", "alice@example.com");
    assert_eq!(world.code(phone(1), &foreign), 403);
    // From is not what a registration changes.
    let third = register("alice", "t", 1, "").replace("From: <sip:alice", "From: <sip:secretary");
    assert_eq!(world.code(phone(9), &login("alice", &nonce, 4).sign(&third)), 200);
    let elsewhere = login("alice", &nonce, 5).sign(&invite("carol", "r"));
    let elsewhere = elsewhere.replace("INVITE sip:carol@", "INVITE sip:bob@");
    assert_eq!(world.code(phone(1), &elsewhere), 400);
    // Parameters and ports may be left away.
    let short = login("alice", &nonce, 6).sign(&register("alice", "s", 1, ""));
    let short = short
        .replace("REGISTER sip:dialtone.test ", "REGISTER sip:Dialtone.test:5060;transport=udp ");
    assert_eq!(world.code(phone(9), &short), 200);
    for (nc, uri, code) in
        [(7, "sip:gw.test", 404), (8, "sip:nobody@gw.test", 404), (9, "sip:gw.test.example", 400)]
    {
        let text = login("alice", &nonce, nc).sign(
            &invite("nobody", &format!("bare{nc}")).replacen("sip:nobody@dialtone.test", uri, 1),
        );
        let text = text.replacen(&format!("INVITE {uri}"), "INVITE sip:nobody@dialtone.test", 1);
        assert_eq!(world.code(phone(1), &text), code, "{uri}");
    }
    let stats = world.proxy.auth_stats();
    assert_eq!((stats.mismatched, stats.wrong), (3, 0));
}

#[test]
fn nonces_end_and_are_good_at_every_proxy() {
    let (mut one, mut two) = (world(), world());
    two.now = one.now;
    let nonce = one.nonce();
    let mut nc = 0;
    let mut code = |world: &mut World, nonce: &str| {
        nc += 1;
        let signed = login("alice", nonce, nc).sign(&register("alice", &format!("n{nc}"), 1, ""));
        let answer = world.answer_to(phone(9), &signed);
        let stale = answer.status() == Some(401) && challenge(&answer, 0).stale;
        (answer.status().expect("an answer"), stale)
    };
    assert_eq!(code(&mut two, &nonce), (200, false), "issued by the other one");
    one.advance(Duration::from_secs(299));
    assert_eq!(code(&mut one, &nonce), (200, false));
    one.advance(Duration::from_secs(1));
    assert_eq!(code(&mut one, &nonce), (401, true), "the phone asks again without its user");
    // Whatever is not ours is not stale either; nothing is computed for it.
    let forged = format!("{}A", &nonce[..nonce.len() - 1]);
    let forged = if forged == nonce { format!("{}B", &nonce[..nonce.len() - 1]) } else { forged };
    let cookie = one.keys.sign(dialtone_sip_pool::keys::Purpose::DialogCookie, &[0; 14]);
    for wrong in [&forged, &cookie, "x", &"A".repeat(400)] {
        assert_eq!(code(&mut one, wrong), (401, false), "{wrong}");
    }
    assert_eq!(one.proxy.auth_stats().wrong, 0);
    // A former key is good as long as it is in the file.
    let nonce = one.nonce();
    let newest = Generation { id: 2, secret: [6; 32] };
    let former = Generation { id: 1, secret: [5; 32] };
    one.proxy.set_keys(Keys::new(&newest, Some(&former)));
    assert_eq!(code(&mut one, &nonce), (200, false));
    one.proxy.set_keys(Keys::new(&newest, None));
    assert_eq!(code(&mut one, &nonce), (401, false));
    // Clocks need not agree.
    let ahead = two.nonce();
    two.proxy.settings.wall = wall::Wall::new(two.now, EPOCH_MS - 200_000);
    assert_eq!(code(&mut two, &ahead), (200, false));
    // A clock that jumps ends nonces in either direction, and new ones are good at once.
    let nonce = two.nonce();
    const YEAR_MS: u64 = 365 * 86_400_000;
    for wall_ms in [EPOCH_MS + YEAR_MS, EPOCH_MS - YEAR_MS, EPOCH_MS] {
        let (now, before) = (two.now, two.nonce());
        two.proxy.settings.wall = wall::Wall::new(now, wall_ms);
        assert_eq!(code(&mut two, &before), (401, true), "{wall_ms}");
        let fresh = two.nonce();
        assert_eq!(code(&mut two, &fresh), (200, false), "{wall_ms}");
    }
    assert_eq!(code(&mut two, &nonce), (200, false), "back again");
}

#[test]
fn what_is_overheard_is_of_no_use_and_what_is_sent_again_passes() {
    let mut world = world();
    let nonce = world.nonce_for("192.0.2.1");
    let first = login("alice", &nonce, 1).sign(&register("alice", "a", 1, "<sip:a@127.0.0.1:1>"));
    let sent = through_gateway(&first, 0, "192.0.2.1");
    assert_eq!(world.code(GATEWAY, &sent), 200);
    // The gateway did not see the answer: another hop, all else equal.
    let again = through_gateway(&first, 1, "192.0.2.1");
    assert_eq!(world.code(GATEWAY, &again), 200);
    let mut other = self::world();
    other.now = world.now;
    assert_eq!(other.code(GATEWAY, &through_gateway(&first, 2, "192.0.2.1")), 200);
    // Not even unaltered, at any proxy, to somebody else: the calls would go to him.
    for world in [&mut world, &mut other] {
        let copied = world.answer_to(GATEWAY, &through_gateway(&first, 0, "192.0.2.66"));
        assert!(copied.status() == Some(401) && challenge(&copied, 0).stale);
    }
    // An attacker behind the same NAT.
    let mut stale = |text: &str| {
        let answer = world.answer_to(GATEWAY, &through_gateway(text, 0, "192.0.2.1"));
        assert_eq!(answer.status(), Some(401), "{text}");
        challenge(&answer, 0).stale
    };
    assert!(stale(&first.replace("CSeq: 1 ", "CSeq: 2 ")));
    assert!(stale(&first.replace("Call-ID: a", "Call-ID: b")));
    assert!(stale(&first.replace("127.0.0.1:1>", "192.0.2.66:1>")), "a contact of the attacker");
    assert!(stale(&first.replace("Content-Length", "Expires: 0\r\nContent-Length")));
    // A count of one's own needs the password.
    assert!(!stale(&first.replace("nc=00000001", "nc=00000002")));
    // Counts may come out of order, through different gateways.
    for nc in [5, 3, 4, 2] {
        let next = login("alice", &nonce, nc).sign(&register("alice", &format!("n{nc}"), 1, ""));
        assert_eq!(world.code(GATEWAY, &through_gateway(&next, 0, "192.0.2.1")), 200, "{nc}");
    }
    let call = login("alice", &nonce, 6).sign(&invite("nobody", "call"));
    assert_eq!(world.code(GATEWAY, &through_gateway(&call, 0, "192.0.2.1")), 404);
    assert_eq!(world.code(GATEWAY, &through_gateway(&call, 1, "192.0.2.1")), 404);
    let other_call = call.replace("nobody@dialtone.test>", "nobody@dialtone.test>;x");
    assert_eq!(world.code(GATEWAY, &through_gateway(&other_call, 0, "192.0.2.1")), 407);
    assert_eq!(world.proxy.auth_stats().replayed, 5);
}

#[test]
fn answers_without_qop_are_for_old_phones_only() {
    let old = |nonce: &str, call_id: &str| {
        let login = Login { qop: false, algorithm: Algorithm::Md5, ..login("alice", nonce, 1) };
        login.sign(&register("alice", call_id, 1, ""))
    };
    let mut world = world();
    let nonce = world.nonce();
    assert_eq!(world.code(phone(9), &old(&nonce, "a")), 401);
    let mut world = world_with(|auth| auth.without_qop = true);
    let nonce = world.nonce();
    assert_eq!(world.code(phone(9), &old(&nonce, "a")), 200);
    let second = world.answer_to(phone(9), &old(&nonce, "b"));
    assert!(second.status() == Some(401) && challenge(&second, 0).stale, "one nonce, one request");
}

#[test]
fn guessing_is_slow_and_nobody_is_locked_out_at_home() {
    let mut world = world_with(|auth| {
        auth.limits.per_source = 6;
        auth.limits.per_user = 4;
        auth.limits.window = Duration::from_secs(60);
    });
    let mut nc = 0;
    let mut attempt = |world: &mut World, user: &str, password: &str, source: &str| {
        nc += 1;
        let nonce = world.nonce_for(source);
        let request = register(user, &format!("g{nc}"), 1, "");
        let signed = Login { password, ..login(user, &nonce, nc) }.sign(&request);
        let answer = world.answer_to(GATEWAY, &through_gateway(&signed, 0, source));
        let wait = answer.header_str(HeaderName::RetryAfter).map(str::to_owned);
        (answer.status().expect("an answer"), wait.and_then(|wait| wait.parse::<u64>().ok()))
    };
    let (asked, accepted) = ((401, None), (200, None));
    assert_eq!(attempt(&mut world, "alice", PASSWORD, "10.0.0.1"), accepted);
    // Many sources guess the password of one user, who is there or not.
    for user in ["alice", "mallory"] {
        for n in 0..4 {
            assert_eq!(attempt(&mut world, user, "guess", &format!("192.0.2.{n}")), asked);
        }
        assert_eq!(attempt(&mut world, user, "guess", "192.0.2.9"), (403, Some(61)));
    }
    assert_eq!(
        attempt(&mut world, "alice", PASSWORD, "192.0.2.9"),
        (403, Some(61)),
        "even if right"
    );
    assert_eq!(attempt(&mut world, "alice", PASSWORD, "10.0.0.1"), accepted, "at home");
    assert_eq!(attempt(&mut world, "bob", PASSWORD, "192.0.2.9"), accepted, "another user");
    world.advance(Duration::from_secs(60));
    assert_eq!(attempt(&mut world, "alice", PASSWORD, "192.0.2.9"), accepted, "after a while");
    // One source guesses at many users; who has logged in there before still can.
    assert_eq!(attempt(&mut world, "bob", PASSWORD, "198.51.100.1"), accepted);
    for n in 0..6 {
        assert_eq!(attempt(&mut world, &format!("user{n}"), "guess", "198.51.100.1"), asked);
    }
    assert_eq!(attempt(&mut world, "alice", PASSWORD, "198.51.100.1").0, 403);
    assert_eq!(attempt(&mut world, "bob", PASSWORD, "198.51.100.1"), accepted);
    assert_eq!(attempt(&mut world, "alice", PASSWORD, "198.51.100.2"), accepted);
    // At home there are as many guesses as anywhere.
    for _ in 0..4 {
        assert_eq!(attempt(&mut world, "bob", "guess", "198.51.100.1"), asked);
    }
    assert_eq!(attempt(&mut world, "bob", PASSWORD, "198.51.100.1").0, 403);
    // Whoever asks nothing is not held back.
    assert_eq!(
        world.code(GATEWAY, &through_gateway(&register("x", "x", 1, ""), 0, "198.51.100.1")),
        401
    );
    let stats = world.proxy.auth_stats();
    assert_eq!((stats.limited, stats.wrong), (5, 18));
}

#[test]
fn where_a_phone_is_registered_is_at_home_at_every_proxy() {
    let mut world = world_with(|auth| auth.limits.per_user = 1);
    let path = world.path(17, "10.0.0.7:5062");
    let nonce = world.nonce_for("10.0.0.7");
    let register_there = register("alice", "r", 1, "<sip:alice@10.0.0.7>")
        .replace("Content-Length", &format!("Path: {path}\r\nContent-Length"));
    let signed = login("alice", &nonce, 1).sign(&register_there);
    assert_eq!(world.code(GATEWAY, &through_gateway(&signed, 0, "10.0.0.7")), 200);
    // Another proxy knows the binding, and has seen nothing but attacks.
    let mut other = world_with(|auth| auth.limits.per_user = 1);
    other.now = world.now;
    let records: Vec<Record> = world.rows.values().cloned().collect();
    other.proxy.handle_store(other.now, StoreEvent::Changes(records));
    let elsewhere = [other.nonce_for("192.0.2.1"), other.nonce_for("192.0.2.2")];
    let guess = Login { password: "guess", ..login("alice", &elsewhere[0], 2) };
    let guess = guess.sign(&register("alice", "g", 1, ""));
    assert_eq!(other.code(GATEWAY, &through_gateway(&guess, 0, "192.0.2.1")), 401);
    let right = login("alice", &elsewhere[1], 3).sign(&register("alice", "h", 1, ""));
    assert_eq!(other.code(GATEWAY, &through_gateway(&right, 0, "192.0.2.2")), 403);
    let refresh = login("alice", &nonce, 3).sign(&register("alice", "r", 2, ""));
    assert_eq!(other.code(GATEWAY, &through_gateway(&refresh, 0, "10.0.0.7")), 200);
}

#[test]
fn nobody_is_judged_before_the_users_are_known() {
    let mut world = world_with(|auth| auth.limits.per_source = 1);
    world.proxy.loaded = false;
    let credentials = std::mem::take(&mut world.proxy.credentials);
    let early = |number| login("alice", "nonce", 1).sign(&register("alice", number, 1, ""));
    for (number, source) in [("a", phone(9)), ("b", tcp_phone(9)), ("c", phone(9))] {
        let answer = world.answer_to(source, &early(number));
        assert_eq!(answer.status(), Some(503));
        assert!(answer.header_str(HeaderName::RetryAfter).is_some());
    }
    assert_eq!(world.code(phone(1), &invite("bob", "call")), 503);
    // What needs no user is served.
    assert_eq!(world.code(phone(1), &request("OPTIONS", "sip:dialtone.test", "o")), 200);
    world.proxy.credentials = credentials;
    world.proxy.handle_store(world.now, StoreEvent::Loaded);
    let nonce = world.nonce();
    let signed = login("alice", &nonce, 1).sign(&register("alice", "d", 1, ""));
    assert_eq!(world.code(phone(9), &signed), 200);
    assert_eq!(world.proxy.auth_stats().wrong, 0);
}

#[test]
fn what_a_gateway_gives_no_address_for_counts_for_nobody() {
    let mut world = world_with(|auth| auth.limits.per_source = 2);
    for number in 0..4 {
        let guess = Login { password: "guess", ..login("alice", "nonce", 1) };
        let bare = guess.sign(&register("alice", &format!("bare{number}"), 1, ""));
        assert_eq!(world.code(GATEWAY, &bare), 400, "one Via alone");
        let named = through_gateway(&bare.replace("bare", "named"), 0, "192.0.2.1")
            .replace("127.0.0.1:9;rport=9;received=192.0.2.1", "phone.test:9");
        assert_eq!(world.code(GATEWAY, &named), 400);
    }
    assert_eq!(world.proxy.auth_stats(), AuthStats::default());
}

#[test]
fn no_database_is_asked_who_somebody_is() {
    let mut world = world();
    let nonce = world.nonce();
    let signed = login("bob", &nonce, 1).sign(&register("bob", "b", 1, "<sip:bob@127.0.0.1:6000>"));
    assert_eq!(world.code(phone(9), &signed), 200);
    world.store = Store::Stalls;
    let call = login("alice", &nonce, 2).sign(&invite("bob", "call"));
    world.receive(phone(1), call);
    let sent = world.request("INVITE");
    world.respond(&sent, 486);
    assert_eq!(world.codes(phone(1)), [486]);
    let wrong = Login { password: "x", ..login("alice", &nonce, 3) }.sign(&invite("bob", "wrong"));
    assert_eq!(world.code(phone(1), &wrong), 407);
    assert_eq!(world.stalled, []);
}
