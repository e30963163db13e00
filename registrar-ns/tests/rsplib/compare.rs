//! What a core said in a part against what rsplib said: message by message, field by field.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dialtone_wire::enrp::{Body, PoolEntry};
use dialtone_wire::{Compat, PoolElement, asap, enrp};

use crate::script::{Line, Place};

/// A message, what differs in it, in which parts, and why.
pub(crate) type Difference = (&'static str, &'static str, &'static [&'static str], &'static str);

const ALL: &[&str] = &["failover 11", "failover 12", "crash 11", "crash 12", "crash 13"];
const NEWCOMERS: &[&str] = &["failover 12", "crash 11", "crash 12"];

/// Everything that differs. What a part shows and what is listed for it are the same.
pub(crate) const DIFFERENCES: &[Difference] = &[
    (
        "handle resolution",
        "items",
        &["users", "reporting user"],
        "RFC 5352 section 3.3: all elements are wanted; rsplib's application asks for one",
    ),
    (
        "handle resolution response",
        "elements",
        &["crash 12"],
        "after an answer was refused below, round robin stands at another element",
    ),
    (
        "handle resolution response",
        "outcome",
        &["crash 12"],
        "G32: rsplib hides another registrar's elements after three reports, until the next audit brings them back",
    ),
    (
        "handle resolution response",
        "policy",
        &["failover 11", "sockets"],
        "RFC 5352 section 2.2.6: the pool's policy is not derived from an element's; rsplib copies a weight into it",
    ),
    (
        "handle table request",
        "receiver",
        NEWCOMERS,
        "RFC 5353 section 2: the receiver may be 0, for who is there shows with the answer",
    ),
    (
        "handle table request, own children",
        "Dialtone only",
        &["failover 11", "failover 12", "crash 11", "crash 13"],
        "a peer that has just appeared is asked for what it owns; rsplib waits until checksums differ",
    ),
    (
        "handle table request, own children",
        "number",
        &["crash 12"],
        "the same, where rsplib has asked as well",
    ),
    (
        "handle table response",
        "port",
        &["sockets"],
        "the element's association has another SCTP port than in the capture",
    ),
    (
        "handle table response",
        "order of pools",
        &["failover 11", "crash 11", "sockets"],
        "RFC 5353 section 2.3 demands no order; pools stand by handle here, by time there",
    ),
    (
        "handle update, add PE",
        "port",
        &["sockets"],
        "the element's association has another SCTP port than in the capture",
    ),
    (
        "handle update, add PE",
        "receiver",
        &["failover 11", "crash 11", "sockets"],
        "RFC 5353 section 2.1: 0 in an announcement; rsplib names each receiver",
    ),
    (
        "handle update, delete PE",
        "Dialtone only",
        &["crash 12"],
        "G32: the home is told that its element was reported and does not answer",
    ),
    (
        "handle update, delete PE",
        "port",
        &["sockets"],
        "the element's association has another SCTP port than in the capture",
    ),
    (
        "handle update, delete PE",
        "receiver",
        &["failover 11", "crash 11", "crash 13", "sockets"],
        "as for an added element",
    ),
    (
        "init takeover",
        "receiver",
        &["crash 12", "crash 13"],
        "RFC 5353 section 2.1: 0 in an announcement; rsplib names each receiver",
    ),
    (
        "list request",
        "receiver",
        NEWCOMERS,
        "RFC 5353 section 2: the receiver may be 0, for who is there shows with the answer",
    ),
    (
        "list request",
        "rsplib only",
        &["failover 11", "crash 11", "crash 12", "crash 13"],
        "rsplib asks every new peer for its list; RFC 5353 section 3.2.2.2 has the mentor asked",
    ),
    (
        "list response",
        "refused",
        NEWCOMERS,
        "RFC 5353 section 3.2.2.2: refused by whoever is starting itself; rsplib answers",
    ),
    (
        "list response",
        "servers",
        &["failover 11", "crash 11", "crash 12", "crash 13", "sockets"],
        "whoever answers names itself and not the other; rsplib does the reverse",
    ),
    (
        "presence",
        "receiver",
        ALL,
        "RFC 5353 section 2.1: 0 in an announcement; rsplib names each receiver",
    ),
    (
        "presence, reply required",
        "number",
        NEWCOMERS,
        "who has dialled asks who is there, and who is heard for the first time is asked as well",
    ),
    (
        "presence, reply required",
        "receiver",
        NEWCOMERS,
        "RFC 5353 section 2: nobody has said yet who is there",
    ),
    (
        "registration",
        "Dialtone only",
        &["adopted element"],
        "a registrar that has become the home is registered with at once; rsplib waits for its next registration",
    ),
    (
        "registration",
        "home",
        &["elements"],
        "RFC 5354 section 3.10: 0 is undetermined; rsplib repeats whom it has registered with",
    ),
    (
        "takeover server",
        "Dialtone only",
        &["crash 13"],
        "RFC 5353 section 3.5.2 demands it; rsplib, having won, does not send it",
    ),
];

