//! Properties: nothing that comes from the network panics, framing does not depend on how a stream is torn, edits
//! read back.

mod common;

use common::{invite, parse};
use dialtone_sip::{Edit, Frame, Message, NameAddr, StreamFramer, Uri, fuzz};
use proptest::prelude::*;

/// Whole messages with lists over several lines, folded lines, repeated, empty and compact headers.
const MESSAGES: [&str; 5] = [
    "INVITE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP a;rport;branch=z9hG4bK1 , SIP/2.0/TCP b,\r\n SIP/2.0/UDP c\r\n\
     v: SIP/2.0/UDP d;received=192.0.2.1\r\nRoute: <sip:a,b;lr>, \"x, y\" <sip:c>,, <sip:d>\r\nX: 1\r\nRoute:\r\n\
     Route: <sip:e>\r\nMax-Forwards: 70\r\nX: 2\r\nm: <sip:f>;q=0.5, sip:g\r\nSubject: folded\r\n  twice\r\n \r\n\
     Supported: 100rel , path\r\nSupported: gruu\r\nl: 4\r\nContent-Length: 4\r\n\r\nv=0\n",
    "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 203.0.113.9;branch=z9hG4bK1\r\nExpires: \r\nMax-Forwards: 1\r\n\
     Max-Forwards: 2\r\nContent-Length: 0\r\n\r\n",
    "OPTIONS sip:a@b SIP/2.0\nRecord-Route: <sip:a>\nVia:SIP/2.0/UDP [2001:db8::1]:5061;rport=7;received=\nTo: \n\
     Contact: *\nl: 0\n\n",
    "ACK sip:a@b SIP/2.0\r\nv: SIP/2.0/UDP a:5070;branch=z9hG4bK2;received=192.0.2.1\r\nl: 0\r\n\r\n",
    "SIP/2.0 100 \r\nContent-Length: 0\r\n\r\n",
];

fn frames(mut framer: StreamFramer, stream: &[u8], cuts: &[usize]) -> (Vec<Frame>, bool) {
    let mut out = Vec::new();
    let mut at = 0;
    let ends = cuts.iter().copied().filter(|cut| *cut < stream.len()).chain([stream.len()]);
    for end in ends {
        if end > at {
            framer.push(&stream[at..end]);
            at = end;
        }
        loop {
            match framer.next_frame() {
                Ok(Some(frame)) => out.push(frame),
                Ok(None) => break,
                Err(_) => return (out, true),
            }
        }
    }
    (out, false)
}

