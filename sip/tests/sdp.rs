//! Session descriptions: what is found in them, what editing leaves alone, and an independent parser as oracle.

use std::net::IpAddr;

use dialtone_sip::sdp::{Direction, Sdp, SdpEdit, SdpError, SdpLimits};
use proptest::prelude::*;

const OFFER: &str = "v=0\r\n\
o=- 13349384231232 1 IN IP4 192.0.2.10\r\n\
s=Example Phone\r\n\
c=IN IP4 192.0.2.10\r\n\
b=AS:84\r\n\
t=0 0\r\n\
a=ice-ufrag:abcd\r\n\
m=audio 8000 RTP/AVP 9 8 120 101\r\n\
i=speech\r\n\
a=rtpmap:120 opus/48000/2\r\n\
a=rtpmap:101 telephone-event/8000\r\n\
a=rtcp:8001 IN IP4 192.0.2.10\r\n\
a=candidate:1 1 UDP 2130706431 192.0.2.10 8000 typ host\r\n\
a=rtcp-mux\r\n\
a=sendonly\r\n\
m=video 0 RTP/AVP 97\r\n\
m=application 9 UDP/BFCP *\r\n\
c=IN IP6 2001:db8::1\r\n\
a=inactive\r\n";

fn parse(text: &str) -> Sdp<'_> {
    Sdp::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn text(edit: SdpEdit<'_, '_>) -> String {
    String::from_utf8(edit.finish()).expect("text")
}

#[test]
fn what_a_relay_needs_is_found() {
    let sdp = parse(OFFER);
    assert_eq!(sdp.origin().and_then(|origin| origin.ip), Some(ip("192.0.2.10")));
    assert_eq!(sdp.media_count(), 3);
    assert!(sdp.session().media_line().is_none());
    assert!(sdp.session().attribute("ice-ufrag").is_some_and(|attribute| attribute.is_ice()));
    let [audio, video, bfcp] = [0, 1, 2].map(|index| sdp.media(index).expect("there"));
    assert!(sdp.media(3).is_none());

    let line = audio.media_line().expect("its line");
    assert_eq!((line.kind, line.port, line.ports), (&b"audio"[..], 8000, 1));
    assert_eq!((line.proto, line.formats), (&b"RTP/AVP"[..], &b"9 8 120 101"[..]));
    assert_eq!(line.payload_types().collect::<Vec<_>>(), [9, 8, 120, 101]);
    assert_eq!(&OFFER[line.port_span], "8000");
    let rates: Vec<_> = audio.attributes().filter_map(|attribute| attribute.rtpmap()).collect();
    assert_eq!(rates, [(120, 48_000), (101, 8_000)]);
    let rtcp = audio.attribute("rtcp").expect("there");
    assert_eq!(rtcp.rtcp(), Some((8001, Some(ip("192.0.2.10")))));
    assert_eq!(&OFFER[rtcp.value_span.clone()], "8001 IN IP4 192.0.2.10");
    assert_eq!(audio.attribute("rtcp-mux").and_then(|attribute| attribute.value), None);
    assert_eq!(audio.attributes().filter(|attribute| attribute.is_ice()).count(), 1);
    assert_eq!(sdp.connection_of(audio).and_then(|c| c.ip), Some(ip("192.0.2.10")));
    assert_eq!(sdp.direction_of(audio), Direction::SendOnly);
    assert!(sdp.direction_of(audio).sends() && !sdp.direction_of(audio).receives());

    assert_eq!(video.media_line().expect("its line").port, 0);
    assert_eq!(sdp.direction_of(video), Direction::SendRecv);
    assert_eq!(sdp.connection_of(bfcp).and_then(|c| c.ip), Some(ip("2001:db8::1")));
    assert_eq!(sdp.direction_of(bfcp), Direction::Inactive);
    assert_eq!(bfcp.media_line().expect("its line").formats, b"*");
}

