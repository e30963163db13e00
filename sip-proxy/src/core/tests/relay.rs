//! A media relay as the proxy sees one: it answers offers and answers with ports of its own, and keeps what it was told.

use std::collections::{BTreeMap, BTreeSet};

use dialtone_ng::message::{Command, Datagram, Outcome, ReplyEncoder, Request as NgRequest};
use dialtone_wire::{PeId, Policy, ServerId, Transport};

use super::*;

/// What a relay does with questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Answers,
    /// After this time.
    Slow(Duration),
    Silent,
    Fails,
    /// It is full.
    Limited,
    /// Says something that is no answer.
    Babbles,
    /// Nobody listens there.
    Absent,
}

/// What a relay was asked: once for each cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) command: &'static str,
    pub(super) call_id: String,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) sdp: String,
    pub(super) received_from: Option<IpAddr>,
}

#[derive(Debug)]
pub(super) struct FakeRelay {
    pub(super) manner: Manner,
    pub(super) asked: Vec<Asked>,
    cookies: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Calls by Call-ID.
    pub(super) calls: BTreeSet<String>,
    /// For which call a port is, and for whom: `to` or `of` the one with this tag.
    ports: Vec<(String, String)>,
}

impl FakeRelay {
    pub(super) fn new(manner: Manner) -> Self {
        let (asked, cookies) = (Vec::new(), BTreeMap::new());
        Self { manner, asked, cookies, calls: BTreeSet::new(), ports: Vec::new() }
    }

    /// What was asked, without the rest.
    pub(super) fn commands(&self) -> Vec<&'static str> {
        self.asked.iter().map(|asked| asked.command).collect()
    }

    /// The answer to a datagram.
    pub(super) fn take(&mut self, element: u32, datagram: &[u8]) -> Option<Vec<u8>> {
        let Datagram { cookie, body } = Datagram::split(datagram).expect("a cookie");
        let request = NgRequest::decode(body).expect("sound NG");
        let text =
            |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        let (call_id, from, to) =
            (text(request.call_id), text(request.from_tag), text(request.to_tag));
        if self.manner == Manner::Silent {
            return None;
        }
        if let Some(same) = self.cookies.get(cookie) {
            return Some(same.clone());
        }
        let command = match request.command {
            Command::Offer => "offer",
            Command::Answer => "answer",
            Command::Delete => "delete",
            other => panic!("{other:?}"),
        };
        if command == "offer" {
            assert!(request.replace.origin && request.replace.session_connection);
        }
        self.asked.push(Asked {
            command,
            call_id: call_id.clone(),
            from: from.clone(),
            to,
            sdp: text(request.sdp),
            received_from: request.received_from,
        });
        let mut encoder = ReplyEncoder::new(cookie);
        let outcome = match (self.manner, command) {
            (Manner::Fails, _) => Outcome::Error(b"Ran out of ports"),
            (Manner::Limited, _) => Outcome::LoadLimit(b"Load limit exceeded"),
            (Manner::Babbles, _) => return Some([cookie, b" d6:result"].concat()),
            (_, "offer") => {
                self.calls.insert(call_id.clone());
                encoder
                    .dict()
                    .bytes("sdp", self.description(element, call_id, format!("to {from}")));
                Outcome::Ok
            }
            (_, "answer") if self.calls.contains(&call_id) => {
                encoder
                    .dict()
                    .bytes("sdp", self.description(element, call_id, format!("of {from}")));
                Outcome::Ok
            }
            (_, "answer") => Outcome::Error(b"Unknown call-id"),
            _ => {
                self.calls.remove(&call_id);
                Outcome::Ok
            }
        };
        let answer = encoder.finish(outcome).unwrap();
        self.cookies.insert(cookie.to_vec(), answer.clone());
        Some(answer)
    }

    fn description(&mut self, element: u32, call_id: String, whose: String) -> String {
        let port = (call_id, whose);
        let known = self.ports.iter().position(|other| *other == port);
        let number = known.unwrap_or_else(|| {
            self.ports.push(port);
            self.ports.len() - 1
        });
        let ip = format!("203.0.113.{element}");
        format!(
            "v=0\r\no=- 9 9 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {} RTP/AVP 0\r\n",
            30_000 + number
        )
    }

    /// The call and the side of it that a description of ours is for.
    pub(super) fn whose(&self, description: &[u8]) -> Option<(String, String)> {
        let text = std::str::from_utf8(description).ok()?;
        let port: usize = text.split_once("m=audio ")?.1.split(' ').next()?.parse().ok()?;
        self.ports.get(port.checked_sub(30_000)?).cloned()
    }
}

pub(super) fn relay_address(element: u32) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 80 + element as u8], 2223))
}

/// A complete view of these relays, of which the first is the least used.
pub(super) fn relay_view(version: u64, elements: &[u32]) -> Arc<View> {
    let member = |element: &u32| {
        dialtone_pool_user::Member::from(dialtone_handlespace::Element {
            pe_id: PeId(*element),
            home: ServerId(1),
            life: 30,
            encaps_port: None,
            transport: Transport::udp(relay_address(*element)),
            policy: Policy::LeastUsed { load: 0 },
            asap_transport: None,
        })
    };
    let mut members: Vec<_> = elements.iter().map(member).collect();
    members.sort_by_key(|member| member.pe_id);
    Arc::new(View {
        version,
        policy: dialtone_wire::PolicyType::LEAST_USED,
        members: members.into(),
        order: elements.iter().map(|element| PeId(*element)).collect(),
        complete: true,
        freshness: dialtone_pool_user::Freshness::Fresh,
        ..View::unknown("media-relay".parse().unwrap())
    })
}
