//! Section 2: what messages look like.

use crate::lab::bytes::*;
use crate::lab::registrars::Lab;
use crate::world::ms;

/// Proves E-003, E-004, E-007, E-008, E-092.
#[test]
fn a_presence_has_the_own_checksum_and_says_where_the_sender_is() {
    let mut lab = Lab::alone(0x0102_0304);
    let mut peer = lab.peer(50);
    let element = lab.sctp(9, 1);
    lab.register(element, "sip", &Pe::new(0x0a0b_0c0d, element.ip()));
    lab.listen(&mut peer);
    lab.tell(&peer, peer.presence(R));
    lab.run(ms(10));
    let received = std::mem::take(&mut lab.world.element(peer.addr).received);
    let answer = &received.iter().find(|(_, bytes)| bytes[0] == PRESENCE).unwrap().1;
    let expected = [
        0x01, 0x00, 0x00, 0x2c, // Type, flags: an answer asks for none, Length 44
        0x01, 0x02, 0x03, 0x04, // Sending server
        0x00, 0x00, 0x00, 0x32, // Receiving server: 50
        0x00, 0x0f, 0x00, 0x06, 0x06, 0x7e, 0x00,
        0x00, // PE Checksum of sip/0x0a0b0c0d, padded
        0x00, 0x0b, 0x00, 0x18, 0x01, 0x02, 0x03, 0x04, // Server Information
        0x00, 0x04, 0x00, 0x10, 0x26, 0xad, 0x00, 0x00, // SCTP Transport: port 9901
        0x00, 0x01, 0x00, 0x08, 127, 0, 0, 1, // IPv4 Address
    ];
    assert_eq!(*answer, expected);
}

/// Proves E-006.
#[test]
fn a_receiver_of_0_is_good_for_messages_to_one_server() {
    let mut lab = Lab::alone(1);
    let mut peer = lab.peer(50);
    for receiver in [0, 1] {
        let answers = lab.ask_peer(&mut peer, enrp(LIST_REQUEST, 0, 50, receiver, &[]));
        let kinds: Vec<u8> = answers.iter().map(|answer| answer.kind).collect();
        assert_eq!(kinds, [LIST_RESPONSE], "{receiver}");
    }
    // Somebody else's is not answered.
    assert_eq!(lab.ask_peer(&mut peer, enrp(LIST_REQUEST, 0, 50, 77, &[])), []);
}

/// Proves E-010, E-013, E-014.
#[test]
fn a_table_has_pools_with_their_elements_of_all_or_of_one_owner() {
    let mut lab = Lab::alone(1);
    let mut peer = lab.peer(50);
    let element = lab.sctp(9, 1);
    for (pool, id) in [("a", 1), ("a", 2), ("b", 3)] {
        lab.register(element, pool, &Pe::new(id, element.ip()));
    }
    for (pool, id) in [("a", 4), ("c", 5)] {
        let foreign = Pe::new(id, peer.addr.ip()).owned(50, peer.addr);
        lab.tell(&peer, update(50, ADD_PE, pool, &foreign));
    }
    lab.run(ms(10));
    let mut ask = |flags| {
        let answers = lab.ask_peer(&mut peer, enrp(TABLE_REQUEST, flags, 50, 1, &[]));
        let answer = answers.into_iter().find(|answer| answer.kind == TABLE_RESPONSE).unwrap();
        assert_eq!((answer.flags, answer.route()), (0, (1, 50)));
        let kinds: Vec<u16> = answer.behind(8).iter().map(|part| part.kind).collect();
        assert_eq!(kinds[0], POOL_HANDLE);
        // Each handle once, with at least one element behind it.
        assert!(
            kinds.windows(2).all(|pair| pair != [POOL_HANDLE; 2])
                && kinds.last() == Some(&POOL_ELEMENT)
        );
        let mut table = answer.table();
        table.sort();
        (kinds.iter().filter(|kind| **kind == POOL_HANDLE).count(), table)
    };
    let entry = |pool: &str, id, home| (pool.to_owned(), id, home);
    let own = [entry("a", 1, 1), entry("a", 2, 1), entry("b", 3, 1)];
    assert_eq!(ask(W), (2, own.to_vec()));
    let mut all = [&own[..], &[entry("a", 4, 50), entry("c", 5, 50)]].concat();
    all.sort();
    assert_eq!(ask(0), (3, all));
}

/// Proves E-011, E-012, E-017, E-018, E-029, E-042.
#[test]
fn who_is_still_starting_refuses_lists_and_tables() {
    let config = dialtone_registrar_ns::core::Config {
        alone_after: None,
        mentors: vec![Lab::place(60)],
        ..crate::world::World::config(1, vec![Lab::place(60)])
    };
    let mut lab = Lab::configured(1, config);
    lab.run(ms(50));
    assert!(!lab.world.registrar(1).in_service());
    let mut peer = lab.dialled(50);
    for (request, response) in [(LIST_REQUEST, LIST_RESPONSE), (TABLE_REQUEST, TABLE_RESPONSE)] {
        let answers = lab.ask_peer(&mut peer, enrp(request, 0, 50, 0, &[]));
        let answer = answers.iter().find(|answer| answer.kind == response).unwrap();
        assert_eq!((answer.flags, answer.behind(8)), (REJECT, vec![]));
    }
}

/// Proves E-015, E-016.
#[test]
fn an_update_adds_or_deletes_and_nothing_else() {
    let mut lab = Lab::alone(1);
    let mut peer = lab.peer(50);
    let foreign = Pe::new(4, peer.addr.ip()).owned(50, peer.addr);
    let reserved = |mut bytes: Vec<u8>| {
        bytes[14..16].copy_from_slice(&[0xff, 0xff]);
        bytes
    };
    for action in [2, 3, 0x100, 0xffff] {
        lab.ask_peer(&mut peer, update(50, action, "echo", &foreign));
        assert!(!lab.has(1, "echo", 4), "{action}");
    }
    lab.ask_peer(&mut peer, reserved(update(50, ADD_PE, "echo", &foreign)));
    assert!(lab.has(1, "echo", 4));
    for action in [2, 0x101] {
        lab.ask_peer(&mut peer, update(50, action, "echo", &foreign));
        assert!(lab.has(1, "echo", 4), "{action}");
    }
    lab.ask_peer(&mut peer, reserved(update(50, DEL_PE, "echo", &foreign)));
    assert!(!lab.has(1, "echo", 4));
    // What it says itself.
    let element = lab.sctp(9, 1);
    lab.register(element, "echo", &Pe::new(7, element.ip()));
    lab.ask(element, deregistration("echo", 7));
    lab.listen(&mut peer);
    let actions: Vec<Vec<u8>> = peer
        .told(peer.heard[0].0, HANDLE_UPDATE)
        .iter()
        .map(|update| update.value[8..12].to_vec())
        .collect();
    assert_eq!(actions, [[0, 0, 0, 0], [0, 1, 0, 0]]);
}