proptest! {
    // Failures are reproduced by adding the case to the tests by hand.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        fuzz::message(&bytes);
        fuzz::stream(&bytes);
        fuzz::value(&bytes);
        fuzz::digest(&bytes);
        fuzz::sdp(&bytes);
    }

    #[test]
    fn mutated_messages_never_panic(
        changes in proptest::collection::vec(
            (any::<prop::sample::Index>(), prop_oneof![Just(0_u8), Just(b'\r'), Just(b'\n'), Just(b'"'), Just(b'<'),
                Just(b'>'), Just(b','), Just(b';'), Just(b':'), Just(b' '), Just(b'%'), any::<u8>()], 0..3_u8),
            1..8,
        )
    ) {
        let mut bytes = invite().into_bytes();
        for (index, byte, kind) in changes {
            let at = index.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => { bytes.remove(at); }
            }
        }
        fuzz::message(&bytes);
        fuzz::stream(&bytes);
    }

    #[test]
    fn uris_survive(
        user in "[a-z0-9._~!%;?&=+$,/-]{0,12}",
        host in "[a-z][a-z0-9-]{0,8}(\\.[a-z]{2,3})?|\\[2001:db8::[1-9a-f][0-9a-f]{0,3}\\]|192\\.0\\.2\\.[0-9]",
        port in proptest::option::of(any::<u16>()),
        params in "(;[a-z]{1,6}(=[a-z0-9.]{1,5})?){0,3}",
    ) {
        let user = user.replace('%', "%41");
        let text = format!(
            "sip:{}{}{host}{}{params}",
            user,
            if user.is_empty() { "" } else { "@" },
            port.map(|port| format!(":{port}")).unwrap_or_default()
        );
        let uri = Uri::parse(&text).expect("uri");
        let sip = uri.sip().expect("sip");
        prop_assert_eq!(sip.user.unwrap_or(""), user);
        prop_assert_eq!(sip.host.to_string(), host);
        prop_assert_eq!(sip.port, port);
        prop_assert_eq!(sip.params.as_str(), &params);
        prop_assert!(uri.equivalent(&uri));
        let value = format!("\"x, \\\" <y>\" <{text}>;tag=1");
        let addr = NameAddr::parse(&value).expect("name-addr");
        prop_assert_eq!(addr.uri.as_str(), &text);
        prop_assert_eq!(addr.tag(), Some("1"));
    }

    #[test]
    fn edits_are_those_of_a_plain_text_editor(
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..20),
        texts in proptest::collection::vec("[a-z]{0,9}", 20),
        order in any::<u64>(),
    ) {
        let text = invite();
        let message = parse(&text);
        let mut bounds: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len())).collect();
        bounds.sort_unstable();
        bounds.dedup();
        // Every other piece between the bounds is replaced, the edits come in any order.
        let mut replaced: Vec<_> = bounds.chunks_exact(2).map(|pair| pair[0]..pair[1]).zip(&texts).collect();
        let mut expected = text.clone();
        for (span, new) in replaced.iter().rev() {
            expected.replace_range(span.clone(), new);
        }
        fastrand::Rng::with_seed(order).shuffle(&mut replaced);
        let mut edit = Edit::new(&message);
        for (span, new) in &replaced {
            edit.replace(span.clone(), new.as_bytes());
        }
        prop_assert_eq!(edit.finish(), expected.as_bytes());
    }

    #[test]
    fn framing_does_not_depend_on_the_cuts(mut cuts in proptest::collection::vec(0..6000_usize, 0..40)) {
        cuts.sort_unstable();
        let one = invite();
        let stream = format!("\r\n{one}\r\n\r\n{one}\r\n\r\n\r\n\r\nSIP/2.0 200 OK\r\nl: 3\r\n\r\nabc\r\n{one}");
        let expect = |frames: Vec<Frame>, pings: usize, pongs: usize| {
            let messages: Vec<_> = frames.iter().filter_map(|frame| match frame {
                Frame::Message(bytes) => Some(bytes.clone()),
                Frame::Ping | Frame::Pong => None,
            }).collect();
            assert_eq!(messages.len(), 4);
            assert_eq!(messages[0], one.as_bytes());
            assert!(messages[2].ends_with(b"\r\n\r\nabc"));
            assert_eq!(frames.iter().filter(|frame| **frame == Frame::Ping).count(), pings);
            assert_eq!(frames.iter().filter(|frame| **frame == Frame::Pong).count(), pongs);
        };
        expect(frames(StreamFramer::accepting(8192), stream.as_bytes(), &cuts).0, 3, 0);
        expect(frames(StreamFramer::dialled(8192), stream.as_bytes(), &cuts).0, 0, 8);
    }
}

proptest! {
    // Eight operations out of eighteen, and their arguments: few cases would have few of the combinations.
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// What follows a body is dropped by who reads the message: here it says how the message is edited.
    #[test]
    fn drawn_edits_change_what_they_say(
        text in 0..MESSAGES.len(),
        tail in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        fuzz::message(&[MESSAGES[text].as_bytes(), &tail].concat());
    }
}

#[test]
fn framing_torn_at_every_byte() {
    let one = invite();
    let stream = format!("{one}\r\n\r\n{one}");
    let every: Vec<usize> = (1..stream.len()).collect();
    let whole = frames(StreamFramer::accepting(8192), stream.as_bytes(), &[]);
    assert_eq!(whole.0.len(), 3);
    assert_eq!(frames(StreamFramer::accepting(8192), stream.as_bytes(), &every), whole);
    for cut in every {
        assert_eq!(frames(StreamFramer::accepting(8192), stream.as_bytes(), &[cut]), whole);
    }
}

#[test]
fn framing_refuses_what_it_cannot_bound() {
    let long_head = format!("OPTIONS sip:a@b SIP/2.0\r\nX: {}", "y".repeat(500));
    let long_body = "OPTIONS sip:a@b SIP/2.0\r\nContent-Length: 500\r\n\r\n";
    let negative = "OPTIONS sip:a@b SIP/2.0\r\nContent-Length: -1\r\n\r\n";
    let differing = "OPTIONS sip:a@b SIP/2.0\r\nContent-Length: 1\r\nl: 2\r\n\r\n";
    let overflowing = "OPTIONS sip:a@b SIP/2.0\r\nContent-Length: 18446744073709551615\r\n\r\n";
    for stream in [&long_head, long_body, negative, differing, overflowing] {
        assert_eq!(
            frames(StreamFramer::accepting(300), stream.as_bytes(), &[]),
            (vec![], true),
            "{stream}"
        );
    }
}

#[test]
fn headers_are_bounded() {
    let text = format!("OPTIONS sip:a@b SIP/2.0\r\n{}\r\n", "X: y\r\n".repeat(600));
    let partial = Message::parse(text.into_bytes().into()).expect_err("too many");
    assert_eq!(partial.error, dialtone_sip::ParseError::TooManyHeaders { limit: 512 });
    assert!(partial.message.is_some_and(|message| message.body().is_empty()));
    let _ = parse(&invite());
}
