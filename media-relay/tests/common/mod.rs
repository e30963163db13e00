//! A running plane, and phones that are plain sockets on loopback.
#![allow(dead_code, reason = "each test program uses a part")]

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dialtone_media_relay::plane::{
    Command, EndSettings, Event, Kind, PairId, PairStats, Plane, PlaneConfig, Ports, PortsConfig,
    Side,
};
use tokio::sync::mpsc::UnboundedReceiver;

/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

#[expect(clippy::disallowed_methods, reason = "sockets live in real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Waits until a condition holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = now() + PATIENCE;
    while !holds() {
        assert!(now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) struct Bed {
    pub(crate) plane: Plane,
    events: UnboundedReceiver<Event>,
    pub(crate) ports: [Ports; 2],
    /// RTP addresses of the relay towards offerer, answerer.
    pub(crate) local: [SocketAddr; 2],
}

pub(crate) const PAIR: PairId = PairId(1);

impl Bed {
    /// The relay's addresses towards both sides are the test's own.
    pub(crate) fn new(addresses: [&str; 2]) -> Self {
        let config = PlaneConfig { workers: 2, pin: true, ..PlaneConfig::default() };
        let (plane, events) = Plane::start(&config).unwrap();
        let config = PortsConfig { range: 40_000..=40_999, ..PortsConfig::default() };
        let ports = addresses.map(|address| {
            let address: IpAddr = address.parse().unwrap();
            Ports::new(address, config.clone(), &mut fastrand::Rng::new())
        });
        let local = ports.each_ref().map(|ports| SocketAddr::new(ports.address(), 0));
        Self { plane, events, ports, local }
    }

    pub(crate) fn open(&mut self, kind: Kind, settings: [EndSettings; 2]) {
        self.open_for(kind, settings, PATIENCE * 10);
    }

    pub(crate) fn open_for(&mut self, kind: Kind, settings: [EndSettings; 2], silence: Duration) {
        let sockets = self.ports.each_mut().map(|ports| ports.open(now(), true).unwrap());
        self.local = sockets.each_ref().map(|sockets| sockets.rtp.local_addr().unwrap());
        self.plane.execute(Command::Open { pair: PAIR, kind, sockets, settings, silence });
        // Whoever asks has been obeyed.
        self.stats();
    }

    pub(crate) fn rtp(&self, side: Side) -> SocketAddr {
        self.local[side as usize]
    }

    pub(crate) fn rtcp(&self, side: Side) -> SocketAddr {
        let mut address = self.rtp(side);
        address.set_port(address.port() + 1);
        address
    }

    pub(crate) fn event(&mut self) -> Event {
        let deadline = now() + PATIENCE;
        loop {
            match self.events.try_recv() {
                Ok(event) => return event,
                Err(_) => {
                    assert!(now() < deadline, "no event");
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    pub(crate) fn stats(&mut self) -> PairStats {
        self.plane.execute(Command::Query { pair: PAIR, tag: 7 });
        match self.event() {
            Event::Queried { pair: PAIR, tag: 7, stats: Some(stats) } => *stats,
            other => panic!("{other:?}"),
        }
    }
}

/// A phone's RTP or RTCP socket.
pub(crate) struct Phone(pub(crate) UdpSocket);

impl Phone {
    pub(crate) fn new(address: &str) -> Self {
        let socket = UdpSocket::bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub(crate) fn send(&self, to: SocketAddr, bytes: &[u8]) {
        self.0.send_to(bytes, to).unwrap();
    }

    /// The next packet, and who sent it.
    pub(crate) fn receive(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = [0; 2_048];
        let (length, from) = self.0.recv_from(&mut buffer).expect("a packet");
        (buffer[..length].to_vec(), from)
    }

    /// Nothing is waiting now.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let nothing = self
            .0
            .peek_from(&mut [0])
            .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        self.0.set_nonblocking(false).unwrap();
        nothing
    }
}

/// 20 ms of G.711 µ-law.
pub(crate) fn rtp(sequence: u16) -> Vec<u8> {
    rtp_of(0, 1, sequence, &[0xff; 160])
}

pub(crate) fn rtp_of(payload_type: u8, ssrc: u32, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80, payload_type];
    bytes.extend(sequence.to_be_bytes());
    bytes.extend((u32::from(sequence) * 160).to_be_bytes());
    bytes.extend(ssrc.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A receiver report without blocks.
pub(crate) const RTCP: [u8; 8] = [0x80, 201, 0, 1, 0, 0, 0, 1];

/// A folder that is gone afterwards.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("dialtone-media-relay-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether a program is there; says so if not, which CI takes for a failure.
pub(crate) fn installed(program: &str) -> bool {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(program).exists())
    });
    if !found {
        println!("skipped: {program} not installed");
        assert!(std::env::var_os("CI").is_none(), "{program} is required in CI");
    }
    found
}
