//! What relays answer: the same requests, good and bad, to rtpengine and to ours; the answers have the same shape.

use std::{collections::BTreeMap, fmt};

use dialtone::launcher::{Exclusive, Launcher, Layout};
use dialtone_ng::{
    bencode::{Dict, Value},
    message::{Command, Flags, Request},
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
    let of = |command, call: Option<&'static [u8]>, from: Option<&'static [u8]>| Request {
        call_id: call,
        from_tag: from,
        ..Request::new(command)
    };
    let (call, a, b) = (Some(&b"call"[..]), Some(&b"a"[..]), Some(&b"b"[..]));
    let offer = Request { sdp: Some(audio.as_bytes()), ..of(Command::Offer, call, a) };
    let answer = Request { to_tag: b, sdp: Some(audio.as_bytes()), ..of(Command::Answer, call, a) };
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
        ("offer without call-id", body(Request { call_id: None, ..offer.clone() })),
        ("offer without from-tag", body(Request { from_tag: None, ..offer.clone() })),
        ("offer of what is no SDP", body(Request { sdp: Some(b"hello"), ..offer.clone() })),
        ("offer of an empty SDP", body(Request { sdp: Some(b""), ..offer.clone() })),
        ("answer without to-tag", body(Request { to_tag: None, ..answer.clone() })),
        ("answer in an unknown call", body(answer.clone())),
        ("delete without call-id", body(Request::new(Command::Delete))),
        ("delete of an unknown call", body(of(Command::Delete, call, a))),
        (
            "delete of an unknown call, fatal",
            body(Request { flags: fatal, ..of(Command::Delete, call, a) }),
        ),
        ("query without call-id", body(Request::new(Command::Query))),
        ("query of an unknown call", body(of(Command::Query, call, None))),
        ("start recording without call-id", body(Request::new(Command::StartRecording))),
        ("start recording of an unknown call", body(of(Command::StartRecording, call, None))),
        ("stop recording of an unknown call", body(of(Command::StopRecording, call, None))),
        ("list", body(Request::new(Command::List))),
        ("list, limit -1", body(Request { limit: Some(-1), ..Request::new(Command::List) })),
        ("offer", body(offer.clone())),
        ("query of half a call", body(of(Command::Query, call, None))),
        ("answer", body(answer.clone())),
        ("list of one", body(Request::new(Command::List))),
        ("list, limit 0", body(Request { limit: Some(0), ..Request::new(Command::List) })),
        ("list, limit in words", b"d7:command4:list5:limit1:5e".to_vec()),
        ("query", body(of(Command::Query, call, None))),
        ("query from a tag", body(of(Command::Query, call, a))),
        ("query of an unknown tag", body(of(Command::Query, call, Some(b"z")))),
        ("offer again", body(Request { to_tag: b, ..offer.clone() })),
        ("offer of the other side", { body(Request { from_tag: b, to_tag: a, ..offer.clone() }) }),
        ("answer with an unknown tag", body(Request { from_tag: Some(b"z"), ..answer.clone() })),
        ("delete with an unknown tag", body(of(Command::Delete, call, Some(b"y")))),
        ("delete", body(of(Command::Delete, call, a))),
        ("query of what was deleted", body(of(Command::Query, call, None))),
        ("offer of two media", body(Request { sdp: Some(both.as_bytes()), ..offer.clone() })),
        ("answer with two media", body(Request { sdp: Some(both.as_bytes()), ..answer.clone() })),
        ("query of two media", body(of(Command::Query, call, None))),
        ("delete without from-tag", body(of(Command::Delete, call, None))),
        ("statistics", body(Request::new(Command::Statistics))),
    ]
}

/// The answers by request.
fn answers(user: &NgUser) -> Vec<(&'static str, Vec<u8>)> {
    requests().into_iter().map(|(name, body)| (name, user.ask_bytes(&body))).collect()
}

#[test]
fn our_answers_are_those_of_rtpengine() {
    if !rtpengine::is_installed() {
        return;
    }
    let _turn = Exclusive::wait().unwrap();
    let layout = Layout::default();
    let launcher = Launcher::for_test(env!("CARGO_BIN_EXE_dialtone"), layout).unwrap();
    let folder = launcher.folder().join("rtpengine");
    let theirs = Rtpengine::start(&folder, launcher.slice().host(80), &(30_000..=30_999));
    for (name, answer) in answers(&NgUser::new(theirs.ng)) {
        println!("{name}: {:?}", Shape::of(&answer));
    }
}
