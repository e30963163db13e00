//! Section 3.2: how a registrar starts.

use std::time::Duration;

use dialtone::launcher::Exclusive;
use dialtone_registrar_ns::core::{Config, Limits};

use crate::lab::bytes::*;
use crate::lab::daemons::registrars;
use crate::lab::peers::Peer;
use crate::lab::registrars::Lab;
use crate::world::{World, ms, reg};

/// Registrar 1 with these mentors, which never goes ahead alone.
fn starting(mentors: &[u8]) -> Lab {
    let places: Vec<_> = mentors.iter().map(|n| Lab::place(*n)).collect();
    let config = Config { alone_after: None, mentors: places.clone(), ..World::config(1, places) };
    Lab::configured(1, config)
}

fn in_service(lab: &Lab) -> bool {
    lab.world.registrar(1).in_service()
}

/// Waits until the peer is asked something of this kind; how long that took.
fn asked(lab: &mut Lab, peer: &mut Peer, kind: u8, limit: Duration) -> (Duration, Message) {
    let begin = lab.world.now;
    loop {
        if let Some(message) = lab.listen(peer).into_iter().find(|message| message.kind == kind) {
            return (lab.world.now - begin, message);
        }
        assert!(
            lab.world.now < begin + limit,
            "{kind:#04x} not within {limit:?}: {:?}",
            peer.heard
        );
        lab.run(ms(5));
    }
}

fn list(peer: &Peer, flags: u8, servers: &[(u32, u8)]) -> Vec<u8> {
    let server = |(id, n): &(u32, u8)| {
        let sctp = transport(SCTP, std::net::SocketAddr::new(reg(*n).ip(), 9901), 0);
        tlv(SERVER_INFORMATION, &join(&[word(*id), sctp]))
    };
    enrp(LIST_RESPONSE, flags, peer.id, 1, &servers.iter().map(server).collect::<Vec<_>>())
}

fn chunk(peer: &Peer, flags: u8, elements: &[(&str, u32, u32)]) -> Vec<u8> {
    let entry = |(pool, id, policy_number): &(&str, u32, u32)| {
        let element = Pe { policy: policy(*policy_number, &[]), ..Pe::new(*id, peer.addr.ip()) };
        [handle(pool), element.owned(peer.id, peer.addr).tlv()]
    };
    let entries: Vec<_> = elements.iter().flat_map(entry).collect();
    enrp(TABLE_RESPONSE, flags, peer.id, 1, &entries)
}

/// Proves E-009.
#[test]
fn identifiers_are_random_not_zero_and_stay() {
    let _turn = Exclusive::wait().unwrap();
    let mut launcher = registrars(2);
    let ids = |launcher: &mut dialtone::launcher::Launcher| {
        ["registrar-ns-1", "registrar-ns-2"].map(|name| launcher.pools(name).unwrap().server_id)
    };
    let before = ids(&mut launcher);
    assert_ne!(before[0], before[1]);
    assert!(
        before.iter().all(|id| u32::from_str_radix(&id[2..], 16).unwrap() > 0xffff),
        "{before:?}"
    );
    assert_eq!(ids(&mut launcher), before);
}

/// Proves E-023.
#[test]
fn without_a_configured_peer_service_begins_at_once() {
    let mut lab = Lab::configured(1, Config { alone_after: None, ..World::config(1, Vec::new()) });
    lab.run(ms(1));
    assert!(in_service(&lab));
}

/// Proves E-021, E-024, E-028, E-031, E-032, E-036, E-037, E-038, E-039, E-041.
#[test]
fn a_mentor_gives_the_list_and_then_the_handlespace_part_by_part() {
    let mut lab = starting(&[50]);
    let mut mentor = lab.listening(50);
    let (_, request) = asked(&mut lab, &mut mentor, LIST_REQUEST, ms(1000));
    assert_eq!((request.flags, request.route().0, request.behind(8)), (0, 1, vec![]));
    lab.run(ms(50));
    assert!(
        lab.listen(&mut mentor).iter().all(|message| message.kind != TABLE_REQUEST),
        "first the list"
    );
    // The list names the mentor and another registrar.
    lab.tell(&mentor, list(&mentor, 0, &[(50, 200), (99, 9)]));
    let (_, request) = asked(&mut lab, &mut mentor, TABLE_REQUEST, ms(100));
    assert_eq!((request.flags & W, request.behind(8)), (0, vec![]), "everybody's elements");
    assert!(lab.knows(50) && lab.knows(99));
    // New pools, new elements of known pools; the policy type is the first element's.
    lab.tell(&mentor, chunk(&mentor, MORE, &[("a", 1, RANDOM), ("b", 2, ROUND_ROBIN)]));
    let (_, request) = asked(&mut lab, &mut mentor, TABLE_REQUEST, ms(100));
    assert_eq!(request.flags & W, 0);
    assert!(lab.has(1, "a", 1) && lab.has(1, "b", 2) && !in_service(&lab));
    lab.tell(&mentor, chunk(&mentor, MORE, &[("a", 3, RANDOM)]));
    asked(&mut lab, &mut mentor, TABLE_REQUEST, ms(100));
    assert!(lab.has(1, "a", 3) && !in_service(&lab));
    // The last part.
    lab.tell(&mentor, chunk(&mentor, 0, &[("b", 4, ROUND_ROBIN)]));
    lab.run(ms(10));
    assert!(in_service(&lab) && lab.has(1, "b", 4));
    assert!(
        lab.listen(&mut mentor)
            .iter()
            .all(|message| message.kind != TABLE_REQUEST || message.flags & W != 0)
    );
    let user = lab.sctp(9, 1);
    let answer = lab.ask(user, resolution("a", false));
    assert_eq!(answer.find(POLICY).unwrap().word(0), RANDOM);
    let mut ids = answer.elements();
    ids.sort_unstable();
    assert_eq!(ids, [1, 3]);
}

