//! Section 3.6 at elements and users: which registrars they know, and how they find a home among them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dialtone_asap_client::ClientConfig;
use dialtone_asap_client::core::{Client, Output, Role};
use dialtone_pool_element::{Elements, ElementsConfig};
use dialtone_pool_user::{Command, Users, UsersConfig};
use dialtone_transport::{AssocId, DownCause, Link, NetCommand, NetEvent, Protocol, Remote};

use crate::client_world::{Life, World, ip, ms, remotes};
use crate::lab::bytes::*;
use crate::lab::clients::{pool, said};

const RETRAN_MAX: Duration = Duration::from_secs(60);

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[expect(clippy::disallowed_methods, reason = "virtual time starts at any instant")]
fn start() -> Instant {
    Instant::now()
}

fn users(config: ClientConfig, registrars: u8) -> World<Users> {
    World::with(start(), config, registrars, Users::new(UsersConfig::rfc()))
}

/// A user without a network: the test is the network.
struct Bare {
    now: Instant,
    client: Client<Users>,
    /// Dialled and neither up nor given up.
    attempts: Vec<(AssocId, Remote)>,
    /// Dialled, up or not.
    open: BTreeSet<AssocId>,
}

impl Bare {
    fn new(registrars: u8) -> Self {
        let (now, config) = (start(), ClientConfig::rfc(remotes(1..=registrars)));
        let rng = fastrand::Rng::with_seed(1);
        let client = Client::new(now, config, Users::new(UsersConfig::rfc()), rng);
        let mut bare = Self { now, client, attempts: Vec::new(), open: BTreeSet::new() };
        bare.drain();
        bare
    }

    fn drain(&mut self) {
        while let Some(output) = self.client.poll() {
            match output {
                Output::Net(NetCommand::Connect { assoc, remote, .. }) => {
                    self.attempts.push((assoc, remote));
                    self.open.insert(assoc);
                    assert!(self.open.len() <= 3, "never more than three");
                }
                Output::Net(NetCommand::Abort { assoc } | NetCommand::Shutdown { assoc }) => {
                    self.attempts.retain(|(attempt, _)| *attempt != assoc);
                    self.open.remove(&assoc);
                }
                _ => {}
            }
        }
    }

    fn registrars(&self) -> BTreeSet<SocketAddr> {
        self.attempts.iter().map(|(_, remote)| remote.addr).collect()
    }

    fn fails(&mut self, n: usize) {
        let (assoc, _) = self.attempts.remove(n);
        self.open.remove(&assoc);
        self.client.handle_net(self.now, NetEvent::Down { assoc, cause: DownCause::TimedOut });
        self.drain();
    }

    fn succeeds(&mut self, n: usize) -> AssocId {
        let (assoc, remote) = self.attempts.remove(n);
        let up = NetEvent::Up { assoc, protocol: Protocol::Asap, remote, peer: None };
        self.client.handle_net(self.now, up);
        self.drain();
        assoc
    }

    /// Lets the next timer expire; how long that took.
    fn expires(&mut self) -> Duration {
        let next = self.client.next_deadline().expect("a timer runs");
        let took = next - self.now;
        self.now = next;
        self.client.handle_timeout(next);
        self.drain();
        took
    }
}

/// Proves.
#[test]
fn three_are_tried_at_a_time_and_another_one_when_one_fails() {
    let mut bare = Bare::new(7);
    assert_eq!(bare.registrars().len(), 3, "three different ones");
    let mut tried = bare.registrars();
    for n in 4..=7 {
        bare.fails(0);
        assert_eq!(bare.registrars().len(), 3);
        tried.extend(bare.registrars());
        assert_eq!(tried.len(), n, "an address that was not tried yet");
    }
    // A round has each address once.
    bare.fails(0);
    assert_eq!(bare.attempts.len(), 2);
}

/// Proves.
#[test]
fn when_t5_expires_it_doubles_and_others_are_tried() {
    let mut bare = Bare::new(6);
    for t5 in [s(10), s(20), s(40), RETRAN_MAX, RETRAN_MAX] {
        let (attempts, before) = (bare.attempts.clone(), bare.registrars());
        assert_eq!(bare.expires(), t5);
        assert!(
            attempts.iter().all(|(assoc, _)| !bare.open.contains(assoc)),
            "the attempts were stopped"
        );
        assert_eq!(bare.registrars().len(), 3);
        assert!(bare.registrars().is_disjoint(&before), "different ones");
    }
}

/// Proves.
#[test]
fn the_first_that_answers_is_the_home_and_t5_is_what_it_was() {
    let mut bare = Bare::new(6);
    assert_eq!((bare.expires(), bare.expires()), (s(10), s(20)));
    let home = bare.succeeds(1);
    assert_eq!(bare.client.home().map(|home| home.assoc), Some(home));
    assert_eq!(bare.open, BTreeSet::from([home]), "the others are given back");
    assert_eq!(bare.client.next_deadline(), None, "T5 does not run");
    // It is lost: the hunt begins anew, with T5 at its initial value.
    bare.open.remove(&home);
    bare.client.handle_net(bare.now, NetEvent::Down { assoc: home, cause: DownCause::Aborted });
    bare.drain();
    assert_eq!(bare.expires(), s(10));
}

