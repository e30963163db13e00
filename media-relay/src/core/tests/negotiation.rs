//! What offers and answers make of descriptions and pairs.

use dialtone_ng::message::{AddressFamily, Flags, Replace, RtcpMux};

use super::*;
use crate::plane::{Latch, Source};

const REPLACE: Replace = Replace {
    origin: true,
    session_connection: true,
    session_name: false,
    sdp_version: false,
    username: false,
    zero_address: false,
};

#[test]
fn both_parties_see_the_relay_and_nothing_else_changes() {
    let mut lab = Lab::new();
    let alice = audio("192.0.2.1", 4000);
    let got = lab.ask(&Request { replace: REPLACE, ..offer(&alice) }).sdp();
    let port = lab.pair().ports[Side::Answerer as usize];
    assert_eq!(got, alice.replace("192.0.2.1", "203.0.113.1").replace("4000", &port.to_string()));
    assert_eq!(lab.pair().kind, Kind::Rtp);
    let [of_alice, of_bob] = &lab.pair().settings;
    assert_eq!((of_alice.rtp, of_alice.rtcp), (at("192.0.2.1:4000"), at("192.0.2.1:4001")));
    assert_eq!((of_bob.rtp, of_bob.latch, of_bob.source), (None, Latch::Once, Source::Strict));
    assert_eq!(of_alice.clocks, [(101, 8_000)]);
    assert!(of_alice.forward && of_bob.forward, "early media flows");

    let bob = audio("192.0.2.2", 5000);
    let got = lab.ask(&Request { replace: REPLACE, ..answer(&bob) }).sdp();
    let port = lab.pair().ports[Side::Offerer as usize];
    assert_eq!(got, bob.replace("192.0.2.2", "203.0.113.1").replace("5000", &port.to_string()));
    assert_eq!(lab.pair().settings[1].rtp, at("192.0.2.2:5000"));
    assert_eq!(lab.pair().reopened, [(Side::Answerer, Reopen::IfMoved)]);
    lab.check();
}

#[test]
fn without_replace_only_what_media_needs_changes() {
    let mut lab = Lab::new();
    let offered = audio("192.0.2.1", 4000);
    let got = lab.offer(&offered);
    assert!(got.contains("o=- 1 1 IN IP4 192.0.2.1\r\n"), "{got}");
    assert!(got.contains("\r\nc=IN IP4 203.0.113.1\r\n"), "media inherits it: {got}");
    // With an address of its own, media does not need the session's.
    let own = "v=0\no=- 1 1 IN IP4 192.0.2.1\ns=-\nc=IN IP4 192.0.2.7\nm=audio 4000 RTP/AVP 0\nc=IN IP4 192.0.2.1\n";
    let request = Request { call_id: Some(b"other"), ..offer(own) };
    let got = lab.ask(&request).sdp();
    let port = ports(&got)[0].to_string();
    let wanted = own
        .replace("RTP/AVP 0\nc=IN IP4 192.0.2.1", "RTP/AVP 0\nc=IN IP4 203.0.113.1")
        .replace("4000", &port);
    assert_eq!(got, wanted);
}

