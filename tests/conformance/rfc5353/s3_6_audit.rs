//! Section 3.6: checksums, and what is done about a difference.

use crate::lab::bytes::*;
use crate::lab::peers::Peer;
use crate::lab::registrars::Lab;
use crate::world::ms;

fn owned(peer: &Peer, id: u32) -> Pe {
    Pe::new(id, peer.addr.ip()).owned(peer.id, peer.addr)
}

/// Adds it to what the peer owns, and tells the registrar if `told`.
fn add(lab: &mut Lab, peer: &mut Peer, pool: &str, id: u32, told: bool) {
    let element = owned(peer, id);
    if told {
        lab.tell(peer, update(peer.id, ADD_PE, pool, &element));
    }
    peer.elements.push((pool.to_owned(), element));
}

/// Proves E-090, E-091, E-092, E-093.
#[test]
fn the_own_checksum_is_that_of_rfc_1071_over_what_is_owned_at_any_time() {
    assert_eq!(checksum(&[("EchoPool", 0x1234_5678)]), 0x29a5, "the sum by hand");
    let mut lab = Lab::alone(1);
    let mut peer = lab.peer(50);
    let who = lab.sctp(9, 1);
    assert_eq!(lab.own_checksum(&mut peer), 0xffff);
    let mut own: Vec<(&str, u32)> = Vec::new();
    for (pool, id) in
        [("EchoPool", 0x1234_5678), ("sip", 0x0a0b_0c0d), ("sip", 0xfedc_ba98), ("a", u32::MAX)]
    {
        lab.register(who, pool, &Pe::new(id, who.ip()));
        own.push((pool, id));
        assert_eq!(lab.own_checksum(&mut peer), checksum(&own));
    }
    // Somebody else's elements are not in it.
    add(&mut lab, &mut peer, "sip", 77, true);
    assert_eq!(lab.own_checksum(&mut peer), checksum(&own));
    while let Some((pool, id)) = own.pop() {
        assert_eq!(lab.ask(who, deregistration(pool, id)).causes(), NO_CAUSES);
        assert_eq!(lab.own_checksum(&mut peer), checksum(&own), "{own:?}");
    }
}

/// Proves E-087, E-088, E-090, E-093.
#[test]
fn each_peer_has_a_checksum_that_follows_what_it_owns() {
    let mut lab = Lab::alone(1);
    let (mut one, mut two) = (lab.peer(50), lab.peer(60));
    let since = lab.world.now;
    for id in 1..=20 {
        add(&mut lab, &mut one, "sip", id, true);
        add(&mut lab, &mut two, "EchoPool", id + 100, true);
        lab.tell(&one, one.presence(0));
        lab.tell(&two, two.presence(0));
        lab.run(ms(5));
    }
    // An element moves from the one to the other: both checksums change.
    let (pool, element) = one.elements.pop().unwrap();
    let moved = Pe { home: 60, ..element };
    lab.tell(&two, update(60, ADD_PE, &pool, &moved));
    two.elements.push((pool, moved));
    lab.live(&mut [&mut one, &mut two], ms(3000));
    for peer in [&one, &two] {
        assert!(peer.told(since, TABLE_REQUEST).is_empty(), "no difference: {:?}", peer.heard);
    }
}

/// Proves E-086, E-089, E-094, E-095, E-096, E-098, E-099.
#[test]
fn a_difference_leads_to_a_resync_that_makes_both_equal() {
    let mut lab = Lab::alone(1);
    let mut peer = lab.peer(50);
    for id in 1..=3 {
        add(&mut lab, &mut peer, "sip", id, true);
    }
    lab.live(&mut [&mut peer], ms(1500));
    // It loses one without a word, gets another one, and changes a third.
    peer.elements.remove(0);
    add(&mut lab, &mut peer, "new", 4, false);
    peer.elements[0].1.life = 99;
    let since = lab.world.now;
    lab.tell(&peer, peer.presence(0));
    lab.run(ms(4));
    lab.listen(&mut peer);
    let asked = peer.told(since, TABLE_REQUEST);
    assert_eq!(
        (asked.len(), asked[0].flags & W, asked[0].route()),
        (1, W, (1, 50)),
        "at once, for its own"
    );
    // In two parts: nothing is removed before the last one.
    let (first, last) = (peer.elements[0].clone(), peer.elements[1..].to_vec());
    let part = |flags, entries: &[(String, Pe)]| {
        let parts = entries.iter().flat_map(|(pool, element)| [handle(pool), element.tlv()]);
        enrp(TABLE_RESPONSE, flags, 50, 1, &parts.collect::<Vec<_>>())
    };
    lab.tell(&peer, part(MORE, &[first]));
    lab.run(ms(4));
    lab.listen(&mut peer);
    assert_eq!(peer.told(since, TABLE_REQUEST).len(), 2);
    assert!(lab.has(1, "sip", 1) && !lab.has(1, "new", 4));
    lab.tell(&peer, part(0, &last));
    lab.run(ms(4));
    assert!(!lab.has(1, "sip", 1), "still marked");
    assert!(lab.has(1, "sip", 2) && lab.has(1, "sip", 3) && lab.has(1, "new", 4));
    let user = lab.sctp(9, 1);
    let answer = lab.ask(user, resolution("sip", false));
    let lives: Vec<(u32, u32)> = answer
        .find_all(POOL_ELEMENT)
        .iter()
        .map(|element| (element.word(0), element.word(8)))
        .collect();
    assert!(lives.contains(&(2, 99)) && lives.contains(&(3, 600)), "{lives:?}");
    // Silently, and now they are equal.
    let since = lab.world.now;
    lab.live(&mut [&mut peer], ms(5000));
    assert!(
        peer.told(since, TABLE_REQUEST).is_empty() && peer.told(since, HANDLE_UPDATE).is_empty()
    );
}

/// Proves E-097.
#[test]
fn a_resync_of_a_peer_is_answered_at_once_with_all_that_is_owned() {
    let mut lab = Lab::alone(1);
    let mut peer = lab.peer(50);
    let who = lab.sctp(9, 1);
    for id in 1..=30 {
        lab.register(who, "sip", &Pe::new(id, who.ip()));
    }
    add(&mut lab, &mut peer, "sip", 77, true);
    let answers = lab.ask_peer(&mut peer, enrp(TABLE_REQUEST, W, 50, 1, &[]));
    let answer = answers.iter().find(|answer| answer.kind == TABLE_RESPONSE).unwrap();
    let mut ids: Vec<u32> = answer.table().iter().map(|(_, id, _)| *id).collect();
    ids.sort_unstable();
    assert_eq!((answer.flags, ids), (0, (1..=30).collect()));
}
