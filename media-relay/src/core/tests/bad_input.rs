//! Whatever comes, it is answered as the protocol says, and nothing grows without bound.

use dialtone_ng::bencode::Encoder;
use proptest::prelude::*;

use super::*;

/// The answer to a datagram with the cookie `1`.
fn answer_to(lab: &mut Lab, body: &[u8]) -> String {
    lab.sent.clear();
    lab.cookie += 1;
    let mut datagram = format!("{} ", lab.cookie).into_bytes();
    datagram.extend_from_slice(body);
    lab.datagram(PROXY, &datagram);
    let [(_, bytes)] = &lab.sent[..] else { panic!("not one answer: {:?}", lab.sent) };
    let body = Datagram::split(bytes).expect("an answer").body.to_vec();
    match Got(body.clone()).reply().outcome {
        Outcome::Error(reason) => String::from_utf8_lossy(reason).into_owned(),
        _ => String::from_utf8_lossy(&body).into_owned(),
    }
}

#[test]
fn what_cannot_be_understood_is_answered_as_rtpengine_does() {
    let mut lab = Lab::new();
    for (body, reason) in [
        ("", "Invalid data (no payload)"),
        ("le", "Invalid NG data format"),
        ("d", "Could not decode bencode dictionary"),
        ("d7:command5:offer", "Could not decode bencode dictionary"),
        ("d7:command99999:offere", "Could not decode bencode dictionary"),
        ("de", "Dictionary contains no key \"command\""),
        ("d7:command6:refusee", "Unrecognized command"),
        ("d7:command5:offere", "No SDP body in message"),
        ("d7:command5:offer3:sdp5:v=0\r\ne", "No call-id in message"),
        ("d7:command5:offer3:sdp5:v=0\r\n7:call-id1:xe", "No from-tag in message"),
        ("d7:command5:offer3:sdp1:x7:call-id1:x8:from-tag1:fe", "Failed to parse SDP"),
        (
            "d7:command5:offer3:sdp24:v=0\r\nm=audio 1 RTP/AVP 07:call-id1:x8:from-tag1:fe",
            "Incomplete SDP specification",
        ),
        ("d7:command6:answer3:sdp5:v=0\r\n7:call-id1:x8:from-tag1:fe", "No to-tag in message"),
        (
            "d7:command6:answer3:sdp5:v=0\r\n7:call-id1:x8:from-tag1:f6:to-tag1:te",
            "Unknown call-id",
        ),
        ("d7:command5:querye", "No call-id in message"),
        ("d7:command5:query7:call-id1:xe", "Unknown call-id"),
    ] {
        assert_eq!(answer_to(&mut lab, body.as_bytes()), reason, "{body}");
    }
    assert_eq!(answer_to(&mut lab, b"d7:command4:pinge"), "d6:result4:ponge");
    // Nothing to answer to.
    for garbage in [&b""[..], b"x", b" d7:command4:pinge", &[b'x'; 1_000]] {
        lab.sent.clear();
        lab.datagram(PROXY, garbage);
        assert!(lab.sent.is_empty(), "{garbage:?}");
    }
    assert_eq!((lab.relay.stats().garbage, lab.relay.calls()), (4, 0));
    lab.check();
}

#[test]
fn names_and_descriptions_have_a_limit() {
    let mut lab = Lab::new();
    let long = vec![b'x'; 513];
    let alice = audio("192.0.2.1", 4000);
    let request = Request { call_id: Some(&long), ..offer(&alice) };
    assert_eq!(lab.ask(&request).error(), "Identifier too long");
    let many = alice.clone() + &"m=audio 4000 RTP/AVP 0\r\n".repeat(32);
    assert_eq!(lab.ask(&offer(&many)).error(), "Failed to parse SDP");
    // 64 kB in one datagram.
    let huge = alice + &"a=x\r\n".repeat(12_000);
    assert_eq!(lab.ask(&offer(&huge)).error(), "Failed to parse SDP");
    assert_eq!((lab.relay.calls(), lab.taken().0), (0, 0));
}

#[test]
fn an_answer_from_nowhere_near_is_refused() {
    let mut lab = Lab::new();
    lab.offer(&audio("192.0.2.1", 4000));
    let bob = audio("192.0.2.2", 5000);
    let stranger = Request { from_tag: Some(b"mallory"), to_tag: Some(b"eve"), ..answer(&bob) };
    assert_eq!(lab.ask(&stranger).error(), "Invalid dialogue association");
    // With the tags the other way round it is understood.
    let swapped = Request { from_tag: Some(b"bob"), to_tag: Some(b"alice"), ..answer(&bob) };
    lab.ask(&swapped).sdp();
    assert_eq!(lab.pair().settings[1].rtp, at("192.0.2.2:5000"));
}

