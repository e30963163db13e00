//! REGISTER requests with bad text in every field that reaches the database, and with thousands of contacts: each is
//! answered, nothing of others is lost, and the database stays whole and small.

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use common::{Folder, Process};
use dialtone_location::limits;

#[test]
fn daemon() {
    common::daemon();
}

/// Parts of a REGISTER that the sender chooses; `{}` stands for the bad text.
const FIELDS: [(&str, &str); 22] = [
    ("To user", "To: <sip:{}@dialtone.test>"),
    ("To display name", "To: \"{}\" <sip:eve@dialtone.test>"),
    ("To parameter", "To: <sip:eve@dialtone.test>;x={}"),
    ("From user", "From: <sip:{}@dialtone.test>;tag=1"),
    ("From display name", "From: {} <sip:eve@dialtone.test>;tag=1"),
    ("From tag", "From: <sip:eve@dialtone.test>;tag={}"),
    ("Contact user", "Contact: <sip:{}@192.0.2.1>"),
    ("Contact host", "Contact: <sip:eve@{}>"),
    ("Contact URI parameter", "Contact: <sip:eve@192.0.2.1;x={}>"),
    ("Contact URI header", "Contact: <sip:eve@192.0.2.1?x={}>"),
    ("Contact parameter", "Contact: <sip:eve@192.0.2.1>;x=\"{}\""),
    ("Contact parameter name", "Contact: <sip:eve@192.0.2.1>;{}=1"),
    ("q", "Contact: <sip:eve@192.0.2.1>;q={}"),
    ("expires", "Contact: <sip:eve@192.0.2.1>;expires={}"),
    ("+sip.instance", "Contact: <sip:eve@192.0.2.1>;reg-id=1;+sip.instance=\"<{}>\""),
    ("reg-id", "Contact: <sip:eve@192.0.2.1>;+sip.instance=\"<urn:x>\";reg-id={}"),
    ("Expires", "Expires: {}"),
    ("Call-ID", "Call-ID: {}"),
    ("CSeq", "CSeq: {} REGISTER"),
    ("User-Agent", "User-Agent: {}"),
    ("Path", "Path: <sip:{}@192.0.2.1;lr>"),
    ("Via", "Via: SIP/2.0/TCP 192.0.2.1;branch=z9hG4bKv;x={}"),
];

fn bad_texts() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("SQL", b"'; DROP TABLE bindings; --".to_vec()),
        ("quotes", b"\"'`\"\"''".to_vec()),
        ("backslashes", b"\\\\\\'\\\"\\".to_vec()),
        ("placeholders", b"?1 :aor %s $1 _%".to_vec()),
        ("NUL", b"a\0b".to_vec()),
        ("escaped NUL", b"a%00b%0d%0a".to_vec()),
        ("controls", b"a\x01\x1b[2J\x7fb".to_vec()),
        ("invalid UTF-8", b"a\xff\xfe\xc0\x80b".to_vec()),
        ("other scripts", "\u{202e}\u{1f4de}\u{feff}\u{e9}".as_bytes().to_vec()),
        ("folded", b"a\r\n b".to_vec()),
        ("nothing", Vec::new()),
        ("a large number", b"99999999999999999999".to_vec()),
        ("a negative number", b"-1".to_vec()),
        ("300 bytes", vec![b'b'; 300]),
        ("64 kB", vec![b'a'; 64 * 1024]),
        ("64 kB of zeros", vec![b'0'; 64 * 1024]),
        ("64 kB of quotes", vec![b'\''; 64 * 1024]),
        ("64 kB of escapes", b"%27".repeat(22 * 1024)),
    ]
}

