//! Server hunt (RFC 5352 section 3.6) in virtual time, with a role that does nothing.

mod common;

use std::net::SocketAddr;
use std::time::Instant;

use common::{Life, World, ip, ms, remotes};
use dialtone_asap_client::core::{Client, Context, HomeChange, Output, Role, Sender};
use dialtone_asap_client::{ClientConfig, registrar_sctp, registrar_tcp};
use dialtone_transport::model::{AssocId, Link, NetCommand, NetEvent, Protocol, Remote};
use dialtone_wire::asap::Message;
use dialtone_wire::{Addrs, SctpTransport, ServerId, Transport, TransportUse};

/// The source of an announcement.
fn from(n: u8) -> SocketAddr {
    SocketAddr::new(ip(n), 3863)
}

/// Keeps what it is told.
#[derive(Debug, Default)]
struct Idle {
    changes: Vec<HomeChange>,
}

enum Order {
    Hunt,
    Abandon,
}

impl Role for Idle {
    type Command = Order;
    type Event = ();

    fn handle_command(&mut self, cx: &mut Context<'_>, command: Order) {
        match command {
            Order::Hunt => cx.hunt(),
            Order::Abandon => cx.abandon_home(),
        }
    }

    fn handle_message(&mut self, _: &mut Context<'_>, _: Sender, _: &Message<'_>) -> bool {
        false
    }

    fn handle_home(&mut self, _: &mut Context<'_>, change: HomeChange) {
        self.changes.push(change);
    }