#[test]
fn hold_and_resume() {
    let mut lab = Lab::new();
    lab.offer(&audio("192.0.2.1", 4000));
    lab.answer(&audio("192.0.2.2", 5000));
    let forward = |lab: &Lab| lab.pair().settings.clone().map(|end| end.forward);
    for (held, answered) in [("a=sendonly", "a=recvonly"), ("a=inactive", "a=inactive")] {
        let hold = audio("192.0.2.1", 4000) + held + "\r\n";
        let inside = Request { to_tag: Some(b"bob"), ..offer(&hold) };
        assert!(lab.ask(&inside).sdp().ends_with(&format!("{held}\r\n")));
        assert_eq!(forward(&lab)[1], held == "a=sendonly", "as before, until it is accepted");
        // Alice wants nothing; what she sends goes on, until Bob wants nothing either.
        lab.answer(&(audio("192.0.2.2", 5000) + answered + "\r\n"));
        assert_eq!(forward(&lab), [held == "a=sendonly", false]);
    }
    // As RFC 2543 had it, from the other side.
    let zero = audio("0.0.0.0", 5000);
    let from_bob = Request { from_tag: Some(b"bob"), to_tag: Some(b"alice"), ..offer(&zero) };
    let got = lab.ask(&Request { replace: REPLACE, ..from_bob }).sdp();
    assert_eq!(addresses(&got), ["0.0.0.0"]);
    assert!(got.contains("o=- 1 1 IN IP4 203.0.113.1"), "{got}");
    let from_alice = Request { from_tag: Some(b"bob"), to_tag: Some(b"alice"), ..answer("") };
    let inactive = audio("192.0.2.1", 4000) + "a=inactive\r\n";
    assert_eq!(lab.pair().settings[1].rtp, at("192.0.2.2:5000"));
    lab.ask(&Request { sdp: Some(inactive.as_bytes()), ..from_alice }).sdp();
    assert_eq!(lab.pair().settings[1].rtp, None);
    assert_eq!(lab.pair().settings[0].rtp, at("192.0.2.1:4000"));
    assert_eq!(lab.pair().reopened.last(), Some(&(Side::Answerer, Reopen::IfMoved)));
    // And on again, with the same ports all the time.
    let ports_before = lab.pair().ports;
    lab.ask(&Request { to_tag: Some(b"bob"), ..offer(&audio("192.0.2.1", 4002)) }).sdp();
    let got = lab.answer(&audio("192.0.2.2", 5000));
    assert_eq!(ports(&got), [ports_before[0]]);
    assert_eq!((lab.pair().ports, forward(&lab)), (ports_before, [true, true]));
    assert_eq!(lab.pair().settings[0].rtp, at("192.0.2.1:4002"));
    lab.check();
}

#[test]
fn a_hold_that_is_refused_leaves_media_flowing() {
    let mut lab = Lab::new();
    lab.offer(&audio("192.0.2.1", 4000));
    let bob = audio("192.0.2.2", 5000);
    lab.answer(&bob);
    let before = lab.pair().settings.clone();
    let inactive = audio("192.0.2.1", 4000) + "a=inactive\r\n";
    let zero = audio("0.0.0.0", 4000);
    for hold in [&inactive, &zero] {
        lab.ask(&Request { to_tag: Some(b"bob"), ..offer(hold) }).sdp();
        assert_eq!(lab.pair().settings, before);
        // Refused. What Bob offers next is another matter, and its answer does not accept that of Alice.
        let (from, to) = (Some(&b"bob"[..]), Some(&b"alice"[..]));
        lab.ask(&Request { from_tag: from, to_tag: to, ..offer(&bob) }).sdp();
        let alice = audio("192.0.2.1", 4000);
        lab.ask(&Request { from_tag: from, to_tag: to, ..answer(&alice) }).sdp();
        assert_eq!(lab.pair().settings, before);
    }
    for hold in [&inactive, &zero] {
        lab.ask(&Request { to_tag: Some(b"bob"), ..offer(hold) }).sdp();
        assert_eq!(lab.pair().settings, before);
        // Accepted.
        lab.answer(&(bob.clone() + "a=inactive\r\n"));
        let [of_alice, of_bob] = &lab.pair().settings;
        assert!(!of_alice.forward && !of_bob.forward);
        assert_eq!(of_alice.rtp, before[0].rtp.filter(|_| hold != &zero));
        // Her media is wanted again at once, Bob's side with the answer.
        lab.ask(&Request { to_tag: Some(b"bob"), ..offer(&audio("192.0.2.1", 4000)) }).sdp();
        let [of_alice, of_bob] = &lab.pair().settings;
        assert_eq!((of_alice.rtp, of_alice.forward, of_bob.forward), (before[0].rtp, false, true));
        lab.answer(&bob);
        assert_eq!(lab.pair().settings, before);
    }
    lab.check();
}

