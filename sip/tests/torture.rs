//! RFC 4475: what each torture test message must be read or refused as.

use bytes::Bytes;
use dialtone_sip::{
    Contact, HeaderName, Host, Message, Method, ParseError, Partial, ResponseBuilder, Uri,
};

fn load(name: &str) -> Bytes {
    let path = format!("{}/tests/rfc4475/{name}.dat", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}")).into()
}

fn valid(name: &str) -> Message {
    let message = Message::parse(load(name)).unwrap_or_else(|partial| panic!("{name}: {partial}"));
    message.check().unwrap_or_else(|error| panic!("{name}: {error}"));
    message
}

/// The fault of a message, wherever it is found; a broken request must be answerable by the status that it deserves.
fn refused(name: &str) -> ParseError {
    let (message, error) = match Message::parse(load(name)) {
        Ok(message) => {
            let error = message.check().expect_err(name);
            (message, error)
        }
        Err(Partial { error, message }) => {
            (*message.unwrap_or_else(|| panic!("{name}: unreadable")), error)
        }
    };
    if message.is_request() {
        let (code, reason) = error.status();
        let answer = ResponseBuilder::new(&message, code).reason(reason).to_tag("t").build();
        let answer = Message::parse(answer.unwrap_or_else(|error| panic!("{name}: {error}")));
        assert_eq!(
            answer.unwrap_or_else(|partial| panic!("{name}: {partial}")).status(),
            Some(code)
        );
    }
    error
}

#[test]
fn every_message_of_the_archive_is_read_or_refused_without_panic() {
    let mut seen = 0;
    for entry in
        std::fs::read_dir(format!("{}/tests/rfc4475", env!("CARGO_MANIFEST_DIR"))).expect("folder")
    {
        let path = entry.expect("entry").path();
        if path.extension().is_some_and(|extension| extension == "dat") {
            seen += 1;
            if let Ok(message) = Message::parse(std::fs::read(&path).expect("readable").into()) {
                let _ = message.check();
                message.contacts().for_each(|_| ());
            }
        }
    }
    assert_eq!(seen, 50);
}

