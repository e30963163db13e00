//! Against an independent SCTP stack, libusrsctp: `tests/peers/usrsctp.c` does what it is told, over IPv4 and IPv6.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::Duration;

use dialtone_transport::{
    AssocId, DownCause, Endpoint, EndpointConfig, Link, NetCommand, NetEvent, Protocol, Remote,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

/// Where we are and where it is: it knows only addresses of interfaces.
const HOSTS: [(&str, &str); 2] = [("127.201.12.1", "127.0.0.1"), ("::1", "::1")];
const LIMIT: Duration = Duration::from_secs(5);
const SIZES: [usize; 6] = [1, 4, 1_371, 1_400, 9_001, 60_000];

/// The compiled peer; `None` where it cannot be built.
fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let compile = || {
        if !Path::new("/usr/include/usrsctp.h").exists() {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "libusrsctp-dev is missing");
            println!("skipped: libusrsctp-dev not installed");
            return None;
        }
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("usrsctp");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/peers/usrsctp.c");
        let mut cc = Command::new("cc");
        cc.args(["-Wall", "-Wextra", "-Werror", "-O1", "-o"]).arg(&program).arg(source);
        assert!(cc.arg("-lusrsctp").status().expect("cc").success());
        Some(program)
    };
    PROGRAM.get_or_init(compile).as_deref()
}

/// The peer's process.
struct Peer {
    child: Child,
    lines: mpsc::Receiver<String>,
    addr: SocketAddr,
}