#[test]
fn answers_of_a_forked_call_share_the_ports_and_the_last_one_has_them() {
    let mut lab = Lab::new();
    lab.offer(&audio("192.0.2.1", 4000));
    let early = audio("192.0.2.2", 5000);
    let first = lab.answer(&early);
    let later = audio("192.0.2.3", 6000);
    let second = lab.ask(&Request { to_tag: Some(b"carol"), ..answer(&later) }).sdp();
    assert_eq!(ports(&first), ports(&second));
    assert_eq!(lab.pair().settings[1].rtp, at("192.0.2.3:6000"));
    assert_eq!(
        lab.pair().reopened,
        [(Side::Answerer, Reopen::IfMoved), (Side::Answerer, Reopen::Fully)]
    );
    // The same again is no other party.
    lab.ask(&Request { to_tag: Some(b"carol"), ..answer(&later) });
    assert_eq!(lab.pair().reopened.last(), Some(&(Side::Answerer, Reopen::IfMoved)));
    // Bob's branch is given up; Carol's goes on.
    let gone = Request { from_tag: Some(b"alice"), to_tag: Some(b"bob"), ..about(Command::Delete) };
    assert_eq!(lab.ask(&gone).reply().outcome, Outcome::Ok);
    assert_eq!(lab.pair().settings[1].rtp, at("192.0.2.3:6000"));
    // Carol hangs up.
    let bye =
        Request { from_tag: Some(b"carol"), to_tag: Some(b"alice"), ..about(Command::Delete) };
    assert_eq!(lab.ask(&bye).reply().warning(), None);
    assert_eq!((lab.relay.calls(), lab.pairs.len()), (0, 0));
    lab.check();
}

#[test]
fn branches_have_ports_of_their_own() {
    let mut lab = Lab::new();
    let alice = audio("192.0.2.1", 4000);
    let to =
        |branch: &'static str| Request { via_branch: Some(branch.as_bytes()), ..offer(&alice) };
    let first = lab.ask(&to("z9hG4bK1")).sdp();
    let second = lab.ask(&to("z9hG4bK2")).sdp();
    assert_ne!(ports(&first), ports(&second));
    assert_eq!(ports(&lab.ask(&to("z9hG4bK1")).sdp()), ports(&first), "the same branch again");
    assert_eq!((lab.relay.calls(), lab.pairs.len()), (1, 2));
    let answered = |tag: &'static str, branch: &'static str| Request {
        to_tag: Some(tag.as_bytes()),
        via_branch: Some(branch.as_bytes()),
        ..answer(&alice)
    };
    let from_bob = lab.ask(&answered("bob", "z9hG4bK2")).sdp();
    let from_carol = lab.ask(&answered("carol", "z9hG4bK1")).sdp();
    assert_ne!(ports(&from_bob), ports(&from_carol));
    // Inside the dialog tags are enough.
    let again = Request { to_tag: Some(b"bob"), ..offer(&alice) };
    assert_eq!(ports(&lab.ask(&again).sdp()), ports(&second));
    // One branch fails, by its branch; the other goes on.
    let gone = Request {
        from_tag: Some(b"alice"),
        via_branch: Some(b"z9hG4bK1"),
        ..about(Command::Delete)
    };
    assert_eq!(lab.ask(&gone).reply().warning(), None);
    assert_eq!((lab.relay.calls(), lab.pairs.len()), (1, 1));
    lab.check();
    assert_eq!(lab.ask(&about(Command::Delete)).reply().warning(), None);
    assert_eq!(lab.relay.calls(), 0);
    lab.check();
}

#[test]
fn a_late_offer_comes_from_the_callee() {
    let mut lab = Lab::new();
    // The INVITE had no description: the 200 offers, the ACK answers.
    let bob = audio("192.0.2.2", 5000);
    let offered = Request { from_tag: Some(b"bob"), to_tag: Some(b"alice"), ..offer(&bob) };
    let got = lab.ask(&offered).sdp();
    assert_eq!(lab.pair().settings[0].rtp, at("192.0.2.2:5000"));
    let alice = audio("192.0.2.1", 4000);
    let answered = Request { from_tag: Some(b"bob"), to_tag: Some(b"alice"), ..answer(&alice) };
    let back = lab.ask(&answered).sdp();
    assert_eq!(lab.pair().settings[1].rtp, at("192.0.2.1:4000"));
    assert_eq!([ports(&back)[0], ports(&got)[0]], lab.pair().ports);
    // The caller's re-INVITE, and a hang-up by either.
    let again = Request { to_tag: Some(b"bob"), ..offer(&alice) };
    assert_eq!(ports(&lab.ask(&again).sdp()), [lab.pair().ports[0]]);
    let bye = Request { from_tag: Some(b"alice"), to_tag: Some(b"bob"), ..about(Command::Delete) };
    assert_eq!(lab.ask(&bye).reply().warning(), None);
    assert_eq!(lab.relay.calls(), 0);
}

