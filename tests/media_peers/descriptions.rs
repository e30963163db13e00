//! What relays make of session descriptions: the same offers and answers, with the same flags, to rtpengine and to ours;
//! both tell the other party the same.

use std::{fmt::Write as _, net::IpAddr};

use dialtone::launcher::Exclusive;
use dialtone_ng::message::{Command, Flags, Ice, Outcome, Replace, Reply, Request, RtcpMux};
use dialtone_ng::report::{CallReport, MediaReport};

use crate::{
    answers::relays,
    rtpengine::{self, NgUser},
};

/// One exchange: what is offered, what is answered, what is asked of the relay with both.
struct Case {
    name: String,
    offer: String,
    answer: String,
    replace: Replace,
    rtcp_mux: RtcpMux,
    trust_address: Option<bool>,
    media_address: Option<IpAddr>,
}

impl Case {
    fn new(name: &str, offer: &str, answer: &str) -> Self {
        Self {
            name: name.to_owned(),
            offer: described("192.0.2.1", offer),
            answer: described("192.0.2.2", answer),
            replace: Replace { origin: true, session_connection: true, ..Replace::default() },
            rtcp_mux: RtcpMux::default(),
            trust_address: None,
            media_address: None,
        }
    }
}

/// A description from these lines, the session's address at first.
fn described(address: &str, lines: &str) -> String {
    let session = format!("v=0\no=- 1 1 IN IP4 {address}\ns=-\nc=IN IP4 {address}\nt=0 0\n");
    let text = if lines.starts_with("v=") { lines.to_owned() } else { session + lines };
    text.trim_end().lines().map(|line| format!("{line}\r\n")).collect()
}

const AUDIO: &str = "m=audio 7000 RTP/AVP 0\na=rtpmap:0 PCMU/8000\n";
const VIDEO: &str = "m=video 7002 RTP/AVP 96\na=rtpmap:96 VP8/90000\n";

fn cases() -> Vec<Case> {
    let audio = |attributes: &str| format!("{AUDIO}{attributes}");
    let mut cases = vec![
        Case::new("audio", AUDIO, AUDIO),
        Case::new("two media", &audio(VIDEO), &audio(VIDEO)),
        Case::new("video refused", &audio(VIDEO), &audio("m=video 0 RTP/AVP 96\n")),
        Case::new(
            "video off already",
            &audio("m=video 0 RTP/AVP 96\n"),
            &audio("m=video 0 RTP/AVP 96\n"),
        ),
        Case::new("sendonly", &audio("a=sendonly\n"), &audio("a=recvonly\n")),
        Case::new("recvonly", &audio("a=recvonly\n"), &audio("a=sendonly\n")),
        Case::new("inactive", &audio("a=inactive\n"), &audio("a=inactive\n")),
        Case::new("a report port", &audio("a=rtcp:7007\n"), &audio("a=rtcp:7009\n")),
        Case::new(
            "fax",
            "m=image 7000 udptl t38\na=T38FaxVersion:0\n",
            "m=image 7010 udptl t38\na=T38FaxVersion:0\n",
        ),
        Case::new(
            "addresses of the media",
            "v=0\no=- 1 1 IN IP4 192.0.2.1\ns=-\nt=0 0\nm=audio 7000 RTP/AVP 0\nc=IN IP4 192.0.2.9\n",
            "v=0\no=- 1 1 IN IP4 192.0.2.2\ns=-\nt=0 0\nm=audio 7000 RTP/AVP 0\nc=IN IP4 192.0.2.8\n",
        ),
        Case::new(
            "hold by address",
            "v=0\no=- 1 1 IN IP4 192.0.2.1\ns=-\nc=IN IP4 0.0.0.0\nt=0 0\nm=audio 7000 RTP/AVP 0\n",
            AUDIO,
        ),
        Case::new(
            "candidates",
            &audio(
                "a=ice-ufrag:abcd\na=ice-pwd:abcdefghijklmnopqrstuv\n\
                 a=candidate:1 1 UDP 2130706431 192.0.2.1 7000 typ host\n",
            ),
            AUDIO,
        ),
    ];
    for (name, origin, session_connection) in [
        ("replace origin only", true, false),
        ("replace connection only", false, true),
        ("replace nothing", false, false),
    ] {
        let replace = Replace { origin, session_connection, ..Replace::default() };
        cases.push(Case { replace, ..Case::new(name, AUDIO, AUDIO) });
    }
    for (name, trust_address) in [("addresses as signalled", true), ("addresses as seen", false)] {
        let two = audio(VIDEO);
        let trust_address = Some(trust_address);
        cases.push(Case { trust_address, ..Case::new(name, &two, &two) });
    }
    let media_address = Some("192.0.2.77".parse().unwrap());
    cases.push(Case { media_address, ..Case::new("another address in it", AUDIO, AUDIO) });
    let none = RtcpMux::default();
    for (name, rtcp_mux) in [
        ("nothing", none),
        ("offer", RtcpMux { offer: true, ..none }),
        ("require", RtcpMux { require: true, ..none }),
        ("demux", RtcpMux { demux: true, ..none }),
        ("accept", RtcpMux { accept: true, ..none }),
        ("offer and accept", RtcpMux { offer: true, accept: true, ..none }),
        ("reject", RtcpMux { reject: true, ..none }),
    ] {
        for offered in ["", "a=rtcp-mux\n"] {
            for answered in ["", "a=rtcp-mux\n"] {
                let said = |line: &str| if line.is_empty() { "without" } else { "with" };
                let name = format!("rtcp-mux {name}: {}, {}", said(offered), said(answered));
                let case = Case::new(&name, &audio(offered), &audio(answered));
                cases.push(Case { rtcp_mux, ..case });
            }
        }
    }
    cases
}

