//! What relays answer: the same requests, good and bad, to rtpengine and to ours; the answers have the same shape.

use std::{collections::BTreeMap, fmt};

use dialtone::launcher::{Exclusive, Launcher, Layout};
use dialtone_ng::{
    bencode::{Dict, Value},
    message::{Command, Flags, Reply, Request},
};

use crate::rtpengine::{self, NgUser, Rtpengine};

/// What an answer is like: keys and kinds of values; the words that say how it went as they are.
#[derive(Clone, PartialEq, Eq)]
enum Shape {
    Integer,
    Text,
    Word(String),
    List(Vec<Self>),
    Dict(BTreeMap<String, Self>),
}

impl Shape {
    fn of(body: &[u8]) -> Self {
        Self::of_value(&Value::decode(body).unwrap(), "")
    }

    fn of_value(value: &Value<'_>, key: &str) -> Self {
        match value {
            Value::Integer(_) => Self::Integer,
            Value::Bytes(text) => match key {
                "result" | "error-reason" | "warning" | "message" | "tag" | "type" | "protocol"
                | "family" => Self::Word(text.escape_ascii().to_string()),
                _ => Self::Text,
            },
            // What is in them differs from version to version.
            Value::List(_) if key == "flags" => Self::Text,
            Value::List(list) => {
                Self::List(list.iter().map(|value| Self::of_value(value, key)).collect())
            }
            Value::Dict(dict) => Self::Dict(Self::entries(dict)),
        }
    }

    fn entries(dict: &Dict<'_>) -> BTreeMap<String, Self> {
        let entry = |(key, value): &(&[u8], Value<'_>)| {
            let key = key.escape_ascii().to_string();
            let shape = Self::of_value(value, &key);
            (key, shape)
        };
        dict.entries.iter().map(entry).collect()
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer => f.write_str("integer"),
            Self::Text => f.write_str("text"),
            Self::Word(word) => write!(f, "{word:?}"),
            Self::List(list) => f.debug_list().entries(list).finish(),
            Self::Dict(dict) => f.debug_map().entries(dict).finish(),
        }
    }
}

fn sdp(medias: &str) -> String {
    format!("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n{medias}")
}

const AUDIO: &str = "m=audio 7000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n";
const VIDEO: &str = "m=video 7002 RTP/AVP 96\r\na=rtpmap:96 VP8/90000\r\n";

