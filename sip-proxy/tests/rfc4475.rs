//! RFC 4475: what this proxy does with each torture test message. `docs/rfc4475.md` is the table that this test makes;
//! `DIALTONE_UPDATE=1` writes it anew.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dialtone_location::{
    Answer, BindingKey, Change, Record, Request, SaveOutcome, StoreEvent, Version, WriterId,
};
use dialtone_sip::{HeaderName, Message};
use dialtone_sip_pool::keys::{Generation, Keys};
use dialtone_sip_proxy::core::{Hop, Names, Output, Proxy, Settings};

/// File, section, what the document asks for, what must happen here, and why if that is a choice.
const TABLE: &[(&str, &str, &str, &str, &str)] = &[
    (
        "wsinv",
        "3.1.1.1",
        "accept",
        "403",
        "its Route leads to a stranger: this proxy is no open relay",
    ),
    ("intmeth", "3.1.1.2", "accept", "forwarded", "the method and the user part travel unchanged"),
    ("esc01", "3.1.1.3", "accept", "404", "well-formed, but nobody has this user part"),
    ("escnull", "3.1.1.4", "accept, two contacts", "200, 2 contacts", ""),
    (
        "esc02",
        "3.1.1.5",
        "accept, not a REGISTER",
        "405",
        "no user in the Request-URI, and the method is not REGISTER",
    ),
    ("lwsdisp", "3.1.1.6", "accept", "forwarded", ""),
    ("longreq", "3.1.1.7", "accept", "forwarded", ""),
    ("dblreq", "3.1.1.8", "accept, drop the rest of the datagram", "200, 1 contacts", ""),
    ("semiuri", "3.1.1.9", "accept", "forwarded", "the user part is `user;par=u@example.net`"),
    ("transports", "3.1.1.10", "accept", "forwarded", ""),
    (
        "mpart01",
        "3.1.1.11",
        "accept",
        "403",
        "its Route leads to a stranger: this proxy is no open relay",
    ),
    ("unreason", "3.1.1.12", "accept", "dropped", "a response without transaction (RFC 6026)"),
    ("noreason", "3.1.1.13", "accept", "dropped", "a response without transaction (RFC 6026)"),
    (
        "badinv01",
        "3.1.2.1",
        "400",
        "400",
        "sent to where the request came from, since its Via cannot be read",
    ),
    ("clerr", "3.1.2.2", "400 over UDP", "400", ""),
    ("ncl", "3.1.2.3", "an error", "400", ""),
    ("scalar02", "3.1.2.4", "400", "400", ""),
    ("scalarlg", "3.1.2.5", "drop", "dropped", ""),
    ("quotbal", "3.1.2.6", "400", "400", ""),
    ("ltgtruri", "3.1.2.7", "400 is reasonable", "400", ""),
    ("lwsruri", "3.1.2.8", "400", "400", ""),
    ("lwsstart", "3.1.2.9", "400 is acceptable", "400", ""),
    ("trws", "3.1.2.10", "400 is acceptable", "400", ""),
    ("escruri", "3.1.2.11", "400 is acceptable", "400", ""),
    ("baddate", "3.1.2.12", "ignore Date if it does not matter", "forwarded", ""),
    ("regbadct", "3.1.2.13", "400 is reasonable", "400", ""),
    ("badaspec", "3.1.2.14", "400 is reasonable", "400", ""),
    ("baddn", "3.1.2.15", "400 is reasonable", "400", ""),
    ("badvers", "3.1.2.16", "505", "505", ""),
    ("mismatch01", "3.1.2.17", "400", "400", ""),
    ("mismatch02", "3.1.2.18", "501 or 400", "400", ""),
    ("bigcode", "3.1.2.19", "drop", "dropped", ""),
    ("badbranch", "3.2.1", "400, or as RFC 2543", "forwarded", "matched as RFC 2543 does"),
    ("insuf", "3.3.1", "400", "400", ""),
    ("unkscm", "3.3.2", "416", "416", ""),
    ("novelsc", "3.3.3", "416 or 404", "416", ""),
    ("unksm2", "3.3.4", "400 by a registrar", "400", ""),
    (
        "bext01",
        "3.3.5",
        "420 with Unsupported",
        "420, Unsupported: noProxiesSupportThis, norDoAnyProxiesSupportThis",
        "",
    ),
    ("invut", "3.3.6", "forward", "forwarded", ""),
    ("regaut01", "3.3.7", "ignore Authorization", "200, 0 contacts", "no authentication yet"),
    ("multi01", "3.3.8", "400", "400", ""),
    ("mcl01", "3.3.9", "an error", "400", ""),
    ("bcast", "3.3.10", "drop", "dropped", ""),
    ("zeromf", "3.3.11", "483", "483", ""),
    (
        "cparam01",
        "3.3.12",
        "accept, the parameter is the contact's",
        "200, <sip:+19725552222@gw1.example.net>;unknownparam",
        "",
    ),
    (
        "cparam02",
        "3.3.13",
        "accept, the parameter is the URI's",
        "200, <sip:+19725552222@gw1.example.net;unknownparam>",
        "",
    ),
    (
        "regescrt",
        "3.3.14",
        "accept, keep the escaped header",
        "200, <sip:user@example.com?Route=%3Csip:sip.example.com%3E>",
        "",
    ),
    ("sdp01", "3.3.15", "406 or 400 by an endpoint", "forwarded", "the endpoint's matter"),
    ("inv2543", "3.4.1", "accept", "forwarded", "with a Max-Forwards of 70"),
];