/// Proves E-040.
#[test]
fn an_entry_that_is_known_already_is_replaced() {
    let mut lab = starting(&[50]);
    let mut mentor = lab.listening(50);
    asked(&mut lab, &mut mentor, LIST_REQUEST, ms(1000));
    lab.tell(&mentor, list(&mentor, 0, &[]));
    asked(&mut lab, &mut mentor, TABLE_REQUEST, ms(100));
    let weighted = |weight: u32| {
        let element = Pe { policy: policy(0x2, &[weight]), ..Pe::new(1, mentor.addr.ip()) };
        let parts = [handle("a"), element.owned(50, mentor.addr).tlv()];
        enrp(TABLE_RESPONSE, if weight == 1 { MORE } else { 0 }, 50, 1, &parts)
    };
    let (first, second) = (weighted(1), weighted(5));
    lab.tell(&mentor, first);
    asked(&mut lab, &mut mentor, TABLE_REQUEST, ms(100));
    lab.tell(&mentor, second);
    lab.run(ms(10));
    let user = lab.sctp(9, 1);
    let element = lab.ask(user, resolution("a", false)).find(POOL_ELEMENT).unwrap();
    assert_eq!(element.behind(12)[1].bytes(), policy(0x2, &[5]));
}

/// Proves E-022, E-025, E-026.
#[test]
fn a_mentor_that_does_not_answer_is_given_up_for_a_backup() {
    let mut lab = starting(&[50, 60]);
    let (mut first, mut second) = (lab.listening(50), lab.listening(60));
    asked(&mut lab, &mut first, LIST_REQUEST, ms(1000));
    lab.run(ms(900));
    assert!(
        lab.listen(&mut second).iter().all(|message| message.kind != LIST_REQUEST),
        "one at a time"
    );
    // MAX-TIME-NO-RESPONSE is 1 s, and there is a pause.
    asked(&mut lab, &mut second, LIST_REQUEST, ms(600));
    lab.tell(&second, list(&second, 0, &[]));
    asked(&mut lab, &mut second, TABLE_REQUEST, ms(100));
    lab.tell(&second, chunk(&second, 0, &[("a", 1, RANDOM)]));
    lab.run(ms(10));
    assert!(in_service(&lab) && lab.has(1, "a", 1));
}

/// Proves E-030, E-043.
#[test]
fn a_refusal_is_followed_by_another_attempt_after_a_pause() {
    for in_table in [false, true] {
        let mut lab = starting(&[50]);
        let mut mentor = lab.listening(50);
        asked(&mut lab, &mut mentor, LIST_REQUEST, ms(1000));
        if in_table {
            lab.tell(&mentor, list(&mentor, 0, &[]));
            asked(&mut lab, &mut mentor, TABLE_REQUEST, ms(100));
            lab.tell(&mentor, enrp(TABLE_RESPONSE, REJECT, 50, 1, &[]));
        } else {
            lab.tell(&mentor, list(&mentor, REJECT, &[]));
        }
        let (took, _) = asked(&mut lab, &mut mentor, LIST_REQUEST, ms(2000));
        assert!(took >= ms(200) && !in_service(&lab), "{took:?}");
        lab.tell(&mentor, list(&mentor, 0, &[]));
        asked(&mut lab, &mut mentor, TABLE_REQUEST, ms(100));
        lab.tell(&mentor, chunk(&mentor, 0, &[]));
        lab.run(ms(10));
        assert!(in_service(&lab));
    }
    // A refusal by one of two: the backup is asked.
    let mut lab = starting(&[50, 60]);
    let (mut first, mut second) = (lab.listening(50), lab.listening(60));
    asked(&mut lab, &mut first, LIST_REQUEST, ms(1000));
    lab.tell(&first, list(&first, REJECT, &[]));
    asked(&mut lab, &mut second, LIST_REQUEST, ms(500));
}

