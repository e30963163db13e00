//! Floods over real sockets: a registrar as a process would run it, strangers who send all that they can, and an element
//! that must not notice. What the core does about each kind of flood, and the exact bounds, is in `core/floods.rs`.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dialtone_daemon::CancellationToken;
use dialtone_registrar_ns::core::{Config, Limits, Registrar, Snapshot};
use dialtone_registrar_ns::driver::{self, Group, View};
use dialtone_transport::{
    ASAP_PORT, AssocId, ENCAPSULATION_PORT, ENRP_PORT, Endpoint, EndpointConfig, Link, NetCommand,
    NetEvent, Protocol, Remote,
};
use dialtone_wire::asap::Message;
use dialtone_wire::enrp::{Body, Message as Enrp};
use dialtone_wire::{PeId, Policy, PoolElement, PoolHandle, ServerId, Transport};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

/// How long each flood goes on.
const FLOOD: Duration = Duration::from_secs(2);
/// An element hears from its registrar in this time, before it would be given up. On a quiet machine it is a tenth; here the
/// senders want the processors, too.
const IN_TIME: Duration = Duration::from_millis(2500);
/// What a flood may add to the memory of this process, which is the registrar and the flooders with what they have not sent
/// yet: three times what it is on a quiet machine.
const MEMORY: usize = 48 << 20;
/// Messages of one flooder that may be under way.
const UNDER_WAY: usize = 256;

fn ip(n: u8) -> IpAddr {
    IpAddr::from([127, 113, 9, n])
}

fn remote(protocol: Protocol) -> Remote {
    let sctp_port = if protocol == Protocol::Asap { ASAP_PORT } else { ENRP_PORT };
    Remote { link: Link::Sctp, addr: SocketAddr::new(ip(1), ENCAPSULATION_PORT), sctp_port }
}

#[expect(clippy::disallowed_methods, reason = "real sockets live in real time")]
fn now() -> Instant {
    Instant::now()
}

fn registration(pool: &[u8], pe: u32, host: u8) -> Vec<u8> {
    let element = PoolElement {
        pe_id: PeId(pe),
        home: ServerId::NONE,
        life: 300,
        transport: Transport::tcp(SocketAddr::new(ip(host), 5060)),
        policy: Policy::RoundRobin,
        asap_transport: None,
        encaps_port: None,
    };
    Message::Registration { handle: PoolHandle(pool), element }.encode().unwrap()
}

/// A registrar with one thread, as the daemon has it.
struct Running {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    shutdown: CancellationToken,
    thread: JoinHandle<()>,
}

fn registrar() -> Running {
    let (ready, told) = std::sync::mpsc::channel();
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let udp = SocketAddr::new(ip(1), ENCAPSULATION_PORT);
            let tcp = SocketAddr::new(ip(1), ASAP_PORT);
            let (endpoint, events) =
                Endpoint::bind(EndpointConfig::registrar(udp, Some(tcp))).await.unwrap();
            let group = Group::join(group(), ip(1)).unwrap();
            let limits = Limits { elements_per_address: 1000, ..Limits::default() };
            let config = Config { limits, multicast: true, ..Config::new(ip(1)) };
            let config = Config { alone_after: Some(Duration::ZERO), ..config };
            let core = Registrar::new(now(), config, ServerId(1), fastrand::Rng::with_seed(1));
            let (viewed, view) = View::new(&core, now());
            ready.send(view.snapshots).unwrap();
            driver::run(core, endpoint, events, Some(group), viewed, stop).await;
        });
    });
    Running { snapshots: told.recv().unwrap(), shutdown, thread }
}

fn group() -> SocketAddr {
    SocketAddr::new(IpAddr::from([239, 113, 9, 1]), ENRP_PORT)
}

/// An element that registers again and again over one association, and answers keep-alives.
struct Element {
    endpoint: Endpoint,
    events: mpsc::Receiver<NetEvent>,
    slowest: Duration,
    answers: u32,
}

