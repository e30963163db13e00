//! Splice editing and builders: what is edited changes, every other byte stays.

mod common;

use common::{invite, parse};
use dialtone_sip::{
    Edit, HeaderName, Message, Method, RequestBuilder, ResponseBuilder, ack_for, cancel_for,
    reason_phrase,
};

fn finish(edit: Edit<'_>) -> Message {
    let bytes = edit.finish();
    Message::parse(bytes.clone())
        .unwrap_or_else(|partial| panic!("{partial}: {}", String::from_utf8_lossy(&bytes)))
}

#[test]
fn forwarding_changes_what_it_must_and_nothing_else() {
    let text = invite();
    let message = parse(&text);
    let mut edit = Edit::new(&message);
    edit.set_request_uri("sip:bob@198.51.100.7:5080;ob")
        .stamp_via("203.0.113.9:31000".parse().expect("address"))
        .push_via("SIP/2.0/TCP 127.0.0.1:5070;branch=z9hG4bKnew")
        .remove_values(HeaderName::Route, 1)
        .add_before(HeaderName::RecordRoute, "Record-Route", "<sip:TOKEN@127.0.0.1;lr>")
        .set_max_forwards(69)
        .add_bottom("X-Last", "1");
    let out = edit.finish();
    let expected = text
        .replace("INVITE sip:bob@example.com SIP", "INVITE sip:bob@198.51.100.7:5080;ob SIP")
        .replace(";rport\r\n", ";rport=31000;received=203.0.113.9\r\n")
        .replace(
            "Via: SIP/2.0/UDP",
            "Via: SIP/2.0/TCP 127.0.0.1:5070;branch=z9hG4bKnew\r\nRecord-Route: <sip:TOKEN@127.0.0.1;lr>\r\nVia: SIP/2.0/UDP",
        )
        .replace("Route: <sip:edge.example.com;lr>, \"a", "Route: \"a")
        .replace("Max-Forwards: 70", "Max-Forwards: 69")
        .replace("\r\n\r\nv=0", "\r\nX-Last: 1\r\n\r\nv=0");
    assert_eq!(String::from_utf8_lossy(&out), expected);
}

#[test]
fn removing_values_of_lists() {
    let text = "OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=1 , SIP/2.0/UDP b;branch=2,\r\n SIP/2.0/UDP c\r\n\
                v: SIP/2.0/UDP d\r\nSubject: x\r\n\r\n";
    let message = parse(text);
    let hosts = |indices| {
        let mut edit = Edit::new(&message);
        edit.remove_values_at(HeaderName::Via, indices);
        let out = finish(edit);
        assert_eq!(out.header_str(HeaderName::Subject), Some("x"));
        out.vias().map(|via| via.expect("via").host.to_string()).collect::<Vec<_>>().concat()
    };
    assert_eq!(hosts(0..0), "abcd");
    assert_eq!(hosts(0..1), "bcd");
    assert_eq!(hosts(1..2), "acd");
    assert_eq!(hosts(2..3), "abd");
    assert_eq!(hosts(1..4), "a");
    assert_eq!(hosts(3..4), "abc");
    assert_eq!(hosts(0..4), "");
    assert_eq!(hosts(0..9), "");
    let mut edit = Edit::new(&message);
    edit.pop_via().push_via("SIP/2.0/UDP new");
    let out = finish(edit);
    assert_eq!(
        out.vias().map(|via| via.expect("via").host.to_string()).collect::<Vec<_>>(),
        ["new", "b", "c", "d"]
    );
}

#[test]
fn setting_adding_removing_headers_and_body() {
    let message = parse(&invite());
    let mut edit = Edit::new(&message);
    edit.set_header(HeaderName::Expires, "30")
        .remove_headers(HeaderName::SessionExpires)
        .set_body(&b"v=0\r\n"[..])
        .add_after(HeaderName::Via, "X-After", "a")
        .add_top("X-Top", "b");
    let out = finish(edit);
    assert_eq!(out.expires(), Some(30));
    assert_eq!(out.header_str(HeaderName::SessionExpires), None);
    assert_eq!((out.body(), out.content_length()), (&b"v=0\r\n"[..], Ok(Some(5))));
    let names: Vec<_> = out.headers().map(|header| header.name_str().to_owned()).take(3).collect();
    assert_eq!(names, ["X-Top", "Via", "X-After"]);
    let bare = parse("SIP/2.0 200 OK\r\n\r\n");
    let mut edit = Edit::new(&bare);
    edit.ensure_content_length().add_top("To", "<sip:a@b>");
    assert_eq!(&edit.finish()[..], b"SIP/2.0 200 OK\r\nContent-Length: 0\r\nTo: <sip:a@b>\r\n\r\n");
}

#[test]
fn pieces_are_found_again() {
    let message = parse(&invite());
    let user = message.from().expect("from").uri.sip().and_then(|uri| uri.user).expect("user");
    let mut edit = Edit::new(&message);
    edit.replace(message.span_of(user).expect("ours"), &b"carol"[..]);
    let out = finish(edit);
    assert_eq!(out.from().expect("from").uri.as_str(), "sip:carol@example.com");
    assert_eq!(message.span_of("elsewhere"), None);
}