#[test]
fn edits_change_what_they_are_about() {
    let sdp = parse(OFFER);
    let audio = sdp.media(0).expect("there");
    let mut edit = SdpEdit::new(&sdp);
    edit.set_origin_address(ip("2001:db8::9"))
        .set_connection(sdp.session(), ip("198.51.100.1"))
        .set_connection(audio, ip("198.51.100.2"))
        .set_port(audio, 30_000)
        .append_attribute(audio, "label:1");
    for attribute in sdp.session().attributes().chain(audio.attributes()) {
        if attribute.is_ice() || attribute.name == b"rtcp-mux" {
            edit.remove(&attribute);
        }
    }
    edit.replace(audio.attribute("rtcp").expect("there").value_span, &b"30001"[..]);
    let wanted = OFFER
        .replace("1 IN IP4 192.0.2.10\r\ns=", "1 IN IP6 2001:db8::9\r\ns=")
        .replace("c=IN IP4 192.0.2.10\r\n", "c=IN IP4 198.51.100.1\r\n")
        .replace("a=ice-ufrag:abcd\r\n", "")
        .replace("audio 8000 ", "audio 30000 ")
        .replace("i=speech\r\n", "i=speech\r\nc=IN IP4 198.51.100.2\r\n")
        .replace("rtcp:8001 IN IP4 192.0.2.10", "rtcp:30001")
        .replace("a=candidate:1 1 UDP 2130706431 192.0.2.10 8000 typ host\r\na=rtcp-mux\r\n", "")
        .replace("a=sendonly\r\n", "a=sendonly\r\na=label:1\r\n");
    assert_eq!(text(edit), wanted);
}

