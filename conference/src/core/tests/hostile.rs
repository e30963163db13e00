//! Bad input: answered, counted, bounded.

use super::*;

#[test]
fn requests_that_are_not_for_us() {
    let mut lab = Lab::new();
    let long = format!("conf-{}", "x".repeat(10_000));
    for (name, room, method, more, code) in [
        ("a", "alice", "INVITE", "", 404),
        ("b", "conf-", "INVITE", "", 404),
        ("c", "conf-a%0Ab", "INVITE", "", 404),
        ("d", &long, "INVITE", "", 414),
        ("e", "conf-a", "REGISTER", "", 405),
        ("f", "conf-a", "MESSAGE", "", 405),
        ("g", "conf-a", "FROBNICATE", "", 405),
        ("h", "conf-a", "BYE", "", 481),
        ("i", "conf-a", "INVITE", "Require: 100rel, timer, x\r\n", 420),
        ("j", "conf-a", "OPTIONS", "", 200),
        ("k", "nobody", "OPTIONS", "", 200),
        ("l", "conf-a", "CANCEL", "", 481),
    ] {
        let body = if method == "INVITE" { OFFER } else { "" };
        let more = format!("{more}{}", kind(body));
        let answer =
            lab.say(Caller::new(name, room).request(method, 1, "", &more, body)).response();
        assert_eq!(answer.status(), Some(code), "{method} {}", &room[..room.len().min(20)]);
        match code {
            405 => assert!(answer.has_token(HeaderName::Allow, "INVITE")),
            420 => assert_eq!(header(&answer, HeaderName::Unsupported), "100rel, x"),
            _ => {}
        }
    }
    let options = Caller::new("m", "conf-a").request("OPTIONS", 1, "", "", "");
    let answer = lab.say(options).response();
    assert!(header(&answer, HeaderName::Contact).ends_with(";isfocus"));
    let tel = Caller::new("n", "conf-a")
        .invite(OFFER)
        .replace("INVITE sip:conf-a@dialtone.test", "INVITE tel:+49");
    assert_eq!(lab.say(tel).status(), 416);
    for method in ["INVITE", "BYE", "SUBSCRIBE", "UPDATE", "NOTIFY", "INFO"] {
        let stranger = Caller::new("o", "conf-a").request(method, 1, "nosuchtag", "", "");
        assert_eq!(lab.say(stranger).status(), 481, "{method}");
    }
    assert_eq!(lab.focus.participants(), 0);
    lab.pass(Duration::from_secs(40));
    assert_eq!(lab.focus.sizes(), [0; 6]);
}

#[test]
fn broken_messages_are_answered_if_they_can_be() {
    let mut lab = Lab::new();
    let invite = Caller::new("a", "conf-a").invite(OFFER);
    for (find, replace, code) in [
        ("SIP/2.0\r\nVia", "SIP/3.0\r\nVia", Some(505)),
        ("CSeq: 1 INVITE", "CSeq: 1 BYE", Some(400)),
        ("Contact: <sip:a@192.0.2.9:5062>\r\n", "", Some(400)),
        ("Call-ID: ca\r\n", "", Some(400)),
        ("Via: SIP/2.0/TCP 127.0.0.41:5060;branch=z9hG4bKaINVITE1\r\n", "", None),
    ] {
        lab.say(invite.replace(find, replace));
        let sent = lab.take();
        let status =
            sent.iter().filter_map(|(_, message)| message.status()).find(|code| *code > 100);
        assert_eq!(status, code, "{replace}");
    }
    lab.say("garbage");
    assert!(lab.take().is_empty());
    assert_eq!(lab.focus.stats().dropped, 2);
}

#[test]
fn ten_thousand_invites_to_random_rooms_are_bounded() {
    let mut lab = Lab::with(|settings| (settings.max_rooms, settings.max_participants) = (50, 200));
    let mut codes = std::collections::BTreeMap::<u16, usize>::new();
    let mut rng = fastrand::Rng::with_seed(10_000);
    for number in 0..10_000_u32 {
        let room = format!("conf-{:08x}", rng.u32(..));
        let invite = Caller::new("x", &room).invite(OFFER);
        let invite = invite
            .replace("cx\r\n", &format!("c{number}\r\n"))
            .replace("z9hG4bKx", &format!("z9hG4bK{number}x"));
        lab.say(invite);
        let code = lab.status();
        *codes.entry(code).or_default() += 1;
    }
    assert_eq!(codes.into_iter().collect::<Vec<_>>(), [(200, 50), (503, 9950)]);
    assert_eq!((lab.focus.rooms().count(), lab.focus.participants()), (50, 50));
    // Nobody acknowledges: after 32 s all are gone.
    lab.pass(Duration::from_secs(33));
    for (hop, bye) in lab.take() {
        if is(&bye, Method::Bye) {
            lab.answer(hop, &bye, 200);
        }
    }
    lab.is_clean();
}

#[test]
fn transactions_are_bounded() {
    let mut lab = Lab::with(|settings| settings.max_transactions = 10);
    let udp = Hop::Udp("192.0.2.77:5060".parse().expect("address"));
    let mut codes = Vec::new();
    for number in 0..20 {
        let options = Caller::new("x", "conf-a").request("OPTIONS", number + 1, "", "", "");
        lab.say_over(udp, options.replace("/TCP", "/UDP"));
        codes.push(lab.status());
    }
    assert_eq!(codes[..10], [200; 10]);
    assert_eq!(codes[10..], [503; 10]);
}

/// Messages cut, doubled and mixed: no panic, and nothing stays.
#[test]
fn torn_messages_break_nothing() {
    let mut rng = fastrand::Rng::with_seed(77);
    let mut lab = Lab::with(|settings| settings.max_participants = 20);
    let alice = Caller::new("alice", "conf-a");
    let answer = lab.say(alice.invite(OFFER)).response();
    let to_tag = tag(&answer);
    for step in 0..5000_u32 {
        let method =
            ["INVITE", "ACK", "BYE", "UPDATE", "SUBSCRIBE", "CANCEL", "OPTIONS"][rng.usize(..7)];
        let body = if rng.bool() { OFFER } else { "" };
        let more = format!("Event: conference\r\n{}", kind(body));
        let tag = if rng.bool() { &*to_tag } else { "" };
        let mut bytes = alice.request(method, step + 2, tag, &more, body).into_bytes();
        for _ in 0..rng.usize(..4) {
            let at = rng.usize(..bytes.len());
            match rng.u8(..3) {
                0 => bytes[at] = rng.u8(..),
                1 => bytes.truncate(at + 1),
                _ => bytes.insert(at, rng.u8(..)),
            }
        }
        lab.focus.handle_message(lab.now, PROXY, bytes.into());
        lab.focus.handle_media(lab.now, MediaEvent::Lost { call: CallId(rng.u64(..20)) });
        while let Some(output) = lab.focus.poll() {
            if let Output::Media(MediaCommand::Open { call, .. }) = output {
                let rtp = "127.0.0.9:4000".parse().expect("address");
                lab.focus.handle_media(lab.now, MediaEvent::Opened { call, rtp });
            }
        }
        if step % 50 == 0 {
            lab.now += Duration::from_secs(1);
            lab.focus.handle_timeout(lab.now);
        }
    }
    lab.focus.drain(lab.now);
    for _ in 0..200 {
        lab.now += Duration::from_secs(1);
        lab.focus.handle_timeout(lab.now);
        while lab.focus.poll().is_some() {}
    }
    assert_eq!(lab.focus.sizes(), [0; 6]);
}