impl Peer {
    fn start(program: &Path, addr: SocketAddr) -> Self {
        let mut child = Command::new(program)
            .args([addr.ip().to_string(), addr.port().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut peer = Self { child, lines, addr };
        peer.expect("ready");
        peer.open(3863);
        peer
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn line(&mut self) -> String {
        self.lines.recv_timeout(LIMIT).expect("the peer says nothing")
    }

    fn expect(&mut self, line: &str) {
        assert_eq!(self.line(), line);
    }

    fn open(&mut self, port: u16) {
        self.tell(&format!("open {port}"));
        self.expect(&format!("open {port}"));
    }

    fn dial(&mut self, port: u16, us: SocketAddr, to: u16) {
        self.tell(&format!("dial {port} {} {} {to}", us.ip(), us.port()));
    }

    /// What it calls the association that has come up: port and number.
    fn up(&mut self) -> String {
        let line = self.line();
        line.strip_prefix("up ").unwrap_or_else(|| panic!("{line}")).to_owned()
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// This side.
struct Us {
    endpoint: Endpoint,
    events: Receiver<NetEvent>,
    dialled: u64,
}

impl Us {
    async fn bind(addr: SocketAddr) -> Self {
        let (endpoint, events) =
            Endpoint::bind(EndpointConfig::registrar(addr, None)).await.unwrap();
        Self { endpoint, events, dialled: 0 }
    }

    fn addr(&self) -> SocketAddr {
        self.endpoint.local_addr()
    }

    async fn next(&mut self) -> NetEvent {
        timeout(LIMIT, self.events.recv()).await.expect("no event").unwrap()
    }

    async fn up(&mut self) -> (AssocId, Protocol, Remote) {
        match self.next().await {
            NetEvent::Up { assoc, protocol, remote, peer: None } => (assoc, protocol, remote),
            event => panic!("{event:?}"),
        }
    }

    async fn message(&mut self, from: AssocId) -> Vec<u8> {
        match self.next().await {
            NetEvent::Message { assoc, payload } if assoc == from => payload,
            event => panic!("{event:?}"),
        }
    }

    async fn down(&mut self) -> (AssocId, DownCause) {
        match self.next().await {
            NetEvent::Down { assoc, cause } => (assoc, cause),
            event => panic!("{event:?}"),
        }
    }

    fn dial(&mut self, peer: &Peer, sctp_port: u16) -> AssocId {
        self.dialled += 1;
        let assoc = AssocId::dialled(self.dialled);
        let protocol = if sctp_port == 9901 { Protocol::Enrp } else { Protocol::Asap };
        let remote = Remote { link: Link::Sctp, addr: peer.addr, sctp_port };
        self.endpoint.execute(NetCommand::Connect { assoc, protocol, remote });
        assoc
    }

    fn send(&self, assoc: AssocId, payload: &[u8]) {
        self.endpoint.execute(NetCommand::Send { assoc, payload: payload.to_vec() });
    }

    fn is_unharmed(&self) {
        let counters = self.endpoint.counters();
        let bad = counters.malformed + counters.bad_checksum + counters.bad_cookie;
        assert_eq!((bad, counters.faults), (0, 0), "{counters:?}");
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// It takes the same port of all addresses.
fn peer_addr(host: &str) -> SocketAddr {
    let free = UdpSocket::bind("[::]:0").unwrap().local_addr().unwrap().port();
    SocketAddr::new(ip(host), free)
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at % 251) as u8).collect()
}

/// FNV-1a.
fn sum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(2_166_136_261, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(16_777_619))
}

/// Messages of all sizes both ways over an association that it calls `name`. It prints stream, identifier, size and
/// contents' sum of each that arrives: one user message each.
async fn exchange(us: &mut Us, peer: &mut Peer, assoc: AssocId, name: &str, ppid: u32) {
    for size in SIZES {
        peer.tell(&format!("send {name} {ppid} {size}"));
        assert!(us.message(assoc).await == pattern(size), "{size} bytes of {name}");
        us.send(assoc, &pattern(size));
        let sum = sum(&pattern(size));
        peer.expect(&format!("message {name} 0 {ppid} {size} {sum:08x}"));
    }
}

/// Three associations from one UDP port to one of ours, two of them to the same SCTP port.
///
/// Proves.
#[tokio::test]
async fn it_dials_us() {
    let Some(program) = program() else { return };
    for (us, peer) in HOSTS {
        let mut us = Us::bind(SocketAddr::new(ip(us), 0)).await;
        let mut peer = Peer::start(program, peer_addr(peer));
        peer.open(5000);
        let mut lines = Vec::new();
        for (from, to, ppid) in [(3863, 3863, 11), (5000, 3863, 11), (3863, 9901, 12)] {
            peer.dial(from, us.addr(), to);
            let (assoc, protocol, remote) = us.up().await;
            let expected = if to == 9901 { Protocol::Enrp } else { Protocol::Asap };
            assert_eq!((protocol, remote.addr, remote.sctp_port), (expected, peer.addr, from));
            lines.push((assoc, peer.up(), ppid));
        }
        for (assoc, name, ppid) in &lines {
            exchange(&mut us, &mut peer, *assoc, name, *ppid).await;
        }
        // An orderly end, an abort; the third goes on.
        for (n, how, cause, said) in
            [(0, "shutdown", DownCause::Closed, "closed"), (1, "abort", DownCause::Aborted, "lost")]
        {
            let (assoc, name, _) = &lines[n];
            peer.tell(&format!("{how} {name}"));
            assert_eq!(us.down().await, (*assoc, cause));
            peer.expect(&format!("down {name} {said}"));
        }
        let (assoc, name, ppid) = &lines[2];
        exchange(&mut us, &mut peer, *assoc, name, *ppid).await;
        us.is_unharmed();
    }
}

/// A message with another payload protocol identifier is none of ours, and disturbs nothing.
#[tokio::test]
async fn other_payload_protocols_are_not_delivered() {
    let Some(program) = program() else { return };
    let (us, peer) = HOSTS[0];
    let mut us = Us::bind(SocketAddr::new(ip(us), 0)).await;
    let mut peer = Peer::start(program, peer_addr(peer));
    peer.dial(3863, us.addr(), 3863);
    let (assoc, _, _) = us.up().await;
    let name = peer.up();
    // The last is 11 in the wrong byte order.
    for ppid in [0, 12, 58, 11 << 24] {
        peer.tell(&format!("send {name} {ppid} 100"));
    }
    peer.tell(&format!("send {name} 11 4"));
    assert_eq!(us.message(assoc).await, pattern(4));
    assert_eq!(us.endpoint.counters().wrong_ppid, 4);
    us.is_unharmed();
}

/// Two associations from one UDP port of ours to one of its: the second dial finds port 3863 taken.
#[tokio::test]
async fn we_dial_it() {
    let Some(program) = program() else { return };
    for (us, peer) in HOSTS {
        let mut us = Us::bind(SocketAddr::new(ip(us), 0)).await;
        let mut peer = Peer::start(program, peer_addr(peer));
        peer.open(9901);
        let mut lines = Vec::new();
        for (port, ppid) in [(3863, 11), (3863, 11), (9901, 12)] {
            let assoc = us.dial(&peer, port);
            assert_eq!(us.up().await.0, assoc);
            lines.push((assoc, peer.up(), ppid));
        }
        for (assoc, name, ppid) in &lines {
            exchange(&mut us, &mut peer, *assoc, name, *ppid).await;
        }
        let (shut, name, _) = &lines[0];
        us.endpoint.execute(NetCommand::Shutdown { assoc: *shut });
        assert_eq!(us.down().await, (*shut, DownCause::Local));
        peer.expect(&format!("down {name} closed"));
        let (aborted, name, _) = &lines[1];
        us.endpoint.execute(NetCommand::Abort { assoc: *aborted });
        assert_eq!(us.down().await, (*aborted, DownCause::Local));
        peer.expect(&format!("down {name} lost"));
        // Nobody listens on this SCTP port.
        let nobody = us.dial(&peer, 7);
        assert_eq!(us.down().await, (nobody, DownCause::Aborted));
        let (assoc, name, ppid) = &lines[2];
        exchange(&mut us, &mut peer, *assoc, name, *ppid).await;
        us.is_unharmed();
    }
}

/// Killed, it says nothing; its operating system does, when something is sent there.
#[tokio::test]
async fn it_is_killed() {
    let Some(program) = program() else { return };
    for (us, peer) in HOSTS {
        let mut us = Us::bind(SocketAddr::new(ip(us), 0)).await;
        let mut peer = Peer::start(program, peer_addr(peer));
        let assoc = us.dial(&peer, 3863);
        us.up().await;
        peer.up();
        peer.kill();
        us.send(assoc, &pattern(100));
        assert_eq!(us.next().await, NetEvent::Suspect { assoc });
        let mut suspected = 1;
        let end = loop {
            match us.next().await {
                NetEvent::Suspect { .. } => suspected += 1,
                event => break event,
            }
        };
        assert_eq!(end, NetEvent::Down { assoc, cause: DownCause::TimedOut });
        assert!(suspected < 40, "{suspected} times in 3.5 s");
    }
}

/// Frozen, it takes nothing: it is cut off when its buffer is full, and others notice nothing.
#[tokio::test]
async fn it_is_frozen() {
    let Some(program) = program() else { return };
    let (us, host) = HOSTS[0];
    let mut us = Us::bind(SocketAddr::new(ip(us), 0)).await;
    let mut frozen = Peer::start(program, peer_addr(host));
    let mut other = Peer::start(program, peer_addr(host));
    let (cold, warm) = (us.dial(&frozen, 3863), us.dial(&other, 3863));
    for _ in 0..2 {
        us.up().await;
    }
    frozen.up();
    let name = other.up();
    kill(Pid::from_raw(frozen.child.id() as i32), Signal::SIGSTOP).unwrap();
    for _ in 0..20 {
        us.send(cold, &pattern(60_000));
    }
    assert_eq!(us.down().await, (cold, DownCause::TimedOut));
    assert_eq!(us.endpoint.counters().slow_peers, 1);
    exchange(&mut us, &mut other, warm, &name, 11).await;
    us.is_unharmed();
}

/// Killed and started again on its ports, before its end was noticed.
#[tokio::test]
async fn it_restarts_from_the_same_ports() {
    let Some(program) = program() else { return };
    for (us, host) in HOSTS {
        let mut us = Us::bind(SocketAddr::new(ip(us), 0)).await;
        let mut peer = Peer::start(program, peer_addr(host));
        peer.dial(3863, us.addr(), 3863);
        let (mut old, _, remote) = us.up().await;
        for lives in 1..4 {
            peer.kill();
            peer = Peer::start(program, peer.addr);
            peer.dial(3863, us.addr(), 3863);
            assert_eq!(us.down().await, (old, DownCause::Aborted));
            let (new, _, same) = us.up().await;
            assert_eq!(same, remote);
            assert_ne!(new, old);
            let name = peer.up();
            exchange(&mut us, &mut peer, new, &name, 11).await;
            assert_eq!(us.endpoint.counters().restarts, lives);
            old = new;
        }
        us.is_unharmed();
    }
}

/// The same the other way round: it tells us apart from our predecessor.
#[tokio::test]
async fn we_restart_from_the_same_ports() {
    let Some(program) = program() else { return };
    for (us, host) in HOSTS {
        let mut us = Us::bind(SocketAddr::new(ip(us), 0)).await;
        let mut peer = Peer::start(program, peer_addr(host));
        us.dial(&peer, 3863);
        us.up().await;
        let name = peer.up();
        let addr = us.addr();
        us.endpoint.vanish();
        let mut us = Us::bind(addr).await;
        let assoc = us.dial(&peer, 3863);
        assert_eq!(us.up().await.0, assoc);
        peer.expect(&format!("restart {name}"));
        exchange(&mut us, &mut peer, assoc, &name, 11).await;
        us.is_unharmed();
    }
}

/// Both sides dial each other at the same time, from and to the same ports (RFC 9260 5.2.1).
#[tokio::test]
async fn both_dial() {
    let Some(program) = program() else { return };
    for (us, peer) in HOSTS {
        let mut us = Us::bind(SocketAddr::new(ip(us), 0)).await;
        let mut peer = Peer::start(program, peer_addr(peer));
        let (mut one, mut two) = (0, 0);
        for n in 0..20 {
            peer.dial(3863, us.addr(), 3863);
            // So that every step of one handshake meets every step of the other.
            std::thread::sleep(Duration::from_micros(20 * n));
            let dialled = us.dial(&peer, 3863);
            let (first, _, remote) = us.up().await;
            let mut lines = vec![(first, peer.up())];
            if first != dialled {
                // Our dial came after the peer's was complete: it took another port, and there are two.
                let (second, _, other) = us.up().await;
                assert_eq!((second, other), (dialled, remote));
                lines.push((second, peer.up()));
                two += 1;
            } else {
                one += 1;
            }
            for (assoc, name) in lines {
                us.send(assoc, &pattern(9));
                peer.expect(&format!("message {name} 0 11 9 {:08x}", sum(&pattern(9))));
                peer.tell(&format!("send {name} 11 9000"));
                assert_eq!(us.message(assoc).await, pattern(9_000));
                us.endpoint.execute(NetCommand::Abort { assoc });
                assert_eq!(us.down().await, (assoc, DownCause::Local));
                peer.expect(&format!("down {name} lost"));
            }
        }
        println!("{one} times one association, {two} times two");
        us.is_unharmed();
    }
}