    fn handle_timeout(&mut self, _: &mut Context<'_>) {}

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn poll(&mut self) -> Option<()> {
        None
    }
}

#[test]
fn finds_the_one_that_lives_among_dead_ones() {
    let mut world = World::new(8, Idle::default());
    world.set_all(Life::Dead);
    world.registrar(5).life = Life::Alive;
    // Three at a time, other addresses after T5 (0.5 s, 1 s): the eighth address is in the third round at the latest.
    let took = world.run_until(ms(1600), |world| world.home().is_some());
    assert_eq!(world.home(), Some(5));
    assert_eq!(world.client.role().changes, [HomeChange::Found]);
    assert!(took <= ms(1510), "{took:?}");
    let tried: Vec<u8> = world.connects.iter().map(|(_, n)| *n).collect();
    let mut different = tried.clone();
    different.sort_unstable();
    different.dedup();
    assert_eq!(
        tried.len(),
        different.len(),
        "an address was tried twice before all were tried once: {tried:?}"
    );
}

#[test]
fn a_refused_attempt_makes_room_for_the_next_address_at_once() {
    let mut world = World::new(6, Idle::default());
    world.set_all(Life::Refusing);
    world.registrar(3).life = Life::Alive;
    let took = world.run_until(ms(100), |world| world.home().is_some());
    assert!(took <= ms(10), "{took:?}");
}

#[test]
fn t5_doubles_to_its_cap_and_is_reset_by_success() {
    let mut world = World::new(1, Idle::default());
    world.set_all(Life::Dead);
    world.run(ms(10_000));
    let tries: Vec<u128> = world.connects.iter().map(|(at, _)| at.as_millis()).collect();
    assert_eq!(tries, [0, 500, 1500, 3500, 5500, 7500, 9500]);

    world.registrar(1).life = Life::Alive;
    world.run_until(ms(4100), |world| world.home().is_some());
    world.run(ms(5000));
    world.kill(1, false);
    let before = world.connects.len();
    world.command(Order::Abandon);
    world.run(ms(1600));
    let begin = world.connects[before].0;
    let tries: Vec<u128> =
        world.connects[before..].iter().map(|(at, _)| (*at - begin).as_millis()).collect();
    assert_eq!(tries, [0, 500, 1500]);
}

#[test]
fn exactly_one_association_stays() {
    let mut world = World::new(3, Idle::default());
    world.run(ms(5000));
    assert!(world.home().is_some());
    assert_eq!(world.connects.len(), 3);
    assert_eq!(world.client.counters().homes_found, 1);
    // The two that came second were given back: only the home is left to be lost.
    let home = world.home().unwrap();
    for n in (1..=3).filter(|n| *n != home) {
        world.kill(n, true);
    }
    world.run(ms(1000));
    assert_eq!(world.client.counters().homes_lost, 0);
}

#[test]
fn a_lost_home_is_replaced_at_once() {
    let mut world = World::new(3, Idle::default());
    world.run_until(ms(100), |world| world.home().is_some());
    world.run(ms(2000));
    let home = world.home().unwrap();
    world.kill(home, true);
    let took = world.run_until(ms(100), |world| world.home().is_some_and(|now| now != home));
    assert!(took <= ms(10), "{took:?}");
    assert_eq!(
        world.client.role().changes,
        [HomeChange::Found, HomeChange::Lost, HomeChange::Found]
    );
}

#[test]
fn evidence_moves_to_another_home_before_the_old_one_is_let_go() {
    let mut world = World::new(2, Idle::default());
    world.run_until(ms(100), |world| world.home().is_some());
    world.run(ms(2000));
    let home = world.home().unwrap();
    world.kill(home, false);
    world.suspect(home);
    let took = world.run_until(ms(100), |world| world.home().is_some_and(|now| now != home));
    assert!(took <= ms(10), "{took:?}");
    assert_eq!(world.client.role().changes, [HomeChange::Found, HomeChange::Found]);
}

#[test]
fn a_hunt_beside_the_only_registrar_keeps_it() {
    let mut world = World::new(1, Idle::default());
    world.run_until(ms(100), |world| world.home().is_some());
    world.command(Order::Hunt);
    world.run(ms(3000));
    assert_eq!(world.home(), Some(1));
    assert_eq!(world.connects.len(), 1);
}

#[test]
fn a_home_that_hangs_up_at_once_does_not_make_us_spin() {
    let mut world = World::new(2, Idle::default());
    for _ in 0..200 {
        world.run_until(ms(5000), |world| world.home().is_some());
        world.command(Order::Abandon);
        if world.at() > ms(5000) {
            break;
        }
    }
    // Twice a second each, and the attempts beside them.
    assert!(world.connects.len() <= 40, "{} attempts in 5 s", world.connects.len());
}

#[test]
fn registrars_are_learned_by_announcement_and_forgotten() {
    #[expect(clippy::disallowed_methods, reason = "virtual time starts at any instant")]
    let mut world =
        World::with(Instant::now(), ClientConfig::telephony(remotes([])), 3, Idle::default());
    world.run(ms(1000));
    assert_eq!(world.connects, []);

    let announce = |transports| {
        Message::ServerAnnounce { server_id: ServerId(1), transports }.encode().unwrap()
    };
    let sctp =
        SctpTransport { port: 3863, use_: TransportUse::DATA_ONLY, addrs: Addrs::from(ip(2)) };
    let tcp = Transport::Tcp { port: 3863, addr: ip(3) };
    let announced = announce(vec![Transport::Sctp(sctp), tcp]);
    world.client.handle_announce(world.now, from(2), &announced);
    world.client.handle_announce(world.now, from(1), &announce(vec![]));
    world.set_all(Life::Dead);
    world.run(ms(2000));
    let mut tried: Vec<u8> = world.connects.iter().map(|(_, n)| *n).collect();
    tried.sort_unstable();
    tried.dedup();
    assert_eq!(tried, [1, 2], "an element does not speak TCP with registrars");

    // T7 is 5 s: nobody is left to be tried.
    world.run(ms(5000));
    let before = world.connects.len();
    world.run(ms(20_000));
    assert_eq!(world.connects.len(), before);

    // Announcements are not authenticated: of a flood of them 64 are kept, and no others are tried.
    for n in 0..=255u8 {
        let source = SocketAddr::from(([10, 0, 0, n], 3863));
        world.client.handle_announce(world.now, source, &announce(vec![]));
        world.client.handle_announce(world.now, from(1), &[n, 0, 0, 3]);
    }
    assert_eq!(world.client.counters().malformed, 256);
    world.run(ms(10_000));
    let tried: Vec<u8> = world.connects[before..].iter().map(|(_, n)| *n).collect();
    assert!(tried.len() >= 9 && tried.iter().all(|n| *n < 64), "{tried:?}");
}

/// A user that is to speak TCP dials what is announced for it.
#[test]
fn users_may_be_told_to_dial_announced_tcp() {
    let config = ClientConfig { announced_link: Link::Tcp, ..ClientConfig::telephony(remotes([])) };
    #[expect(clippy::disallowed_methods, reason = "virtual time starts at any instant")]
    let mut world = World::with(Instant::now(), config, 3, Idle::default());
    let tcp = Transport::Tcp { port: 3863, addr: ip(3) };
    let message = Message::ServerAnnounce { server_id: ServerId(3), transports: vec![tcp] };
    world.client.handle_announce(world.now, from(3), &message.encode().unwrap());
    world.run(ms(100));
    assert_eq!(world.connects.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [3]);
}

/// However many registrars are made up, one that was configured is dialled with the first ones of each round.
#[test]
fn a_flood_of_announcements_does_not_delay_the_configured_registrars() {
    for seed in 0..20 {
        #[expect(clippy::disallowed_methods, reason = "virtual time starts at any instant")]
        let now = Instant::now();
        let config = ClientConfig::telephony(remotes([1]));
        let rng = fastrand::Rng::with_seed(seed);
        let mut client = Client::new(now, config, Idle::default(), rng);
        while client.poll().is_some() {}
        for n in 0..200 {
            let bare = Message::ServerAnnounce { server_id: ServerId(9), transports: vec![] };
            let source = SocketAddr::from(([10, 0, 0, n], 3863));
            client.handle_announce(now, source, &bare.encode().unwrap());
        }
        while client.poll().is_some() {}
        // T5: another round begins.
        let later = client.next_deadline().unwrap();
        client.handle_timeout(later);
        let mut dialled = Vec::new();
        while let Some(output) = client.poll() {
            if let Output::Net(NetCommand::Connect { remote, .. }) = output {
                dialled.push(remote.addr.ip());
            }
        }
        assert!(dialled.contains(&ip(1)), "{seed}: {dialled:?}");
    }
}

#[test]
fn associations_from_registrars_are_bounded_and_of_the_right_protocol() {
    let mut world = World::new(1, Idle::default());
    world.run_until(ms(100), |world| world.home().is_some());
    let up = |n: u64, protocol| NetEvent::Up {
        assoc: AssocId::accepted(n),
        protocol,
        remote: Remote { sctp_port: n as u16, ..registrar_sctp(ip(9)) },
        peer: None,
    };
    world.client.handle_net(world.now, up(0, Protocol::Enrp));
    for n in 1..=20 {
        world.client.handle_net(world.now, up(n, Protocol::Asap));
    }
    assert_eq!(world.client.counters().refused, 5);
    let garbage = NetEvent::Message { assoc: AssocId::accepted(1), payload: vec![0xff; 3] };
    world.client.handle_net(world.now, garbage);
    assert_eq!(world.client.counters().malformed, 1);
    assert_eq!(registrar_tcp(ip(1)).sctp_port, 0);
}