impl Element {
    async fn connect() -> Self {
        let config = EndpointConfig::element(SocketAddr::new(ip(60), 0));
        let (endpoint, mut events) = Endpoint::bind(config).await.unwrap();
        let (assoc, protocol) = (AssocId::dialled(0), Protocol::Asap);
        endpoint.execute(NetCommand::Connect { assoc, protocol, remote: remote(protocol) });
        let up = tokio::time::timeout(Duration::from_secs(8), events.recv()).await;
        assert!(matches!(up, Ok(Some(NetEvent::Up { .. }))), "{up:?}");
        Self { endpoint, events, slowest: Duration::ZERO, answers: 0 }
    }

    /// One registration; how long the answer takes is noted. `Err`: what was wrong.
    async fn register(&mut self) -> Result<(), String> {
        let assoc = AssocId::dialled(0);
        let asked = now();
        self.endpoint.execute(NetCommand::Send { assoc, payload: registration(b"echo", 7, 60) });
        let ack = Message::EndpointKeepAliveAck { handle: PoolHandle(b"echo"), pe_id: PeId(7) };
        let ack = ack.encode().unwrap();
        loop {
            let event = tokio::time::timeout(Duration::from_secs(8), self.events.recv()).await;
            match event {
                Ok(Some(NetEvent::Message { payload, .. })) => {
                    match Message::decode(&payload).map(|decoded| decoded.message) {
                        Ok(Message::EndpointKeepAlive { .. }) => {
                            self.endpoint.execute(NetCommand::Send { assoc, payload: ack.clone() });
                        }
                        Ok(Message::RegistrationResponse { reject: false, .. }) => break,
                        other => return Err(format!("{other:?}")),
                    }
                }
                other => return Err(format!("{other:?}")),
            }
        }
        self.slowest = self.slowest.max(now() - asked);
        self.answers += 1;
        Ok(())
    }
}

/// Sends `say(n)` over SCTP as fast as it is taken, from one address.
async fn flood_sctp(
    host: u8,
    protocol: Protocol,
    stop: &AtomicBool,
    sent: &AtomicU64,
    say: impl Fn(u32) -> Vec<u8>,
) {
    let mut config = EndpointConfig::element(SocketAddr::new(ip(host), 0));
    config.enrp_port = Some(ENRP_PORT);
    let (endpoint, mut events) = Endpoint::bind(config).await.unwrap();
    let mut dialled = 0;
    let mut up = false;
    let mut n = 0;
    endpoint.execute(NetCommand::Connect {
        assoc: AssocId::dialled(0),
        protocol,
        remote: remote(protocol),
    });
    while !stop.load(Ordering::Relaxed) {
        if up {
            for _ in 0..UNDER_WAY {
                n += 1;
                let payload = say(n);
                endpoint.execute(NetCommand::Send { assoc: AssocId::dialled(dialled), payload });
            }
        }
        let next = tokio::time::timeout(Duration::from_millis(2), events.recv());
        match next.await {
            Ok(Some(NetEvent::Up { .. })) => up = true,
            Ok(Some(NetEvent::Down { .. })) => {
                // Hung up: the next one, please.
                up = false;
                dialled += 1;
                let assoc = AssocId::dialled(dialled);
                endpoint.execute(NetCommand::Connect { assoc, protocol, remote: remote(protocol) });
            }
            _ => {}
        }
        while let Ok(NetEvent::Message { .. }) = events.try_recv() {}
    }
    sent.fetch_add(endpoint.counters().messages_out, Ordering::Relaxed);
}

/// Writes the same bytes again and again to a connection of its own, and reads what comes.
fn flood_tcp(host: u8, stop: &AtomicBool, sent: &AtomicU64, message: &[u8]) {
    let block = message.repeat(64);
    let mut answers = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(ip(host), 0).into()).unwrap();
        if socket.connect(&SocketAddr::new(ip(1), ASAP_PORT).into()).is_err() {
            continue;
        }
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
        while !stop.load(Ordering::Relaxed) && stream.write_all(&block).is_ok() {
            sent.fetch_add(64, Ordering::Relaxed);
            while matches!(stream.read(&mut answers), Ok(1..)) {}
        }
    }
}