/// Bodies of requests, by what they are, in the order in which they are sent.
fn requests() -> Vec<(&'static str, Vec<u8>)> {
    let body = |request: Request<'_>| request.encode(b"x")[2..].to_vec();
    let (audio, both) = (sdp(AUDIO), sdp(&format!("{AUDIO}{VIDEO}")));
    let of = |command, call: &'static str| Request {
        call_id: Some(call.as_bytes()),
        from_tag: Some(b"a"),
        ..Request::new(command)
    };
    let offer = |call| Request { sdp: Some(audio.as_bytes()), ..of(Command::Offer, call) };
    let answer = |call| Request {
        to_tag: Some(b"b"),
        sdp: Some(audio.as_bytes()),
        ..of(Command::Answer, call)
    };
    let query = |call| Request { from_tag: None, ..of(Command::Query, call) };
    let video = |request| body(Request { sdp: Some(both.as_bytes()), ..request });
    let fatal = Flags { fatal: true, ..Flags::default() };
    vec![
        ("ping", body(Request::new(Command::Ping))),
        ("nothing", Vec::new()),
        ("no bencode", b"hello".to_vec()),
        ("a list", b"le".to_vec()),
        ("a broken dictionary", b"d7:command4:pingX".to_vec()),
        ("a string that is too short", b"d7:command40:pinge".to_vec()),
        ("no command", b"de".to_vec()),
        ("a command that is a number", b"d7:commandi1ee".to_vec()),
        ("an unknown command", body(Request::new(Command::Other(b"dance")))),
        ("a command in capitals", body(Request::new(Command::Other(b"PING")))),
        ("offer without anything", body(Request::new(Command::Offer))),
        ("offer without call-id", body(Request { call_id: None, ..offer("0") })),
        ("offer without from-tag", body(Request { from_tag: None, ..offer("0") })),
        ("offer of what is no SDP", body(Request { sdp: Some(b"hello"), ..offer("0") })),
        ("answer without to-tag", body(Request { to_tag: None, ..answer("0") })),
        ("answer in an unknown call", body(answer("0"))),
        ("delete without call-id", body(Request::new(Command::Delete))),
        ("delete of an unknown call", body(of(Command::Delete, "0"))),
        (
            "delete of an unknown call, fatal",
            body(Request { flags: fatal, ..of(Command::Delete, "0") }),
        ),
        ("query without call-id", body(Request::new(Command::Query))),
        ("query of an unknown call", body(query("0"))),
        ("start recording without call-id", body(Request::new(Command::StartRecording))),
        ("start recording of an unknown call", body(of(Command::StartRecording, "0"))),
        ("stop recording of an unknown call", body(of(Command::StopRecording, "0"))),
        ("list", body(Request::new(Command::List))),
        ("list, limit -1", body(Request { limit: Some(-1), ..Request::new(Command::List) })),
        ("offer", body(offer("1"))),
        ("query of half a call", body(query("1"))),
        ("answer", body(answer("1"))),
        ("list of one", body(Request::new(Command::List))),
        ("list, limit 0", body(Request { limit: Some(0), ..Request::new(Command::List) })),
        ("list, limit in digits", b"d7:command4:list5:limit1:5e".to_vec()),
        ("query", body(query("1"))),
        ("query from a tag", body(of(Command::Query, "1"))),
        ("query of an unknown tag", body(Request { from_tag: Some(b"z"), ..query("1") })),
        ("offer again", body(Request { to_tag: Some(b"b"), ..offer("1") })),
        ("answer again", body(answer("1"))),
        (
            "offer of the other side",
            body(Request { from_tag: Some(b"b"), to_tag: Some(b"a"), ..offer("1") }),
        ),
        (
            "answer of the other side",
            body(Request { from_tag: Some(b"b"), to_tag: Some(b"a"), ..answer("1") }),
        ),
        ("query after offers of both", body(query("1"))),
        (
            "delete with an unknown tag",
            body(Request { from_tag: Some(b"y"), ..of(Command::Delete, "1") }),
        ),
        ("delete", body(of(Command::Delete, "1"))),
        ("query of what was deleted", body(query("1"))),
        ("offer of two media", video(offer("2"))),
        ("answer with two media", video(answer("2"))),
        ("query of two media", body(query("2"))),
        ("delete with both tags", body(Request { to_tag: Some(b"b"), ..of(Command::Delete, "2") })),
        (
            "offer with a label",
            body(Request { label: Some(b"caller"), via_branch: Some(b"z9"), ..offer("3") }),
        ),
        ("query of one with a label", body(query("3"))),
        ("delete of what was not answered", body(of(Command::Delete, "3"))),
        ("list of none", body(Request::new(Command::List))),
    ]
}

/// The shapes of the answers, by request.
fn answers(relay: &NgUser) -> Vec<(&'static str, Shape)> {
    let shape = |body: &[u8]| Shape::of(&relay.ask_bytes(body));
    requests().into_iter().map(|(name, body)| (name, shape(&body))).collect()
}

/// rtpengine and ours, for as long as the launcher lives.
pub(crate) fn relays() -> (Launcher, Rtpengine, [NgUser; 2]) {
    let layout = Layout { registrars: 1, relays: 1, relay_workers: Some(1), ..Layout::default() };
    let mut launcher = Launcher::for_test(env!("CARGO_BIN_EXE_dialtone"), layout).unwrap();
    let folder = launcher.folder().join("rtpengine");
    let theirs = Rtpengine::start(&folder, launcher.slice().host(80), &(30_000..=30_999));
    launcher.start_registrar(1).unwrap();
    launcher.start_media_relay(1).unwrap();
    let ours = launcher.addresses("media-relay-1").unwrap()["ng"].parse().unwrap();
    let users = [theirs.ng, ours].map(NgUser::new);
    (launcher, theirs, users)
}

