//! A system with conference servers, and what its processes say of themselves.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use dialtone::launcher::{Launcher, Layout, wait_for};
use serde::Deserialize;

use crate::guest::Guest;

const REGISTRAR: &str = "registrar-ns-1";

/// How long things may take that nobody measures.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// What `/rooms` of a conference server shows.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Rooms {
    pub(crate) participants: usize,
    pub(crate) rooms: Vec<Room>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Room {
    pub(crate) name: String,
    pub(crate) participants: Vec<Participant>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Participant {
    pub(crate) uri: String,
    pub(crate) muted: bool,
    #[serde(default)]
    pub(crate) packets_of_strangers: u64,
    #[serde(default)]
    pub(crate) wrong_payload: u64,
}

/// One registrar, two gateways, two proxies, and as many relays and conference servers as the layout has.
pub(crate) struct System {
    pub(crate) launcher: Launcher,
    guests: u8,
}

impl System {
    pub(crate) fn start(layout: Layout) -> Self {
        let layout = Layout { registrars: 1, relay_workers: Some(1), ..layout };
        let mut launcher = Launcher::for_test(env!("CARGO_BIN_EXE_dialtone"), layout).unwrap();
        launcher.start_registrar(1).unwrap();
        let Layout { relays, conferences, .. } = *launcher.layout();
        let mut names = vec![launcher.spawn_location_db()];
        names.extend((1..=relays).map(|n| launcher.spawn_media_relay(n)));
        names.extend((1..=conferences).map(|n| launcher.spawn_conference(n)));
        names.extend((1..=2).map(|n| launcher.spawn_gateway(n)));
        for name in names {
            launcher.wait_ready(&name.unwrap()).unwrap();
        }
        // After the pools that they use: who finds an empty one looks again later.
        for name in [launcher.spawn_proxy(1), launcher.spawn_proxy(2)] {
            launcher.wait_ready(&name.unwrap()).unwrap();
        }
        let mut system = Self { launcher, guests: 0 };
        await_pool(&mut system.launcher, "conference", conferences.into());
        await_pool(&mut system.launcher, "media-relay", relays.into());
        system
    }

    /// A guest at gateway `n` with a tone of his own.
    pub(crate) fn guest(&mut self, user: &str, n: u8, hertz: u32) -> Guest {
        self.guests += 1;
        let addresses = self.launcher.addresses(&format!("sip-gateway-{n}")).unwrap();
        let gateway = addresses["sip-udp"].parse().unwrap();
        Guest::new(user, self.launcher.slice().host(200 + self.guests), gateway, hertz)
    }

    /// What conference server `n` says, from 1; `None` if it does not answer.
    pub(crate) fn rooms(&mut self, n: u8) -> Option<Rooms> {
        rooms(&mut self.launcher, n)
    }

    /// The servers at which this room is, among those that answer, and how many are in it there.
    pub(crate) fn seats(&mut self, room: &str) -> Vec<(u8, usize)> {
        let mut seats = Vec::new();
        for n in 1..=self.launcher.layout().conferences {
            let rooms = self.rooms(n).map_or_else(Vec::new, |rooms| rooms.rooms);
            let found = rooms.iter().find(|found| found.name == room);
            seats.extend(found.map(|room| (n, room.participants.len())));
        }
        seats
    }

    /// Waits until one server has this room, with so many in it; which one.
    pub(crate) fn await_seat(&mut self, room: &str, participants: usize) -> u8 {
        let found = wait_for(LIMIT, || match *self.seats(room) {
            [(n, found)] if found == participants => Some(n),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("{room}: {:?}", self.seats(room)))
    }

    /// How a guest is seen in his room at server `n`, as soon as this holds.
    pub(crate) fn await_participant(
        &mut self,
        n: u8,
        guest: &Guest,
        is_it: impl Fn(&Participant) -> bool,
    ) -> Participant {
        let uri = format!("sip:{}@", guest.phone.user);
        let mut find = || {
            let rooms = self.rooms(n)?.rooms;
            let room = rooms.into_iter().find(|room| room.name == guest.room)?;
            room.participants.into_iter().find(|participant| participant.uri.starts_with(&uri))
        };
        let mut last = None;
        let found = wait_for(LIMIT, || {
            last = find();
            last.clone().filter(&is_it)
        });
        found.unwrap_or_else(|| panic!("{last:?}"))
    }

    /// What proxies 1 and 2 have counted of requests for rooms.
    pub(crate) fn counted(&mut self, what: &str) -> [u64; 2] {
        [1, 2].map(|n| counted(&mut self.launcher, n, what))
    }

    /// Resident memory of a process in kB.
    pub(crate) fn memory(&mut self, name: &str) -> u64 {
        let pid = self.launcher.process(name).unwrap().pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

/// Waits until the registrar has as many elements in a pool.
pub(crate) fn await_pool(launcher: &mut Launcher, pool: &str, count: usize) {
    let found = wait_for(LIMIT, || {
        let pools = launcher.pools(REGISTRAR)?;
        (pools.elements(pool).len() == count).then_some(())
    });
    assert!(found.is_some(), "not {count}: {:?}", launcher.pools(REGISTRAR));
}

/// What conference server `n` says; `None` if it does not answer.
pub(crate) fn rooms(launcher: &mut Launcher, n: u8) -> Option<Rooms> {
    let text = get(launcher, &format!("conference-{n}"), "/rooms")?;
    Some(serde_json::from_str(&text).unwrap())
}

/// What proxy `n` has counted of requests for rooms; the figures are renewed every second.
pub(crate) fn counted(launcher: &mut Launcher, n: u8, what: &str) -> u64 {
    let text = get(launcher, &format!("sip-proxy-{n}"), "/metrics").unwrap_or_default();
    let name = format!("dialtone_sip_proxy_conference_total{{what=\"{what}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&*name));
    value.map_or(0, |value| value.parse().unwrap())
}

/// A page of a process's admin server.
fn get(launcher: &mut Launcher, process: &str, path: &str) -> Option<String> {
    let address: SocketAddr = launcher.addresses(process).ok()?.get("admin")?.parse().ok()?;
    let patience = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&address, patience).ok()?;
    stream.set_read_timeout(Some(patience)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}