#[test]
fn media_come_and_go_with_the_answer() {
    let mut lab = Lab::new();
    lab.offer(&audio("192.0.2.1", 4000));
    lab.answer(&audio("192.0.2.2", 5000));
    let with_video = |address: &str, port: u16, video: u16| {
        audio(address, port) + &format!("m=video {video} RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n")
    };
    let sdp = with_video("192.0.2.1", 4000, 4002);
    let got = lab.ask(&Request { to_tag: Some(b"bob"), ..offer(&sdp) }).sdp();
    assert_eq!(lab.pairs.len(), 2);
    assert!(!ports(&got).contains(&0));
    lab.answer(&with_video("192.0.2.2", 5000, 5002));
    assert_eq!(lab.pairs.len(), 2);
    // Video is turned off; the re-INVITE is refused, so that it stays.
    let off = with_video("192.0.2.1", 4000, 0);
    let got = lab.ask(&Request { to_tag: Some(b"bob"), ..offer(&off) }).sdp();
    assert_eq!((ports(&got)[1], lab.pairs.len()), (0, 2));
    // Again, and it is accepted.
    lab.ask(&Request { to_tag: Some(b"bob"), ..offer(&off) });
    lab.answer(&with_video("192.0.2.2", 5000, 0));
    assert_eq!(lab.pairs.len(), 1);
    lab.check();
    // An answer that turns on what was offered off is not believed.
    lab.ask(&Request { to_tag: Some(b"bob"), ..offer(&off) });
    let got = lab.answer(&with_video("192.0.2.2", 5000, 5002));
    assert_eq!((ports(&got)[1], lab.pairs.len()), (0, 1));
    // Nor one about media that nobody has offered.
    let three = with_video("192.0.2.2", 5000, 0) + "m=audio 7000 RTP/AVP 0\r\n";
    assert_eq!(ports(&lab.answer(&three))[1..], [0, 0]);
    // Refused at once.
    let mut lab = Lab::new();
    lab.offer(&with_video("192.0.2.1", 4000, 4002));
    let got = lab.answer(&with_video("192.0.2.2", 5000, 0));
    assert_eq!((ports(&got)[1], lab.pairs.len()), (0, 1));
    lab.check();
}

#[test]
fn fax_uses_the_ports_of_the_audio_when_it_is_accepted() {
    let mut lab = Lab::with(Settings { recording: true, ..settings() });
    lab.ask(&Request { record_call: Some(true), ..offer(&audio("192.0.2.1", 4000)) });
    lab.answer(&audio("192.0.2.2", 5000));
    let before = lab.pair().ports;
    let fax = |address: &str, port: u16| {
        format!(
            "v=0\r\no=- 1 2 IN IP4 {address}\r\ns=-\r\nc=IN IP4 {address}\r\nm=image {port} udptl t38\r\n"
        )
    };
    let offered = fax("192.0.2.2", 5000);
    let from_bob = Request { from_tag: Some(b"bob"), to_tag: Some(b"alice"), ..offer(&offered) };
    assert_eq!(ports(&lab.ask(&from_bob).sdp()), [before[0]]);
    assert_eq!(lab.pair().kind, Kind::Rtp, "it may be refused");
    let accepted = fax("192.0.2.1", 4010);
    let request = Request { from_tag: Some(b"bob"), to_tag: Some(b"alice"), ..answer(&accepted) };
    assert_eq!(ports(&lab.ask(&request).sdp()), [before[1]]);
    assert_eq!((lab.pair().kind, lab.pair().rtcp), (Kind::Opaque, [false, false]));
    assert_eq!(lab.pair().settings[0].rtp, at("192.0.2.1:4010"));
    assert_eq!(lab.recorded, BTreeMap::from([(lab.pair_id().0, Kind::Opaque)]));
    // And back to audio.
    lab.ask(&Request { to_tag: Some(b"bob"), ..offer(&audio("192.0.2.1", 4000)) });
    lab.answer(&audio("192.0.2.2", 5000));
    assert_eq!((lab.pair().kind, lab.pair().rtcp), (Kind::Rtp, [true, true]));
    assert_eq!(lab.recorded, BTreeMap::from([(lab.pair_id().0, Kind::Rtp)]));
    lab.check();
}