#[test]
fn section_3_1_1_1_short_tortuous_invite() {
    let message = valid("wsinv");
    assert_eq!(message.method(), Some(Method::Invite));
    let uri = message.request_uri().expect("uri");
    assert_eq!(uri.as_str(), "sip:vivekg@chair-dnrc.example.com;unknownparam");
    assert_eq!(message.to().expect("to").tag(), Some("1918181833n"));
    let from = message.from().expect("from");
    assert_eq!(from.display, Some(r#""J Rosenberg \\\"""#));
    assert_eq!(from.tag(), Some("98asjd8"));
    assert_eq!(message.max_forwards(), Ok(Some(68)));
    assert_eq!(message.call_id(), Ok("wsinv.ndaksdj@192.0.2.1"));
    let cseq = message.cseq().expect("cseq");
    assert_eq!((cseq.seq, cseq.method), (9, Method::Invite));
    let vias: Vec<_> = message.vias().map(|via| via.expect("via")).collect();
    assert_eq!(vias.iter().map(|via| via.transport).collect::<Vec<_>>(), ["UDP", "TCP", "UDP"]);
    assert_eq!(vias[0].branch(), Some("390skdjuw"));
    assert_eq!(vias[1].host, Host::Name("spindle.example.com"));
    assert_eq!(vias[1].branch(), Some("z9hG4bK9ikj8"));
    assert_eq!(vias[2].host, Host::V4([192, 168, 255, 111].into()));
    let routes: Vec<_> = message.routes().map(|route| route.expect("route").uri.as_str()).collect();
    assert_eq!(routes[0], "sip:services.example.com;lr;unknownwith=value;unknown-no-value");
    let contact = message.contacts().next().expect("one").expect("contact");
    let contact = contact.addr().expect("address");
    assert_eq!(contact.display, Some(r#""Quoted string \"\"""#));
    assert_eq!(contact.params.get("newparam"), Some("newvalue"));
    assert_eq!(contact.params.get("secondparam"), Some(""));
    assert_eq!(contact.q(), Some(330));
    assert_eq!(message.content_length(), Ok(Some(150)));
    assert_eq!(message.body().len(), 150);
    assert!(message.other_header("newfangledheader").is_some());
}

#[test]
fn section_3_1_1_2_wide_range_of_valid_characters() {
    let message = valid("intmeth");
    let method = "!interesting-Method0123456789_*+`.%indeed'~";
    assert_eq!(message.method(), Some(Method::Other(method)));
    let uri = message.request_uri().expect("uri");
    let uri = uri.sip().expect("sip");
    assert_eq!(uri.user, Some("1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"));
    assert_eq!(uri.password, Some("&it+has=1,weird!*pas$wo~d_too.(doesn't-it)"));
    assert_eq!(uri.host, Host::Name("example.com"));
    assert_eq!(message.from().expect("from").tag(), Some("_token~1'+`*%!-."));
}

#[test]
fn section_3_1_1_3_escapes() {
    let message = valid("esc01");
    let uri = message.request_uri().expect("uri");
    let user = uri.sip().and_then(|uri| uri.user_unescaped());
    assert_eq!(user.as_deref(), Some("sips:user@example.com"));
    let contact = message.contacts().next().expect("one").expect("contact");
    let addr = contact.addr().expect("address");
    let plain =
        Uri::parse("sip:caller@host5.example.net;%6C%72;n%61me=value%25%34%31").expect("uri");
    assert!(addr.uri.equivalent(&plain));
    assert!(addr.uri.sip().is_some_and(|uri| !uri.is_loose()));
}

#[test]
fn section_3_1_1_4_escaped_nulls() {
    let message = valid("escnull");
    let contacts: Vec<_> = message.contacts().collect::<Result<_, _>>().expect("contacts");
    let uris: Vec<_> = contacts.iter().filter_map(Contact::addr).map(|addr| addr.uri).collect();
    assert_eq!(uris.len(), 2);
    assert!(!uris[0].equivalent(&uris[1]));
    assert_eq!(uris[0].sip().and_then(|uri| uri.user_unescaped()).as_deref(), Some("\0"));
}

#[test]
fn section_3_1_1_5_percent_that_is_no_escape() {
    let message = valid("esc02");
    assert_eq!(message.method(), Some(Method::Other("RE%47IST%45R")));
    assert_eq!(message.from().expect("from").display, Some("\"%Z%45\""));
}

#[test]
fn section_3_1_1_6_no_white_space_before_bracket() {
    assert_eq!(valid("lwsdisp").from().expect("from").display, Some("caller"));
}

#[test]
fn section_3_1_1_7_long_values() {
    let message = valid("longreq");
    assert_eq!(message.vias().count(), 34);
    assert!(message.from().expect("from").tag().is_some_and(|tag| tag.len() > 100));
}

#[test]
fn section_3_1_1_8_extra_octets_are_dropped() {
    let message = valid("dblreq");
    assert_eq!(message.method(), Some(Method::Register));
    assert!(message.body().is_empty());
    assert!(message.bytes().ends_with(b"\r\n\r\n"));
}

#[test]
fn section_3_1_1_9_to_13_other_valid_ones() {
    let message = valid("semiuri");
    let uri = message.request_uri().expect("uri");
    let uri = uri.sip().expect("sip");
    assert_eq!((uri.user, uri.params.as_str()), (Some("user;par=u%40example.net"), ""));
    let message = valid("transports");
    let transports: Vec<_> = message.vias().map(|via| via.expect("via").transport).collect();
    assert_eq!(transports, ["UDP", "SCTP", "TLS", "UNKNOWN", "TCP"]);
    let message = valid("mpart01");
    assert_eq!(message.content_length(), Ok(Some(message.body().len())));
    let message = valid("unreason");
    assert_eq!(message.status(), Some(200));
    assert!(
        message.reason().is_some_and(|reason| reason.starts_with("= 2**3 * 5**2 но".as_bytes()))
    );
    let message = valid("noreason");
    assert_eq!((message.status(), message.reason()), (Some(100), Some(&b""[..])));
}

#[test]
fn section_3_1_2_invalid_messages() {
    use HeaderName as H;
    use ParseError as E;
    let table = [
        ("badinv01", E::Header(H::Via)),
        ("clerr", E::ShortBody),
        ("ncl", E::Header(H::ContentLength)),
        ("scalar02", E::Header(H::CSeq)),
        ("scalarlg", E::Header(H::CSeq)),
        ("quotbal", E::Header(H::To)),
        ("ltgtruri", E::Uri),
        ("lwsruri", E::StartLine),
        ("lwsstart", E::StartLine),
        ("trws", E::StartLine),
        ("badaspec", E::Header(H::To)),
        ("badvers", E::Version),
        ("mismatch01", E::MethodMismatch),
        ("mismatch02", E::MethodMismatch),
    ];
    for (name, error) in table {
        assert_eq!(refused(name), error, "{name}");
    }
    // Readable, to be judged by who uses the part in question.
    let message = valid("escruri");
    let uri = message.request_uri().expect("uri");
    assert_eq!(uri.sip().and_then(|uri| uri.headers), Some("Route=%3Csip:example.com%3E"));
    assert!(valid("baddate").header_str(H::Date).is_some_and(|date| date.ends_with("EST")));
    assert_eq!(valid("regbadct").contacts().next(), Some(Err(E::Header(H::Contact))));
    // The archive's bytes lack the empty line, the text of the document does not.
    assert_eq!(refused("baddn"), E::Unterminated);
    let message = Message::parse([&load("baddn")[..], b"\r\n"].concat().into()).expect("whole");
    assert_eq!(message.from().expect("from").display, Some("Bell, Alexander"));
    // "the response must be discarded": nothing can be read of it.
    assert!(matches!(Message::parse(load("bigcode")), Err(Partial { message: None, .. })));
}

#[test]
fn section_3_2_transaction_semantics() {
    // A branch that is nothing but the cookie identifies no transaction.
    let message = valid("badbranch");
    assert_eq!(message.top_via().expect("via").rfc3261_branch(), None);
}

#[test]
fn section_3_3_application_semantics() {
    use HeaderName as H;
    assert_eq!(refused("insuf"), ParseError::Missing(H::From));
    assert!(matches!(valid("unkscm").request_uri(), Ok(Uri::Other("nobodyKnowsThisScheme", _))));
    assert!(matches!(valid("novelsc").request_uri(), Ok(Uri::Other("soap.beep", _))));
    assert!(matches!(valid("unksm2").to().map(|to| to.uri), Ok(Uri::Other("isbn", _))));
    let message = valid("bext01");
    assert_eq!(
        message.tokens(H::Require).collect::<Vec<_>>(),
        ["nothingSupportsThis", "nothingSupportsThisEither"]
    );
    assert_eq!(
        message.tokens(H::ProxyRequire).collect::<Vec<_>>(),
        ["noProxiesSupportThis", "norDoAnyProxiesSupportThis"]
    );
    assert_eq!(valid("invut").header_str(H::ContentType), Some("application/unknownformat"));
    assert!(valid("regaut01").header_str(H::Authorization).is_some());
    assert!(matches!(refused("multi01"), ParseError::Repeated(_)));
    assert_eq!(refused("mcl01"), ParseError::Repeated(H::ContentLength));
    assert_eq!(valid("bcast").vias().count(), 2);
    assert_eq!(valid("zeromf").max_forwards(), Ok(Some(0)));
    // A parameter after brackets is the header's, one inside is the URI's.
    let outside = valid("cparam01");
    let contact = outside.contacts().next().expect("one").expect("contact");
    assert!(contact.addr().is_some_and(|addr| addr.params.has("unknownparam")));
    let inside = valid("cparam02");
    let contact = inside.contacts().next().expect("one").expect("contact");
    let addr = contact.addr().expect("address");
    assert!(
        addr.uri.sip().is_some_and(|uri| uri.params.has("unknownparam"))
            && !addr.params.has("unknownparam")
    );
    let escaped = valid("regescrt");
    let contact = escaped.contacts().next().expect("one").expect("contact");
    assert!(
        contact.addr().and_then(|addr| addr.uri.sip()).is_some_and(|uri| uri.headers.is_some())
    );
    assert_eq!(valid("sdp01").tokens(H::Accept).collect::<Vec<_>>(), ["text/nobodyKnowsThis"]);
}

#[test]
fn section_3_4_rfc_2543_syntax() {
    let message = valid("inv2543");
    assert_eq!(message.max_forwards(), Ok(None));
    assert_eq!(message.content_length(), Ok(None));
    assert!(!message.body().is_empty());
    assert_eq!(message.top_via().expect("via").branch(), None);
}