/// A REGISTER of eve in which one header line is another one.
fn register(number: usize, transport: &str, line: &str, text: &[u8]) -> Vec<u8> {
    let name = line.split(':').next().unwrap_or_default();
    let mut headers = BTreeMap::from([
        ("Call-ID", format!("Call-ID: bad-{number}")),
        ("Contact", "Contact: <sip:eve@192.0.2.1>".to_owned()),
        ("CSeq", "CSeq: 1 REGISTER".to_owned()),
        ("From", "From: <sip:eve@dialtone.test>;tag=1".to_owned()),
        ("Max-Forwards", "Max-Forwards: 70".to_owned()),
        ("To", "To: <sip:eve@dialtone.test>".to_owned()),
        ("Via", format!("Via: SIP/2.0/{transport} 192.0.2.1;rport;branch=z9hG4bK{number}")),
    ]);
    headers.insert(name, line.to_owned());
    let mut bytes = b"REGISTER sip:dialtone.test SIP/2.0\r\n".to_vec();
    for header in headers.values() {
        let (before, after) = header.split_once("{}").unwrap_or((header, ""));
        bytes.extend_from_slice(before.as_bytes());
        if header == line {
            bytes.extend_from_slice(text);
        }
        bytes.extend_from_slice(after.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"Content-Length: 0\r\n\r\n");
    bytes
}

/// A connection that cuts answers out of what it reads.
struct Tcp {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Tcp {
    fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        Self { stream, read: Vec::new() }
    }

    /// The next final answer; `None` when the connection was closed.
    fn answer(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let answer: Vec<u8> = self.read.drain(..end + 4).collect();
                let answer = String::from_utf8_lossy(&answer).into_owned();
                if !answer.starts_with("SIP/2.0 1") {
                    return Some(answer);
                }
                continue;
            }
            let mut buffer = [0; 16_384];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(length) => self.read.extend_from_slice(&buffer[..length]),
                Err(error) => {
                    println!("{error}, read {:?}", String::from_utf8_lossy(&self.read));
                    return None;
                }
            }
        }
    }

    fn ask(&mut self, request: &[u8]) -> Option<String> {
        self.stream.write_all(request).expect("write");
        self.answer()
    }
}

fn contacts(answer: Option<String>) -> usize {
    let answer = answer.expect("an answer");
    assert!(answer.starts_with("SIP/2.0 200"), "{answer}");
    answer.lines().filter(|line| line.starts_with("Contact:")).count()
}