/// Answers to somebody follow the question at once, by rsplib too.
const PROMPT: Duration = Duration::from_millis(100);

/// A kind of message, and what it is about if several of one kind are under way.
type Kind = (String, String);

pub(crate) type Found = BTreeSet<(String, &'static str)>;

#[derive(Debug)]
enum Message<'a> {
    Asap(asap::Message<'a>),
    Enrp(enrp::Message<'a>),
}

fn decode(line: &Line) -> Message<'_> {
    let payload = &line.payload;
    if line.place.is_asap() {
        let decoded = asap::Message::decode_with(payload, Compat::Rsplib).expect("decodes");
        Message::Asap(decoded.message)
    } else {
        let decoded = enrp::Message::decode_with(payload, Compat::Rsplib).expect("decodes");
        Message::Enrp(decoded.message)
    }
}

fn kind(message: &Message<'_>) -> Kind {
    let nothing = String::new();
    match message {
        Message::Asap(message) => match message {
            asap::Message::EndpointKeepAlive { home, pe_id, .. } => {
                let flag = if *home { ", home" } else { "" };
                (format!("{}{flag}", message.number()), format!("{pe_id:?}"))
            }
            _ => (message.number().to_string(), nothing),
        },
        Message::Enrp(enrp::Message { body, .. }) => match body {
            Body::HandleTableRequest { own_children_only: true } => {
                (format!("{}, own children", body.number()), nothing)
            }
            Body::HandleUpdate { action, element, .. } => {
                (format!("{}, {action}", body.number()), format!("{:?}", element.pe_id))
            }
            Body::Presence { reply_required: true, .. } => {
                (format!("{}, reply required", body.number()), nothing)
            }
            _ => (body.number().to_string(), nothing),
        },
    }
}

/// Sent again and again at moments that a random generator chooses.
fn is_regular(kind: &Kind) -> bool {
    ["presence", "endpoint keep-alive"].contains(&&*kind.0)
}

fn is_answer(kind: &Kind) -> bool {
    kind.0.ends_with("response") || kind.0.ends_with("ack")
}

/// What is listed for a part.
pub(crate) fn listed(part: &str) -> Found {
    let listed = DIFFERENCES.iter().filter(|(_, _, parts, _)| parts.contains(&part));
    listed.map(|(message, what, ..)| ((*message).to_owned(), *what)).collect()
}

/// All differences between two ways to play a part.
///
/// # Panics
/// Where no kind of difference is known.
pub(crate) fn compare(rsplib: &[Line], ours: &[Line]) -> Found {
    let mut pairs: BTreeMap<(Place, Kind), [Vec<&Line>; 2]> = BTreeMap::new();
    for (side, lines) in [rsplib, ours].into_iter().enumerate() {
        for line in lines {
            pairs.entry((line.place, kind(&decode(line)))).or_default()[side].push(line);
        }
    }
    let mut found = Found::new();
    for ((_, kind), [rsplib, ours]) in &pairs {
        let mut note = |what| {
            found.insert((kind.0.clone(), what));
        };
        match (rsplib.is_empty(), ours.is_empty()) {
            (true, _) => note("Dialtone only"),
            // Here a registration is a sign of life as well, and puts the next keep-alive off.
            (_, true) if kind.0 == "endpoint keep-alive" => {}
            (_, true) => note("rsplib only"),
            _ if is_regular(kind) => {
                regular(&kind.0, rsplib, ours).into_iter().for_each(&mut note);
            }
            _ => {
                if rsplib.len() != ours.len() {
                    note("number");
                }
                for (theirs, mine) in rsplib.iter().zip(ours) {
                    if is_answer(kind) {
                        let apart = theirs.at.abs_diff(mine.at);
                        assert!(apart < PROMPT, "{apart:?} apart: {theirs:x?} {mine:x?}");
                    }
                    fields(theirs, mine).into_iter().for_each(&mut note);
                }
            }
        }
    }
    found
}

/// Messages that repeat: the same things in the same order, about as often.
fn regular(kind: &str, rsplib: &[&Line], ours: &[&Line]) -> BTreeSet<&'static str> {
    let few = if kind == "presence" { rsplib.len() / 2 } else { 1 };
    let (said, many) = (ours.len(), 2 * rsplib.len() + 2);
    assert!((few..=many).contains(&said), "{kind}: {said} for {}: {:?}", rsplib.len(), rsplib[0]);
    let checksums = |lines: &[&Line]| {
        let mut sums: Vec<Option<u16>> = lines
            .iter()
            .map(|line| match decode(line) {
                Message::Enrp(enrp::Message { body: Body::Presence { checksum, .. }, .. }) => {
                    checksum
                }
                _ => None,
            })
            .collect();
        sums.dedup();
        sums
    };
    // Whoever speaks at other moments may show a state that lasted for less than a period.
    let mut said = checksums(ours).into_iter();
    for sum in checksums(rsplib) {
        assert!(said.any(|mine| mine == sum), "{sum:04x?} was not said at its place");
    }
    ours.iter().flat_map(|mine| fields(rsplib[0], mine)).collect()
}