#[test]
fn odd_forms_are_understood_and_kept() {
    // (name, text, port of the first m= line, its address if it can be read)
    let forms: &[(&str, &str, u16, Option<&str>)] = &[
        (
            "LF",
            "v=0\no=- 1 1 IN IP4 192.0.2.1\ns=-\nc=IN IP4 192.0.2.1\nt=0 0\nm=audio 4000 RTP/AVP 0\n",
            4000,
            Some("192.0.2.1"),
        ),
        (
            "CR",
            "v=0\ro=- 1 1 IN IP4 192.0.2.1\rs=-\rc=IN IP4 192.0.2.1\rt=0 0\rm=audio 4000 RTP/AVP 0\r",
            4000,
            Some("192.0.2.1"),
        ),
        (
            "mixed",
            "v=0\r\no=- 1 1 IN IP4 192.0.2.1\ns=a\rb\r\nc=IN IP4 192.0.2.1\nm=audio 4000 RTP/AVP 0\r\r\n",
            4000,
            Some("192.0.2.1"),
        ),
        ("no end", "v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 4000 RTP/AVP 0", 4000, Some("192.0.2.1")),
        (
            "no LF at the end",
            "v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 4000 RTP/AVP 0\r",
            4000,
            Some("192.0.2.1"),
        ),
        (
            "blank first",
            "\r\n\r\nv=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 4000 RTP/AVP 0\r\n",
            4000,
            Some("192.0.2.1"),
        ),
        (
            "blank within",
            "v=0\r\nc=IN IP4 192.0.2.1\r\n\r\nm=audio 4000 RTP/AVP 0\r\n\r\n",
            4000,
            Some("192.0.2.1"),
        ),
        (
            "spaces",
            "v=0\r\nc=IN  IP4   192.0.2.1  \r\nm=audio  4000   RTP/AVP\t0 8  \r\n",
            4000,
            Some("192.0.2.1"),
        ),
        (
            "leading space",
            "v=0\r\nc= IN IP4 192.0.2.1\r\nm= audio 4000 RTP/AVP 0\r\n",
            4000,
            Some("192.0.2.1"),
        ),
        (
            "unknown lines",
            "v=0\r\nx=1\r\nX-Y: z\r\nc=IN IP4 192.0.2.1\r\n=\r\na\r\nm=audio 4000 RTP/AVP 0\r\n\0\x7f\r\n",
            4000,
            Some("192.0.2.1"),
        ),
        (
            "multicast",
            "v=0\r\nc=IN IP4 224.2.1.1/127/3\r\nm=audio 4000 RTP/AVP 0\r\n",
            4000,
            Some("224.2.1.1"),
        ),
        (
            "ports",
            "v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 4000/2 RTP/AVP 0\r\n",
            4000,
            Some("192.0.2.1"),
        ),
        (
            "host name",
            "v=0\r\nc=IN IP4 phone.example.com\r\nm=audio 4000 RTP/AVP 0\r\n",
            4000,
            None,
        ),
        (
            "wrong family",
            "v=0\r\nc=IN IP4 2001:db8::1\r\nm=audio 4000 RTP/AVP 0\r\n",
            4000,
            Some("2001:db8::1"),
        ),
        (
            "hold of old",
            "v=0\r\nc=IN IP4 0.0.0.0\r\nm=audio 4000 RTP/AVP 0\r\n",
            4000,
            Some("0.0.0.0"),
        ),
        ("no c=", "v=0\r\nm=audio 4000 RTP/AVP 0\r\n", 4000, None),
        ("c= without address", "v=0\r\nc=IN IP4\r\nm=audio 4000 RTP/AVP 0\r\n", 4000, None),
        (
            "media c=",
            "v=0\r\nm=audio 4000 RTP/AVP 0\r\nc=IN IP4 192.0.2.1\r\n",
            4000,
            Some("192.0.2.1"),
        ),
        (
            "two c=",
            "v=0\r\nm=audio 4000 RTP/AVP 0\r\nc=IN IP4 192.0.2.1\r\nc=IN IP4 192.0.2.2\r\n",
            4000,
            Some("192.0.2.1"),
        ),
        (
            "no formats",
            "v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 4000 RTP/AVP\r\n",
            4000,
            Some("192.0.2.1"),
        ),
        (
            "zeroes",
            "v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 0004000 RTP/AVP 0\r\n",
            4000,
            Some("192.0.2.1"),
        ),
    ];
    for (name, form, port, address) in forms {
        let sdp = parse(form);
        assert_eq!(sdp.media_count(), 1, "{name}");
        let media = sdp.media(0).expect("there");
        let line = media.media_line().expect("its line");
        assert_eq!((line.kind, line.port), (&b"audio"[..], *port), "{name}");
        let found = sdp.connection_of(media).and_then(|connection| connection.ip);
        assert_eq!(found, address.map(ip), "{name}");
        assert_eq!(text(SdpEdit::new(&sdp)), *form, "{name}");

        // A relay's edit, read again.
        let mut edit = SdpEdit::new(&sdp);
        edit.set_port(media, 30_000)
            .set_connection(media, ip("198.51.100.1"))
            .append_attribute(media, "rtcp-mux");
        let edited = text(edit);
        let again = parse(&edited);
        let media = again.media(0).expect("there");
        let line = media.media_line().expect("its line");
        assert_eq!((line.port, line.ports), (30_000, 1), "{name}: {edited:?}");
        assert!(media.connections().all(|c| c.ip == Some(ip("198.51.100.1"))), "{name}");
        assert!(media.connections().count() > 0 || *name == "c= without address", "{name}");
        assert!(media.attribute("rtcp-mux").is_some(), "{name}: {edited:?}");
        assert_eq!(edited.ends_with('\n'), form.ends_with('\n'), "{name}");
    }
}

