//! Section 3.5: taking over a dead peer's elements.

use std::net::SocketAddr;
use std::time::Instant;

use crate::lab::bytes::*;
use crate::lab::peers::Peer;
use crate::lab::registrars::Lab;
use crate::world::ms;

/// Registrar 1 has this identifier. Peer 50 owns an element of a real place, and falls silent; peer 60 lives.
struct Scene {
    lab: Lab,
    dead: Peer,
    other: Peer,
    element: SocketAddr,
    /// Before the registrar noticed.
    since: Instant,
}

const ELEMENT: u32 = 9;

fn scene(id: u32) -> Scene {
    let mut lab = Lab::alone(id);
    let (mut dead, mut other) = (lab.peer(50), lab.peer(60));
    // It listens where peer 50 says that it does, and registers with nobody.
    let element = Lab::place(ELEMENT as u8);
    lab.world.add_element(crate::element::Element::mailbox(
        ELEMENT as u8,
        250,
        dialtone_transport::Link::Sctp,
    ));
    let owned = Pe::new(ELEMENT, element.ip()).owned(50, element);
    lab.tell(&dead, update(50, ADD_PE, "echo", &owned));
    dead.elements.push(("echo".to_owned(), owned));
    // Its own elements are nobody else's business.
    let own = Pe::new(8, other.addr.ip()).owned(60, other.addr);
    lab.tell(&other, update(60, ADD_PE, "echo", &own));
    other.elements.push(("echo".to_owned(), own));
    lab.live(&mut [&mut dead, &mut other], ms(1000));
    assert_eq!((lab.home(1, "echo", ELEMENT), lab.home(1, "echo", 8)), (Some(50), Some(60)));
    let since = lab.world.now;
    Scene { lab, dead, other, element, since }
}

impl Scene {
    /// Until the registrar has announced its takeover.
    fn begins(&mut self) {
        for _ in 0..50 {
            self.lab.live(&mut [&mut self.other], ms(100));
            if !self.other.told(self.since, INIT_TAKEOVER).is_empty() {
                self.lab.listen(&mut self.dead);
                return;
            }
        }
        panic!("no takeover: {:?}", self.other.heard);
    }

    fn told(&self, kind: u8) -> Vec<&Message> {
        self.other.told(self.since, kind)
    }

    fn other_says(&mut self, kind: u8, target: u32) {
        self.lab.tell(&self.other, enrp(kind, 0, 60, 0, &[word(target)]));
        self.lab.live(&mut [&mut self.other], ms(20));
    }
}

/// Proves E-019, E-069, E-070, E-071, E-078, E-080, E-081, E-082, E-083.
#[test]
fn a_takeover_is_announced_acknowledged_won_and_done() {
    let mut scene = scene(1);
    scene.begins();
    for peer in [&scene.dead, &scene.other] {
        let init = peer.told(scene.since, INIT_TAKEOVER)[0];
        assert_eq!((init.route(), init.target()), ((1, 0), 50), "the target hears it, too");
    }
    // It waits for the acknowledgement of the one who lives.
    scene.lab.live(&mut [&mut scene.other], ms(500));
    assert!(scene.told(TAKEOVER_SERVER).is_empty());
    assert_eq!(scene.lab.home(1, "echo", ELEMENT), Some(50));
    scene.lab.keep_alives(scene.element);
    scene.other_says(INIT_TAKEOVER_ACK, 50);
    let won = scene.told(TAKEOVER_SERVER);
    assert_eq!((won.len(), won[0].route(), won[0].target()), (1, (1, 0), 50));
    assert!(!scene.lab.knows(50) && scene.lab.knows(60));
    assert_eq!(scene.lab.home(1, "echo", ELEMENT), Some(1));
    assert_eq!(scene.lab.home(1, "echo", 8), Some(60), "not those of others (G14)");
    scene.lab.run(ms(600));
    let asked = scene.lab.keep_alives(scene.element);
    assert!(!asked.is_empty());
    assert_eq!((asked[0].flags & 1, &asked[0].value[..4]), (1, &word(1)[..]), "H=1");
    assert_eq!(asked[0].behind(4)[0].bytes(), handle("echo"));
}

/// Proves E-073, E-079.
#[test]
fn a_target_that_speaks_is_not_taken_over() {
    let mut scene = scene(1);
    scene.begins();
    assert_eq!(scene.lab.status(50), Some("target"));
    scene.lab.tell(&scene.dead, scene.dead.presence(0));
    scene.lab.run(ms(5));
    assert_eq!(scene.lab.status(50), Some("active"));
    scene.other_says(INIT_TAKEOVER_ACK, 50);
    scene.lab.live(&mut [&mut scene.dead, &mut scene.other], ms(3000));
    assert!(scene.told(TAKEOVER_SERVER).is_empty());
    assert_eq!(scene.lab.home(1, "echo", ELEMENT), Some(50));
}

