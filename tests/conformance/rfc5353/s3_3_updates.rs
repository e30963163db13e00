//! Section 3.3: updates of the handlespace.

use crate::lab::bytes::*;
use crate::lab::peers::Peer;
use crate::lab::registrars::Lab;
use crate::world::ms;

fn start() -> (Lab, Peer, Peer) {
    let mut lab = Lab::alone(1);
    let (one, two) = (lab.peer(50), lab.peer(60));
    (lab, one, two)
}

/// The updates that a peer was told, since `lab.world.now` was that.
fn updates(peer: &Peer, since: std::time::Instant) -> Vec<&Message> {
    peer.told(since, HANDLE_UPDATE)
}

/// Proves E-005, E-020, E-048, E-049, E-050, E-054, E-055, E-056.
#[test]
fn registrations_and_removals_are_told_to_all_peers_with_all_that_is_known() {
    let (mut lab, mut one, mut two) = start();
    let who = lab.sctp(9, 1);
    let since = lab.world.now;
    let element = Pe { life: 2, policy: policy(0x2, &[3]), ..Pe::new(7, who.ip()) };
    lab.register(who, "echo", &element);
    lab.register(who, "echo", &Pe { id: 8, ..element.clone() });
    lab.register(who, "echo", &element);
    lab.ask(who, deregistration("echo", 8));
    // The other one's life ends.
    for _ in 0..25 {
        lab.live(&mut [&mut one, &mut two], ms(100));
        if !lab.keep_alives(who).is_empty() {
            lab.ack(who, "echo", 7);
        }
    }
    assert!(!lab.has(1, "echo", 7));
    for peer in [&one, &two] {
        let told: Vec<(u16, u32)> = updates(peer, since)
            .iter()
            .map(|update| {
                let parts = update.behind(12);
                assert_eq!(update.route(), (1, 0), "the receiver is 0");
                assert_eq!(parts[0].bytes(), handle("echo"));
                let element = &parts[1];
                assert_eq!((element.word(4), element.word(8)), (1, 2), "home and life");
                let inside: Vec<_> = element.behind(12).iter().map(|part| part.bytes()).collect();
                assert_eq!(
                    inside[..2],
                    [
                        transport(TCP, std::net::SocketAddr::new(who.ip(), 5060), 0),
                        policy(0x2, &[3])
                    ]
                );
                assert_eq!(
                    inside[2],
                    transport(SCTP, std::net::SocketAddr::new(who.ip(), 3863), 0)
                );
                (u16::from_be_bytes([update.value[8], update.value[9]]), element.word(0))
            })
            .collect();
        assert_eq!(told, [(ADD_PE, 7), (ADD_PE, 8), (ADD_PE, 7), (DEL_PE, 8), (DEL_PE, 7)]);
    }
}

/// Proves E-054.
#[test]
fn an_element_that_is_purged_is_told_as_well() {
    let (mut lab, mut one, mut two) = start();
    let who = lab.sctp(9, 1);
    lab.register(who, "echo", &Pe::new(7, who.ip()));
    let since = lab.world.now;
    // Nobody answers keep-alives.
    lab.live(&mut [&mut one, &mut two], ms(3000));
    let actions: Vec<u8> = updates(&one, since).iter().map(|update| update.value[9]).collect();
    assert_eq!((actions.last(), lab.has(1, "echo", 7)), (Some(&1), false));
}

/// Proves E-051, E-052, E-053.
#[test]
fn what_a_peer_adds_is_added_with_all_attributes_or_replaced() {
    let (mut lab, one, _) = start();
    let user = lab.sctp(9, 1);
    let element = |id: u32, weight: u32| {
        let element = Pe { life: 77, policy: policy(0x2, &[weight]), ..Pe::new(id, one.addr.ip()) };
        element.owned(50, one.addr)
    };
    // An unknown pool: its policy is that of this element.
    lab.tell(&one, update(50, ADD_PE, "echo", &element(1, 5)));
    lab.run(ms(5));
    let answer = lab.ask(user, resolution("echo", false));
    assert_eq!(answer.find(POLICY).unwrap().word(0), 0x2);
    assert_eq!(answer.find_all(POOL_ELEMENT)[0].bytes(), element(1, 5).tlv(), "all of it");
    // An unknown element, and a known one.
    lab.tell(&one, update(50, ADD_PE, "echo", &element(2, 5)));
    lab.tell(&one, update(50, ADD_PE, "echo", &element(1, 9)));
    lab.run(ms(5));
    let mut elements: Vec<_> = lab
        .ask(user, resolution("echo", false))
        .find_all(POOL_ELEMENT)
        .iter()
        .map(Tlv::bytes)
        .collect();
    elements.sort();
    assert_eq!(elements, [element(1, 9).tlv(), element(2, 5).tlv()]);
}

/// Proves E-057, E-058, E-059.
#[test]
fn what_a_peer_deletes_is_removed_and_the_pool_with_its_last_element() {
    let (mut lab, one, _) = start();
    let user = lab.sctp(9, 1);
    let element = |id: u32| Pe::new(id, one.addr.ip()).owned(50, one.addr);
    for id in [1, 2] {
        lab.tell(&one, update(50, ADD_PE, "echo", &element(id)));
    }
    // Unknown elements and pools: nothing happens.
    for (pool, id) in [("echo", 3), ("nobody", 1)] {
        lab.tell(&one, update(50, DEL_PE, pool, &element(id)));
    }
    lab.run(ms(5));
    assert!(
        lab.has(1, "echo", 1)
            && lab.has(1, "echo", 2)
            && lab.world.element(one.addr).is_connected()
    );
    lab.tell(&one, update(50, DEL_PE, "echo", &element(1)));
    lab.run(ms(5));
    assert_eq!(lab.ask(user, resolution("echo", false)).elements(), [2]);
    lab.tell(&one, update(50, DEL_PE, "echo", &element(2)));
    lab.run(ms(5));
    assert_eq!(lab.ask(user, resolution("echo", false)).causes(), [0x9]);
}