/// A REGISTER over TCP.
fn plain(user: &str, call_id: &str, contacts: &str) -> Vec<u8> {
    let contacts =
        if contacts.is_empty() { String::new() } else { format!("Contact: {contacts}\r\n") };
    format!(
        "REGISTER sip:dialtone.test SIP/2.0\r\nVia: SIP/2.0/TCP 192.0.2.1;branch=z9hG4bK{call_id}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:{user}@dialtone.test>;tag=1\r\nTo: <sip:{user}@dialtone.test>\r\n\
         Call-ID: {call_id}\r\nCSeq: 1 REGISTER\r\n{contacts}Content-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

/// The database is whole, and no text in it is longer than it may be.
fn check_database(folder: &Folder, rows_at_most: usize) {
    let file = rusqlite::Connection::open(folder.0.join("location.db")).expect("open");
    let one = |sql: &str| file.query_row(sql, [], |row| row.get::<_, String>(0)).expect("query");
    assert_eq!(one("PRAGMA integrity_check"), "ok");
    let rows: usize =
        file.query_row("SELECT count(*) FROM bindings", [], |row| row.get(0)).expect("count");
    assert!(rows <= rows_at_most, "{rows} rows");
    for (column, limit) in [
        ("aor", limits::AOR),
        ("key", limits::KEY),
        ("contact", limits::CONTACT),
        ("params", limits::PARAMS),
        ("call_id", limits::CALL_ID),
        ("user_agent", limits::USER_AGENT),
        ("received", limits::RECEIVED),
        ("path", limits::PATH),
        ("flow_token", limits::FLOW_TOKEN),
        ("instance", limits::INSTANCE),
    ] {
        let sql = format!("SELECT max(length(CAST({column} AS BLOB))) FROM bindings");
        let longest: usize = file.query_row(&sql, [], |row| row.get(0)).expect("length");
        assert!(longest <= limit, "{column}: {longest}");
        let sql = format!("SELECT count(*) FROM bindings WHERE instr({column}, char(0)) > 0");
        let nuls: usize = file.query_row(&sql, [], |row| row.get(0)).expect("count");
        assert_eq!(nuls, 0, "{column}");
    }
}

#[test]
fn bad_text_in_every_field_is_answered_and_hurts_nobody() {
    let folder = Folder::new("bad-text");
    let ip = "127.90.1.45";
    let proxy = Process::start(&folder.0, "proxy", ip);
    // From phones, and from a pool element, whose Path is believed.
    let mut core = Tcp::new(proxy.addresses["sip-core"]);
    let mut edge = Tcp::new(proxy.tcp());
    let udp = UdpSocket::bind((ip, 0)).expect("bind");
    udp.set_read_timeout(Some(Duration::from_millis(500))).expect("timeout");
    assert_eq!(contacts(edge.ask(&plain("bob", "bob", "<sip:bob@192.0.2.7>"))), 1);
    let mut number = 0;
    let mut answers: BTreeMap<String, usize> = BTreeMap::new();
    for (field, line) in FIELDS {
        for (what, text) in bad_texts() {
            if (field, what) == ("Via", "invalid UTF-8") {
                // An answer goes where its Via says; without one there is none.
                continue;
            }
            let mut seen = Vec::new();
            for transport in ["TCP", "core", "UDP"] {
                number += 1;
                let protocol = if transport == "UDP" { "UDP" } else { "TCP" };
                // What reaches the phone by UDP must come back by it.
                let text = if transport == "UDP" { &text[..text.len().min(60_000)] } else { &text };
                let line = line.replace("SIP/2.0/TCP", &format!("SIP/2.0/{protocol}"));
                let line =
                    line.replace("branch=z9hG4bKv", &format!("rport;branch=z9hG4bKv{number}"));
                let request = register(number, protocol, &line, text);
                let answer = match transport {
                    "core" => core.ask(&request),
                    "TCP" => edge.ask(&request),
                    _ => ask_by_udp(&udp, proxy.udp(), &request),
                };
                let answer =
                    answer.unwrap_or_else(|| panic!("{field}, {what}, {transport}: no answer"));
                let first = answer.lines().next().unwrap_or_default().to_owned();
                let code = first.get(8..11).and_then(|code| code.parse::<u16>().ok());
                assert!(
                    matches!(code, Some(200 | 400 | 404 | 416 | 423 | 500)),
                    "{field}, {what}, {transport}: {answer}"
                );
                if what == "64 kB" {
                    assert!(
                        code != Some(200)
                            || matches!(field, "User-Agent" | "Expires" | "expires" | "Path"),
                        "{field}, {transport}: {first}"
                    );
                }
                *answers.entry(first.clone()).or_default() += 1;
                seen.push(first);
            }
            // Transports differ in what they can carry, not in what is right; Path counts from pool elements only.
            assert!(seen[0] == seen[2] || field == "Path", "{field}, {what}: {seen:?}");
        }
    }
    for (answer, count) in &answers {
        println!("{count:4} {answer}");
    }
    for reason in [
        "Call-ID Too Long",
        "CSeq Too Long",
        "Contact Parameters Too Long",
        "Contact Too Long",
        "From Too Long",
        "Instance Too Long",
        "Path Too Long",
        "To Too Long",
        "Via Too Long",
    ] {
        assert!(answers.keys().any(|answer| answer.contains(reason)), "nothing is {reason}");
    }
    assert_eq!(contacts(edge.ask(&plain("bob", "ask1", ""))), 1);
    drop(proxy);
    check_database(&folder, 800);
    // Whatever was taken can be read again.
    let proxy = Process::start(&folder.0, "proxy", ip);
    assert_eq!(contacts(Tcp::new(proxy.tcp()).ask(&plain("bob", "ask2", ""))), 1);
    assert!(proxy.stop());
}

fn ask_by_udp(udp: &UdpSocket, proxy: SocketAddr, request: &[u8]) -> Option<String> {
    let mut buffer = vec![0; 65_536];
    for _ in 0..10 {
        udp.send_to(request, proxy).expect("send");
        while let Ok((length, _)) = udp.recv_from(&mut buffer) {
            let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if !answer.starts_with("SIP/2.0 1") {
                return Some(answer);
            }
        }
    }
    None
}

#[test]
fn five_thousand_contacts_of_one_user() {
    const MANY: usize = 5_000;
    let folder = Folder::new("many-contacts");
    let proxy = Process::start(&folder.0, "proxy", "127.90.1.46");
    let mut edge = Tcp::new(proxy.tcp());
    assert_eq!(contacts(edge.ask(&plain("bob", "bob", "<sip:bob@192.0.2.7>"))), 1);
    assert_eq!(contacts(edge.ask(&plain("eve", "eve", "<sip:eve@192.0.2.8>"))), 1);

    // In one message: in one line, in a line each, and in more than a message may have.
    let list = |contact: &dyn Fn(usize) -> String, between: &str| {
        (0..MANY).map(contact).collect::<Vec<_>>().join(between)
    };
    let all = plain("eve", "all", &list(&|n| format!("<sip:{n}@x>"), ","));
    let refused = edge.ask(&all).expect("an answer");
    assert!(refused.starts_with("SIP/2.0 403 Too Many Contacts"), "{refused}");
    let lines = plain("eve", "lines", &list(&|n| format!("<sip:{n}@x>"), "\r\nContact: "));
    let refused = edge.ask(&lines).expect("an answer");
    assert!(refused.starts_with("SIP/2.0 4") || refused.starts_with("SIP/2.0 513"), "{refused}");
    let mut other = Tcp::new(proxy.tcp());
    let large =
        plain("eve", "large", &list(&|n| format!("<sip:user-number-{n}@192.0.2.1:5060>"), ","));
    assert!(large.len() > 128 * 1024);
    // It is refused before it is read to its end, so writing may fail.
    let _ = other.stream.write_all(&large);
    if let Some(refused) = other.answer() {
        assert!(refused.starts_with("SIP/2.0 513"), "{refused}");
    }
    assert_eq!(contacts(edge.ask(&plain("eve", "ask0", ""))), 1);

    // One at a time.
    let mut writer = edge.stream.try_clone().expect("clone");
    let sender = std::thread::spawn(move || {
        for n in 0..MANY {
            let request =
                plain("eve", &format!("one{n}"), &format!("<sip:eve@192.0.2.9:{}>", 1024 + n));
            writer.write_all(&request).expect("write");
        }
    });
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..MANY {
        let answer = edge.answer().expect("an answer");
        if answer.starts_with("SIP/2.0 503") {
            assert!(answer.contains("Retry-After: "), "{answer}");
            refused += 1;
        } else {
            assert!(contacts(Some(answer)) <= 16);
            taken += 1;
        }
    }
    sender.join().expect("sender");
    println!("{taken} taken, {refused} refused");
    assert!((100..200).contains(&taken), "{taken} taken: rows of one user are bounded");
    assert_eq!(contacts(edge.ask(&plain("eve", "ask1", ""))), 16);
    assert_eq!(contacts(edge.ask(&plain("bob", "ask2", ""))), 1);
    // Another user registers as before.
    assert_eq!(contacts(edge.ask(&plain("carol", "carol", "<sip:carol@192.0.2.7>"))), 1);
    assert!(proxy.stop());
    check_database(&folder, 200);
}