/// Proves E-072.
#[test]
fn a_registrar_that_is_to_be_taken_over_says_at_once_that_it_lives() {
    let mut scene = scene(1);
    let (since, lab) = (scene.lab.world.now, &mut scene.lab);
    lab.tell(&scene.other, enrp(INIT_TAKEOVER, 0, 60, 0, &[word(1)]));
    lab.run(ms(4));
    for peer in [&mut scene.dead, &mut scene.other] {
        lab.listen(peer);
        assert_eq!(peer.told(since, PRESENCE).len(), 1, "to all peers");
        assert!(peer.told(since, INIT_TAKEOVER_ACK).is_empty());
    }
}

/// Proves E-074.
#[test]
fn of_two_takeovers_the_one_of_the_larger_identifier_goes_on() {
    let mut scene = scene(1);
    scene.begins();
    let since = scene.lab.world.now;
    scene.other_says(INIT_TAKEOVER, 50);
    let ack = scene.other.told(since, INIT_TAKEOVER_ACK);
    assert_eq!((ack.len(), ack[0].route(), ack[0].target()), (1, (1, 60), 50));
    assert_eq!(scene.lab.status(50), Some("suspended"));
    // Its own is over: an acknowledgement comes too late.
    scene.other_says(INIT_TAKEOVER_ACK, 50);
    assert!(scene.told(TAKEOVER_SERVER).is_empty());
    assert_eq!(scene.lab.home(1, "echo", ELEMENT), Some(50));
}

/// Proves E-075.
#[test]
fn a_takeover_of_a_smaller_identifier_is_ignored() {
    let mut scene = scene(99);
    scene.begins();
    scene.other_says(INIT_TAKEOVER, 50);
    assert!(scene.told(INIT_TAKEOVER_ACK).is_empty());
    assert_eq!(scene.lab.status(50), Some("target"));
    scene.other_says(INIT_TAKEOVER_ACK, 50);
    assert_eq!(scene.told(TAKEOVER_SERVER).len(), 1);
    assert_eq!(scene.lab.home(1, "echo", ELEMENT), Some(99));
}

/// Proves E-076, E-077.
#[test]
fn another_one_s_takeover_is_acknowledged_and_its_target_not_watched() {
    let mut scene = scene(99);
    let since = scene.lab.world.now;
    scene.other_says(INIT_TAKEOVER, 50);
    let ack = scene.other.told(since, INIT_TAKEOVER_ACK);
    assert_eq!((ack.len(), ack[0].route(), ack[0].target()), (1, (99, 60), 50));
    assert_eq!(scene.lab.status(50), Some("suspended"));
    // Silent for longer than MAX-TIME-LAST-HEARD: it is neither asked nor taken over. G2: the guard of 3 s is not over.
    scene.lab.live(&mut [&mut scene.other], ms(2900));
    scene.lab.listen(&mut scene.dead);
    assert!(scene.dead.told(since, PRESENCE).iter().all(|presence| presence.flags & R == 0));
    assert!(scene.told(INIT_TAKEOVER).is_empty());
}

/// Proves E-084, E-085.
#[test]
fn a_target_is_forgotten_and_its_elements_are_the_winner_s() {
    let mut scene = scene(99);
    scene.other_says(INIT_TAKEOVER, 50);
    scene.other_says(TAKEOVER_SERVER, 50);
    assert!(!scene.lab.knows(50));
    assert_eq!(scene.lab.home(1, "echo", ELEMENT), Some(60));
    // Without a word before it is the same.
    let mut scene = self::scene(99);
    scene.other_says(TAKEOVER_SERVER, 50);
    assert!(!scene.lab.knows(50));
    assert_eq!(
        (scene.lab.home(1, "echo", ELEMENT), scene.lab.home(1, "echo", 8)),
        (Some(60), Some(60))
    );
}

/// Proves A-001, E-001.
#[test]
fn an_element_has_one_home_whoever_says_what() {
    let mut scene = scene(1);
    let owned = |home, id| Pe::new(id, scene.element.ip()).owned(home, scene.element);
    let (fifty, sixty) = (owned(50, ELEMENT), owned(60, ELEMENT));
    for (peer, update, home) in [
        (&scene.other, update(60, ADD_PE, "echo", &sixty), 60),
        (&scene.dead, update(50, ADD_PE, "echo", &fifty), 50),
    ] {
        scene.lab.tell(peer, update);
        scene.lab.run(ms(5));
        assert_eq!(scene.lab.home(1, "echo", ELEMENT), Some(home));
    }
    // It comes here itself.
    scene.lab.world.kill(scene.element);
    let who = scene.lab.sctp(ELEMENT as u8, 1);
    scene.lab.register(who, "echo", &Pe::new(ELEMENT, who.ip()));
    assert_eq!(scene.lab.home(1, "echo", ELEMENT), Some(1));
    assert_eq!(scene.lab.own_checksum(&mut scene.other), checksum(&[("echo", ELEMENT)]));
}
