//! Conferences from end to end: phones in rooms, whose servers come, die and are flooded.

mod events;
mod guest;
mod hostile;
mod line;
mod media;
mod owners;
mod system;
mod voices;

#[path = "../support/baresip.rs"]
mod baresip;
#[path = "../support/linphone.rs"]
mod linphone;
#[path = "../support/netns.rs"]
mod netns;
#[path = "../support/rtp.rs"]
#[expect(dead_code, reason = "phones have lines of their own")]
mod rtp;
#[path = "../support/sip.rs"]
#[expect(dead_code, reason = "calls go to rooms")]
mod sip;
#[path = "../support/talk.rs"]
#[expect(dead_code, reason = "more than one tone is heard")]
mod talk;
#[path = "../support/tone.rs"]
mod tone;

use std::net::Ipv4Addr;

use baresip::Baresip;
use dialtone::launcher::{Launcher, Layout, wait_for};
use linphone::Linphone;
use netns::SERVERS;
use system::{LIMIT, Rooms, await_pool, counted, rooms};
use talk::with_tone;
use voices::{Voice, hear_all};

const TONES: [u32; 4] = [510, 790, 1_130, 1_370];

#[test]
fn phones_meet_in_rooms_whatever_servers_they_come_by() {
    netns::within("phones_meet_in_rooms_whatever_servers_they_come_by", |network| {
        if !baresip::is_installed() || !linphone::is_installed() {
            return;
        }
        let mut launcher = start();
        let host = |name: &str, n: u8| network.host(name, Ipv4Addr::new(10, 77, 0, n));
        let (alice, bob) = (host("alice", 11), host("bob", 12));
        let (carol, dave) = (host("carol", 13), host("dave", 14));
        let mut alice = with_tone(&alice, "udp", 5060, TONES[0], Baresip::start);
        let mut bob = with_tone(&bob, "tcp", 5070, TONES[1], Baresip::start);
        let mut carol = with_tone(&carol, "udp", 5060, TONES[2], Baresip::start);
        let mut dave = with_tone(&dave, "udp", 5070, TONES[3], Linphone::start);

        // Three by one proxy, over two gateways.
        for phone in [&mut alice, &mut bob] {
            enter(phone, "one");
        }
        dave.command("call sip:conf-one@dialtone.test");
        dave.await_word("Media streams established");
        let three = [voice(&alice, "one", 0), voice(&bob, "one", 1), linphone_voice(&dave)];
        hear_all("three phones", three);
        assert!(counted_soon(&mut launcher, 1) >= 3);

        // The fourth by another proxy, after another server has come.
        launcher.start_conference(2).unwrap();
        launcher.start_proxy(2).unwrap();
        await_pool(&mut launcher, "conference", 2);
        assert!(launcher.stop("sip-proxy-1").unwrap());
        enter(&mut carol, "one");
        let all = [
            voice(&alice, "one", 0),
            voice(&bob, "one", 1),
            voice(&carol, "one", 2),
            linphone_voice(&dave),
        ];
        hear_all("a fourth phone over another proxy", all);
        assert!(counted_soon(&mut launcher, 2) >= 1);
        assert_eq!(
            people(&mut launcher, "one"),
            [["alice", "bob", "dave", "carol"].to_vec(), vec![]]
        );

        // Two of them go elsewhere.
        for phone in [&mut alice, &mut carol] {
            leave(phone);
            enter(phone, "two");
        }
        let all = [
            voice(&alice, "two", 0),
            voice(&bob, "one", 1),
            voice(&carol, "two", 2),
            linphone_voice(&dave),
        ];
        hear_all("two rooms", all);
        assert_eq!(people(&mut launcher, "one")[0], ["bob", "dave"]);
        assert_eq!(people(&mut launcher, "two").concat(), ["alice", "carol"]);

        for phone in [&mut alice, &mut bob, &mut carol] {
            leave(phone);
        }
        dave.command("terminate");
        dave.await_word("ended (No error)");
        let empty = wait_for(LIMIT, || {
            (1..=2)
                .all(|n| rooms(&mut launcher, n).is_some_and(|rooms| rooms.rooms.is_empty()))
                .then_some(())
        });
        assert!(empty.is_some(), "somebody is left");
        assert_eq!(launcher.stop_all(), Vec::<String>::new());
    });
}

/// Two gateways at ports 5060 and 5070, one proxy, a relay and a conference server; there can be two of the latter.
fn start() -> Launcher {
    let layout = Layout {
        edge_address: SERVERS.into(),
        edge_port: Some(5060),
        registrars: 1,
        relays: 1,
        conferences: 2,
        ..Layout::default()
    };
    let mut launcher = Launcher::for_test(env!("CARGO_BIN_EXE_dialtone"), layout).unwrap();
    launcher.start_registrar(1).unwrap();
    let names = [
        launcher.spawn_location_db(),
        launcher.spawn_media_relay(1),
        launcher.spawn_conference(1),
        launcher.spawn_gateway(1),
        launcher.spawn_gateway(2),
    ];
    for name in names {
        launcher.wait_ready(&name.unwrap()).unwrap();
    }
    launcher.start_proxy(1).unwrap();
    launcher
}

fn enter(phone: &mut Baresip, room: &str) {
    phone.command("dial", &format!("sip:conf-{room}@dialtone.test"));
    phone.await_event("CALL_ESTABLISHED");
}

fn leave(phone: &mut Baresip) {
    phone.command("hangup", "");
    phone.await_event("CALL_CLOSED");
    phone.forget();
}

fn voice<'a>(phone: &'a Baresip, room: &'a str, tone: usize) -> Voice<'a> {
    Voice { hertz: TONES[tone], room, heard: Box::new(|| phone.heard()) }
}

fn linphone_voice(phone: &Linphone) -> Voice<'_> {
    Voice { hertz: TONES[3], room: "one", heard: Box::new(|| phone.heard()) }
}

/// Requests for rooms that a proxy has seen; it says so within a second.
fn counted_soon(launcher: &mut Launcher, proxy: u8) -> u64 {
    let count =
        wait_for(LIMIT, || Some(counted(launcher, proxy, "request")).filter(|count| *count > 0));
    count.unwrap_or_else(|| panic!("sip-proxy-{proxy} has seen nobody"))
}

/// Who is in a room, at server 1 and at server 2.
fn people(launcher: &mut Launcher, room: &str) -> [Vec<String>; 2] {
    [1, 2].map(|n| {
        let Rooms { rooms, .. } = rooms(launcher, n).unwrap();
        let people = rooms.into_iter().filter(|found| found.name == room);
        people
            .flat_map(|room| room.participants)
            .map(|one| one.uri.split(['@', ':']).nth(1).unwrap().to_owned())
            .collect()
    })
}