/// What a message is called in the list.
pub(crate) fn name(line: &Line) -> String {
    kind(&decode(line)).0
}

/// Makes the ports of two ASAP transports the same, if they are not.
fn port(theirs: &PoolElement<'_>, mine: &mut PoolElement<'_>) -> Option<&'static str> {
    let (theirs, mine) = (theirs.asap_transport.as_ref()?, mine.asap_transport.as_mut()?);
    let before = std::mem::replace(&mut mine.port, theirs.port);
    (before != theirs.port).then_some("port")
}

/// In what two messages of one kind differ.
pub(crate) fn fields(theirs: &Line, mine: &Line) -> BTreeSet<&'static str> {
    let mut found = BTreeSet::new();
    match (decode(theirs), decode(mine)) {
        (Message::Enrp(theirs), Message::Enrp(mut mine)) => {
            assert_eq!(theirs.sender, mine.sender);
            if theirs.receiver != mine.receiver {
                found.insert("receiver");
                mine.receiver = theirs.receiver;
            }
            match (&theirs.body, &mut mine.body) {
                (
                    Body::HandleTableResponse { pools: theirs, .. },
                    Body::HandleTableResponse { pools: mine, .. },
                ) if theirs != mine => {
                    let handles = |pools: &[PoolEntry<'_>]| {
                        pools.iter().map(|pool| pool.handle.0.to_vec()).collect::<Vec<_>>()
                    };
                    if handles(theirs) != handles(mine) {
                        found.insert("order of pools");
                    }
                    let place = |handle| theirs.iter().position(|pool| pool.handle == handle);
                    mine.sort_by_key(|pool| place(pool.handle));
                    let elements = |pools| {
                        <[PoolEntry<'_>]>::iter_mut(pools).flat_map(|pool| &mut pool.elements)
                    };
                    for (mine, theirs) in
                        elements(mine).zip(theirs.iter().flat_map(|pool| &pool.elements))
                    {
                        found.extend(port(theirs, mine));
                    }
                }
                (
                    Body::HandleUpdate { element: theirs, .. },
                    Body::HandleUpdate { element: mine, .. },
                ) => found.extend(port(theirs, mine)),
                (
                    Body::ListResponse { servers: theirs, .. },
                    Body::ListResponse { reject, servers: mine },
                ) if theirs != mine => {
                    found.insert(if *reject { "refused" } else { "servers" });
                    *reject = false;
                    mine.clone_from(theirs);
                }
                (
                    Body::Presence { checksum: theirs, .. },
                    Body::Presence { checksum: mine, .. },
                ) => *mine = *theirs,
                _ => {}
            }
            assert_eq!(theirs, mine);
        }
        (Message::Asap(theirs), Message::Asap(mut mine)) => {
            match (&theirs, &mut mine) {
                (
                    asap::Message::HandleResolution { items: theirs, .. },
                    asap::Message::HandleResolution { items: mine, .. },
                ) if theirs != mine => {
                    found.insert("items");
                    *mine = *theirs;
                }
                (
                    asap::Message::Registration { element: theirs, .. },
                    asap::Message::Registration { element: mine, .. },
                ) if theirs.home != mine.home => {
                    found.insert("home");
                    mine.home = theirs.home;
                }
                _ => {}
            }
            if let (
                asap::Message::HandleResolutionResponse { outcome: theirs, .. },
                asap::Message::HandleResolutionResponse { outcome: mine, .. },
            ) = (&theirs, &mut mine)
            {
                match (theirs, &mut *mine) {
                    (Ok(theirs), Ok(mine)) => {
                        if theirs.policy != mine.policy {
                            found.insert("policy");
                            mine.policy = theirs.policy.clone();
                        }
                        if theirs.elements != mine.elements {
                            found.insert("elements");
                            mine.elements.clone_from(&theirs.elements);
                        }
                    }
                    (theirs, mine) if theirs.is_ok() != mine.is_ok() => {
                        found.insert("outcome");
                        mine.clone_from(theirs);
                    }
                    _ => {}
                }
            }
            assert_eq!(theirs, mine);
        }
        _ => panic!("two protocols"),
    }
    let sums = |line: &Line| {
        matches!(kind(&decode(line)).0.as_str(), "presence" | "presence, reply required")
    };
    if found.is_empty() && !sums(theirs) {
        assert_eq!(theirs.payload, mine.payload, "the same message in other bytes");
    }
    found
}