/// Users with a phone.
const USERS: [&str; 7] = [
    "user",
    "kumiko",
    "UserB",
    "t.watson",
    "j_user",
    "user;par=u@example.net",
    "1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*",
];

fn record(user: &str) -> Record {
    let text = |text: &str| -> Box<str> { text.into() };
    Record {
        aor: format!("{user}@example.com").into(),
        key: BindingKey::contact("sip:phone@192.0.2.200"),
        contact: text("sip:phone@192.0.2.200"),
        params: text(""),
        q: 1000,
        expires_at: u64::MAX / 2,
        lifetime: 3600,
        call_id: text("c"),
        cseq: 1,
        user_agent: text(""),
        received: text(""),
        path: text(""),
        gateway: 0,
        flow_token: text(""),
        instance: text(""),
        reg_id: 0,
        version: Version { writer: WriterId(1), sequence: 1 },
        changed_at: 1,
        deleted_at: None,
    }
}

/// What comes out when the bytes come in over UDP.
#[expect(clippy::disallowed_methods, reason = "the start of virtual time")]
fn outcome(bytes: Bytes) -> (String, Vec<Message>) {
    let now = Instant::now();
    let edge = "192.0.2.254:5060".parse().expect("address");
    let mut settings = Settings::new(edge, (now, 1_700_000_000_000));
    settings.edge_udp = Some(edge);
    let domains = [
        "example.com",
        "chair-dnrc.example.com",
        "registrar.example.com",
        "example.net",
        "example.org",
        "company.com",
    ];
    let names = Names::new(&domains.map(str::to_owned), &[edge]);
    let keys = Keys::new(&Generation { id: 1, secret: [1; 32] }, None);
    let mut proxy = Proxy::new(now, settings, names, keys, fastrand::Rng::with_seed(1));
    proxy.handle_store(now, StoreEvent::Changes(USERS.map(record).to_vec()));
    let source = Hop::Udp { socket: 0, peer: "192.0.2.99:5060".parse().expect("address") };
    proxy.handle_message(now, source, bytes);
    let mut sent = Vec::new();
    while let Some(output) = proxy.poll() {
        match output {
            Output::Send { bytes, .. } => {
                sent.push(Message::parse(bytes).expect("what is sent is proper SIP"))
            }
            Output::Store { ticket, request } => {
                let answer = match request {
                    Request::Save(save) => {
                        let Change::Bindings(list) = save.change else {
                            panic!("no star in the archive")
                        };
                        let bindings: Vec<Record> = list
                            .into_iter()
                            .map(|new| Record {
                                contact: new.contact,
                                params: new.params,
                                key: new.key,
                                ..record("x")
                            })
                            .collect();
                        let mut keys: Vec<_> =
                            bindings.iter().map(|record| record.key.clone()).collect();
                        keys.dedup();
                        assert_eq!(keys.len(), bindings.len(), "distinct contacts");
                        Answer::Save(SaveOutcome::Saved { changed: bindings.clone(), bindings })
                    }
                    _ => Answer::Found(Vec::new()),
                };
                proxy.handle_store(now, StoreEvent::Answer { ticket, answer });
            }
            other => panic!("{other:?}"),
        }
    }
    proxy.handle_timeout(now + Duration::from_millis(1));
    let text =
        sent.iter().find(|message| message.status().is_none_or(|code| code > 100)).map_or_else(
            || "dropped".to_owned(),
            |message| {
                message.status().map_or_else(|| "forwarded".to_owned(), |code| code.to_string())
            },
        );
    (text, sent)
}