#[test]
fn what_leaves_open_where_media_goes_is_an_error() {
    for (text, error) in [
        ("", SdpError::NoVersion),
        ("\r\n", SdpError::NoVersion),
        ("o=- 1 1 IN IP4 192.0.2.1\r\nv=0\r\n", SdpError::NoVersion),
        ("v=0\r\nm=audio\r\n", SdpError::Media { offset: 5 }),
        ("v=0\r\nm=audio 4000\r\n", SdpError::Media { offset: 5 }),
        ("v=0\r\nm=audio 65536 RTP/AVP 0\r\n", SdpError::Media { offset: 5 }),
        ("v=0\r\nm=audio -1 RTP/AVP 0\r\n", SdpError::Media { offset: 5 }),
        ("v=0\r\nm=audio 4000/0 RTP/AVP 0\r\n", SdpError::Media { offset: 5 }),
        ("v=0\r\nm=audio 4000/x RTP/AVP 0\r\n", SdpError::Media { offset: 5 }),
        ("v=0\r\nm=audio $ RTP/AVP 0\r\n", SdpError::Media { offset: 5 }),
    ] {
        assert_eq!(Sdp::parse(text.as_bytes()).err(), Some(error), "{text:?}");
    }
    let limits = SdpLimits { max_size: 60, max_lines: 4, max_media: 2 };
    let within =
        |text: &str| Sdp::parse_within(text.as_bytes(), &limits).map(|sdp| sdp.media_count());
    let media = "m=audio 1 RTP/AVP 0\n";
    assert_eq!(within(&format!("v=0\n{media}{media}")), Ok(2));
    assert_eq!(
        within(&format!("v=0\n{media}{media}{media}")),
        Err(SdpError::TooLong { limit: 60 })
    );
    assert_eq!(
        within("v=0\nm=a 1 x\nm=a 1 x\nm=a 1 x\n"),
        Err(SdpError::TooManyMedia { limit: 2 })
    );
    assert_eq!(within("v=0\n\n\n\n\n"), Err(SdpError::TooManyLines { limit: 4 }));
}

#[test]
fn an_address_with_a_zone_or_a_name_is_kept_as_text() {
    let form = "v=0\r\nc=IN IP6 fe80::1%eth0\r\nm=audio 4000 RTP/AVP 0\r\n";
    let sdp = parse(form);
    let connection = sdp.session().connection().expect("there");
    assert_eq!((connection.text, connection.ip), (&b"fe80::1%eth0"[..], None));
    assert_eq!(&form[connection.span], "IP6 fe80::1%eth0");
}

/// Valid descriptions, as the oracle wants them.
fn valid() -> impl Strategy<Value = String> {
    let v4 = any::<[u8; 4]>().prop_map(|bytes| format!("IP4 {}", IpAddr::from(bytes)));
    let v6 = any::<[u8; 16]>().prop_map(|bytes| format!("IP6 {}", IpAddr::from(bytes)));
    let address = || prop_oneof![v4.clone(), v6.clone()];
    let attribute = prop_oneof![
        Just("a=sendonly".to_owned()),
        Just("a=rtcp-mux".to_owned()),
        "a=[a-z][a-z0-9-]{0,8}:[ -~]{0,20}[!-~]",
        (0_u8..128, 1_u32..100_000).prop_map(|(kind, rate)| format!("a=rtpmap:{kind} x/{rate}")),
    ];
    let media = (
        "[a-z]{3,8}",
        any::<u16>(),
        prop::option::of(1_u16..5),
        prop_oneof![Just("RTP/AVP"), Just("udptl"), Just("UDP/TLS/RTP/SAVPF")],
        prop::collection::vec(0_u8..128, 1..6),
        prop::option::of(address()),
        prop::collection::vec(attribute.clone(), 0..8),
    )
        .prop_map(|(kind, port, ports, proto, formats, connection, attributes)| {
            let ports = ports.map_or(String::new(), |ports| format!("/{ports}"));
            let formats: Vec<String> = formats.iter().map(u8::to_string).collect();
            let mut lines = vec![format!("m={kind} {port}{ports} {proto} {}", formats.join(" "))];
            lines.extend(connection.map(|address| format!("c=IN {address}")));
            lines.extend(attributes);
            lines
        });
    (
        address(),
        prop::option::of(address()),
        prop::collection::vec(attribute, 0..5),
        prop::collection::vec(media, 0..5),
    )
        .prop_map(|(origin, connection, attributes, medias)| {
            let mut lines =
                vec!["v=0".to_owned(), format!("o=- 1 2 IN {origin}"), "s=-".to_owned()];
            lines.extend(connection.map(|address| format!("c=IN {address}")));
            lines.push("t=0 0".to_owned());
            lines.extend(attributes);
            lines.extend(medias.into_iter().flatten());
            lines.iter().map(|line| format!("{line}\r\n")).collect()
        })
}

