//! rsip as an independent reader: on messages that it can read, it must see what we see.

mod common;

use dialtone_sip::{HeaderName, Message};
use proptest::prelude::*;
use rsip::headers::UntypedHeader;
use rsip::message::HeadersExt;
use rsip::prelude::ToTypedHeader;
use rsip::typed;

fn compare(text: &str) {
    let ours = common::parse(text);
    let theirs = rsip::Request::try_from(text.as_bytes()).expect("rsip");
    assert_eq!(ours.request_uri_str().expect("uri"), theirs.uri.to_string());
    assert_eq!(ours.method().expect("method").as_str(), theirs.method.to_string());
    assert_eq!(ours.call_id().expect("call-id"), theirs.call_id_header().expect("call-id").value());
    let cseq = theirs.cseq_header().expect("cseq");
    assert_eq!(ours.cseq().expect("cseq").seq, cseq.seq().expect("number"));
    let from: typed::From = theirs.from_header().expect("from").typed().expect("typed");
    let our_from = ours.from().expect("from");
    assert_eq!(our_from.uri.as_str(), from.uri.to_string());
    assert_eq!(our_from.tag().map(str::to_owned), from.tag().map(|tag| tag.to_string()));
    let to: typed::To = theirs.to_header().expect("to").typed().expect("typed");
    assert_eq!(ours.to().expect("to").uri.as_str(), to.uri.to_string());
    let via: typed::Via = theirs.via_header().expect("via").typed().expect("typed");
    let our_via = ours.top_via().expect("via");
    assert_eq!(our_via.transport, via.transport.to_string());
    assert_eq!(our_via.branch(), via.branch().map(|branch| branch.value()));
    assert_eq!(our_via.host.to_string(), via.uri.host().to_string());
    assert_eq!(our_via.port, via.uri.port().map(|port| *port.value()));
    let contact: typed::Contact = theirs.contact_header().expect("contact").typed().expect("typed");
    let our_contact = ours.contacts().next().expect("one").expect("contact");
    assert_eq!(our_contact.addr().expect("address").uri.as_str(), contact.uri.to_string());
    assert_eq!(
        u32::from(ours.max_forwards().expect("number").expect("there")),
        theirs.max_forwards_header().expect("max-forwards").num().expect("number")
    );
    assert_eq!(ours.headers().count(), theirs.headers.iter().count());
    assert_eq!(ours.body(), theirs.body);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rsip_sees_the_same(
        method in prop_oneof![Just("INVITE"), Just("BYE"), Just("REGISTER"), Just("OPTIONS")],
        user in "[a-z][a-z0-9]{0,8}",
        host in "[a-z]{1,8}\\.example\\.(com|net)|192\\.0\\.2\\.[1-9]",
        port in proptest::option::of(1024..65535_u16),
        transport in prop_oneof![Just("UDP"), Just("TCP"), Just("TLS")],
        branch in "z9hG4bK[a-zA-Z0-9]{4,20}",
        tag in "[a-z0-9]{4,12}",
        call_id in "[a-zA-Z0-9]{4,16}@[a-z]{1,8}",
        seq in 1..0x7fff_ffff_u32,
        display in proptest::option::of("[A-Z][a-z]{1,8}"),
        body in "[ -~]{0,80}",
    ) {
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let display = display.map(|name| format!("\"{name}\" ")).unwrap_or_default();
        compare(&format!(
            "{method} sip:{user}@{host} SIP/2.0\r\nVia: SIP/2.0/{transport} {host}{port};branch={branch}\r\n\
             Max-Forwards: 70\r\nFrom: {display}<sip:{user}@{host}>;tag={tag}\r\nTo: <sip:x@{host}>\r\n\
             Call-ID: {call_id}\r\nCSeq: {seq} {method}\r\nContact: <sip:{user}@{host}{port}>\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
    }
}

#[test]
fn rsip_reads_what_we_write() {
    let message = common::parse(&common::invite());
    let bytes =
        dialtone_sip::ResponseBuilder::new(&message, 486).to_tag("x").build().expect("built");
    let theirs = rsip::Response::try_from(&bytes[..]).expect("rsip");
    let ours = Message::parse(bytes.clone()).expect("ours");
    assert_eq!(
        ours.header_str(HeaderName::CallId),
        Some(theirs.call_id_header().expect("call-id").value())
    );
    assert_eq!(u16::from(theirs.status_code), 486);
}