/// What a 200 or 420 says beyond its code.
fn detail(text: String, sent: &[Message], expected: &str) -> String {
    let Some(answer) = sent.last() else { return text };
    if let Some(unsupported) = answer.header_str(HeaderName::Unsupported) {
        return format!("{text}, Unsupported: {unsupported}");
    }
    if text != "200" {
        return text;
    }
    let contacts: Vec<&str> =
        answer.values(HeaderName::Contact).flatten().map(|value| value.text).collect();
    if expected.contains('<') {
        let first = contacts
            .first()
            .and_then(|contact| contact.split(";expires=").next())
            .unwrap_or_default();
        return format!("{text}, {first}");
    }
    format!("{text}, {} contacts", contacts.len())
}

#[test]
fn every_message_gets_what_the_table_says() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut page = String::from(
        "# SIP torture test messages (RFC 4475)\n\n\
         What `dialtone sip-proxy` does with each message of the archive when it comes over UDP and the users that it \
         is for have a phone. A test (`sip-proxy/tests/rfc4475.rs`) makes this table and fails when it is not true.\n\n\
         | message | section | the document asks for | this proxy | remark |\n|---|---|---|---|---|\n",
    );
    let mut wrong = Vec::new();
    for (name, section, asked, expected, remark) in TABLE {
        let path = root.join(format!("sip/tests/rfc4475/{name}.dat"));
        let bytes =
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (text, sent) = outcome(bytes.into());
        let done = detail(text, &sent, expected);
        if done != *expected {
            wrong.push(format!("{name}: expected {expected}, got {done}"));
        }
        let code = |text: &str| text.replace('<', "&lt;").replace('>', "&gt;");
        page.push_str(&format!("| {name} | {section} | {asked} | {} | {remark} |\n", code(&done)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let archive = std::fs::read_dir(root.join("sip/tests/rfc4475")).expect("archive").flatten();
    let messages = archive
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "dat"))
        .count();
    // test.dat is in the archive, but not in the document.
    assert_eq!(messages, TABLE.len() + 1);
    let file = root.join("docs/rfc4475.md");
    if std::env::var_os("DIALTONE_UPDATE").is_some() {
        std::fs::write(&file, &page).expect("written");
    }
    assert_eq!(
        std::fs::read_to_string(&file).unwrap_or_default(),
        page,
        "run again with DIALTONE_UPDATE=1"
    );
}

#[test]
fn what_is_forwarded_is_not_broken_on_the_way() {
    for (name, _, _, expected, _) in TABLE.iter().filter(|row| row.3 == "forwarded") {
        let path = format!("{}/../sip/tests/rfc4475/{name}.dat", env!("CARGO_MANIFEST_DIR"));
        let before = Message::parse(std::fs::read(&path).expect("archive").into()).expect(name);
        let (_, sent) = outcome(before.bytes().clone());
        let after = sent.iter().find(|message| message.is_request()).expect(expected);
        assert_eq!(after.method(), before.method(), "{name}");
        assert_eq!(after.body(), before.body(), "{name}");
        assert_eq!(after.vias().count(), before.vias().count() + 1, "{name}");
        let kept = |message: &Message, header: HeaderName| -> Vec<Vec<u8>> {
            message.headers_named(header).map(|line| line.raw().to_vec()).collect()
        };
        for header in [
            HeaderName::From,
            HeaderName::To,
            HeaderName::CallId,
            HeaderName::CSeq,
            HeaderName::Contact,
            HeaderName::Date,
        ] {
            assert_eq!(kept(after, header), kept(&before, header), "{name}");
        }
    }
}