/// Proves A-126, E-002.
#[test]
fn all_requests_go_to_the_one_home() {
    let mut world = users(ClientConfig::rfc(remotes(1..=5)), 5);
    for id in 0..20 {
        world.command(Command::Resolve { id, handle: pool() });
        world.run(s(40));
    }
    let to: BTreeSet<u8> = world.said.iter().map(|(_, n, _)| *n).collect();
    assert_eq!(to, BTreeSet::from([world.home().unwrap()]));
    assert_eq!(said(&world, HANDLE_RESOLUTION).len(), 20);
}

/// Proves.
#[test]
fn a_home_is_found_at_the_start_and_after_a_failure() {
    let mut world = users(ClientConfig::rfc(remotes([2, 3])), 3);
    world.run_until(s(1), |world| world.home().is_some());
    let home = world.home().unwrap();
    assert!([2, 3].contains(&home), "1 is not in the list");
    // The association ends.
    world.kill(home, true);
    world.run_until(s(1), |world| world.home() == Some(5 - home));
    // It does not answer.
    world.registrar(home).life = Life::Alive;
    world.registrar(5 - home).life = Life::Frozen;
    world.command(Command::Resolve { id: 1, handle: pool() });
    let took = world.run_until(s(20), |world| world.home() == Some(home));
    assert!(took >= s(15), "T1 is 15 s: {took:?}");
    assert!(world.connects.iter().all(|(_, n)| *n != 1));
}

/// A SERVER_ANNOUNCE from registrar `n`.
fn announce(world: &mut World<Users>, n: u8, transports: &[Vec<u8>]) {
    let mut parts = vec![word(n.into())];
    parts.extend_from_slice(transports);
    let source = SocketAddr::new(ip(n), 3863);
    world.client.handle_announce(world.now, source, &message(0x0a, 0, &parts));
    world.run(ms(1));
}

fn sctp(n: u8) -> Vec<u8> {
    transport(SCTP, SocketAddr::new(ip(n), 3863), 0)
}

/// Which registrars are dialled from now on.
fn dialled(world: &mut World<Users>, time: Duration) -> BTreeSet<u8> {
    let before = world.connects.len();
    world.run(time);
    world.connects[before..].iter().map(|(_, n)| *n).collect()
}

/// Proves.
#[test]
fn announced_addresses_are_tried() {
    let mut world =
        users(ClientConfig { announce_lifetime: s(3600), ..ClientConfig::rfc(remotes([])) }, 5);
    world.set_all(Life::Dead);
    assert_eq!(dialled(&mut world, s(100)), BTreeSet::new());
    // Two addresses in one message, and one without transports: SCTP, where it came from, port 3863.
    announce(&mut world, 1, &[sctp(3), sctp(4)]);
    announce(&mut world, 2, &[]);
    assert_eq!(dialled(&mut world, s(200)), BTreeSet::from([2, 3, 4]));
    world.registrar(2).life = Life::Alive;
    world.run_until(s(100), |world| world.home() == Some(2));
    let remote = world.client.home().unwrap().remote;
    assert_eq!((remote.link, remote.sctp_port), (Link::Sctp, 3863));
}

/// Proves.
#[test]
fn an_address_that_is_not_announced_any_more_is_forgotten_when_t7_expires() {
    let config =
        ClientConfig { hunt_initial: ms(500), hunt_max: ms(500), ..ClientConfig::rfc(remotes([])) };
    let mut world = users(config, 5);
    world.set_all(Life::Dead);
    announce(&mut world, 3, &[sctp(3)]);
    announce(&mut world, 4, &[sctp(4)]);
    // T7 is 5 s. One goes on to announce itself.
    for _ in 0..3 {
        world.run(s(4));
        announce(&mut world, 4, &[sctp(4)]);
    }
    assert_eq!(dialled(&mut world, s(4)), BTreeSet::from([4]));
    world.run(s(1));
    assert_eq!(dialled(&mut world, s(100)), BTreeSet::new());
}

/// What is dialled after an announcement of SCTP and TCP transports: link, port, SCTP port.
fn dialled_of_both<R: Role>(link: Link, role: R) -> Vec<(Link, u16, u16)> {
    let config = ClientConfig { announced_link: link, ..ClientConfig::rfc(Vec::new()) };
    let mut client = Client::new(start(), config, role, fastrand::Rng::with_seed(1));
    let tcp = transport(TCP, SocketAddr::new(ip(2), 3863), 0);
    let announcement = message(0x0a, 0, &[word(1), sctp(1), tcp]);
    client.handle_announce(start(), SocketAddr::new(ip(1), 3863), &announcement);
    let mut links = Vec::new();
    while let Some(output) = client.poll() {
        if let Output::Net(NetCommand::Connect { remote, .. }) = output {
            links.push((remote.link, remote.addr.port(), remote.sctp_port));
        }
    }
    links
}

/// Proves A-007.
#[test]
fn elements_speak_sctp_with_registrars_and_users_sctp_or_tcp() {
    let elements = || Elements::new(ElementsConfig::rfc());
    let users = || Users::new(UsersConfig::rfc());
    let default = ClientConfig::rfc(Vec::new()).announced_link;
    assert_eq!(dialled_of_both(default, elements()), [(Link::Sctp, 9899, 3863)]);
    assert_eq!(dialled_of_both(Link::Sctp, users()), [(Link::Sctp, 9899, 3863)]);
    assert_eq!(dialled_of_both(Link::Tcp, users()), [(Link::Tcp, 3863, 0)]);
}