/// What a description says to the one who gets it, with the relay's address and ports by what they are.
fn meaning(sdp: &str, relay: &str) -> String {
    let address = |text: &str| if text == relay { "relay".to_owned() } else { text.to_owned() };
    let mut meaning = String::new();
    let (mut port, mut held) = (0, false);
    let (mut direction, mut mux, mut ice, mut rtcp) = ("sendrecv", false, false, String::new());
    for line in sdp.lines().chain(["m="]) {
        let words: Vec<&str> = line.split(' ').collect();
        match line.split_once('=').unwrap_or((line, "")) {
            ("m", _) => {
                if meaning.contains("m=") && port != 0 {
                    let direction = if held { "sendonly" } else { direction };
                    let rtcp = if mux || rtcp.is_empty() { "default" } else { &rtcp };
                    let _ = write!(meaning, " {direction} mux={mux} ice={ice} rtcp={rtcp}");
                }
                (direction, mux, ice, rtcp) = ("sendrecv", false, false, String::new());
                if words.len() > 3 {
                    port = words[1].parse::<u32>().unwrap();
                    let said = if port == 0 { "off" } else { "port" };
                    let rest = words[2..].join(" ");
                    let _ = write!(meaning, " {} {said} {rest}", words[0]);
                }
            }
            ("c", _) => {
                // On hold, as RFC 2543 had it; rtpengine says it in both ways.
                if words[2] == "0.0.0.0" {
                    held = true;
                }
                let _ = write!(meaning, " c={}", address(words[2]));
            }
            ("o", _) => {
                let _ = write!(meaning, " o={}", address(words[5]));
            }
            ("a", "sendonly" | "recvonly" | "inactive") => direction = &line[2..],
            ("a", "rtcp-mux") => mux = true,
            ("a", value) if value.starts_with("ice-") || value.starts_with("candidate:") => {
                ice = true
            }
            ("a", value) => {
                if let Some(value) = value.strip_prefix("rtcp:") {
                    let number: u32 = value.split(' ').next().unwrap().parse().unwrap();
                    rtcp = if number == port + 1 {
                        "default".to_owned()
                    } else {
                        format!("+{}", number - port)
                    };
                }
            }
            _ => {}
        }
    }
    meaning
}

/// What both parties are told in a case, and where the relay sends their media.
fn exchange(relay: &NgUser, address: &str, number: usize, case: &Case) -> [String; 3] {
    let call = format!("case-{number}");
    let request = |command| Request {
        call_id: Some(call.as_bytes()),
        from_tag: Some(b"a"),
        replace: case.replace,
        ice: Some(Ice::Remove),
        flags: Flags { trust_address: case.trust_address, ..Flags::default() },
        media_address: case.media_address,
        received_from: Some("192.0.2.50".parse().unwrap()),
        rtcp_mux: case.rtcp_mux,
        ..Request::new(command)
    };
    let told = |request: &Request<'_>| {
        let answer = relay.ask(request);
        let reply = Reply::decode(&answer).unwrap();
        assert_eq!(reply.outcome, Outcome::Ok, "{}", case.name);
        meaning(std::str::from_utf8(reply.sdp().unwrap()).unwrap(), address)
    };
    let offer = Request { sdp: Some(case.offer.as_bytes()), ..request(Command::Offer) };
    let answer = Request {
        to_tag: Some(b"b"),
        sdp: Some(case.answer.as_bytes()),
        ..request(Command::Answer)
    };
    let (offer, answer) = (told(&offer), told(&answer));
    let query = Request { call_id: Some(call.as_bytes()), ..Request::new(Command::Query) };
    let known = relay.ask(&query);
    let report = CallReport::read(&Reply::decode(&known).unwrap().dict).unwrap();
    // Of RTCP that shares the port rtpengine shows the port beside it, and it keeps the ports of media that is off.
    let medias = || report.tags.iter().flat_map(|tag| &tag.medias);
    let end = |media: &MediaReport<'_>| {
        let end = media.streams.first().and_then(|stream| stream.endpoint);
        end.filter(|end| end.port() != 0 && !end.ip().is_unspecified())
    };
    let off = |media: &MediaReport<'_>| {
        medias().any(|other| other.index == media.index && end(other).is_none())
    };
    let ends: Vec<String> = medias()
        .filter(|media| !off(media))
        .filter_map(|media| Some(format!("{} {}", media.index, end(media)?)))
        .collect();
    [offer, answer, format!(" {}", ends.join(", "))]
}

#[test]
fn our_descriptions_mean_what_those_of_rtpengine_mean() {
    if !rtpengine::is_installed() {
        return;
    }
    let _turn = Exclusive::wait().unwrap();
    let (_launcher, _rtpengine, [theirs, ours]) = relays();
    let cases = cases();
    let mut others = String::new();
    for (number, case) in cases.iter().enumerate() {
        let [theirs, ours] = [&theirs, &ours]
            .map(|relay| exchange(relay, &relay.relay().ip().to_string(), number, case));
        for (what, (theirs, ours)) in
            ["offer", "answer", "addresses"].iter().zip(theirs.iter().zip(&ours))
        {
            if theirs != ours {
                let _ = writeln!(
                    others,
                    "{}: {what}\n  rtpengine:{theirs}\n  ours:     {ours}",
                    case.name
                );
            }
        }
    }
    assert!(others.is_empty(), "{others}");
    println!("table: {} offers and answers mean the same as rtpengine's", cases.len());
}