#[test]
fn unknown_media_passes_and_what_is_not_udp_is_left_alone() {
    let mut lab = Lab::new();
    let sdp = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n\
        m=audio 4000 UDP/TLS/RTP/SAVPF 111\r\na=fingerprint:sha-256 AA\r\n\
        m=application 4002 UDP/BFCP *\r\na=floorctrl:c-only\r\n\
        m=message 9 TCP/MSRP *\r\na=path:msrp://192.0.2.1:9/x;tcp\r\n\
        m=application 4004 DTLS/SCTP 5000\r\n";
    let got = lab.ask(&Request { replace: REPLACE, ..offer(sdp) }).sdp();
    let kinds: Vec<Kind> = lab.pairs.values().map(|pair| pair.kind).collect();
    assert_eq!(kinds, [Kind::Srtp, Kind::Opaque, Kind::Opaque]);
    let rtcp: Vec<[bool; 2]> = lab.pairs.values().map(|pair| pair.rtcp).collect();
    assert_eq!(rtcp, [[true, true], [false, false], [false, false]]);
    assert_eq!(addresses(&got), ["203.0.113.1", "203.0.113.1", "192.0.2.1", "203.0.113.1"]);
    assert_eq!(ports(&got)[2], 9);
    assert!(got.contains("m=message 9 TCP/MSRP *\r\nc=IN IP4 192.0.2.1\r\na=path:"), "{got}");
    assert!(got.contains("a=fingerprint:sha-256 AA\r\n") && !got.contains("rtcp-mux"), "{got}");
    lab.check();
}

#[test]
fn ice_and_bundle_are_removed() {
    let mut lab = Lab::new();
    let sdp = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n\
        a=group:BUNDLE 0 1\r\na=group:LS 0 1\r\na=ice-ufrag:x\r\na=ice-options:trickle\r\n\
        m=audio 4000 RTP/AVP 0\r\na=mid:0\r\na=ice-pwd:y\r\na=candidate:1 1 UDP 1 192.0.2.1 4000 typ host\r\n\
        a=end-of-candidates\r\na=rtcp:4001 IN IP4 192.0.2.1\r\n";
    let got = lab.offer(sdp);
    let port = ports(&got)[0];
    let wanted = format!(
        "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 203.0.113.1\r\nt=0 0\r\na=group:LS 0 1\r\n\
         m=audio {port} RTP/AVP 0\r\na=mid:0\r\na=rtcp:{}\r\n",
        port + 1
    );
    assert_eq!(got, wanted);
}

/// What a test of rtcp-mux does and expects.
struct MuxCase {
    offered: bool,
    wish: &'static str,
    /// In the offer to Bob.
    passed_on: bool,
    /// What Bob says, in the answer.
    accepted: bool,
    /// In the answer to Alice.
    told: bool,
    /// RTCP ports that are open in the end, towards Alice and Bob.
    rtcp: [bool; 2],
}

#[test]
fn rtcp_mux_is_offered_demultiplexed_accepted_rejected_and_required() {
    let case = |offered, wish, passed_on, accepted, told, rtcp| MuxCase {
        offered,
        wish,
        passed_on,
        accepted,
        told,
        rtcp,
    };
    for case in [
        // By default it is between the parties.
        case(true, "", true, true, true, [false, false]),
        case(true, "", true, false, false, [true, true]),
        case(false, "", false, false, false, [true, true]),
        // An answer that accepts what was not offered.
        case(false, "", false, true, false, [true, true]),
        // Offered to Bob although Alice cannot.
        case(false, "offer", true, true, false, [true, false]),
        case(false, "offer", true, false, false, [true, true]),
        case(false, "require", true, true, false, [true, false]),
        // Alice may, Bob may not: told apart here.
        case(true, "demux", false, false, true, [false, true]),
        case(true, "demux reject", false, false, false, [true, true]),
        // Alice may whatever Bob says.
        case(true, "accept", true, false, true, [false, true]),
        case(true, "accept", true, true, true, [false, false]),
        // Alice may not, Bob may.
        case(true, "reject", true, true, false, [true, false]),
    ] {
        let name = (case.offered, case.wish, case.accepted);
        let mut lab = Lab::new();
        let mux = |address: &str, port: u16, on: bool| {
            audio(address, port) + if on { "a=rtcp-mux\r\n" } else { "" }
        };
        let wish = RtcpMux {
            offer: case.wish.contains("offer"),
            require: case.wish.contains("require"),
            demux: case.wish.contains("demux"),
            accept: case.wish.contains("accept"),
            reject: case.wish.contains("reject"),
        };
        let alice = mux("192.0.2.1", 4000, case.offered);
        let got = lab.ask(&Request { rtcp_mux: wish, ..offer(&alice) }).sdp();
        assert_eq!(got.contains("a=rtcp-mux\r\n"), case.passed_on, "{name:?}: {got}");
        let got = lab.answer(&mux("192.0.2.2", 5000, case.accepted));
        assert_eq!(got.contains("a=rtcp-mux\r\n"), case.told, "{name:?}: {got}");
        assert_eq!(lab.pair().rtcp, case.rtcp, "{name:?}");
        let settings = &lab.pair().settings;
        assert_eq!(settings.clone().map(|end| !end.mux), case.rtcp, "{name:?}");
        lab.check();
    }
}