#[test]
fn responses_copy_what_rfc_3261_8_2_6_2_asks_for() {
    let message = parse(&invite().replace("CSeq: 1 INVITE", "CSeq: 1 INVITE\r\nTimestamp: 54"));
    let source = "192.0.2.10:40000".parse().expect("address");
    let build = |code| {
        let built = ResponseBuilder::new(&message, code)
            .source(source)
            .to_tag("abc")
            .header("X", "y")
            .build();
        Message::parse(built.expect("built")).expect("parsed")
    };
    let trying = build(100);
    assert_eq!(trying.to().expect("to").tag(), None);
    assert_eq!(trying.header_str(HeaderName::Timestamp), Some("54"));
    let ringing = build(180);
    assert_eq!(
        (ringing.status(), ringing.reason()),
        (Some(180), Some(reason_phrase(180).as_bytes()))
    );
    assert_eq!(ringing.to().expect("to").tag(), Some("abc"));
    assert_eq!(ringing.top_via().expect("via").rport(), Some(Some(40000)));
    assert_eq!(
        ringing.top_via().expect("via").received(),
        Some("192.0.2.10".parse().expect("address"))
    );
    assert_eq!(ringing.from().expect("from").raw, message.from().expect("from").raw);
    assert_eq!(ringing.call_id(), message.call_id());
    assert_eq!(ringing.method(), Some(Method::Invite));
    assert_eq!(ringing.header_str(HeaderName::Timestamp), None);
    assert_eq!(ringing.check(), Ok(()));
}

#[test]
fn ack_and_cancel_belong_to_their_invite() {
    let message = parse(&invite());
    let busy = ResponseBuilder::new(&message, 486).to_tag("xyz").build().expect("built");
    let ack = ack_for(&message, &Message::parse(busy).expect("parsed")).expect("ack");
    let ack = Message::parse(ack).expect("parsed");
    assert_eq!(ack.check(), Ok(()));
    assert_eq!(ack.to().expect("to").tag(), Some("xyz"));
    let cancel = Message::parse(cancel_for(&message).expect("cancel")).expect("parsed");
    assert_eq!(cancel.check(), Ok(()));
    assert_eq!(cancel.to().expect("to").tag(), None);
    for (message, other, method) in
        [(&message, &ack, Method::Ack), (&message, &cancel, Method::Cancel)]
    {
        assert_eq!(other.method(), Some(method));
        assert_eq!(other.vias().count(), 1);
        assert_eq!(other.top_via(), message.top_via());
        assert_eq!(other.request_uri_str(), message.request_uri_str());
        assert_eq!(other.routes().count(), 2);
        assert_eq!(other.cseq().expect("cseq").seq, 1);
    }
    let local = "127.0.0.1:5060".parse().expect("address");
    let options =
        RequestBuilder::options("sip:127.0.0.1:5070", "UDP", local, "z9hG4bK1", "c1", "t1").build();
    assert_eq!(Message::parse(options).expect("parsed").check(), Ok(()));
}

#[test]
fn an_empty_value_is_set_in_its_own_line() {
    let message =
        parse("OPTIONS sip:a@b SIP/2.0\r\nMax-Forwards: \r\nRoute:\r\n \r\nTo: x\r\n\r\n");
    assert_eq!(message.header_str(HeaderName::MaxForwards), Some(""));
    let mut edit = Edit::new(&message);
    edit.set_max_forwards(1).set_header(HeaderName::Route, "y");
    let edited = parse(std::str::from_utf8(&edit.finish()).unwrap());
    assert_eq!(edited.max_forwards(), Ok(Some(1)));
    assert_eq!(edited.header_str(HeaderName::Route), Some("y"));
    assert_eq!(edited.header_str(HeaderName::To), Some("x"));
}

/// A bracket that stays open would have what is appended for its own: neither the sender's address nor a tag could be
/// read.
#[test]
fn what_is_appended_is_a_parameter_of_its_own() {
    let source = "203.0.113.9:31000".parse().unwrap();
    for (value, fits) in
        [("<", false), ("<a;b", false), ("\"<\"", true), ("<a;b>", true), (">", true)]
    {
        let text = invite().replace(";rport\r\n", &format!(";rport;x={value}\r\n")).replace(
            "To: \"Bob\" <sip:bob@example.com>",
            &format!("To: <sip:bob@example.com>;x={value}"),
        );
        let message = parse(&text);
        assert_eq!(message.check().is_ok(), fits, "{value}");
        assert_eq!((message.top_via().is_ok(), message.to().is_ok()), (fits, fits), "{value}");
        if fits {
            let built = ResponseBuilder::new(&message, 200).source(source).to_tag("t").build();
            let built = Message::parse(built.unwrap()).unwrap();
            let via = built.top_via().unwrap();
            assert_eq!((via.received(), via.rport()), (Some(source.ip()), Some(Some(31_000))));
            assert_eq!(built.to().unwrap().tag(), Some("t"), "{value}");
        }
    }
}