#[test]
fn our_answers_are_like_those_of_rtpengine() {
    if !rtpengine::is_installed() {
        return;
    }
    let _turn = Exclusive::wait().unwrap();
    let (_launcher, _rtpengine, [theirs, ours]) = relays();
    let mut others = Vec::new();
    let pairs = answers(&theirs).into_iter().zip(answers(&ours));
    let count = pairs.len();
    for ((name, theirs), (_, ours)) in pairs {
        if theirs != ours {
            others.push(format!("{name}\n  rtpengine: {theirs:?}\n  ours:      {ours:?}"));
        }
    }
    assert!(others.is_empty(), "of {count} answers are not alike:\n{}", others.join("\n"));
    println!("table: {count} answers are like those of rtpengine");
}

/// Of what rtpengine counts, ours counts a part, under the same names; errors as its documentation has it.
#[test]
fn our_statistics_have_the_names_of_rtpengine() {
    if !rtpengine::is_installed() {
        return;
    }
    let _turn = Exclusive::wait().unwrap();
    let (_launcher, _rtpengine, users) = relays();
    let statistics = Request::new(Command::Statistics);
    let [theirs, ours] = users.map(|user| {
        // Whoever has asked before has a line in the second answer.
        user.ask(&statistics);
        Shape::of(&user.ask(&statistics))
    });
    let (theirs, ours) = (paths(&theirs), paths(&ours));
    let extra = ["statistics controlstatistics totalerrorcount integer"];
    let unknown: Vec<_> = ours
        .iter()
        .filter(|path| !theirs.contains(path) && !extra.contains(&path.as_str()))
        .collect();
    assert!(unknown.is_empty(), "rtpengine has no {unknown:#?}");
    for path in [
        "result \"ok\"",
        "statistics currentstatistics sessionstotal integer",
        "statistics currentstatistics packetrate integer",
        "statistics totalstatistics managedsessions integer",
        "statistics totalstatistics relayedpackets integer",
        "statistics totalstatistics uptime text",
        "statistics controlstatistics totaloffercount integer",
    ] {
        assert!(ours.iter().any(|found| found == path), "no {path} in {ours:#?}");
    }
    println!("table: statistics: {} of rtpengine's {} values", ours.len(), theirs.len());
}

/// All values, by the way to them.
fn paths(shape: &Shape) -> Vec<String> {
    match shape {
        Shape::Dict(dict) => {
            let below =
                |(key, value)| paths(value).into_iter().map(move |path| format!("{key} {path}"));
            dict.iter().flat_map(below).collect()
        }
        Shape::List(list) => list.iter().flat_map(paths).collect(),
        leaf => vec![format!("{leaf:?}")],
    }
}

/// What is done once stays done once, whoever repeats it.
#[test]
fn a_repeated_cookie_gets_the_same_answer() {
    if !rtpengine::is_installed() {
        return;
    }
    let _turn = Exclusive::wait().unwrap();
    let (_launcher, _rtpengine, users) = relays();
    let audio = sdp(AUDIO);
    let request = |command| Request {
        call_id: Some(b"repeated"),
        from_tag: Some(b"a"),
        sdp: (command == Command::Offer).then_some(audio.as_bytes()),
        ..Request::new(command)
    };
    for user in users {
        for command in [Command::Offer, Command::Delete] {
            let datagram = request(command).encode(format!("{:x}", fastrand::u64(..)).as_bytes());
            let first = user.exchange(&datagram);
            assert_eq!(user.exchange(&datagram), first, "{command:?}");
        }
        // With another cookie it is another request.
        let again = user.ask(&request(Command::Delete));
        let again = Reply::decode(&again).unwrap();
        assert_eq!(again.warning(), Some(&b"Call-ID not found or tags didn't match"[..]));
    }
}