proptest! {
    #[test]
    fn agrees_with_the_oracle(text in valid()) {
        let oracle = sdp_types::Session::parse(text.as_bytes()).expect("valid");
        let sdp = parse(&text);
        let origin = sdp.origin().expect("there");
        prop_assert_eq!(origin.text, oracle.origin.unicast_address.as_bytes());
        prop_assert!(origin.ip.is_some());
        let session = sdp.session();
        let address = |found: Option<dialtone_sip::sdp::Address<'_>>| found.map(|found| String::from_utf8_lossy(found.text).into_owned());
        let wanted = |connection: &sdp_types::Connection| connection.connection_address.clone();
        prop_assert_eq!(address(session.connection()), oracle.connection.as_ref().map(wanted));
        prop_assert_eq!(session.attributes().count(), oracle.attributes.len());
        prop_assert_eq!(sdp.media_count(), oracle.medias.len());
        for (media, oracle) in sdp.medias().zip(&oracle.medias) {
            let line = media.media_line().expect("its line");
            prop_assert_eq!(line.kind, oracle.media.as_bytes());
            prop_assert_eq!(line.port, oracle.port);
            prop_assert_eq!(line.ports, oracle.num_ports.unwrap_or(1));
            prop_assert_eq!(line.proto, oracle.proto.as_bytes());
            prop_assert_eq!(line.formats, oracle.fmt.as_bytes());
            prop_assert_eq!(address(media.connection()), oracle.connections.first().map(wanted));
            let found: Vec<_> = media.attributes().map(|attribute| (
                String::from_utf8_lossy(attribute.name).into_owned(),
                attribute.value.map(|value| String::from_utf8_lossy(value).into_owned()),
            )).collect();
            let wanted: Vec<_> = oracle.attributes.iter().map(|attribute| (
                attribute.attribute.clone(),
                attribute.value.as_ref().map(|value| value.trim().to_owned()),
            )).collect();
            prop_assert_eq!(found, wanted);
        }
    }

    #[test]
    fn without_an_edit_nothing_changes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(sdp) = Sdp::parse(&bytes) {
            prop_assert_eq!(SdpEdit::new(&sdp).finish(), bytes);
        }
    }

    /// Pieces of descriptions in any order, with any line ends.
    #[test]
    fn any_mixture_is_taken_or_refused(pieces in prop::collection::vec(
        (prop::sample::select(vec![
            "v=0", "o=- 1 1 IN IP4 192.0.2.1", "o=", "c=IN IP4 192.0.2.1", "c=", "c=IN IP4", "m=audio 1 RTP/AVP 0",
            "m=audio 1/2 RTP/AVP 0", "m=", "i=x", "a=rtcp:1", "a=rtcp:1 IN IP6 ::1", "a=", "a=:", "a=rtpmap:", "a=rtpmap:0 x/8000",
            "a=sendonly", "", " ", "=", "\u{fffd}",
        ]), prop::sample::select(vec!["\r\n", "\n", "\r", "", "\n\r"])),
        0..20,
    )) {
        let text: String = std::iter::once("v=0\r\n".to_owned())
            .chain(pieces.iter().map(|(line, end)| format!("{line}{end}")))
            .collect();
        let Ok(sdp) = Sdp::parse(text.as_bytes()) else { return Ok(()) };
        let _ = (sdp.origin(), sdp.session().connection(), sdp.session().direction());
        let mut edit = SdpEdit::new(&sdp);
        edit.set_origin_address(ip("::1"));
        for (index, media) in sdp.medias().enumerate() {
            for attribute in media.attributes() {
                let _ = (attribute.rtcp(), attribute.rtpmap(), attribute.is_ice());
            }
            edit.set_connection(media, ip("::1")).set_port(media, 40_000 + index as u16);
            edit.append_attribute(media, "rtcp-mux");
        }
        let edited = edit.finish();
        let again = Sdp::parse(&edited).expect("still a description");
        prop_assert_eq!(again.media_count(), sdp.media_count());
        for (index, media) in again.medias().enumerate() {
            prop_assert_eq!(media.media_line().expect("its line").port, 40_000 + index as u16);
            prop_assert!(media.attribute("rtcp-mux").is_some());
        }
    }
}