/// Proves E-044, E-045.
#[test]
fn a_download_that_stops_is_begun_anew_with_a_backup() {
    let mut lab = starting(&[50, 60]);
    let (mut first, mut second) = (lab.listening(50), lab.listening(60));
    asked(&mut lab, &mut first, LIST_REQUEST, ms(1000));
    lab.tell(&first, list(&first, 0, &[]));
    asked(&mut lab, &mut first, TABLE_REQUEST, ms(100));
    lab.tell(&first, chunk(&first, MORE, &[("a", 1, RANDOM)]));
    asked(&mut lab, &mut first, TABLE_REQUEST, ms(100));
    assert!(lab.has(1, "a", 1));
    // Silence.
    asked(&mut lab, &mut second, LIST_REQUEST, ms(1600));
    assert!(!lab.has(1, "a", 1), "what the first one sent is not kept");
    lab.tell(&second, list(&second, 0, &[]));
    let (_, request) = asked(&mut lab, &mut second, TABLE_REQUEST, ms(100));
    assert_eq!(request.flags & W, 0);
    lab.tell(&second, chunk(&second, 0, &[("b", 2, RANDOM)]));
    lab.run(ms(10));
    assert!(in_service(&lab) && lab.has(1, "b", 2));
}

/// A mentor whose messages hold three elements; ten in its handlespace, four of them in one pool.
fn mentor() -> (Lab, Peer) {
    let limits = Limits { table_elements: 3, ..Limits::default() };
    let mut lab = Lab::configured(1, Config { limits, ..World::config(1, Vec::new()) });
    let peer = lab.peer(50);
    for id in 1..=10 {
        lab.element(["a", "b", "c"][usize::from(id) % 3], id, 1);
    }
    (lab, peer)
}

fn download(lab: &mut Lab, peer: &mut Peer) -> Message {
    let answers = lab.ask_peer(peer, enrp(TABLE_REQUEST, 0, peer.id, 1, &[]));
    answers.into_iter().find(|answer| answer.kind == TABLE_RESPONSE).expect("an answer")
}

/// Proves E-033, E-034, E-035.
#[test]
fn a_download_from_here_has_as_many_parts_as_it_takes() {
    let (mut lab, mut peer) = mentor();
    let mut ids = Vec::new();
    let mut flags = Vec::new();
    while flags.last() != Some(&0) {
        let part = download(&mut lab, &mut peer);
        assert!(part.table().len() <= 3);
        flags.push(part.flags);
        ids.extend(part.table().into_iter().map(|(_, id, _)| id));
    }
    assert_eq!(flags, [MORE, MORE, MORE, 0]);
    ids.sort_unstable();
    assert_eq!(ids, (1..=10).collect::<Vec<_>>(), "each once");
    // The session is closed: the next request begins with the first part.
    let (again, first) = (download(&mut lab, &mut peer), 3);
    assert_eq!((again.flags, again.table().len()), (MORE, first));
}

/// Proves E-046, E-047.
#[test]
fn a_download_that_is_not_continued_is_forgotten() {
    let (mut lab, mut peer) = mentor();
    let first = download(&mut lab, &mut peer);
    lab.live(&mut [&mut peer], ms(900));
    let second = download(&mut lab, &mut peer);
    assert_ne!(second.table(), first.table(), "it goes on");
    // The session timer is 1 s.
    lab.live(&mut [&mut peer], ms(1100));
    assert_eq!(download(&mut lab, &mut peer).table(), first.table(), "it begins anew");
}

/// Proves E-027.
#[test]
fn a_list_names_all_registrars_that_are_known() {
    let mut lab = Lab::alone(1);
    let (mut one, mut two) = (lab.peer(50), lab.peer(60));
    lab.live(&mut [&mut one, &mut two], ms(100));
    let answers = lab.ask_peer(&mut one, enrp(LIST_REQUEST, 0, 50, 1, &[]));
    let answer = answers.iter().find(|answer| answer.kind == LIST_RESPONSE).unwrap();
    assert_eq!(answer.flags, 0);
    let servers: Vec<(u16, u32)> =
        answer.behind(8).iter().map(|part| (part.kind, part.word(0))).collect();
    assert_eq!(
        servers,
        [(SERVER_INFORMATION, 1), (SERVER_INFORMATION, 60)],
        "itself, and who else is there"
    );
}
