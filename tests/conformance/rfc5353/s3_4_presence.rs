//! Section 3.4: peers and their presence.

use crate::lab::bytes::*;
use crate::lab::registrars::Lab;
use crate::world::ms;

/// Proves E-060, E-061, E-062.
#[test]
fn whoever_speaks_is_a_peer_from_then_on() {
    let messages = [
        presence(50, 0, 0xffff),
        enrp(LIST_REQUEST, 0, 50, 0, &[]),
        enrp(TABLE_REQUEST, W, 50, 0, &[]),
        update(50, DEL_PE, "nobody", &Pe::new(1, Lab::place(50).ip())),
        enrp(INIT_TAKEOVER, 0, 50, 0, &[word(77)]),
        enrp(ENRP_ERROR, 0, 50, 0, &[tlv(OPERATION_ERROR, &tlv(0x0, &[]))]),
    ];
    for message in messages {
        let mut lab = Lab::alone(1);
        let mut peer = lab.dialled(50);
        assert!(!lab.knows(50));
        let answers = lab.ask_peer(&mut peer, message.clone());
        assert!(lab.knows(50), "{message:02x?}");
        let asks = answers.iter().any(|answer| answer.kind == PRESENCE && answer.flags & R != 0);
        assert!(asks, "{message:02x?}: {answers:?}");
    }
}

/// Proves E-005, E-063, E-064, E-065.
#[test]
fn presences_come_in_each_cycle_and_keep_peers_alive() {
    let mut lab = Lab::alone(1);
    let (mut one, mut two) = (lab.peer(50), lab.peer(60));
    lab.live(&mut [&mut one, &mut two], ms(500));
    let since = lab.world.now;
    lab.live(&mut [&mut one, &mut two], ms(10_000));
    for peer in [&one, &two] {
        let told = peer.told(since, PRESENCE);
        assert!((9..=11).contains(&told.len()), "{}", told.len());
        assert!(told.iter().all(|presence| presence.flags & R == 0 && presence.route() == (1, 0)));
        assert_eq!(lab.status(peer.id), Some("active"));
    }
    // Any message will do: it says nothing but updates for longer than MAX-TIME-LAST-HEARD.
    let since = lab.world.now;
    let nobody = update(60, DEL_PE, "nobody", &Pe::new(1, two.addr.ip()));
    for _ in 0..5 {
        lab.tell(&two, nobody.clone());
        lab.live(&mut [&mut one], ms(1000));
    }
    lab.listen(&mut two);
    assert!(two.told(since, PRESENCE).iter().all(|presence| presence.flags & R == 0));
    assert_eq!(lab.status(60), Some("active"));
}

/// Proves E-066, E-067, E-068.
#[test]
fn a_silent_peer_is_asked_and_is_dead_if_it_does_not_answer() {
    let mut lab = Lab::alone(1);
    let (mut silent, mut other) = (lab.peer(50), lab.peer(60));
    lab.live(&mut [&mut silent, &mut other], ms(600));
    let since = lab.world.now;
    lab.live(&mut [&mut other], ms(2400 - 500));
    lab.listen(&mut silent);
    assert!(silent.told(since, PRESENCE).iter().all(|presence| presence.flags & R == 0));
    lab.live(&mut [&mut other], ms(700));
    lab.listen(&mut silent);
    let asked: Vec<_> = silent
        .told(since, PRESENCE)
        .into_iter()
        .filter(|presence| presence.flags & R != 0)
        .collect();
    assert_eq!(asked.len(), 1, "after MAX-TIME-LAST-HEARD, 2.5 s");
    assert_eq!(asked[0].route(), (1, 50), "to it alone");
    assert!(other.told(since, PRESENCE).iter().all(|presence| presence.flags & R == 0));
    assert_eq!(lab.status(50), Some("probed"));
    assert!(other.told(since, INIT_TAKEOVER).is_empty());
    // MAX-TIME-NO-RESPONSE, 1 s: it is dead, and taken over.
    lab.live(&mut [&mut other], ms(1100));
    assert_eq!(other.told(since, INIT_TAKEOVER).first().map(|message| message.target()), Some(50));

    // One that answers lives.
    let mut lab = Lab::alone(1);
    let mut peer = lab.peer(50);
    lab.live(&mut [&mut peer], ms(600));
    lab.run(ms(2700));
    assert_eq!(lab.status(50), Some("probed"));
    lab.tell(&peer, peer.presence(0));
    lab.run(ms(10));
    assert_eq!(lab.status(50), Some("active"));
}