#[test]
fn rtcp_mux_comes_and_goes_and_differs_between_answerers() {
    let mut lab = Lab::new();
    let mux = audio("192.0.2.1", 4000) + "a=rtcp:4000\r\n";
    // As old devices say it: RTCP at the port of RTP.
    let got = lab.offer(&mux);
    let port = ports(&got)[0];
    assert!(got.contains(&format!("a=rtcp:{}\r\na=rtcp-mux\r\n", port + 1)), "{got}");
    lab.answer(&(audio("192.0.2.2", 5000) + "a=rtcp-mux\r\n"));
    assert_eq!(lab.pair().rtcp, [false, false]);
    // Another party has answered that does not know it.
    lab.ask(&Request { to_tag: Some(b"carol"), ..answer(&audio("192.0.2.3", 6000)) });
    assert_eq!(lab.pair().rtcp, [true, true]);
    lab.ask(&Request {
        to_tag: Some(b"dave"),
        ..answer(&(audio("192.0.2.4", 6000) + "a=rtcp-mux\r\n"))
    });
    assert_eq!(lab.pair().rtcp, [false, false]);
    // Alice offers anew without it; with Dave it is in use.
    let got = lab.ask(&Request { to_tag: Some(b"dave"), ..offer(&audio("192.0.2.1", 4000)) }).sdp();
    assert!(got.contains("a=rtcp-mux"), "{got}");
    lab.ask(&Request {
        to_tag: Some(b"dave"),
        ..answer(&(audio("192.0.2.4", 6000) + "a=rtcp-mux\r\n"))
    });
    assert_eq!(lab.pair().rtcp, [true, false]);
    lab.check();
}

#[test]
fn interfaces_families_and_addresses_are_as_wished() {
    let mut lab = Lab::new();
    let wish = Request { direction: [Some(b"private"), Some(b"public")], ..offer("") };
    let alice = audio("10.0.0.5", 4000);
    let got = lab.ask(&Request { sdp: Some(alice.as_bytes()), ..wish }).sdp();
    assert_eq!(addresses(&got), ["203.0.113.1"]);
    assert_eq!(addresses(&lab.answer(&audio("192.0.2.2", 5000))), ["198.51.100.9"], "advertised");
    let bound: Vec<String> = lab.relay.ports.taken.keys().map(|(ip, _)| ip.to_string()).collect();
    assert_eq!(bound, ["10.0.0.9", "203.0.113.1"]);
    // What was chosen stays, whatever a re-INVITE says or does not say.
    let again = Request { to_tag: Some(b"bob"), ..offer(&alice) };
    assert_eq!(addresses(&lab.ask(&again).sdp()), ["203.0.113.1"]);

    // From IPv4 to IPv6 and back.
    let mut lab = Lab::new();
    let wish = Request { address_family: Some(AddressFamily::V6), replace: REPLACE, ..offer("") };
    let got = lab.ask(&Request { sdp: Some(alice.as_bytes()), ..wish }).sdp();
    assert!(
        got.contains("o=- 1 1 IN IP6 2001:db8::1\r\n") && got.contains("c=IN IP6 2001:db8::1\r\n"),
        "{got}"
    );
    let got = lab.ask(&Request { replace: REPLACE, ..answer(&audio("2001:db8::7", 5000)) }).sdp();
    assert!(got.contains("c=IN IP4 203.0.113.1\r\n"), "{got}");
    assert_eq!(lab.pair().settings[1].rtp, at("[2001:db8::7]:5000"));
    // Hold in the other family.
    let zero = audio("0.0.0.0", 4000);
    let hold = Request { to_tag: Some(b"bob"), ..offer(&zero) };
    let got = lab.ask(&Request { replace: REPLACE, ..hold }).sdp();
    assert!(got.contains("c=IN IP6 ::\r\n"), "{got}");
    // An address that this end cannot reach is as good as none.
    lab.answer(&audio("192.0.2.2", 5000));
    assert_eq!(lab.pair().settings[1].rtp, None);

    // A party with IPv6 only offers to the interface that has no such address.
    let mut lab = Lab::new();
    let six = audio("2001:db8::7", 4000);
    let got =
        lab.ask(&Request { direction: [Some(b"public"), Some(b"private")], ..offer(&six) }).sdp();
    assert_eq!(addresses(&got), ["198.51.100.9"]);

    let mut lab = Lab::new();
    let wish = Request {
        media_address: Some("192.0.2.99".parse().expect("an address")),
        direction: [Some(b"public"), Some(b"nowhere")],
        ..offer(&alice)
    };
    assert_eq!(addresses(&lab.ask(&wish).sdp()), ["192.0.2.99"]);
    assert_eq!(lab.relay.ignored().iter().collect::<Vec<_>>(), [("direction", 1)]);
}