/// Presences of registrars that are not there, to the multicast group.
fn flood_multicast(host: u8, stop: &AtomicBool, sent: &AtomicU64) {
    let socket = std::net::UdpSocket::bind(SocketAddr::new(ip(host), 0)).unwrap();
    let socket = socket2::Socket::from(socket);
    let IpAddr::V4(interface) = ip(host) else { unreachable!() };
    socket.set_multicast_if_v4(&interface).unwrap();
    let socket = std::net::UdpSocket::from(socket);
    let mut id = 1000;
    while !stop.load(Ordering::Relaxed) {
        id += 1;
        let body = Body::Presence { reply_required: true, checksum: Some(1), server: None };
        let message = Enrp { sender: ServerId(id), receiver: ServerId::NONE, body };
        if socket.send_to(&message.encode().unwrap(), group()).is_ok() {
            sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// INITs from addresses that do not ask for an association: the bytes of an endpoint's own, which say nothing about where it
/// is. About as many as fill 100 Mbit/s: what the socket's buffer has no room for is lost, an element's packets as well.
fn flood_inits(host: u8, runtime: &Runtime, stop: &AtomicBool, sent: &AtomicU64) {
    let mut init = vec![0; 2048];
    let length = runtime.block_on(async {
        let ear = tokio::net::UdpSocket::bind(SocketAddr::new(ip(host), 0)).await.unwrap();
        let config = EndpointConfig::element(SocketAddr::new(ip(host), 0));
        let (endpoint, _events) = Endpoint::bind(config).await.unwrap();
        let protocol = Protocol::Asap;
        let remote = Remote { addr: ear.local_addr().unwrap(), ..remote(protocol) };
        endpoint.execute(NetCommand::Connect { assoc: AssocId::dialled(0), protocol, remote });
        let heard = tokio::time::timeout(Duration::from_secs(8), ear.recv(&mut init)).await;
        heard.expect("no INIT").unwrap()
    });
    let spoofed: Vec<_> = (0..=255)
        .map(|n| std::net::UdpSocket::bind(SocketAddr::from(([127, 114, host, n], 0))).unwrap())
        .collect();
    while !stop.load(Ordering::Relaxed) {
        for socket in &spoofed {
            let to = SocketAddr::new(ip(1), ENCAPSULATION_PORT);
            let is_sent = socket.send_to(&init[..length], to).is_ok();
            sent.fetch_add(u64::from(is_sent), Ordering::Relaxed);
        }
        std::thread::sleep(Duration::from_millis(6));
    }
}

/// Peak of this process's resident memory since it was last asked for, and what is resident now, in bytes.
fn resident() -> (usize, usize) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
    };
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    (field("VmHWM:"), field("VmRSS:"))
}

/// A handle resolution, with the option that asks for all.
fn resolution(pool: &[u8], subscribe: bool) -> Vec<u8> {
    let handle = PoolHandle(pool);
    Message::HandleResolution { subscribe, handle, items: Some(u32::MAX) }.encode().unwrap()
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Announcements,
    Inits,
    NewPools,
    Registrations,
    Reports,
    Resolutions,
    Subscriptions,
    TableRequests,
    TcpResolutions,
}

fn flood(kind: Kind, host: u8, stop: &AtomicBool, sent: &AtomicU64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sctp = |protocol, say: &dyn Fn(u32) -> Vec<u8>| {
        runtime.block_on(flood_sctp(host, protocol, stop, sent, say));
    };
    match kind {
        Kind::Announcements => flood_multicast(host, stop, sent),
        Kind::Inits => flood_inits(host, &runtime, stop, sent),
        Kind::NewPools => sctp(Protocol::Asap, &|n| registration(&n.to_be_bytes(), n, host)),
        Kind::Registrations => sctp(Protocol::Asap, &|n| registration(b"crowd", n, host)),
        Kind::Reports => sctp(Protocol::Asap, &|_| {
            let handle = PoolHandle(b"echo");
            Message::EndpointUnreachable { handle, pe_id: PeId(7) }.encode().unwrap()
        }),
        Kind::Resolutions => sctp(Protocol::Asap, &|_| resolution(b"echo", false)),
        Kind::Subscriptions => sctp(Protocol::Asap, &|_| resolution(b"echo", true)),
        Kind::TableRequests => sctp(Protocol::Enrp, &|_| {
            let body = Body::HandleTableRequest { own_children_only: false };
            let (sender, receiver) = (ServerId(u32::from(host) + 500), ServerId::NONE);
            Enrp { sender, receiver, body }.encode().unwrap()
        }),
        Kind::TcpResolutions => flood_tcp(host, stop, sent, &resolution(b"echo", false)),
    }
}

/// Two strangers flood at a time, each from an address of its own.
#[test]
fn elements_are_answered_in_time_during_floods() {
    let running = registrar();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut snapshots = running.snapshots.clone();
        let in_service = snapshots.wait_for(|snapshot| snapshot.in_service);
        tokio::time::timeout(Duration::from_secs(8), in_service).await.unwrap().unwrap();
        let mut element = Element::connect().await;
        element.register().await.unwrap();
        for kind in [
            Kind::Announcements,
            Kind::Inits,
            Kind::NewPools,
            Kind::Registrations,
            Kind::Reports,
            Kind::Resolutions,
            Kind::Subscriptions,
            Kind::TableRequests,
            Kind::TcpResolutions,
        ] {
            let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
            let floods: Vec<_> = (0..2)
                .map(|n| {
                    let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
                    // Two addresses that say so are two users who cannot reach the element: RFC 5352 section 3.5 has
                    // it removed then.
                    let n = if matches!(kind, Kind::Reports) { 0 } else { n };
                    std::thread::spawn(move || flood(kind, 100 + 2 * kind as u8 + n, &stop, &sent))
                })
                .collect();
            (element.slowest, element.answers) = (Duration::ZERO, 0);
            let (_, before) = resident();
            let start = now();
            while now() < start + FLOOD {
                let answered = element.register().await;
                assert_eq!(answered, Ok(()), "{kind:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            stop.store(true, Ordering::Relaxed);
            for flood in floods {
                tokio::task::spawn_blocking(|| flood.join().unwrap()).await.unwrap();
            }
            let snapshot = running.snapshots.borrow().clone();
            let grown = resident().0.saturating_sub(before);
            println!(
                "table: {kind:?}: {} messages sent; slowest of {} answers to the element {:?}; {} MB more at most; {} elements, {} peers, {} limited, {} hung up",
                sent.load(Ordering::Relaxed),
                element.answers,
                element.slowest,
                grown >> 20,
                snapshot.elements,
                snapshot.peers.len(),
                snapshot.counters.requests_limited + snapshot.counters.reports_limited,
                snapshot.counters.hung_up,
            );
            assert!(sent.load(Ordering::Relaxed) > 1000, "{kind:?} is no flood");
            assert!(element.slowest < IN_TIME, "{kind:?}: {:?}", element.slowest);
            assert!(snapshot.elements <= 2 * 1000 + 1, "{kind:?}: {}", snapshot.elements);
            assert!(snapshot.peers.len() <= 64 && snapshot.contacts <= 200);
            assert!(grown < MEMORY, "{kind:?}: {grown} bytes");
        }
        // Who has gone leaves nothing behind.
        let mut snapshots = running.snapshots.clone();
        let gone = async {
            while snapshots.borrow_and_update().elements != 1 {
                element.register().await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.expect("strangers' elements stay");
    });
    running.shutdown.cancel();
    running.thread.join().unwrap();
}