#[test]
fn a_description_without_media_is_a_call_without_pairs() {
    let mut lab = Lab::new();
    let none = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\n";
    assert_eq!(lab.offer(none), none);
    assert_eq!(lab.answer(none), none);
    assert!(lab.ask(&about(Command::Query)).text().contains("totals"));
    assert_eq!(lab.ask(&about(Command::Delete)).reply().warning(), None);
    assert_eq!(lab.relay.calls(), 0);
    lab.check();
}

/// A request of random parts, with names from a small set, so that they meet.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let name = || prop::option::of(prop::sample::select(vec!["a", "b", "c", ""]));
    let command = prop::sample::select(vec![
        "offer",
        "answer",
        "delete",
        "query",
        "list",
        "statistics",
        "start recording",
        "stop recording",
        "ping",
        "x",
    ]);
    let media = prop::sample::select(vec![
        "m=audio 4000 RTP/AVP 0\r\n",
        "m=audio 4000 RTP/AVP 0\r\na=rtcp-mux\r\n",
        "m=audio 4000 RTP/SAVP 0\r\na=rtcp:4000\r\n",
        "m=audio 0 RTP/AVP 0\r\n",
        "m=audio 4000 RTP/AVP 0\r\nc=IN IP6 ::\r\na=sendonly\r\n",
        "m=image 4000 udptl t38\r\nc=IN IP4 192.0.2.9\r\n",
        "m=message 9 TCP/MSRP *\r\n",
        "m=video 65535/9 RTP/AVP 96\r\na=rtpmap:96 x/90000\r\na=candidate:1\r\n",
    ]);
    let session = prop::sample::select(vec![
        "v=0\r\nc=IN IP4 192.0.2.1\r\n",
        "v=0\r\nc=IN IP4 0.0.0.0\r\na=inactive\r\n",
        "v=0\r\nc=IN IP6 2001:db8::5\r\na=group:BUNDLE 1\r\n",
        "v=0\r\n",
        "",
    ]);
    let sdp = (session, prop::collection::vec(media, 0..4))
        .prop_map(|(session, medias)| session.to_owned() + &medias.concat());
    let flag = prop::sample::select(vec![
        "trust-address",
        "SIP-source-address",
        "asymmetric",
        "symmetric",
        "strict-source",
        "record-call",
        "fatal",
        "x",
    ]);
    let mux = prop::sample::select(vec!["offer", "require", "demux", "accept", "reject"]);
    (
        command,
        (name(), name(), name(), name(), name()),
        prop::option::of(sdp),
        prop::collection::vec(flag, 0..3),
        prop::collection::vec(mux, 0..3),
        prop::option::of(-1_i64..10),
    )
        .prop_map(|(command, (call, from, to, branch, label), sdp, flags, mux, number)| {
            let mut encoder = Encoder::default();
            encoder.dict(|dict| {
                dict.bytes("command", command);
                let names = [
                    ("call-id", call),
                    ("from-tag", from),
                    ("to-tag", to),
                    ("via-branch", branch),
                    ("label", label),
                ];
                for (key, name) in names {
                    if let Some(name) = name {
                        dict.bytes(key, name);
                    }
                }
                if let Some(sdp) = sdp {
                    dict.bytes("sdp", sdp);
                }
                dict.strings("flags", flags);
                dict.strings("rtcp-mux", mux);
                dict.strings("direction", [label.unwrap_or("public"), "private"]);
                if let Some(number) = number {
                    dict.integer("delete-delay", number);
                    dict.integer("limit", number);
                }
            });
            encoder.into_bytes()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_sequence_of_requests_is_answered_and_leaves_nothing(
        requests in prop::collection::vec(request(), 1..40),
        silent in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        limit in prop::option::of(0_usize..12),
    ) {
        let mut lab = Lab::with(Settings { recording: true, ..settings() });
        lab.relay.ports.limit = limit;
        for (n, request) in requests.iter().enumerate() {
            answer_to(&mut lab, request);
            lab.check();
            if let Some(index) = silent.get(n).filter(|_| !lab.pairs.is_empty()) {
                let pairs: Vec<u64> = lab.pairs.keys().copied().collect();
                let pair = PairId(*index.get(&pairs));
                lab.event(Event::Silent { pair });
                lab.check();
            }
        }
        lab.pass(Duration::from_secs(3_000));
        lab.relay.end_all();
        lab.drain();
        lab.check();
        prop_assert_eq!((lab.relay.calls(), lab.pairs.len(), lab.taken()), (0, 0, (0, 0)));
        prop_assert_eq!(lab.relay.next_deadline(), None);
        prop_assert!(lab.recorded.is_empty());
        let started = lab.recordings.iter().filter(|(start, _)| *start).count();
        prop_assert_eq!(started * 2, lab.recordings.len());
    }

    #[test]
    fn any_bytes_are_survived(datagrams in prop::collection::vec(
        prop::collection::vec(any::<u8>(), 0..200), 0..20,
    )) {
        let mut lab = Lab::new();
        for bytes in &datagrams {
            lab.datagram(PROXY, bytes);
            answer_to(&mut lab, bytes);
        }
        lab.check();
    }
}