#[test]
fn where_media_goes_follows_the_flags() {
    let source: IpAddr = "198.51.100.77".parse().expect("an address");
    let alice = audio("192.168.0.1", 4000);
    let end = |flags: Flags, strict_always: bool| {
        let mut lab = Lab::with(Settings { strict_source: strict_always, ..settings() });
        lab.ask(&Request { flags, received_from: Some(source), ..offer(&alice) });
        let [end, other] = lab.pair().settings.clone();
        assert_eq!((other.latch, other.rtp), (Latch::Once, None), "flags are about the sender");
        end
    };
    let default = end(Flags::default(), true);
    assert_eq!((default.rtp, default.hint), (at("192.168.0.1:4000"), Some(source)));
    assert_eq!((default.latch, default.source), (Latch::Once, Source::Strict));
    let trusting = end(Flags { trust_address: Some(true), ..Flags::default() }, true);
    assert_eq!(trusting, default);
    let by_source = end(Flags { trust_address: Some(false), ..Flags::default() }, true);
    assert_eq!(
        (by_source.rtp, by_source.rtcp),
        (at("198.51.100.77:4000"), at("198.51.100.77:4001"))
    );
    // As rtpengine does without strict-source, if the configuration wants it so.
    assert_eq!(end(Flags::default(), false).source, Source::Any);
    let strict = Flags { strict_source: true, ..Flags::default() };
    assert_eq!(end(strict, false).source, Source::Strict);
    let asymmetric = Flags { asymmetric: true, ..Flags::default() };
    let away = end(asymmetric, true);
    assert_eq!((away.latch, away.source), (Latch::Never, Source::Any));
    let both = end(Flags { strict_source: true, ..asymmetric }, true);
    assert_eq!((both.latch, both.source), (Latch::Never, Source::Strict));
    let symmetric = end(Flags { symmetric: true, ..asymmetric }, true);
    assert_eq!(symmetric.latch, Latch::Once);
}

#[test]
fn nothing_is_sent_to_everybody_or_nowhere() {
    for address in ["255.255.255.255", "224.2.1.1/127", "phone.example.com", "::"] {
        let mut lab = Lab::new();
        lab.offer(&audio(address, 4000));
        assert_eq!(lab.pair().settings[0].rtp, None, "{address}");
    }
    let mut lab = Lab::new();
    lab.offer(&audio("192.0.2.1", 65_535));
    assert_eq!(lab.pair().settings[0].rtcp, None);
}

#[test]
fn what_has_no_effect_is_counted() {
    let mut lab = Lab::new();
    let alice = audio("192.0.2.1", 4000);
    let mut request = offer(&alice);
    request.flags.loop_protect = true;
    request.replace.session_name = true;
    request.ice = Some(dialtone_ng::message::Ice::Force);
    request.transport_protocol = Some(b"RTP/SAVP");
    request.record_call = Some(true);
    lab.ask(&request).sdp();
    lab.ask(&Request { transport_protocol: Some(b"RTP/AVP"), ..offer(&alice) }).sdp();
    lab.datagram(PROXY, b"77 d7:command4:ping5:flagsl10:pierce NATee");
    let counted: Vec<_> = lab.relay.ignored().iter().collect();
    assert_eq!(
        counted,
        [
            ("ICE", 1),
            ("flags/loop-protect", 1),
            ("flags/pierce-NAT", 1),
            ("record-call", 1),
            ("replace/session-name", 1),
            ("transport-protocol", 1),
        ]
    );
}
